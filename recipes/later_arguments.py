"""Whether programs of later stages know the arguments that a user gives them, found before the first stage begins.

fairseq's parsers are asked themselves, which takes some seconds; so only stages with arguments of the user are tried.
"""

import contextlib
import io

from recipes.derived import UPDATES
from recipes.options import RefusedOptions

TRIED = ("binarise", "train", "generate", "score")  # earlier stages tell it themselves within seconds
TRAINER = "srformer_plugin.tools.distributed_train"


def check_later_arguments(stages, selected, values):
    """Raises RefusedOptions for an argument in --STAGE-args that the stage's program refuses."""
    for stage in stages:
        given = values.get(f"{stage.name}-args")
        if stage.name in TRIED and stage.name in selected and given:
            for command in stage.commands:
                message = _refused(["1" if word == UPDATES else word for word in command.words])
                if message:
                    raise RefusedOptions(f"--{stage.name}-args {given}: {message}")


def _refused(words):
    """What the program's parser says of its arguments; None: it takes them, or is none of ours."""
    program, *arguments = words
    if TRAINER in words:
        program, arguments = "fairseq-train", words[words.index(TRAINER) + 1 :]
    if program not in PARSERS:
        return None
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            PARSERS[program](arguments)
    except SystemExit:
        return said.getvalue().strip().rpartition("error: ")[2] or "they end the program at once"
    return None


def _fairseq(name):
    def parse(arguments):
        from fairseq import options

        options.parse_args_and_arch(getattr(options, f"get_{name}_parser")(), arguments)

    return parse


def _score(arguments):
    from srformer_plugin.scoring.cli import parse_arguments

    parse_arguments(arguments)


PARSERS = {
    "fairseq-preprocess": _fairseq("preprocessing"),
    "fairseq-train": _fairseq("training"),
    "fairseq-generate": _fairseq("generation"),
    "srformer-score": _score,
}
