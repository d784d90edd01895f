"""Dictionaries: files that an editor has saved, and texts of tokens that are on a GPU."""

import torch
from fairseq.data import Dictionary

from .patching import wrap


def skip_byte_order_mark():
    """Read a dictionary that begins with a byte order mark as if it did not.

    ``data/dictionary.py:238`` opens it as "utf-8", so that the mark becomes part of the first word: that word is
    ``<unk>`` in every text. Not needed when fairseq opens it as "utf-8-sig".
    """
    wrap(Dictionary, "_load_meta", _without_mark)


def _without_mark(original):
    def load_meta(self, lines):
        if lines:
            lines[0] = lines[0].removeprefix("\ufeff")
        return original(self, lines)

    return load_meta


def read_tokens_at_once():
    """Make the text of a tensor of tokens from a list, whatever device the tensor is on.

    ``data/dictionary.py:101`` looks at every token of it by itself, and ``fairseq_cli/generate.py:238`` hands it
    sources on the GPU: every token waits for the device several times. 2,000 articles of 640 tokens, decoded on an
    H100 that four other runs shared, were not done after six minutes; with this they took one. Not needed when
    `Dictionary.string` takes its tokens in one copy.
    """
    wrap(Dictionary, "string", _of_a_list)


def _of_a_list(original):
    def string(self, tensor, *args, **kwargs):
        if torch.is_tensor(tensor):
            tensor = tensor.tolist() if tensor.dim() == 1 else tensor.cpu()
        return original(self, tensor, *args, **kwargs)

    return string
