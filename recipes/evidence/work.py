"""The commands of a plan: stages that all systems share, and those of one cell.

    OUT/corpus, encoded, data    texts, subwords, and what fairseq-preprocess makes of them
    OUT/passes/K                 pass K over the training data, with copying examples
    OUT/start                    the common start
    OUT/runs/SYSTEM.SEED         a cell: train, generate, score
    OUT/report                   the report

The number of processes changes no result, and is no part of what the books know a stage by.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from recipes.books import Command, Stage

PLUGIN = ("--user-dir", "srformer_plugin", "--task", "summarization")
# What every training of a plan has: tensors of few shapes, a checkpoint at its end, and no validation before.
TRAINING = (
    "--required-seq-len-multiple", "8", "--log-format", "json", "--log-interval", "50", "--no-epoch-checkpoints",
    "--save-interval", "1000000", "--validate-interval", "1000000", "--distributed-world-size", "1",
)  # fmt: skip
# Of copying examples. Not imported from srformer_plugin.tools.marked_sentences, which imports fairseq.
SYMBOLS = ("--add", "<mark>", "--add", "<mask>")
SAVE_EVERY = 1500  # updates of the start
PLAIN_EPOCHS = 20  # behind those with copying examples; fairseq would begin again with the first after the last


@dataclass(frozen=True)
class Place:
    """Where a plan is carried out, on what, and with which machine."""

    out: Path
    raw: Path
    init: Path | None = None  # a checkpoint in place of the plan's own start
    workers: int = 1  # processes that prepare data
    loaders: int = 1  # processes that load a training's batches
    device: tuple[str, ...] = ("--bf16",)  # flags of fairseq-train
    decoding: tuple[str, ...] = ()  # flags of fairseq-generate and fairseq-validate

    @property
    def start(self):
        """The checkpoint that every system is adapted from."""
        return self.init or self.out / "start/checkpoint_last.pt"

    def cell(self, cell):
        """The folder of a cell."""
        return self.out / "runs" / cell.name


def shared_stages(plan, place):
    """What is done once: data, and the start unless there is one."""
    out, workers = place.out, ("[", "--workers", place.workers, "]")
    encode = _stage("encode", "texts -> subwords", [
        "python", "-m", "data_prep.encode", out / "corpus", out / "encoded", *workers, *plan.data["encode"],
    ], folder="encoded")  # fmt: skip
    binarise = [
        "fairseq-preprocess", "--source-lang", "source", "--target-lang", "target", "--joined-dictionary",
        *(word for split in ("train", "valid", "test") for word in (f"--{split}pref", out / "encoded" / split)),
        "--destdir", out / "data", *workers, *plan.data["binarise"],
    ]  # fmt: skip
    stages = [
        _stage("prepare", f"{plan.data['format']} -> a document a line", [
            "python", "-m", "data_prep.prepare", plan.data["format"], place.raw, out / "corpus", *workers,
        ], folder="corpus"),
        encode,
    ]  # fmt: skip
    if place.init is not None:
        return [*stages, _stage("binarise", "fairseq-preprocess", binarise, folder="data")]
    passes = plan.start["passes"]
    if not passes:
        return [*stages, _stage("binarise", "fairseq-preprocess", binarise, folder="data"), *_start(plan, place)]
    model = value_of(plan.data["encode"], "--model", out / "encoded/sentencepiece.model")
    dictionary = out / "data/dictionary.txt"
    return [
        *stages,
        _stage("binarise", "fairseq-preprocess", [
            "python", "-m", "srformer_plugin.tools.sentencepiece_dictionary", model, dictionary,
            *SYMBOLS,
        ], [*binarise, "--srcdict", dictionary], folder="data"),
        _stage("mark", f"{len(plan.start['short']) + passes} passes with copying examples", [
            "python", "-m", "srformer_plugin.tools.marked_sentences", out / "data", out / "passes",
            *(("--short-sources", *plan.start["short"]) if plan.start["short"] else ()),
            "--passes", passes, "--share", plan.start["share"],
            "--max-target", value_of(plan.data["encode"], "--max-target", 1024), *workers,
        ], folder="passes"),
        *_start(plan, place),
    ]  # fmt: skip


def _start(plan, place):
    """The two stages of a start from scratch."""
    out, start = place.out, plan.start
    data = ":".join(
        str(folder)
        for folder in [
            *(out / "passes" / str(number) for number in range(1, len(start["short"]) + start["passes"] + 1)),
            *[out / "data"] * (PLAIN_EPOCHS if start["passes"] else 1),
        ]
    )
    length = ("--total-num-update", start["updates"], "--max-update", start["updates"])
    model = (*PLUGIN, "--cross-attention", "full", *plan.train, *start["flags"], *length, "--seed", 1)
    # Its loss is measured as a cell's; a training that validates also copies every checkpoint as its best.
    return [
        _stage("initial", "untrained weights, scaled to the width", [
            "python", "-m", "recipes.initial_weights", out / "initial/model.pt", out / "data", *model,
        ]),
        _stage("start", f"full attention from scratch, {start['updates']} updates", [
            "fairseq-train", data, *model, *TRAINING, "[", "--num-workers", place.loaders, "]", *place.device,
            "--finetune-from-model", out / "initial/model.pt", "--save-dir", out / "start",
            "--save-interval-updates", SAVE_EVERY, "--keep-interval-updates", 1, "--disable-validation",
        ], resumable=True),
    ]  # fmt: skip


def cells_of(plan, place):
    """The runs of a plan: with a start of the user's own that start is no run, since nobody knows its task."""
    return plan.cells[1:] if place.init else plan.cells


def cell_stages(plan, place, cell):
    """Train, generate and score of one cell, in a folder of its own; of the start: validate, generate and score."""
    folder, system = place.cell(cell), cell.system
    if system.updates:
        checkpoint = folder / "train/checkpoint_last.pt"
        first = _stage("train", f"{system.name}, seed {cell.seed}, {system.updates} updates", [
            "fairseq-train", place.out / "data", *PLUGIN, *plan.train, *plan.adapt, *system.flags,
            "--total-num-update", system.updates, "--max-update", system.updates, *TRAINING,
            "[", "--num-workers", place.loaders, "]", *place.device, "--finetune-from-model", place.start,
            "--no-save-optimizer-state", "--save-dir", folder / "train", "--seed", cell.seed,
        ], after=[BEFORE])  # fmt: skip
    else:
        checkpoint = place.start
        first = _stage("train", "the start as it is", [
            "fairseq-validate", place.out / "data", *PLUGIN, "--path", checkpoint, "--batch-size", 50,
            *place.decoding, "--log-format", "json",
        ], after=[BEFORE])  # fmt: skip
    return [
        first,
        _stage("generate", "the test split", [
            "fairseq-generate", place.out / "data", *PLUGIN, "--path", checkpoint,
            "--results-path", folder / "generate", *plan.decode, *place.decoding,
        ]),
        _stage("score", "ROUGE against the raw references", [
            "python", "-m", "srformer_plugin.scoring", folder / "generate/generate-test.txt",
            place.out / "corpus/test.target",
            "--save", folder / "score", "--per-example", folder / "score/examples.jsonl",
        ]),
    ]  # fmt: skip


ON_DEVICE = ("start", "train", "generate")  # stages that need the device's memory
BEFORE = "start"  # the stage of the shared ones that cells come after, by the name that their books know it by


def _stage(name, title, *commands, **options):
    return Stage(name, [Command.marked([str(word) for word in words]) for words in commands], title, **options)


def value_of(words, flag, default):
    """The value of the last `flag`, as a word of its own or behind "="."""
    for word, after in pairwise([*words, default]):
        if word == flag:
            default = after
        elif word.startswith(f"{flag}="):
            default = word.removeprefix(f"{flag}=")
    return default
