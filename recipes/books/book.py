"""The book of an output folder: which of its stages are finished, and what each ran with."""

import contextlib
import os
import shutil
import sys
import time
from pathlib import Path

from data_prep.whole import write_json
from recipes.books import provenance
from recipes.books.errors import BookError, Interrupted
from recipes.books.files import read_json
from recipes.books.lock import Lock
from recipes.books.processes import run_commands, signals_raise
from recipes.books.progress import Progress
from recipes.books.stage import differences, identities, needs

ROOT = Path(__file__).resolve().parents[2]
RECORDS, LOGS, LOCK = ".stages", "logs", "lock"


def say(text, file=None):
    """A line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=file or sys.stdout, flush=True)


class Book:
    """Stages that work in folder ``out``.

    Args:
        out: a folder that a book has made, an empty one, or one that is not there yet.
        again: the command that goes on, for messages.
        changed: what to do with a stage that ran otherwise: "stop", "redo" (its folder is emptied) or "keep" (go on).
        remedy: what to say to the user at "stop".
        clean: start over: everything in ``out`` goes, once the lock is held.
        facts: what settings.json is to say of this run besides the stages' settings (recipe, command, seed).
        known: identities of stages that were done in another folder.
        late: ``{word: function}``: a word that stands within a command for what is known only when its stage begins.
        around: a function of a stage and the path of its log; the commands run within the context that it returns. A
            BookError at its end means that the stage has failed.
    """

    def __init__(
        self, out, again="", changed="stop", remedy="", clean=False, facts=None, known=None, late=None, around=None
    ):
        self.out, self.again, self.changed, self.clean = Path(out), again, changed, clean
        self.remedy, self.facts = remedy or "choose another output folder", facts
        self.known, self.late = known or {}, late or {}
        self.around = around or (lambda stage, log: contextlib.nullcontext())
        self.places = {str(self.out): "OUT", str(ROOT): "ROOT"}
        self.lock = Lock(self.out / RECORDS / LOCK)

    def run(self, stages, selected=None):
        """Run what is not finished of ``stages``, or of those whose names are in ``selected``.

        Raises:
            BookError: the run is refused, and nothing has changed on the disk; or a stage has failed; or SIGINT or
                SIGTERM came.
        """
        chosen = {stage.name for stage in stages} if selected is None else set(selected)
        identity = identities(stages, self.places, self.known)
        with signals_raise():
            try:
                self._refuse_foreign()
                self.lock.take(create=False)
                self._check(stages, chosen, identity)
                self.lock.take()
                if self.clean:
                    self._remove_all()
                self._check(stages, chosen, identity)  # again: until the lock was ours another run may have worked
                (self.out / LOGS).mkdir(exist_ok=True)
                for stage in stages:
                    if stage.name in chosen:
                        self._run(stage, identity[stage.name])
            except Interrupted as error:
                raise Interrupted(f'interrupted; run "{self.again}" again to go on where it stopped') from error
            finally:
                self.lock.release()

    def help(self, stages, stage, log_name):
        """Run ``stage`` for another process that keeps this folder's book, as on the second of two machines.

        Nothing but its log is written. Nothing is done if the stage has finished as it is here.
        """
        self._refuse_foreign()
        identity = identities(stages, self.places, self.known)
        for name in sorted(needs(stages)[stage.name]):
            if name not in self.known and not self._finished(name, identity[name]):
                raise BookError(f"{stage.name} needs {name}, which has not finished in {self.out}: run that first")
        if self._finished(stage.name, identity[stage.name]):
            say(f"{stage.name}: done before")
            return
        record = self._record(stage.name)
        if record and record.get("state") == "finished" and self.changed == "stop":
            self._refuse_change(stage, record)
        (self.out / RECORDS).mkdir(parents=True, exist_ok=True)  # who comes first marks the folder as a book's
        with signals_raise():
            self._run_commands(stage, self.out / LOGS / f"{log_name}.log", f"{stage.name}: {log_name}")

    # ---- what the folder says ----

    def _path(self, name):
        return self.out / RECORDS / f"{name}.json"

    def _record(self, name):
        return read_json(self._path(name))

    def _finished(self, name, identity):
        record = self._record(name)
        return bool(record) and (record.get("state"), record.get("identity")) == ("finished", identity)

    def finished_identity(self, name):
        """What finished stage ``name`` of this folder is known by; None if it has not finished."""
        record = self._record(name)
        return record["identity"] if record and record.get("state") == "finished" else None

    def _done(self, stage, identity):
        there = not stage.folder or (self.out / stage.folder).is_dir()
        return not stage.always and there and self._finished(stage.name, identity)

    def _refuse_foreign(self):
        # only what a book has made is ever written to or removed
        if (self.out / RECORDS).is_dir() or not self.out.exists():
            return
        if not self.out.is_dir() or any(self.out.iterdir()):
            raise BookError(
                f"{self.out} is there and was not made by a recipe: choose another folder, or remove it yourself"
            )

    def _check(self, stages, chosen, identity):
        """Refuse what cannot run, or must not."""
        if self.clean:
            return
        needed, missing = needs(stages), []
        for stage in stages:
            if stage.always or self._done(stage, identity[stage.name]):
                continue
            if stage.name not in chosen:
                missing.append(stage.name)
                continue
            for name in missing:
                if name in needed[stage.name]:
                    self._refuse_missing(stage.name, name)
            if self.changed != "stop":
                continue
            record = self._record(stage.name)
            if record is None:
                if stage.folder and _has_files(self.out / stage.folder):
                    raise BookError(
                        f"{self.out / stage.folder} has files, and no record says what made them: {self.remedy}"
                    )
            elif record.get("identity") != identity[stage.name] and self._worth_keeping(stage, record):
                self._refuse_change(stage, record)

    def _worth_keeping(self, stage, record):
        """Whether a stage's files are whole, or such that it could go on from them."""
        return record.get("state") == "finished" or (stage.resumable and record.get("state") == "started")

    def _refuse_missing(self, name, missing):
        if self.finished_identity(missing):
            raise BookError(
                f"{name} needs {missing}, which ran in {self.out} with other settings; "
                "run it again, or give the settings that it had"
            )
        raise BookError(f"{name} needs {missing}, which has not finished in {self.out}: run that first")

    def _refuse_change(self, stage, record):
        changes = differences(record.get("text", []), stage.text(self.places)) or ["  a stage before it has changed"]
        head = f"{stage.name} has run in {self.out} with other settings, and its files are kept:"
        raise BookError("\n".join([head, *changes, self.remedy]))

    # ---- what it does ----

    def _remove_all(self):
        """Everything but the lock. The records go first: half a folder must not pass for a whole one."""
        for path in (self.out / RECORDS).iterdir():
            if path.name != LOCK:
                path.unlink()
        for path in self.out.iterdir():
            if path.name == RECORDS:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _run(self, stage, identity):
        if self._done(stage, identity):
            say(f"{stage.name}: done before")
            return
        record = None if stage.always else self._record(stage.name)
        new = {"state": "emptying", "identity": identity, "text": stage.text(self.places)}
        keep = self._goes_on(stage, record, identity)
        if record and keep and record.get("identity") != identity:
            say(f"{stage.name}: goes on in {self.out / stage.folder} with other settings")
        if not keep and stage.folder:
            # killed in the middle of it, half a folder is not taken for a beginning
            write_json(self._path(stage.name), new)
            if (self.out / stage.folder).exists():
                shutil.rmtree(self.out / stage.folder)
        if stage.folder:
            (self.out / stage.folder).mkdir(parents=True, exist_ok=True)
        if not stage.always:
            new["state"] = "started"
            if self.facts is not None:
                new["ran"] = provenance.of_stage(self.facts, stage.settings)
            write_json(self._path(stage.name), new)
            if self.facts is not None:
                provenance.write(self.out)
        began, log = time.monotonic(), self.out / LOGS / f"{stage.name}.log"
        with self.around(stage, log):
            self._run_commands(stage, log, stage.title or stage.name, keep)
        if not stage.always:
            write_json(self._path(stage.name), {**new, "state": "finished"})
        say(f"{stage.name}: {time.monotonic() - began:.0f} s")

    def _goes_on(self, stage, record, identity):
        """Whether a stage goes on in its folder as it is, rather than in an empty one."""
        if self.changed == "keep" and (record is None or record.get("identity") != identity):
            return record is None or record.get("state") != "emptying"
        # what another tool has left half done may trip it: fairseq-preprocess refuses to run where a dictionary is
        known = (record.get("state"), record.get("identity")) if record else None
        return stage.resumable and known == ("started", identity)

    def _run_commands(self, stage, path, title, append=False):
        say(f"{stage.name}: {title}")
        commands = [self.final(command) for command in stage.commands]
        progress = Progress({command.label: _updates(command.words) for command in commands})
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
        }
        descriptors = () if self.lock.descriptor is None else (self.lock.descriptor,)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(path, "ab" if append else "wb") as log:
                status = run_commands(commands, log, progress, stage.at_once, descriptors, env=environment, cwd=ROOT)
        finally:
            progress.close()
        if status:
            raise BookError(
                "\n".join(
                    [
                        f"{stage.name} failed (exit status {status}):",
                        *(f"  {line}" for line in progress.tail),
                        f'Read {path}, then run "{self.again}" again: finished stages are skipped. '
                        f"{self.remedy[0].upper()}{self.remedy[1:]}.",
                    ]
                ),
                status,
                path,
            )

    def final(self, command):
        """A command with its late words in place."""
        words = command.words
        for late, value in self.late.items():
            if late in words:
                found = str(value())
                words = [found if word == late else word for word in words]
        return type(command)(words, command.free, command.label)


def _has_files(folder):
    return folder.is_dir() and any(folder.iterdir())


def _updates(words):
    """How many updates a training takes, as its flags say; None for another command."""
    places = [number for number, word in enumerate(words[:-1]) if word == "--max-update"]
    return int(words[places[-1] + 1]) if places and words[places[-1] + 1].isdigit() else None
