"""Dictionaries with a byte order mark."""

from fairseq.data import Dictionary


def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path):
    (tmp_path / "dict.txt").write_bytes("\ufeffthe 3\r\nold 2\r\n".encode())
    dictionary = Dictionary.load(str(tmp_path / "dict.txt"))
    assert [dictionary.index(word) for word in ("the", "old")] == [4, 5]
    assert len(dictionary) == 6
