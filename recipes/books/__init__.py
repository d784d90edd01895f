"""The books of long work: which stages there are, which are finished, and what they ran with.

A stage is a list of commands that write below one folder. It runs once. The book of an output folder knows a stage by
its identity, the arguments of its commands and the identities of the stages before it:

    from pathlib import Path
    from recipes.books import Book, Command, Stage

    stages = [
        Stage("train", [Command(["fairseq-train", "data", "--save-dir", "out/train"])], resumable=True),
        Stage("generate", [Command(["fairseq-generate", "data", "--path", "out/train/checkpoint_last.pt"])]),
    ]
    Book(Path("out"), again="my command").run(stages)

- A finished stage is skipped. One that was interrupted runs again, in an empty folder; a ``resumable`` one in its
  folder as it is: a training goes on from its last checkpoint. ``out/logs/NAME.log`` has all that the commands print.
- A stage whose identity has changed starts over in an empty folder (``changed="redo"``), goes on in its folder
  (``"keep"``), or is refused before anything is written (``"stop"``). A failed or refused run raises `BookError`.
- ``after`` names the stages whose identities count; the default is the stage before. `Stage.settings` goes to the
  folder's settings.json when the stage begins, and not before.
- One run at a time works in a folder. `Book.run` takes the lock before it changes anything.
- Words of a command that change no result, as a number of processes, are in ``Command(words, free=...)``.
"""

from recipes.books.book import Book
from recipes.books.errors import BookError
from recipes.books.stage import Command, Stage

__all__ = ["Book", "BookError", "Command", "Stage"]
