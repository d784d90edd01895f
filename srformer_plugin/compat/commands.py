"""How the commands of fairseq start, and how they end where the user can mend what is wrong."""

import argparse
import contextlib
import logging
import re
import sys
import traceback

import torch
from fairseq import options
from fairseq.dataclass import utils as dataclass_utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed import utils as distributed_utils
from fairseq_cli import generate
from hydra.errors import ConfigCompositionException
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue

from data_prep.errors import EXIT_STATUS, PREFIX, UserError, one_line, wants_traceback

from ..errors import ConfigurationError
from .patching import wrap, wrap_of_command
from .refusals import check_command

REFUSED_BY_HYDRA = re.compile(r"Error merging override (?:\w+\.)*(\w+)=(.*)")
# fairseq's own: "Please install ...", "--sampling requires ...", "Must specify batch size either with --max-tokens ..."
KINDS_OF_FAIRSEQ = (ImportError, ValueError, AssertionError, RuntimeError, Exception)
REFUSAL_OF_FAIRSEQ = re.compile(r"\s*Please install|(.*\W)?--[a-z]", re.DOTALL)


def is_refusal_of_fairseq(error: Exception) -> bool:
    """Whether fairseq's own code has raised `error` itself, about a flag or a package.

    What comes out of PyTorch, or of a fault of ours, keeps its traceback whatever it says.
    """
    if type(error) not in KINDS_OF_FAIRSEQ or not REFUSAL_OF_FAIRSEQ.match(str(error)):
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").partition(".")[0] in ("fairseq", "fairseq_cli")


class OneLine:
    """A command's ``main(cfg)`` that ends with one line. Processes that fairseq starts unpickle it."""

    def __init__(self, main):
        self.main = main

    def __call__(self, cfg, **kwargs):
        if wants_traceback():
            return self.main(cfg, **kwargs)
        try:
            return self.main(cfg, **kwargs)
        except torch.multiprocessing.ProcessExitedException as error:
            if error.exit_code == EXIT_STATUS:  # that process has said why
                sys.exit(EXIT_STATUS)
            raise
        except Exception as error:
            if isinstance(error, MissingMandatoryValue):
                error = ConfigurationError(f"--{str(error.key).replace('_', '-')} is needed, and is not given")
            ours = isinstance(error, (UserError, OSError))
            if not ours and not is_refusal_of_fairseq(error):
                raise
            print(PREFIX + " ".join(one_line(error).split()), file=sys.stderr)
            sys.exit(EXIT_STATUS)


def end_with_one_line():
    """End fairseq's commands with one line where a setting or a file is wrong, known at the start where it can be.

    fairseq lets every exception through: the reason is the last of some thirty lines, or hidden in the traceback of
    another process (``distributed/utils.py:341``). ``call_main`` is where every command passes its finished
    configuration, but for fairseq-generate (``fairseq_cli/generate.py:413``). The exit status is that of argparse; the
    environment variable ``SRFORMER_TRACEBACK`` brings the traceback back. Not needed when ``fairseq-generate --path
    nowhere.pt`` prints one line.
    """

    def every_command(original):
        def call_main(cfg, main, **kwargs):
            def start(cfg):
                check_command(cfg, _name(main))
                return original(cfg, OneLine(main), **kwargs)

            return OneLine(start)(cfg)

        return call_main

    def generation(original):
        def main(cfg):
            def start(cfg):
                if isinstance(cfg, argparse.Namespace):
                    cfg = convert_namespace_to_omegaconf(cfg)
                check_command(cfg, "generate")
                return original(cfg)

            return OneLine(start)(cfg)

        return main

    wrap(distributed_utils, "call_main", every_command)
    wrap_of_command(generate, "main", generation)


def configuration_of(args: argparse.Namespace, convert=convert_namespace_to_omegaconf):
    """fairseq's configuration of a command line.

    Raises:
        ConfigurationError: a text that is no Python value, or a setting that is needed and not given, by the name of
            its flag; or a model that is for another task.
    """
    try:
        with _without_all_settings():
            return convert(args)
    except ConfigCompositionException as error:
        refused = REFUSED_BY_HYDRA.search(str(error))
        if not refused:
            raise
        name, value = refused.groups()
        what = "is needed, and is not given" if value == "null" else f"{value} cannot be: it is a value of another kind"
        raise ConfigurationError(f"--{name.replace('_', '-')} {what}") from error
    except InterpolationKeyError as error:  # a language model's setting is by default its task's
        raise ConfigurationError(
            f"{error.full_key} is by default what another --task says ({str(error).splitlines()[0]}): choose an --arch "
            "and a --criterion for this one"
        ) from error
    except (ValueError, SyntaxError) as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        readers = [frame for frame in frames if frame.f_code.co_name == "_override_attr"]
        if not readers:
            raise
        name, value = readers[-1].f_locals["k"], readers[-1].f_locals["val"]
        raise ConfigurationError(
            f"--{name.replace('_', '-')} {value!r} cannot be read: a Python value is needed, such as True, 3 or "
            "'(0.9, 0.98)'"
        ) from error


@contextlib.contextmanager
def _without_all_settings():
    """Keep 15 kB of settings out of the log, which fairseq writes there before it passes an error on."""
    log = logging.getLogger(dataclass_utils.__name__)
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def name_the_setting_that_cannot_be_read():
    """Name the flag whose text is no Python value, such as ``--update-epoch-batch-itr true`` or ``--lr 1e-x``.

    ``dataclass/utils.py:249`` reads it by ``ast.literal_eval``, before ``call_main``: "malformed node or string on line
    1"; and ``:31`` reads a list so, within argparse, which names the flag of a ValueError and lets a SyntaxError pass.
    What is needed and not given, such as ``--source-lang`` by ``--tokenizer moses``, ends in Hydra's error behind all
    settings (``:401``). For commands that were imported before this package, as a program's is. Not needed when those
    errors name the flag.
    """

    def make_wrapper(original):
        def convert_namespace_to_omegaconf(args):
            return OneLine(configuration_of)(args, convert=original)

        return convert_namespace_to_omegaconf

    def lists(original):
        def eval_str_list(x, x_type=float):
            try:
                return original(x, x_type)
            except SyntaxError as error:
                raise argparse.ArgumentTypeError(f"{x!r} cannot be read as a list of {x_type.__name__}") from error

        return eval_str_list

    wrap(dataclass_utils, "eval_str_list", lists)
    for module in list(sys.modules.values()):
        spec = getattr(module, "__spec__", None)
        if spec and spec.name.startswith("fairseq_cli.") and hasattr(module, convert_namespace_to_omegaconf.__name__):
            wrap(module, convert_namespace_to_omegaconf.__name__, make_wrapper)


def validate_without_naming_a_task():
    """Let ``fairseq-validate`` begin without ``--task``, as every other command does.

    ``options.py:79`` has no default for it, with which ``:158`` ends in "KeyError: None". What is validated is the task
    that the checkpoint was trained for; the default of the other commands, ``translation``, only says which flags are
    known. Not needed when ``fairseq-validate --help`` names a default.
    """

    def make_wrapper(original):
        def parse_args_and_arch(parser, *args, **kwargs):
            for action in parser._actions:
                if action.dest == "task" and action.default is None:
                    action.default = "translation"
            return original(parser, *args, **kwargs)

        return parse_args_and_arch

    wrap(options, "parse_args_and_arch", make_wrapper)


def name_the_architecture_that_is_left_out():
    """Name ``--arch`` where ``fairseq-train`` has none.

    ``options.py:153`` raises a RuntimeError without a word. Not needed when it has one.
    """

    def make_wrapper(original):
        def parse_args_and_arch(*args, **kwargs):
            try:
                return original(*args, **kwargs)
            except RuntimeError as error:
                if error.args:
                    raise
            return OneLine(_need_architecture)(None)

        return parse_args_and_arch

    wrap(options, "parse_args_and_arch", make_wrapper)


def _need_architecture(cfg):
    raise ConfigurationError("fairseq-train needs --arch, such as srformer_bart_base")


def _name(main) -> str:
    """ "train" of ``fairseq_cli.train.main``, also where ``python -m`` calls the module ``__main__``."""
    module = getattr(main, "__module__", None) or ""  # what C has written has none
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return (spec.name if spec else module).rpartition(".")[2]
