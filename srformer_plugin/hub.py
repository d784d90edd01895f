"""SRformers from Python, on text.

    model = SRformerBARTModel.from_pretrained("checkpoints", "checkpoint_best.pt", "data-bin", bpe="sentencepiece",
                                              sentencepiece_model="spm.model")
    print(model.sample(["An article ..."], beam=4, lenpen=2.0, max_len_b=140, min_len=55, no_repeat_ngram_size=3))

`SRformerT5Model.from_pretrained("t5-small")` does the same for T5.

These are fairseq's own hub interfaces, mended in four places: the BPE files that lie beside a checkpoint are found, <s>
is added only for models that know it, words that a dictionary lacks are <unk>, and a model is left as it was before.
"""

import contextlib
import logging
from pathlib import Path

import torch
from fairseq import hub_utils
from fairseq.hub_utils import GeneratorHubInterface
from fairseq.models.bart.hub_interface import BARTHubInterface

logger = logging.getLogger(__name__)

# --bpe's value -> (its options, the file beside a checkpoint or the dictionaries that each is for)
BPE_FILES = {
    "gpt2": {"gpt2_encoder_json": ("encoder.json",), "gpt2_vocab_bpe": ("vocab.bpe",)},
    "sentencepiece": {"sentencepiece_model": ("spiece.model", "sentencepiece.model", "sentencepiece.bpe.model")},
}


class SRformerHubInterface(GeneratorHubInterface):
    """fairseq's interface for a model of text to text (`sample`, `score`, `generate`, `encode`, `decode`).

    Sources that are too long are truncated.
    """

    def __init__(self, cfg, task, models):
        super().__init__(cfg, task, models)
        self.eval()

    def encode(self, sentence: str) -> torch.LongTensor:
        """Token ids (N,) that end in </s>."""
        return _truncated(super().encode(sentence), self.max_positions)

    def generate(self, *args, **kwargs):
        """As in fairseq: hypotheses (a list of dicts, the best first) of every sentence."""
        with _nothing_left_behind(self.models):
            return super().generate(*args, **kwargs)


class SRformerBARTHubInterface(BARTHubInterface):
    """fairseq's interface for BART, also for models whose texts do not begin with <s>.

    Args:
        prepend_bos: begin sources and hypotheses with <s>, as BART's own texts do; None: as the checkpoint says. That
            is no for what fairseq-train trained on a translation task, and yes for converted checkpoints.
    """

    def __init__(self, cfg, task, model, prepend_bos=None):
        super().__init__(cfg, task, model)
        if self.bpe is None:
            self.bpe = _Words()
        self.prepend_bos = getattr(cfg.model, "prepend_bos", False) if prepend_bos is None else prepend_bos
        self.eval()

    def encode(self, sentence: str, *others: str, no_separator: bool = True) -> torch.LongTensor:
        """Token ids (N,), which begin with <s> if `prepend_bos` is set; every sentence ends in </s>.

        fairseq's own adds words that it does not know to the dictionary, past the end of the embedding.
        """
        end = "</s>" if no_separator else "</s> </s>"
        line = f" {end} ".join(self.bpe.encode(text) for text in (sentence, *others))
        line = f"<s> {line} </s>" if self.prepend_bos else f"{line} </s>"
        tokens = self.task.source_dictionary.encode_line(line, append_eos=False, add_if_not_exist=False)
        return _truncated(tokens.long(), self.max_positions)

    def generate(self, *args, **kwargs):
        """As in fairseq: hypotheses (a list of dicts, the best first) of every sentence."""
        with _nothing_left_behind(self.models):
            if self.prepend_bos:
                return super().generate(*args, **kwargs)
            return GeneratorHubInterface.generate(self, *args, **kwargs)


class _Words:
    """The BPE of a dictionary of whole words, for an interface that always asks one."""

    @staticmethod
    def encode(text: str) -> str:
        return text

    decode = encode


def _truncated(tokens, max_positions):
    """`tokens` (N,) cut to what the encoder can take; the last one, </s>, stays."""
    longest = max_positions[0] if isinstance(max_positions, (tuple, list)) else max_positions
    if len(tokens) <= longest:
        return tokens
    logger.info(f"a source of {len(tokens)} tokens is truncated to {longest}")
    return torch.cat((tokens[: longest - 1], tokens[-1:]))


@contextlib.contextmanager
def _nothing_left_behind(models):
    """Undo what fairseq's generator leaves on a model: the beam size, and an encoder that no longer reorders."""
    try:
        yield
    finally:
        for model in models:
            if hasattr(model, "set_beam_size"):
                model.set_beam_size(1)
            vars(model.encoder).pop("reorder_encoder_out", None)


def load(folder, checkpoint_file="model.pt", data_name_or_path=".", bpe=None, **options) -> dict:
    """fairseq's `hub_utils.from_pretrained` for local folders: {"args", "task", "models"}.

    Args:
        folder: where the checkpoint is.
        data_name_or_path: folder of the dictionaries; one that begins with "." is relative to `folder`.
        bpe: as --bpe; None: what the files beside the checkpoint or the dictionaries are for, else the checkpoint's.
        options: override those of the checkpoint. The BPE's files are looked for there as well.
    """
    folder, data = str(folder), str(data_name_or_path)
    places = [Path(folder), Path(folder) / data if data.startswith(".") else Path(data)]
    found = {kind: _find(files, places) for kind, files in BPE_FILES.items()}
    if bpe is None:
        bpe = next((kind for kind, files in found.items() if len(files) == len(BPE_FILES[kind])), None)
    options = {**found.get(bpe, {}), **options}
    if bpe is not None:
        options["bpe"] = bpe
    return hub_utils.from_pretrained(folder, checkpoint_file, data, archive_map={}, **options)


def _find(files, places) -> dict[str, str]:
    """Option -> path, for the files that are there."""
    found = {}
    for option, names in files.items():
        paths = [place / name for place in places for name in names if (place / name).is_file()]
        if paths:
            found[option] = str(paths[0])
    return found
