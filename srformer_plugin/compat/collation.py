"""Batches made at once, of sentences that are read where they lie."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from fairseq.data import AppendTokenDataset, LanguagePairDataset, StripTokenDataset, TruncateDataset
from fairseq.data.indexed_dataset import MMapIndexedDataset

from .patching import wrap

Reader = Callable[[int], np.ndarray]  # index -> the tokens of a sentence


def collate_whole_batches():
    """Make a batch of pairs of sentences without some thirty small tensors for each pair.

    ``data/language_pair_dataset.py:319`` makes tensors of every sentence, cuts it (``data/strip_token_dataset.py:14``
    and its like) and copies it three times (``data/data_utils.py:38``): 12 ms for 128 pairs, so that a training needs
    processes beside its own to have its batches in time. Here PyTorch's loader hands over the indices of a batch, and
    the tokens go from the file's memory into the batch's: the same batch. Data that are anything but memory-mapped
    files, cut or not, are left to fairseq. Not needed when a batch of 128 pairs takes less than 2 ms.
    """

    def make_wrapper(original):
        def collater(self, samples, pad_to_length=None):
            readers = samples.readers if isinstance(samples, Samples) and len(samples) else None
            if readers is None or pad_to_length is not None:
                return original(self, list(samples), pad_to_length)  # each is read once
            return _collate(self, samples.indices, *readers)

        return collater

    def __getitems__(self, indices):
        samples = Samples(self, indices)
        return list(samples) if samples.readers is None else samples

    wrap(LanguagePairDataset, "collater", make_wrapper)
    LanguagePairDataset.__getitems__ = __getitems__


class Samples(Sequence):
    """The samples of a dataset at some indices, none of which is read before somebody asks for it."""

    def __init__(self, dataset, indices):
        self.dataset, self.indices, self.readers = dataset, indices, _readers(dataset)

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, place):
        return self.dataset[self.indices[place]]


def _readers(pairs: LanguagePairDataset) -> "tuple[Reader, Reader | None] | None":
    """Of the sources and the targets (None: there are none); None: samples are more than what the files hold."""
    changed = pairs.append_eos_to_target or pairs.append_bos or pairs.remove_eos_from_source
    more = (pairs.align_dataset, pairs.constraints, pairs.src_lang_id, pairs.tgt_lang_id)
    own = all(getattr(type(pairs), name) is getattr(LanguagePairDataset, name) for name in ("__getitem__", "collater"))
    if not own or changed or any(part is not None for part in more):
        return None
    source = _reader(pairs.src)
    target = None if pairs.tgt is None else _reader(pairs.tgt)
    return None if source is None or (target is None and pairs.tgt is not None) else (source, target)


def _reader(dataset) -> "Reader | None":
    """What reads a sentence of a memory-mapped file, cut as `dataset` cuts it; None: no such dataset."""
    if type(dataset) is MMapIndexedDataset:
        buffer, index = dataset._bin_buffer, dataset._index
        pointers, sizes, dtype = index._pointers, index._sizes, index.dtype
        return lambda i: np.frombuffer(buffer, dtype=dtype, count=sizes[i], offset=pointers[i])
    change = _CHANGES.get(type(dataset))
    read = None if change is None else _reader(dataset.dataset)
    return None if read is None else lambda i: change(dataset, read(i))


def _strip(dataset: StripTokenDataset, tokens: np.ndarray) -> np.ndarray:
    begin, end = 0, len(tokens)
    while end > begin and tokens[end - 1] == dataset.id_to_strip:
        end -= 1
    while end > begin and tokens[begin] == dataset.id_to_strip:
        begin += 1
    return tokens[begin:end]


def _append(dataset: AppendTokenDataset, tokens: np.ndarray) -> np.ndarray:
    if dataset.token is None:
        return tokens
    longer = np.empty(len(tokens) + 1, tokens.dtype)
    longer[:-1], longer[-1] = tokens, dataset.token
    return longer


_CHANGES: dict = {
    StripTokenDataset: _strip,
    TruncateDataset: lambda dataset, tokens: tokens[: dataset.truncation_length],
    AppendTokenDataset: _append,
}


def _collate(pairs: LanguagePairDataset, indices, source: Reader, target: "Reader | None") -> dict:
    """The batch that `LanguagePairDataset.collater` makes of these pairs, longest source first."""
    pad = pairs.src_dict.pad()
    sources = [source(i) for i in indices]
    lengths, order = _lengths(sources, pad).sort(descending=True)  # not stable: as fairseq's own
    inputs = {
        "src_tokens": _matrix([sources[i] for i in order.tolist()], pad, pairs.left_pad_source, pairs.pad_to_multiple),
        "src_lengths": lengths,
    }
    tokens, targets = int(lengths.sum()), None
    if target is not None:
        found = [target(indices[i]) for i in order.tolist()]
        tokens = int(_lengths(found, pad).sum())
        settings = (pad, pairs.left_pad_target, pairs.pad_to_multiple)
        targets = _matrix(found, *settings)
        if pairs.input_feeding:
            inputs["prev_output_tokens"] = _matrix(found, *settings, first=pairs.eos)
    return {
        "id": torch.tensor([int(i) for i in indices]).index_select(0, order),
        "nsentences": len(indices),
        "ntokens": tokens,
        "net_input": inputs,
        "target": targets,
    }


def _lengths(rows: "list[np.ndarray]", pad: int) -> torch.Tensor:
    return torch.tensor([np.count_nonzero(row != pad) for row in rows])


def _matrix(rows: "list[np.ndarray]", pad: int, left: bool, multiple: int, first: "int | None" = None) -> torch.Tensor:
    """Rows of tokens as a matrix of int64, of a width that is a multiple; with `first`, it and all but their last."""
    width = -(-max(map(len, rows)) // multiple) * multiple
    matrix = np.full((len(rows), width), pad, dtype=np.int64)
    for place, row in zip(matrix, rows):
        begin = width - len(row) if left else 0
        if first is None:
            place[begin : begin + len(row)] = row
        else:
            place[begin] = first
            place[begin + 1 : begin + len(row)] = row[:-1]
    return torch.from_numpy(matrix)
