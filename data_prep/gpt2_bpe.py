"""GPT-2's byte-level BPE, as fairseq's BART uses it, from `encoder.json` and `vocab.bpe` on disk.

The pieces are the numbers of `encoder.json`, which fairseq's `dict.txt` lists as its words. The work is done by
tiktoken with GPT-2's own pattern: the same numbers as fairseq's encoder gives, several times as fast.

`encoder.json` may have tokens with numbers after that of <|endoftext|>, as srformer-convert writes those that were
added to a tokenizer. They are spelled in the characters of bytes, as all of its tokens, so that fairseq decodes them,
and stay whole in a text.
"""

import functools
import hashlib
import json
from pathlib import Path

from data_prep.added_tokens import keeping
from data_prep.errors import WrongVocabulary

ENCODER, MERGES = "encoder.json", "vocab.bpe"
SHA256 = {
    ENCODER: "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    MERGES: "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
# How GPT-2 cuts a text before it merges bytes. "++": without a way back, for which a run of 100,000 characters is too
# long; the way back would find nothing else.
PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s+(?!\S)|\s+"""
END_OF_TEXT = "<|endoftext|>"  # a number of its own, that no text is encoded to


def check_files(folder):
    """Compare the checksums of the two files in `folder` with those of GPT-2's; raises WrongVocabulary."""
    for name, expected in SHA256.items():
        content = read(folder, name)
        found = hashlib.sha256(content).hexdigest()
        if found != expected and name == ENCODER:
            found = hashlib.sha256(_without_added_tokens(content)).hexdigest()
        if found != expected:
            raise WrongVocabulary(
                f"{folder / name} is not GPT-2's: its sha256 is {found}, not {expected}; fetch it again, or allow a "
                "vocabulary of your own with --own-vocabulary"
            )


def _without_added_tokens(content):
    """The bytes of `encoder.json` without the tokens that come after <|endoftext|>; other bytes as they are."""
    try:
        numbers = json.loads(content)
        kept = {piece: number for piece, number in numbers.items() if number <= numbers[END_OF_TEXT]}
    except (ValueError, KeyError, TypeError, AttributeError):
        return content
    return json.dumps(kept).encode() if len(kept) < len(numbers) else content


def read(folder, name):
    try:
        return (Path(folder) / name).read_bytes()
    except OSError as error:
        raise WrongVocabulary(
            f"{Path(folder) / name}: {error.strerror}; {ENCODER} and {MERGES} of fairseq's GPT-2 BPE must be there"
        ) from error


def load(folder):
    """The function text -> list of int of the two files in `folder`; raises WrongVocabulary."""
    try:
        import tiktoken
    except ImportError as error:
        raise WrongVocabulary("GPT-2 BPE needs tiktoken: pip install tiktoken") from error
    try:
        numbers = json.loads(read(folder, ENCODER))
        merges = [line.split(" ") for line in read(folder, MERGES).decode().split("\n")[1:] if line]
        # tiktoken merges by number: the numbers must follow the order of the merges, after the 256 bytes
        in_order = all(numbers[a + b] == 256 + rank for rank, (a, b) in enumerate(merges))
        last = numbers.get(END_OF_TEXT, 256 + len(merges))
        in_order &= last == 256 + len(merges)
        ranks = {bytes_of(piece): number for piece, number in numbers.items() if number < last}
        added = added_tokens(numbers, last)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WrongVocabulary(f"{folder}: {ENCODER} and {MERGES} are damaged or do not belong together") from error
    if not in_order or sorted(ranks.values()) != list(range(256 + len(merges))):
        raise WrongVocabulary(f"{folder}: the numbers of {ENCODER} do not follow the merges of {MERGES}")
    encoding = tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    return keeping(added, encoding.encode_ordinary)


def added_tokens(numbers, last):
    """`{token: number}` of those of `encoder.json`, `{piece: number}`, that come after number `last`."""
    return {bytes_of(piece).decode(): number for piece, number in numbers.items() if number > last}


def bytes_of(piece):
    """The bytes that a piece of `encoder.json` stands for."""
    byte_of = _bytes_of_characters()
    return bytes(byte_of[character] for character in piece)


@functools.cache
def _bytes_of_characters():
    return {character: byte for byte, character in byte_characters().items()}


def byte_characters():
    """`{byte: character}`: how the two files write bytes. Printable ones as themselves, the others from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
