"""Commands that start at once: forked from a process which has imported fairseq, instead of seconds of imports each.

:func:`programs` is a folder with a `python` and the console scripts of fairseq and of this project. They are started as
any program, in a session of their own, with a working directory, an environment and open files, and they end with an
exit status or by a signal; behind them is a process that one server (server.py) has forked. Nothing of this project is
imported before the fork. That `python` knows ``-m`` with a module of ours and ``-c``; else it is the real one.
"""

import atexit
import functools
import importlib.metadata
import os
import subprocess
import sys
import tempfile
from pathlib import Path

REAL = Path(sys.executable).parent
CALL = Path(__file__).with_name("call.py")


def script_names():
    """Those of fairseq and of this project: beside the interpreter, or elsewhere, as `pip --target` leaves them."""
    here = [script.name for script in REAL.iterdir()]
    installed = [script.name for script in importlib.metadata.entry_points(group="console_scripts")]
    return {name for name in here + installed if name.startswith(("fairseq-", "srformer-"))}


@functools.cache
def programs():
    """The folder; its server is started by the first call and ends with this process."""
    folder = tempfile.TemporaryDirectory(prefix="warm")
    bin = Path(folder.name) / "bin"
    bin.mkdir()
    address = Path(folder.name) / "server"
    first = f"#!{sys.executable} -IS\nREAL, SERVER = {str(REAL)!r}, {str(address)!r}\n"
    (bin / "python").write_text(first + CALL.read_text(encoding="utf-8"), encoding="utf-8")
    (bin / "python").chmod(0o755)
    for script in sorted(script_names()):
        (bin / script).symlink_to("python")
    (bin / "torchrun").symlink_to(REAL / "torchrun")  # recipes find it beside their `python`
    # A command brings a PYTHONPATH of its own, which may be none. The server has this one for its imports alone, and
    # not from its start on: it could not tell those folders from the interpreter's any more.
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("server.py"), address, os.environ.get("PYTHONPATH", "")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**clean, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd="/",
    )
    owner = os.getpid()

    def end():
        if os.getpid() == owner:  # a fork of a test's ends as well
            server.stdin.close()
            server.wait()
            folder.cleanup()

    atexit.register(end)
    assert server.stdout.readline() == b"ready\n"
    return bin
