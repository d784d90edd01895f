"""What a user gives to the program of a later stage is tried before the first one begins."""

import pytest
from conftest import USER_DIR

from recipes.books.stage import Command, Stage
from recipes.derived import UPDATES
from recipes.later_arguments import check_later_arguments
from recipes.options import RefusedOptions

TRAINING = ["data", "--user-dir", str(USER_DIR), "--arch", "srformer_bart_tiny", "--max-update", UPDATES]
TRAINING += ["--source-lang", "source", "--target-lang", "target", "--batch-size", "2", "--optimizer", "fused_adam"]
PROGRAMS = {
    "train": ["fairseq-train", *TRAINING],
    "generate": ["fairseq-generate", "data", "--user-dir", str(USER_DIR), "--path", "model.pt"],
    "score": ["srformer-score", "hypotheses", "references"],
    "binarise": ["fairseq-preprocess", "--trainpref", "train", "--destdir", "data"],
}


def check(name, given, program=None, selected=("binarise", "train", "generate", "score")):
    command = Command([*(program or PROGRAMS[name]), *given.split()])
    check_later_arguments([Stage(name, [command])], selected, {f"{name}-args": given})


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("train", "--learning-rate 3", "unrecognized arguments: --learning-rate 3"),
        ("train", "--segments-per-query few", "argument --segments-per-query: invalid int value: 'few'"),
        ("train", "--segment-siz 4", "unrecognized arguments: --segment-siz 4"),  # the report would not see it
        ("generate", "--beam many", "argument --beam: invalid int value: 'many'"),
        ("binarise", "--thresholdsrc one", "argument --thresholdsrc: invalid int value: 'one'"),
        ("score", "--jsonn", "unrecognized arguments: --jsonn"),
        ("train", "--segment-size 0", "--segment-size must be at least 1, got 0; the paper uses 16 and 64"),
        ("train", "--lr -1", "--lr -1.0 must be at least 0"),
        ("train", "--attention-dropout 1.5", "--attention-dropout 1.5 must be from 0 to 1"),
        ("train", "--lr 1e-x", "argument --lr: '1e-x' cannot be read as a list of float"),
        (
            "train",
            "--update-epoch-batch-itr true",
            "--update-epoch-batch-itr 'true' cannot be read: "
            "a Python value is needed, such as True, 3 or '(0.9, 0.98)'",
        ),
        (
            "train",
            "--optimizer fused_adam --adam-betas (0.9,",
            "--adam-betas '(0.9,' is not two numbers of at least 0 and below 1; try '(0.9, 0.999)'",
        ),
        ("generate", "--beam 0", "--beam 0 must be from 1 to 1,000; change it, or leave it out"),
        ("generate", "--lenpen nan", "--lenpen nan is no number: leave it out, or give one"),
    ],
)
def test_an_argument_that_the_program_refuses(name, given, message):
    with pytest.raises(RefusedOptions) as refused:
        check(name, given)
    assert str(refused.value) == f"--{name}-args {given}: {message}"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("arch", "srformer_barn", "argument --arch/-a: invalid choice: 'srformer_barn'"),
        ("cross-attention", "srformr", "--cross-attention 'srformr' is unknown"),
        ("encoder-attention", "chunky", "--encoder-attention 'chunky' is unknown"),
        ("head-stride", "0", "--head-stride must be at least 1, got 0"),
        ("segments-per-query", "0", "--segments-per-query must be at least 1, got 0"),
        ("encoder-chunk", "2000", "--encoder-chunk 2000 with --encoder-context 128"),
    ],
)
def test_names_that_only_the_program_knows(option, value, message):
    words = [*PROGRAMS["train"], "--encoder-attention", "chunked", "--encoder-positions", "1024", f"--{option}", value]
    stages = [Stage("train", [Command(words)])]
    with pytest.raises(RefusedOptions, match=message):
        check_later_arguments(stages, ("train",), {option: value})


def test_processes_of_torchrun_are_asked_as_fairseq_train():
    words = ["torchrun", "--nproc-per-node", "2", "-m", "srformer_plugin.tools.distributed_train", *TRAINING]
    with pytest.raises(RefusedOptions, match="unrecognized arguments: --learning-rate 3"):
        check("train", "--learning-rate 3", words)
    check("train", "--lr 3", words)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("binarise", "--thresholdsrc 2"),
        ("train", "--lr 3 --segment-size 8"),
        ("generate", "--fast-generate"),
        ("score", "--json"),
    ],
)
def test_an_argument_that_it_knows(name, given):
    task = ["--task", "summarization"] if name == "generate" else []
    check(name, given, [*PROGRAMS[name], *task])


def test_stages_that_are_not_asked_for_and_other_programs_are_left_alone():
    check("train", "--learning-rate 3", selected=("generate",))
    check("train", "--learning-rate 3", program=["find"])
