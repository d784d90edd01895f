"""A user's error is one line, one prefix and one exit status; and arguments are checked when they are read."""

import argparse
import os
import shlex
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from helpers import pythonpath

import data_prep
from data_prep import arguments
from data_prep.errors import EXIT_STATUS, TRACEBACK, UserError, command
from srformer_plugin.errors import ConfigurationError


def failing(error):
    @command
    def main(argv=None):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigurationError("--segment-size 0 is too small"), "--segment-size 0 is too small"),
        (FileNotFoundError(2, "No such file or directory", "é x"), "é x: No such file or directory"),
        (OSError("no number"), "no number"),
        (BrokenProcessPool("..."), "a process died, perhaps for want of memory; try fewer --workers"),
    ],
)
def test_a_users_error_is_one_line(error, text, capsys):
    assert failing(error)([]) == EXIT_STATUS
    assert capsys.readouterr() == ("", f"error: {text}\n")


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())([])


def test_a_developer_gets_the_traceback_of_a_users_error(monkeypatch):
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(UserError):
        failing(UserError("x"))([])


def test_the_status_of_a_command_is_passed_on():
    assert command(lambda argv: None)([]) == 0
    assert command(lambda argv: 7)([]) == 7
    assert failing(KeyboardInterrupt())([]) == 130


CLOSED = """
import os, sys
from data_prep.errors import command

@command
def main(argv=None):
    print("a result", sys.stdin.isatty(), sys.stdin.read(), file=sys.stdout)
    sys.stdout.write("more")
    print("a note", file=sys.stderr)
    assert os.open("opened.txt", os.O_RDWR | os.O_CREAT) > 2  # else what others print would be written to it

sys.exit(main())
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_standard_stream_that_is_closed_is_nothing(closed, tmp_path):
    (tmp_path / "main.py").write_text(CLOSED)
    environment = {**os.environ, "PYTHONPATH": pythonpath(Path(data_prep.__file__).parent.parent)}
    line = f"{shlex.quote(sys.executable)} main.py {closed}"
    done = subprocess.run(line, shell=True, cwd=tmp_path, env=environment, capture_output=True)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr


def test_a_configuration_error_is_both_a_users_error_and_a_value_error():
    assert issubclass(ConfigurationError, UserError)
    assert issubclass(ConfigurationError, ValueError)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (arguments.positive, {"1": 1, "20": 20}, ["0", "-1", "1.5", "x", ""]),
        (arguments.non_negative, {"0": 0, "3": 3}, ["-1", "x"]),
        (arguments.share, {"0": 0, "1": 1, "0.05": 0.05}, ["-0.1", "1.1", "nan", "x"]),
        (arguments.token_limit, {"0": 0, "2": 2}, ["1", "-2", "x"]),
    ],
)
def test_numbers_are_checked(kind, good, bad):
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=text if text else "whole number"):
            kind(text)


def test_a_file_must_be_there(tmp_path):
    (tmp_path / "a b").touch()
    assert arguments.file(str(tmp_path / "a b")) == tmp_path / "a b"
    with pytest.raises(argparse.ArgumentTypeError, match="is not a file"):
        arguments.file(str(tmp_path))
