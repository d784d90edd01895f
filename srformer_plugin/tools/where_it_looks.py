"""How much of a decoder's cross-attention falls on the part of the source that answers the question.

    python -m srformer_plugin.tools.where_it_looks DATA --path CHECKPOINT --spans encoded/test.spans.jsonl

DATA is what fairseq-preprocess made of the folder that `data_prep.encode` wrote, and FILE is that folder's spans of the
split: for QMSum the tokens of the relevant turns. The decoder reads the references (--own-output: its own greedy ones)
in one pass. docs/evaluation.md says what the numbers are.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from fairseq import checkpoint_utils
from tqdm import tqdm

from data_prep.arguments import file, non_negative, positive, resamplings
from data_prep.errors import command
from data_prep.spans import Spans, read_spans
from data_prep.whole import write_json, write_text

from ..compat.given_models import check_encoder_decoder
from ..devices import usable_device
from ..errors import ConfigurationError
from ..generation import FastSequenceGenerator
from ..models.attention_calls import for_each_call
from ..models.hub import nothing_left_behind
from ..quiet import warnings_only
from ..scoring.statistics import SAMPLES, SEED
from .looks_report import draw, table, what_is_read
from .shares import Measured, over_examples, relevant_tokens


class Looking:
    """A checkpoint, a split, and what is relevant in its sources.

    Args:
        limit: tokens of a source that are read, </s> counted; None: as the checkpoint says.
    Attributes:
        limit: the number that holds, the model's at most.
    Raises:
        ConfigurationError: spans of another split, a limit that cannot be, a device that cannot be used, or a model
            that makes no target of a source.
        OSError: the checkpoint or the split is not there.
    """

    def __init__(self, data, path, split: str, spans_file, limit: "int | None" = None, device="cpu"):
        self.device = usable_device(device)
        models, _, self.task = checkpoint_utils.load_model_ensemble_and_task([str(path)], {"data": str(data)})
        check_encoder_decoder(models[0], path)
        self.model = models[0].to(self.device).eval()
        possible = self.model.max_positions()[0]
        self.limit = min(self.task.cfg.max_source_positions, possible) if limit is None else limit
        if not 2 <= self.limit <= possible:
            raise ConfigurationError(
                f"--max-source-positions {self.limit:,}: it must be at least 2 and at most the model's {possible:,}"
            )
        self.task.cfg.truncate_source = False  # the spans are those of whole sources
        self.task.load_dataset(split)
        self.dataset, self.spans = self.task.datasets[split], read_spans(spans_file)
        if len(self.spans) != len(self.dataset):
            raise ConfigurationError(
                f"--spans {spans_file} has {len(self.spans):,} lines, but {split} of {data} {len(self.dataset):,} "
                "examples: give the spans of that split"
            )
        for number, spans in enumerate(self.spans):
            tokens = len(self.source(number)) - 1 - self._offset(number)
            if tokens != spans.length:
                raise ConfigurationError(
                    f"--spans {spans_file}:{number + 1}: of a source of {spans.length:,} subwords, but that of example "
                    f"{number} has {tokens:,}: give the file that data_prep.encode wrote beside the subwords of {data}"
                )

    def source(self, number: int) -> torch.Tensor:
        """(N,) int64, the whole source of an example."""
        return self.dataset[number]["source"]

    def _offset(self, number):
        """Tokens before the line's own: <s>, where there is one."""
        return int(self.source(number)[0] == self.task.source_dictionary.bos())

    def left(self, number: int) -> Spans:
        """The spans of an example within what is read of its source."""
        return self.spans[number].first(self.limit - 1 - self._offset(number))

    @torch.inference_mode()
    def measure(self, number: int, search: "dict | None" = None) -> Measured:
        """The shares of an example.

        Args:
            search: settings of the greedy search whose output the decoder reads; None: the reference.
        """
        source = self.source(number)
        if len(source) > self.limit:
            source = torch.cat((source[: self.limit - 1], source[-1:]))
        tokens = source.unsqueeze(0).to(self.device)
        net_input = {"src_tokens": tokens, "src_lengths": torch.tensor([tokens.size(1)], device=self.device)}
        states = self.model.encoder(**net_input)
        target = self.dataset[number]["target"] if search is None else self._own_output(net_input, search)
        target = target[: self.model.max_decoder_positions()].to(self.device)
        previous = torch.cat((target.new_tensor([self.task.target_dictionary.eos()]), target[:-1])).unsqueeze(0)
        relevant = relevant_tokens(self.left(number).spans, len(source), self._offset(number), self.device)
        measured = Measured(relevant)
        for_each_call(self.model, states, previous, measured.take)
        return measured

    def _own_output(self, net_input, search):
        with nothing_left_behind([self.model]):
            generator = FastSequenceGenerator(
                [self.model], self.task.target_dictionary, beam_size=1, max_len_a=0, **search
            )
            return generator.generate([self.model], {"net_input": net_input})[0][0]["tokens"]


def look(looking: Looking, search=None, samples: int = SAMPLES, seed: int = SEED) -> dict:
    """What is measured, over all examples whose relevant tokens are known and, in part at least, read.

    Raises:
        ConfigurationError: there is none.
    """
    counts = {"examples": len(looking.spans), "measured": 0, "without_spans": 0, "cut_off": 0, "cut_in_part": 0}
    found = []
    for number in tqdm(range(len(looking.spans)), "where it looks", unit="example", mininterval=1):
        left = looking.left(number)
        if not left.spans:
            counts["cut_off" if left.cut else "without_spans"] += 1
            continue
        counts["cut_in_part"] += left.cut
        found.append((left.id, looking.measure(number, search)))
    counts["measured"] = len(found)
    if not found:
        raise ConfigurationError(
            f"no example has relevant tokens that are read: nothing is known of {counts['without_spans']:,} of "
            f"{counts['examples']:,}, the others are cut off (--max-source-positions is {looking.limit:,})"
        )
    kinds = {"attention": [measured.attention for _, measured in found]}
    if found[0][1].segments is not None:
        kinds["segments"] = [measured.segments for _, measured in found]
    return {
        "reads": what_is_read(looking.model),
        "target": "reference" if search is None else "own output",
        "max_source_positions": looking.limit,
        "counts": counts,
        **{kind: over_examples(shares, samples, seed) for kind, shares in kinds.items()},
        "bootstrap": {"samples": samples, "seed": seed},
        "per_example": [
            {"id": name, **{kind: shares[row]._asdict() for kind, shares in kinds.items()}}
            for row, (name, _) in enumerate(found)
        ],
    }


def parse_arguments(argv=None):
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m srformer_plugin.tools.where_it_looks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder that fairseq-preprocess wrote")
    parser.add_argument("--path", type=file, required=True, metavar="CHECKPOINT", help="the model")
    parser.add_argument("--spans", type=file, required=True, metavar="FILE", help="SPLIT.spans.jsonl of the subwords")
    parser.add_argument("--gen-subset", default="test", metavar="SPLIT", help="(default: test)")
    parser.add_argument(
        "--max-source-positions",
        type=positive,
        metavar="TOKENS",
        help="cut longer sources, the end of sentence included (default: as the checkpoint was trained)",
    )
    parser.add_argument(
        "--own-output", action="store_true", help="the decoder reads its own greedy output, not the reference"
    )
    parser.add_argument("--max-len-b", type=positive, default=256, help="tokens of its own output (default: 256)")
    parser.add_argument(
        "--no-repeat-ngram-size", type=non_negative, default=3, help="of its own output; 0: any repeats (default: 3)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="also write it there, with the table and a picture")
    parser.add_argument("--bootstrap-samples", type=resamplings, default=SAMPLES, metavar="N")
    parser.add_argument("--seed", type=non_negative, default=SEED, help="of the bootstrap")
    return parser.parse_args(argv)


@command
def main(argv=None):
    """Command line; returns the exit status."""
    options = parse_arguments(argv)
    with warnings_only():  # fairseq logs what it loads, and matplotlib every font
        result = run(options)
    print(json.dumps(result) if options.json else table(result))


def run(options) -> dict:
    """Measure and save as the options say."""
    looking = Looking(
        options.data,
        options.path,
        options.gen_subset,
        options.spans,
        options.max_source_positions,
        options.device,
    )
    search = {"max_len_b": options.max_len_b, "no_repeat_ngram_size": options.no_repeat_ngram_size}
    result = look(looking, search if options.own_output else None, options.bootstrap_samples, options.seed)
    result = {"data": str(options.data), "split": options.gen_subset, "path": str(options.path), **result}
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        write_json(options.save / "where_it_looks.json", result)
        write_text(options.save / "where_it_looks.txt", table(result) + "\n")
        draw(options.save / "where_it_looks.png", result)
    return result


if __name__ == "__main__":
    sys.exit(main())
