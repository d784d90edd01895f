"""Whether programs of later stages know the arguments that a user gives them, found before the first stage begins.

fairseq's parsers are asked themselves, which takes some seconds; so only stages with arguments of the user are tried.
"""

import contextlib
import io
import logging

from data_prep.errors import UserError
from recipes.derived import ATTENTION, PUBLISHED, UPDATES
from recipes.options import RefusedOptions

TRIED = ("binarise", "train", "generate", "score")  # earlier stages tell it themselves within seconds
# options whose words only the program of the stage knows
NAMED = {"train": ("arch", *ATTENTION)}
TRAINER = "srformer_plugin.tools.distributed_train"


def check_later_arguments(stages, selected, values):
    """Raises RefusedOptions for options of the user that the program of a later stage refuses."""
    for stage in stages:
        if stage.name not in TRIED or stage.name not in selected:
            continue
        given = values.get(f"{stage.name}-args")
        named = [name for name in NAMED.get(stage.name, ()) if values.get(name) and values[name] not in PUBLISHED]
        if given or named:
            message = refused(stage)
            if message:
                raise RefusedOptions(f"--{stage.name}-args {given}: {message}" if given else message)


def refused(stage):
    """What one of a stage's programs says against its arguments; None: they take them, or are none of ours."""
    said = (_refused(["1" if word == UPDATES else word for word in command.words]) for command in stage.commands)
    return next(filter(None, said), None)


def _refused(words):
    program, *arguments = words[2:] if words[1:2] == ["-m"] else words
    if TRAINER in words:
        program, arguments = "fairseq-train", words[words.index(TRAINER) + 1 :]
    if program not in PARSERS:
        return None
    said = io.StringIO()
    logging.disable()  # what the programs will say again when they run
    try:
        with contextlib.redirect_stderr(said):
            PARSERS[program](arguments)
    except SystemExit:
        return said.getvalue().strip().rpartition("error: ")[2] or "they end the program at once"
    except UserError as error:
        return str(error)
    finally:
        logging.disable(logging.NOTSET)
    return None


def _preprocess(arguments):
    from fairseq import options

    options.get_preprocessing_parser().parse_args(arguments)  # as fairseq-preprocess does, without a task's flags


def _fairseq(name, command):
    """A parser of fairseq's, and the checks that `command` begins with."""

    def parse(arguments):
        from fairseq import options
        from fairseq.models import ARCH_MODEL_REGISTRY

        args = options.parse_args_and_arch(getattr(options, f"get_{name}_parser")(), arguments)
        if hasattr(ARCH_MODEL_REGISTRY.get(getattr(args, "arch", None)), "check_arguments"):
            ARCH_MODEL_REGISTRY[args.arch].check_arguments(args)
        from srformer_plugin.compat.commands import configuration_of
        from srformer_plugin.compat.refusals import check_command

        check_command(configuration_of(args), command)

    return parse


def _encode(arguments):
    from data_prep.encode import parse_arguments

    parse_arguments(arguments)


def _score(arguments):
    from srformer_plugin.scoring.cli import parse_arguments

    parse_arguments(arguments)


PARSERS = {
    "data_prep.encode": _encode,
    "fairseq-preprocess": _preprocess,
    "fairseq-train": _fairseq("training", "train"),
    "fairseq-generate": _fairseq("generation", "generate"),
    "srformer-score": _score,
}
