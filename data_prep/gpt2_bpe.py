"""GPT-2's byte-level BPE, as fairseq's BART uses it, from `encoder.json` and `vocab.bpe` on disk.

The pieces are the numbers of `encoder.json`, which fairseq's `dict.txt` lists as its words. The work is done by
tiktoken with GPT-2's own pattern: the same numbers as fairseq's encoder gives, several times as fast.
"""

import hashlib
import json
from pathlib import Path

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
        found = hashlib.sha256(read(folder, name)).hexdigest()
        if found != expected:
            raise WrongVocabulary(
                f"{folder / name} is not GPT-2's: its sha256 is {found}, not {expected}; fetch it again, or allow a "
                "vocabulary of your own with --own-vocabulary"
            )


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
        byte_of = {character: byte for byte, character in byte_characters().items()}
        ranks = {
            bytes(byte_of[character] for character in piece): number
            for piece, number in numbers.items()
            if piece != END_OF_TEXT
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WrongVocabulary(f"{folder}: {ENCODER} and {MERGES} are damaged or do not belong together") from error
    if not in_order or sorted(ranks.values()) != list(range(256 + len(merges))):
        raise WrongVocabulary(f"{folder}: the numbers of {ENCODER} do not follow the merges of {MERGES}")
    return tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={}).encode_ordinary


def byte_characters():
    """`{byte: character}`: how the two files write bytes. Printable ones as themselves, the others from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
