"""Every flag of stock BART's parser: two updates and a decoding with both families, or a refusal by name before.

Nothing may end in an error from inside. A flag that a new fairseq adds fails `test_no_flag_is_forgotten`.
"""

import argparse

import pytest
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models.bart import BARTModel
from fairseq.trainer import Trainer
from helpers import train_arguments

from srformer_plugin.compat.commands import REFUSAL_OF_FAIRSEQ
from srformer_plugin.compat.refusals import check_command
from srformer_plugin.errors import ConfigurationError

FAMILIES = ("srformer_bart_tiny", "srformer_t5_tiny")

# Flag -> its value, None: it has none. What goes together is tried together: a line is one training.
WORKS = [
    {"--activation-fn": "relu", "--dropout": "0.2", "--attention-dropout": "0.1", "--activation-dropout": "0.1",
     "--max-source-positions": "64", "--max-target-positions": "32"},
    {"--relu-dropout": "0.1", "--encoder-embed-dim": "16", "--encoder-ffn-embed-dim": "24", "--encoder-layers": "2",
     "--encoder-attention-heads": "4", "--decoder-embed-dim": "16", "--decoder-ffn-embed-dim": "24",
     "--decoder-layers": "2", "--decoder-attention-heads": "4"},
    {"--encoder-normalize-before": None, "--decoder-normalize-before": None, "--no-decoder-final-norm": None},
    {"--encoder-learned-pos": None, "--decoder-learned-pos": None, "--layernorm-embedding": None,
     "--no-scale-embedding": None},
    {"--pooler-dropout": "0.1", "--pooler-activation-fn": "relu", "--spectral-norm-classification-head": None},
    {"--no-token-positional-embeddings": None},
    {"--share-decoder-input-output-embed": None, "--share-all-embeddings": None},
    {"--merge-src-tgt-embed": None},
    {"--encoder-layerdrop": "0.5", "--decoder-layerdrop": "0.5"},
    {"--encoder-layers-to-keep": "0"},
    {"--decoder-layers-to-keep": "0"},
    {"--quant-noise-pq": "0.1", "--quant-noise-pq-block-size": "4", "--quant-noise-scalar": "0"},
    {"--quant-noise-scalar": "0.1"},
    {"--checkpoint-activations": None},
    {"--checkpoint-activations": None, "--offload-activations": None},
    {"--min-params-to-wrap": "10"},
    {"--export": None},
    {"--char-inputs": None},
    {"--cross-self-attention": None},
    {"--no-cross-attention": None},
    {"--decoder-output-dim": "16"},
    {"--adaptive-input": None},
    {"--adaptive-softmax-cutoff": "20,40", "--adaptive-softmax-dropout": "0.1", "--adaptive-softmax-factor": "2",
     "--tie-adaptive-weights": None, "--tie-adaptive-proj": None},
    {"--criterion": "adaptive_loss", "--ddp-backend": "legacy_ddp", "--adaptive-softmax-cutoff": "20,40",
     "--adaptive-softmax-dropout": "0.1"},
    {"--base-layers": "1", "--base-sublayers": "1", "--base-shuffle": "1"},
    {"--encoder-xformers-att-config": '{"name": "scaled_dot_product"}'},
    {"--decoder-xformers-att-config": '{"name": "scaled_dot_product"}'},
    {"--encoder-embed-path": "EMBEDDING"},
    {"--decoder-embed-path": "EMBEDDING"},
]  # fmt: skip
REFUSED = {
    "--encoder-layers-to-keep",
    "--decoder-layers-to-keep",
    "--quant-noise-scalar",
    "--cross-self-attention",
    "--decoder-output-dim",
    "--adaptive-softmax-cutoff",
    "--base-layers",
    "--encoder-xformers-att-config",
    "--decoder-xformers-att-config",
    "--decoder-embed-path",  # by fairseq, beside --share-all-embeddings
}
# The first flags of lines that T5's parser does not have
UNKNOWN_TO_T5 = {"--pooler-dropout"}


def stock_flags():
    parser = argparse.ArgumentParser(add_help=False)
    BARTModel.add_args(parser)
    return {action.option_strings[-1] for action in parser._actions}


def test_no_flag_is_forgotten():
    assert {flag for line in WORKS for flag in line} >= stock_flags()


def train_and_decode(corpus, folder, arch, flags):
    """Two updates and a beam of two on four sentences, without what fairseq-train does around them."""
    arguments = train_arguments(corpus, folder, "--arch", arch, "--required-batch-size-multiple", "1", *flags)
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), arguments))
    check_command(cfg, "train")
    task = tasks.setup_task(cfg.task)
    task.load_dataset("train")
    model = task.build_model(cfg.model)
    trainer = Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
    dataset = task.dataset("train")
    batch = dataset.collater([dataset[index] for index in range(4)])
    for _ in range(2):
        assert trainer.train_step([batch]) is not None
    model.eval()
    generator = task.build_generator([model], argparse.Namespace(beam=2, max_len_b=5))
    hypotheses = task.inference_step(generator, [model], batch)
    assert all(len(found) == 2 and len(found[0]["tokens"]) > 0 for found in hypotheses)


@pytest.mark.parametrize("line", WORKS, ids=lambda line: next(iter(line)))
@pytest.mark.parametrize("arch", FAMILIES)
def test_a_flag_trains_and_decodes_or_is_refused_by_name(arch, line, tiny_corpus, tmp_path, capsys):
    flags = [text for pair in line.items() for text in pair if text is not None]
    if "EMBEDDING" in flags:
        rows = tiny_corpus.binarised / "dict.source.txt"
        words = [row.split()[0] for row in rows.read_text(encoding="utf-8").splitlines()]
        table = "".join(f"{word} {' '.join(['0.1'] * 32)}\n" for word in words)
        (tmp_path / "vectors").write_text(f"{len(words)} 32\n{table}", encoding="utf-8")
        flags[flags.index("EMBEDDING")] = str(tmp_path / "vectors")
    first = next(iter(line))
    if arch == "srformer_t5_tiny" and first in UNKNOWN_TO_T5:
        with pytest.raises(SystemExit):  # argparse names it
            train_and_decode(tiny_corpus, tmp_path, arch, flags)
        assert first in capsys.readouterr().err
    elif first in REFUSED:
        with pytest.raises(ValueError, match=first) as refused:
            train_and_decode(tiny_corpus, tmp_path, arch, flags)
        # fairseq's own refusals are as plain
        assert isinstance(refused.value, ConfigurationError) or REFUSAL_OF_FAIRSEQ.match(str(refused.value))
    else:
        train_and_decode(tiny_corpus, tmp_path, arch, flags)
