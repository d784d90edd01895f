"""Binarised data: their folders and languages, several files of a split (train, train1, ...), and older formats."""

import inspect
import os
from pathlib import Path

from fairseq import utils
from fairseq.data import data_utils, indexed_dataset
from fairseq.data.indexed_dataset import IndexedCachedDataset, IndexedDataset
from fairseq.tasks import translation

from ..errors import ConfigurationError
from .patching import wrap


def read_the_first_file_once():
    """Take the first of several files once, unless ``--upsample-primary`` asks for more.

    ``tasks/translation.py:213`` has -1 for its default, where its documentation says 1; ``data/concat_dataset.py:76``
    then repeats the first file's sizes so many times: "negative dimensions are not allowed". Not needed when a
    translation task trains on train and train1.
    """

    def make_wrapper(original):
        signature = inspect.signature(original)

        def load_langpair_dataset(*args, **kwargs):
            given = signature.bind(*args, **kwargs)
            given.arguments["upsample_primary"] = max(given.arguments["upsample_primary"], 1)
            return original(*given.args, **given.kwargs)

        return load_langpair_dataset

    wrap(translation, "load_langpair_dataset", make_wrapper)


def know_validation_sets_by_name():
    """Take ``--valid-subset valid,valid1`` for pairs of languages.

    ``data/data_utils.py:897`` takes the names of files without their last part, ``valid1.source-target.source``, for
    those of the sets, and refuses them as left out. Not needed when such a training begins.
    """

    def make_wrapper(original):
        def _find_extra_valid_paths(dataset_path):
            return {name.partition(".")[0] for name in original(dataset_path)}

        return _find_extra_valid_paths

    wrap(data_utils, "_find_extra_valid_paths", make_wrapper)


def infer_languages_from_dictionaries():
    """Without ``--source-lang`` and ``--target-lang``, find them in a folder that has dictionaries only.

    ``data/data_utils.py:28`` looks at the names of texts, of which there are none beside a checkpoint: "Could not infer
    language pair", in a traceback without the folder. Not needed when it is given dict.source.txt and dict.target.txt
    and finds source and target.
    """

    def make_wrapper(original):
        def infer_language_pair(path):
            source, target = original(path)
            return (source, target) if source and target else _languages_of_dictionaries(Path(path))

        return infer_language_pair

    wrap(data_utils, "infer_language_pair", make_wrapper)


def _languages_of_dictionaries(folder: Path) -> tuple[str, str]:
    """(source, target) of dict.X.txt and dict.Y.txt, where their names or equal words leave no choice."""
    files = sorted(folder.glob("dict.*.txt"))
    names = tuple(file.name.removeprefix("dict.").removesuffix(".txt") for file in files)
    if len(names) == 2 and (names == ("source", "target") or files[0].read_bytes() == files[1].read_bytes()):
        return names
    found = f"the dictionaries of {', '.join(names)}" if names else "no dictionary dict.*.txt"
    raise ConfigurationError(
        f"{folder}: no binarised texts say which language is the source and which the target, and it has {found}: give "
        "the folder that fairseq-preprocess wrote, or --source-lang and --target-lang"
    )


def refuse_a_split_without_texts():
    """Name a binarised file that is empty: the one that fairseq-preprocess read had no lines.

    ``data/indexed_dataset.py:507`` cannot map it, and its end hides that: "no attribute '_bin_buffer_mmap'". Not needed
    when the error names the file.
    """

    def make_wrapper(original):
        def make_dataset(path, *args, **kwargs):
            data = Path(f"{path}.bin")
            if data.is_file() and data.stat().st_size == 0:
                raise ConfigurationError(
                    f"{data} is empty: the text file that fairseq-preprocess read for it has no lines; give it some, "
                    "or leave the split out"
                )
            return original(path, *args, **kwargs)

        return make_dataset

    wrap(indexed_dataset, "make_dataset", make_wrapper)


def read_what_is_not_in_memory():
    """Read a sentence from its file where ``--dataset-impl cached`` has not got it in memory yet.

    That is how fairseq reads data that were binarised with ``--dataset-impl lazy``, unless it is told so again. The
    trainer asks for the first batch (``data/iterators.py:372``) before any is in memory, and
    ``data/indexed_dataset.py:258`` ends in a KeyError. Not needed when a training on such data begins.
    """

    def make_wrapper(original):
        def __getitem__(self, i):
            return original(self, i) if i in self.cache_index else IndexedDataset.__getitem__(self, i)

        return __getitem__

    wrap(IndexedCachedDataset, "__getitem__", make_wrapper)


def take_what_is_there_as_one_path():
    """Take a folder of data, or a checkpoint of ``--path``, with a colon in its name for one where it is there.

    ``utils.py:61`` splits every path at colons, since several may be given so, and a folder named by a time or a
    version, ``runs/12:30``, is sought as ``runs/12``. Not needed when ``split_paths`` of a path that exists returns it.
    """

    def make_wrapper(original):
        def split_paths(paths, *args, **kwargs):
            return [paths] if os.path.exists(paths) else original(paths, *args, **kwargs)

        return split_paths

    wrap(utils, "split_paths", make_wrapper)
