"""Faults in the recipes that their tests must notice."""

BOOK = "recipes/books/book.py"
STAGE = "recipes/books/stage.py"
PROCESSES = "recipes/books/processes.py"
PROVENANCE = "recipes/books/provenance.py"
FETCH = "recipes/fetch.py"
OPTIONS = "recipes/options.py"
PARTIAL = "srformer_plugin/compat/partial_checkpoints.py"

BOOK_TESTS = "tests/recipes/test_books.py"
SCRIPT_TESTS = "tests/recipes/test_scripts.py"
FETCH_TESTS = "tests/recipes/test_fetch.py"
KILL_TESTS = "tests/compat/test_killed_training.py"
PARTIAL_TESTS = "tests/compat/test_partial_checkpoints.py"

RUNS = "recipes/evidence/runs.py"
DEVICE = "recipes/evidence/device.py"
DEVICE_TESTS = "tests/recipes/evidence/test_device.py"

MUTANTS = [
    {  # a run without memory ends the others
        "file": PROCESSES,
        "old": "if code and not (excused and excused(one.label, code)):",
        "new": "if code:",
        "tests": f"{DEVICE_TESTS} -k after_the_others",
    },
    {  # a run that failed otherwise is tried again
        "file": RUNS,
        "old": "if turns is not None and lacked_memory(error):\n            if turns",
        "new": "if turns is not None:\n            if turns",
        "tests": f"{DEVICE_TESTS} -k fails_otherwise",
    },
    {  # a start is tried once
        "file": RUNS,
        "old": "if turns is None or not turns.beside or not lacked_memory(error):",
        "new": "if True:",
        "tests": f"{DEVICE_TESTS} -k as_runs_do",
    },
    {  # a start that fails for any reason is tried again
        "file": RUNS,
        "old": "if turns is None or not turns.beside or not lacked_memory(error):",
        "new": "if turns is None:",
        "tests": f"{DEVICE_TESTS} -k tried_once",
    },
    {  # a later try counts as a new run
        "file": RUNS,
        "old": "command_of(name, number == 0)",
        "new": "command_of(name, True)",
        "tests": f"{DEVICE_TESTS} -k after_the_others",
    },
    {  # batches that were left out count for nothing
        "file": RUNS,
        "old": "raise LeftOut(message, log=log)",
        "new": "pass",
        "tests": f"{DEVICE_TESTS} -k left_out",
    },
    {  # what has begun a moment ago seems to need nothing
        "file": DEVICE,
        "old": "found[0] - promised < needed",
        "new": "found[0] < needed",
        "tests": f"{DEVICE_TESTS} -k just_begun",
    },
    {  # a stage that is alone waits
        "file": DEVICE,
        "old": "if others and found is not None and",
        "new": "if found is not None and",
        "tests": f"{DEVICE_TESTS} -k alone",
    },
    {  # who comes second does not tell the first
        "file": DEVICE,
        "old": 'other["beside"] = True',
        "new": 'other["beside"] = False',
        "tests": f"{DEVICE_TESTS} -k came_beside",
    },
    {  # what a stage finished with before still counts after it has begun with other settings
        "file": BOOK,
        "old": "            write_json(self._path(stage.name), new)\n            if self.facts",
        "new": "            if self.facts",
        "tests": f"{BOOK_TESTS} -k finished_with_before",
    },
    {  # half a folder that is being emptied is taken for a beginning
        "file": BOOK,
        "old": '{"state": "emptying", "identity"',
        "new": '{"state": "started", "identity"',
        "tests": f"{BOOK_TESTS} -k killed_at_any_write",
    },
    {  # CLEAN=1 before the lock
        "file": BOOK,
        "old": "                self.lock.take(create=False)\n",
        "new": "                if self.clean and self.out.exists():\n                    self._remove_all()\n",
        "tests": f"{BOOK_TESTS} -k 'keeps_others_out or another_keeps_out'",
    },
    {  # the lock is not handed to the commands
        "file": PROCESSES,
        "old": "pass_fds=descriptors",
        "new": "pass_fds=()",
        "tests": f"{BOOK_TESTS} -k left_running_keeps_others_out",
    },
    {  # nothing is refused before the first stage runs
        "file": BOOK,
        "old": '            if self.changed != "stop":\n                continue\n',
        "new": "            continue\n",
        "tests": f"{BOOK_TESTS} -k 'late_refusal or other_settings_stop'",
    },
    {  # a helper takes any finished training for its own
        "file": BOOK,
        "old": "        if self._finished(stage.name, identity[stage.name]):\n            say",
        "new": "        if self.finished_identity(stage.name):\n            say",
        "tests": f"{BOOK_TESTS} -k helper",
    },
    {  # every interrupted stage goes on in what it left
        "file": BOOK,
        "old": "return stage.resumable and known ==",
        "new": "return known ==",
        "tests": f"{BOOK_TESTS} -k empty_folder",
    },
    {  # the stages before do not count
        "file": STAGE,
        "old": "text = [stage.name, stage.text(places), [found[name] for name in after]]",
        "new": "text = [stage.name, stage.text(places)]",
        "tests": f"{BOOK_TESTS} -k 'known_by or those_after_it'",
    },
    {  # how many processes do the work counts
        "file": STAGE,
        "old": "if number not in self.free",
        "new": "if True",
        "tests": f"{BOOK_TESTS} -k 'known_by or wrote_it'",
    },
    {  # the others go on when one of several fails
        "file": PROCESSES,
        "old": "            _end(running.values())",
        "new": "            pass",
        "tests": f"{BOOK_TESTS} -k others_are_stopped",
    },
    {  # settings of stages that did not run
        "file": PROVENANCE,
        "old": 'for stage in ran.values() for name, value in stage["settings"].items()',
        "new": 'for stage in [last] for name, value in stage["settings"].items()',
        "tests": f"{BOOK_TESTS} -k stages_that_ran",
    },
    {  # a complete part is an error again
        "file": FETCH,
        "old": "        if total == str(have):\n            return True\n",
        "new": "",
        "tests": f"{FETCH_TESTS} -k complete_but_not_renamed",
    },
    {  # the whole is appended to a part
        "file": FETCH,
        "old": "if have and response.status != 206",
        "new": "if False",
        "tests": f"{FETCH_TESTS} -k sends_the_whole",
    },
    {  # no checksum
        "file": FETCH,
        "old": "if found != sha256",
        "new": "if False",
        "tests": f"{FETCH_TESTS} -k another_checksum",
    },
    {  # an empty word of more flags is lost
        "file": OPTIONS,
        "old": "return shlex.split(text)",
        "new": "return [word for word in shlex.split(text) if word]",
        "tests": f"{SCRIPT_TESTS} -k empty_word",
    },
    {  # half a checkpoint
        "file": PARTIAL,
        "old": "with writing(dst_path) as partial:",
        "new": "for partial in [dst_path]:",
        "tests": f"{KILL_TESTS} -k copy_that_is_killed",
    },
    {  # what another process writes is removed
        "file": PARTIAL,
        "old": "        fcntl.flock(file, how)",
        "new": "        pass",
        "tests": f"{PARTIAL_TESTS} -k left_alone",
    },
    {  # a second writer goes on in the file that the first has renamed
        "file": PARTIAL,
        "old": "if _lock(file, fcntl.LOCK_EX) and not _is_named(file, partial):",
        "new": "if False:",
        "tests": f"{PARTIAL_TESTS} -k renamed_meanwhile",
    },
    {
        "file": "recipes/later_arguments.py",
        "old": "ARCH_MODEL_REGISTRY[args.arch].check_arguments(args)",
        "new": "pass",
        "tests": "tests/recipes/test_later_arguments.py",
    },
    {
        "file": "recipes/bounds.py",
        "old": "lambda x: 0 < x < math.inf",
        "new": "lambda x: 0 < x",
        "tests": "tests/recipes/test_scripts.py -k bad_option",
    },
]
