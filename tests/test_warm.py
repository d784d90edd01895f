"""Commands that start at once are as others to who starts them, and to themselves."""

import json
import os
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import fairseq
import pytest
import warm

TELL = """
import json, os, random, sys
os.write(int(sys.argv[1]), b"written")
found = {"words": sys.argv[2:], "folder": os.getcwd(), "colour": os.environ.get("COLOUR"), "random": random.random(),
         "other": os.environ.get("OMP_NUM_THREADS"), "leader": os.getsid(0) == os.getpid(), "name": __name__,
         "input": sys.stdin.read(), "ours": sorted({"recipes", "srformer_plugin", "fairseq_cli"} & {*sys.modules})}
print(json.dumps(found))
print("complaint", file=sys.stderr)
sys.exit(7)
"""
WAIT = """
import os, time
print(os.getpid(), flush=True)
time.sleep(60)
"""


BARE = """
import subprocess, sys, warm
found = [[warm.programs() / "python", "-c", "import sys; print(*sys.path, sep=chr(10))"], ["env", "-u", "PYTHONPATH"]]
subprocess.run(found[0], check=True)
print("none:", flush=True)
subprocess.run(found[1] + found[0], check=True)
subprocess.run([warm.programs() / "fairseq-train", "--help"], check=True)
"""


def test_packages_may_be_found_by_pythonpath_alone(tmp_path):
    """As with `pip --target`; a command without that variable does not find them."""
    venv.create(tmp_path, symlinks=True)
    folders = [str(Path(__file__).parent), *filter(None, sys.path)]
    done = subprocess.run(
        [tmp_path / "bin/python", "-c", BARE],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    given, _, rest = done.stdout.partition("none:\n")
    assert given.splitlines()[: 1 + len(folders)] == ["", *folders]
    packages = str(Path(fairseq.__file__).parent.parent)
    assert packages in given.splitlines()
    without, _, help_text = rest.partition("usage: fairseq-train")
    assert packages not in without.splitlines()
    assert "--user-dir" in help_text


@pytest.fixture(params=["fresh", "warm"])
def python(request):
    return sys.executable if request.param == "fresh" else warm.programs() / "python"


@pytest.fixture
def start(python, tmp_path):
    """`start(program, *words)`: the running program, a module of a package that is named as one of ours."""
    (tmp_path / "recipes").mkdir()

    def start(program, *words, **options):
        (tmp_path / "recipes/program.py").write_text(program)
        return subprocess.Popen(
            [python, "-m", "recipes.program", *words],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )

    return start


def test_it_has_the_arguments_files_folder_and_environment_it_was_started_with(start, tmp_path):
    seen = []
    for _ in range(2):
        here, there = os.pipe()
        one = start(TELL, str(there), "a b", "", pass_fds=[there], env={"COLOUR": "blue \udce9", "PATH": "/bin"})
        output, error = one.communicate("asked")
        assert (one.returncode, error, os.read(here, 99)) == (7, "complaint\n", b"written")
        seen.append(json.loads(output))
        os.close(here)
        os.close(there)
    assert seen[0].pop("random") != seen[1].pop("random")
    assert seen[0] == seen[1] == {
        "words": ["a b", ""], "folder": str(tmp_path), "colour": "blue \udce9", "other": None, "leader": True,
        "name": "__main__", "input": "asked", "ours": ["recipes"],
    }  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_it_and_is_what_it_ends_by(start, number):
    one = start(WAIT)
    one.stdout.readline()
    one.send_signal(number)
    one.communicate(timeout=30)
    assert one.returncode == -number


def test_it_ends_with_who_is_killed(start):
    one = start(WAIT)
    process = int(one.stdout.readline())
    one.kill()
    one.wait()  # not for its output, which ends with the process
    deadline = time.monotonic() + 10
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(process, 0)
            time.sleep(0.01)


def test_a_line_of_code_may_be_given(python, tmp_path):
    code = "import sys; print(__name__, sys.argv, sys.path[0]); sys.exit('over')"
    done = subprocess.run([python, "-c", code, "-x"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "__main__ ['-c', '-x'] \n", "over\n")


def test_other_uses_of_the_interpreter_are_the_interpreters(python, tmp_path):
    (tmp_path / "file.py").write_text("import sys; print('fairseq' in sys.modules)")
    done = subprocess.run([python, tmp_path / "file.py"], capture_output=True, text=True)
    assert done.stdout == "False\n"
