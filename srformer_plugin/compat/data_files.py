"""Binarised data: several files of a split (train, train1, ...), and files of the older formats."""

import inspect
from pathlib import Path

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
