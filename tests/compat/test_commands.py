"""Errors that a user can mend end a command of fairseq with one line and argparse's exit status."""

import argparse
import re
import types

import pytest
import torch
from conftest import USER_DIR
from fairseq import options
from fairseq.data.encoders.sentencepiece_bpe import SentencepieceConfig
from fairseq.dataclass import utils as dataclass_utils
from fairseq.distributed import utils as distributed_utils
from fairseq_cli import generate
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue
from stock_bart import full_configuration, generate_arguments, stock, train_arguments

from data_prep.errors import EXIT_STATUS, TRACEBACK
from srformer_plugin.compat.commands import OneLine, name_the_setting_that_cannot_be_read
from srformer_plugin.errors import ConfigurationError

COMMANDS = {
    "train": ["--arch", "srformer_bart_tiny", "--segment-size", "0"],
    "generate": ["--beam", "0"],
    "interactive": ["--beam", "0"],
    "validate": ["--batch-size", "4"],
}


def arguments_of(command, corpus, checkpoint, folder):
    if command == "train":
        return [*train_arguments(corpus, folder, "--user-dir", USER_DIR), *COMMANDS[command]]
    if command == "validate":
        return [corpus.binarised, "--path", checkpoint, "--user-dir", USER_DIR, "--cpu", *COMMANDS[command]]
    return [*generate_arguments(corpus, checkpoint), *COMMANDS[command]]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_ends_with_one_line(command, run_fairseq, tiny_corpus, trained, tmp_path):
    checkpoint = tmp_path / "nowhere.pt" if command == "validate" else trained.checkpoint
    arguments = arguments_of(command, tiny_corpus, checkpoint, tmp_path)
    done = run_fairseq(command, *arguments, check=False, env={TRACEBACK: ""})
    assert done.returncode == EXIT_STATUS
    assert done.stdout.count("\nerror: ") + done.stdout.startswith("error: ") == 1
    assert "Traceback" not in done.stdout
    reason = {"train": "--segment-size", "validate": "nowhere.pt"}.get(command, "--beam 0 must be from 1 to 1,000")
    assert reason in done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("value", ["true", "(1,"])
def test_a_text_that_cannot_be_read_is_named(value, train_in_process, tiny_corpus, tmp_path):
    name_the_setting_that_cannot_be_read()  # fairseq-train was imported behind the plugin here
    arguments = train_arguments(tiny_corpus, tmp_path, "--update-epoch-batch-itr", value)
    with pytest.raises(ConfigurationError, match=re.escape(f"--update-epoch-batch-itr '{value}' cannot be read")):
        train_in_process(*arguments)


def test_a_setting_that_is_needed_and_not_given_is_named(train_in_process, tiny_corpus, tmp_path):
    name_the_setting_that_cannot_be_read()
    arguments = train_arguments(tiny_corpus, tmp_path, "--tokenizer", "moses")
    without = [x for x in arguments if x not in ("--source-lang", "source", "--target-lang", "target")]
    with pytest.raises(ConfigurationError, match="^--source-lang is needed, and is not given$"):
        train_in_process(*without)


@pytest.mark.parametrize(("flag", "value", "kind"), [("lr", "1e-x", "float"), ("update-freq", "[1,", "int")])
def test_a_list_that_cannot_be_read_is_named(flag, value, kind, tiny_corpus, tmp_path, capsys):
    arguments = [str(x) for x in train_arguments(tiny_corpus, tmp_path, f"--{flag}", value)]
    with pytest.raises(SystemExit) as ended:
        options.parse_args_and_arch(options.get_training_parser(), arguments)
    assert ended.value.code == EXIT_STATUS
    assert f"argument --{flag}: {value!r} cannot be read as a list of {kind}" in capsys.readouterr().err


def test_stock_lists_show_their_insides():
    with pytest.raises(SyntaxError):
        stock(dataclass_utils.eval_str_list)("[1,", int)


def fail(error, module=__name__):
    """A command whose code, of that module, raises the error."""

    def main(cfg):
        raise error

    return types.FunctionType(main.__code__, {"__name__": module}, closure=main.__closure__)


def missing_value():
    """What `--bpe sentencepiece` without its model ends in."""
    with pytest.raises(MissingMandatoryValue) as caught:
        OmegaConf.structured(SentencepieceConfig).sentencepiece_model  # noqa: B018
    return caught.value


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigurationError("--flag 3 cannot work"), "error: --flag 3 cannot work\n"),
        (FileNotFoundError(2, "No such file or directory", "dict.txt"), "error: dict.txt: No such file or directory\n"),
        (FileNotFoundError("Dataset not found: nope"), "error: Dataset not found: nope\n"),
        (ImportError("\n\nPlease install\n\n  pip install x"), "error: Please install pip install x\n"),
        (AssertionError("--sampling requires --nbest"), "error: --sampling requires --nbest\n"),
        (RuntimeError("relaunch with `--reset-dataloader`"), "error: relaunch with `--reset-dataloader`\n"),
        (missing_value(), "error: --sentencepiece-model is needed, and is not given\n"),
    ],
)
def test_the_line_is_the_message(error, line, tiny_corpus, capsys, monkeypatch):
    monkeypatch.delenv(TRACEBACK, raising=False)
    _, cfg = full_configuration(tiny_corpus)
    with pytest.raises(SystemExit) as ended:
        distributed_utils.call_main(cfg, fail(error, "fairseq.search"))
    assert ended.value.code == EXIT_STATUS
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("error", "module"),
    [
        (RuntimeError("inside"), "fairseq.trainer"),
        (ImportError("cannot import name 'x'"), "fairseq.trainer"),
        (ValueError("y"), "fairseq.trainer"),
        (ValueError("too many values (--beam is 4)"), "torch.nn.functional"),
        (AssertionError("a fault near --segment-size"), "srformer_plugin.models.hub"),
        (KeyError("--beam"), "fairseq.trainer"),
    ],
)
def test_a_fault_of_the_program_keeps_its_traceback(error, module, tiny_corpus, monkeypatch):
    monkeypatch.delenv(TRACEBACK, raising=False)
    _, cfg = full_configuration(tiny_corpus)
    with pytest.raises(type(error), match=re.escape(str(error))):
        distributed_utils.call_main(cfg, fail(error, module))


def test_a_developer_gets_the_traceback(tiny_corpus, monkeypatch):
    monkeypatch.setenv(TRACEBACK, "1")
    _, cfg = full_configuration(tiny_corpus)
    with pytest.raises(ConfigurationError):
        distributed_utils.call_main(cfg, fail(ConfigurationError("--flag 3 cannot work")))


def test_stock_generation_shows_its_insides(tiny_corpus):
    arguments = argparse.Namespace(path=None)
    with pytest.raises(Exception, match="--path required|path"):
        generate.main.srformer_original(arguments)


def test_generation_is_checked_although_it_starts_by_itself(tiny_corpus, capsys, monkeypatch):
    monkeypatch.delenv(TRACEBACK, raising=False)
    parser = options.get_generation_parser()
    given = [str(tiny_corpus.binarised), "--source-lang", "source", "--target-lang", "target"]
    with pytest.raises(SystemExit):
        generate.main(options.parse_args_and_arch(parser, given))
    assert capsys.readouterr().err == "error: fairseq-generate needs --path, the checkpoint\n"


def test_another_process_has_said_why(capsys, monkeypatch):
    monkeypatch.delenv(TRACEBACK, raising=False)

    def spawn(cfg):
        raise torch.multiprocessing.ProcessExitedException("process 0 ended", 0, 1, EXIT_STATUS)

    with pytest.raises(SystemExit) as ended:
        OneLine(spawn)(None)
    assert ended.value.code == EXIT_STATUS
    assert capsys.readouterr().err == ""
