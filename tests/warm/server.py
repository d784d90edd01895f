"""Import fairseq and wait for commands (call.py); each is carried out by a fork of this process.

Usage: server.py ADDRESS PYTHONPATH. It prints "ready", and ends when its standard input does. PYTHONPATH is where it
finds what it imports; no command has that from here.
"""

import atexit
import contextlib
import fcntl
import gc
import importlib.metadata
import json
import logging
import os
import runpy
import selectors
import signal
import socket
import struct
import sys
import threading

MOST = 64  # files that a command inherits


def import_much(folders):
    """What takes seconds, with `folders` before the interpreter's; nothing of this project, nor fairseq's programs."""
    own, sys.path[1:1] = [*sys.path], folders
    logging.disable(logging.INFO)  # what fairseq could make use of
    import fairseq.checkpoint_utils
    import fairseq.options
    import fairseq.sequence_generator
    import fairseq.trainer  # noqa: F401
    import nltk.stem.porter  # noqa: F401 (imported by rouge_score)
    import numpy  # noqa: F401
    import torch._dynamo  # noqa: F401 (imported by the first optimizer)

    logging.disable(logging.NOTSET)
    sys.path[:] = own


class Call:
    """A command, which somebody at the other end of a connection waits for, and its process."""

    def __init__(self, connection):
        self.connection, self.process = connection, None
        size, self.files, _, _ = socket.recv_fds(connection, 4, MOST)
        (length,) = struct.unpack("I", size)
        self.request = json.loads(connection.recv(length, socket.MSG_WAITALL))

    def signal(self, number):
        """As to every process of the session: fairseq has workers."""
        try:
            os.killpg(self.process, number)
        except ProcessLookupError:  # it is about to begin its session, or has ended
            os.kill(self.process, number)

    def ended(self, status):
        with contextlib.suppress(OSError):  # who waited was killed
            self.connection.send(struct.pack("i", os.waitstatus_to_exitcode(status)))
        self.connection.close()


def serve(address):
    """Answer calls; returns the call in its fork, and None at the end."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    bell, rope = socket.socketpair()  # a child has ended
    for end in (bell, rope):
        end.setblocking(False)
    signal.set_wakeup_fd(rope.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: pytest closes standard input
    calls, selector = {}, selectors.DefaultSelector()
    for file in (listener, bell, sys.stdin):
        selector.register(file, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                for call in calls.values():
                    call.signal(signal.SIGKILL)
                signal.set_wakeup_fd(-1)
                return None
            elif key.fileobj is listener:
                call = Call(listener.accept()[0])
                call.process = os.fork()
                if call.process == 0:
                    signal.set_wakeup_fd(-1)
                    selector.close()
                    for end in (listener, bell, rope, *(one.connection for one in [call, *calls.values()])):
                        end.close()
                    return call
                for file in call.files:
                    os.close(file)
                calls[call.process] = call
                selector.register(call.connection, selectors.EVENT_READ, call)
            elif key.fileobj is bell:
                bell.recv(4096)
                while calls and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                    call = calls.pop(ended[0])
                    with contextlib.suppress(KeyError):
                        selector.unregister(call.connection)
                    call.ended(ended[1])
            elif key.data.process in calls:
                asked = key.fileobj.recv(64)
                for number in asked or [signal.SIGKILL]:
                    key.data.signal(number)
                if not asked:  # who waited was killed
                    selector.unregister(key.fileobj)


def become(call):
    """Be as a process that was just started for the call, as far as it can tell; returns what it runs."""
    program, real, words, folder, environment, numbers = call.request
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    away = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, max(numbers) + MOST) for file in call.files]
    for file in call.files:
        os.close(file)
    for file, number in zip(away, numbers):
        os.dup2(file, number)
        os.close(file)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=bool(environment.get("PYTHONUNBUFFERED")))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.modules[
        "numpy"
    ].random.seed()  # `random` does so itself after a fork, and PyTorch's first numbers are always the same
    if os.path.basename(program) == "fairseq-train" or words[:2] == ["-m", "fairseq_cli.train"]:
        # it sets up the logging before it imports fairseq, which does so for all others
        logging.root.handlers.clear()
    sys.executable = os.path.join(os.path.dirname(program), "python")
    kind, code, *rest = words if os.path.basename(program) == "python" else (None, None, *words)
    own = {"-m": folder, "-c": "", None: os.path.dirname(real)}[kind]
    sys.path[:1] = [own, *folders_of(environment.get("PYTHONPATH", ""))]
    sys.argv = [kind or real, *rest]
    if kind == "-m":
        return lambda: runpy.run_module(code, run_name="__main__", alter_sys=True)
    if kind == "-c":
        return lambda: exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    if not os.path.exists(real):  # `pip --target` leaves it elsewhere
        (script,) = importlib.metadata.entry_points(group="console_scripts", name=os.path.basename(program))
        return lambda: sys.exit(script.load()())
    return lambda: runpy.run_path(real, run_name="__main__")


def folders_of(path):
    """The folders of a PYTHONPATH."""
    return [*filter(None, path.split(os.pathsep))]


def carry_out(run):
    """Run it to its end without the interpreter's tidying, which takes a second where so much has been imported.

    An end by an exception is the interpreter's.
    """
    try:
        run()
        status = 0
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        status = end.code or 0
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status & 255)


if __name__ == "__main__":
    import_much(folders_of(sys.argv[2]))
    gc.collect()
    gc.freeze()  # the pages stay shared
    call = serve(sys.argv[1])
    if call:
        carry_out(become(call))
