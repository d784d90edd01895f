"""Dictionaries with a byte order mark, and the texts of tensors."""

import pytest
import torch
from fairseq.data import Dictionary
from torch.utils._python_dispatch import TorchDispatchMode


def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path):
    (tmp_path / "dict.txt").write_bytes("\ufeffthe 3\r\nold 2\r\n".encode())
    dictionary = Dictionary.load(str(tmp_path / "dict.txt"))
    assert [dictionary.index(word) for word in ("the", "old")] == [4, 5]
    assert len(dictionary) == 6


class Operations(TorchDispatchMode):
    """Counts tensor operations; each that a GPU's result is read by waits for the device."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture
def dictionary():
    found = Dictionary()
    for word in ("a", "b@@", "c"):
        found.add_symbol(word)
    return found


def test_a_text_is_made_of_all_its_tokens_at_once(dictionary):
    counts = []
    for length in (3, 300):
        with Operations() as operations:
            dictionary.string(torch.full((length,), 4))
        counts.append(operations.count)
    assert counts[0] == counts[1]


def test_texts_are_what_they_were(dictionary):
    a, b, c = range(4, 7)
    tokens = torch.tensor([dictionary.bos(), a, b, c, dictionary.unk(), dictionary.eos()])
    assert dictionary.string(tokens, "@@ ") == "a bc <unk>"
    assert dictionary.string(tokens.int(), escape_unk=True) == "a b@@ c <<unk>>"
    assert dictionary.string([a, c]) == "a c"
    assert dictionary.string(torch.stack((tokens, tokens.flip(0)))) == "a b@@ c <unk>\n<unk> c b@@ a"
