"""fairseq's own tools on converted checkpoints, in this process."""

import math
import re
import sys

import pytest
from fairseq_cli import preprocess as fairseq_preprocess

from srformer_plugin.models.srformer_bart import SRformerBARTModel

# those of the small models of conftest.py, but for the length of sources
SIZES = [
    "--encoder-layers", 2, "--decoder-layers", 2, "--encoder-embed-dim", 32, "--encoder-ffn-embed-dim", 48,
    "--encoder-attention-heads", 2, "--decoder-attention-heads", 2, "--max-target-positions", 64,
]  # fmt: skip
LINES = [
    "the council opened the bridge after the storm and the concert",
    "the museum of the harbour and the council",
    "after the storm the harbour opened and the museum of the council opened the bridge of the harbour",
    "concert",
]


def run_here(tool, *arguments):
    """A console script of fairseq in this process, which spares seconds of imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [tool.__name__, *map(str, arguments)])
        tool.cli_main()


def binarise(converted, folder, begin=""):
    """The folder of LINES as source and target: encoded as GPT-2 ids, and binarised with a converted dictionary.

    Args:
        begin: what sources and targets begin with.
    """
    folder.mkdir()
    bpe = SRformerBARTModel.from_pretrained(converted).bpe
    for split in ("train", "valid", "test"):
        for side in ("source", "target"):
            text = "".join(begin + bpe.encode(line) + "\n" for line in LINES)
            (folder / f"{split}.{side}").write_text(text, encoding="utf-8")
    run_here(
        fairseq_preprocess, "--source-lang", "source", "--target-lang", "target", "--destdir", folder / "bin",
        "--srcdict", converted / "dict.source.txt", "--tgtdict", converted / "dict.target.txt",
        *(argument for split in ("train", "valid", "test") for argument in (f"--{split}pref", folder / split)),
    )  # fmt: skip
    return folder / "bin"


def losses_of(log):
    """The loss of every update in a log of fairseq-train; all are finite."""
    losses = [float(x) for x in re.findall(r"train_inner:progress_bar.*? loss=([0-9.naif]+),", log)]
    assert all(map(math.isfinite, losses))
    return losses
