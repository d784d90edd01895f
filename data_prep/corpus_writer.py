"""Writes records to line files, and accounts for every record that is not written or not written whole."""

import hashlib
from collections import Counter

from data_prep.spans import SPANS
from data_prep.statistics import Lengths
from data_prep.text import SIDES, first_words, words
from data_prep.whole import whole_file

DIGEST_BYTES = 16


class CorpusWriter:
    """Takes records in their order and writes `SPLIT.source` and `SPLIT.target` to `folder`, and `SPLIT.spans.jsonl`
    where they have spans.

    Memory: 16-byte digests of every document and every pair, about two hundred bytes a record in all.

    A duplicate is a pair of equal source and target in one split; the first stays. `duplicates` are the splits from
    which the others are removed. An overlap is a document that is in two splits, whatever its summary. Words beyond
    `max_source_words` and `max_target_words` (0: no limit) are cut; the marks between sentences are no words.
    """

    def __init__(self, folder, splits, duplicates, max_source_words=0, max_target_words=0):
        self.folder = folder
        self.duplicates = duplicates
        self.limits = {"source": max_source_words, "target": max_target_words}
        self.counts = {split: Counter() for split in splits}
        self.notes = Counter()
        self.lengths = {side: {split: Lengths() for split in splits} for side in SIDES}
        self.sentences = {split: Lengths() for split in splits}
        self.pairs = {split: set() for split in splits}
        self.documents = {split: bytearray() for split in splits}  # digests in the order of the lines
        self.files = {}
        for split in splits:
            for side in SIDES:
                self.files[split, side] = open(folder / f"{split}.{side}", "wb")  # noqa: SIM115 (`close` does)

    def close(self):
        for file in self.files.values():
            file.close()

    def add(self, record):
        """Write a record, or count why not."""
        counts = self.counts[record.split]
        counts["read"] += 1
        texts = {"source": record.source, "target": record.target_line}
        for side, text in texts.items():
            if not text:
                counts[f"empty {side}"] += 1
                return
        document, pair = digest(record.source), digest(record.source + "\n" + record.target_line)
        if pair in self.pairs[record.split]:
            counts["duplicate"] += 1
            if record.split in self.duplicates:
                return
        self.pairs[record.split].add(pair)
        self.documents[record.split] += document
        self.notes.update(record.notes)
        for side, text in texts.items():
            length, limit = len(words(text)), self.limits[side]
            self.lengths[side][record.split].add(length)
            if limit and length > limit:
                counts[f"truncated {side}"] += 1
                text = first_words(text, limit)
            self.files[record.split, side].write(text.encode() + b"\n")
            if side == "source" and record.spans is not None:
                self._write_spans(record.split, record.spans.first(len(text.split())))
        self.sentences[record.split].add(len(record.target))
        counts["written"] += 1

    def _write_spans(self, split, spans):
        if (split, SPANS) not in self.files:
            self.files[split, SPANS] = open(self.folder / f"{split}.{SPANS}", "wb")  # noqa: SIM115 (`close` does)
        self.files[split, SPANS].write(spans.to_json().encode() + b"\n")

    def overlaps(self):
        """`{"train and valid": n, ...}`: documents of the first that are in the second, in lines of the first."""
        present = {split: set(digests(self.documents[split])) for split in self.documents}
        found = {}
        names = list(self.documents)
        for number, first in enumerate(names):
            for second in names[number + 1 :]:
                count = sum(document in present[second] for document in digests(self.documents[first]))
                found[f"{first} and {second}"] = count
        return found

    def remove_overlap(self):
        """Rewrite the training files without the documents that are in a held-out split; returns how many went."""
        self.close()
        held_out = {d for split in self.documents if split != "train" for d in digests(self.documents[split])}
        stays = [document not in held_out for document in digests(self.documents["train"])]
        for side in (side for split, side in self.files if split == "train"):
            path = self.folder / f"train.{side}"
            with open(path, "rb") as lines, whole_file(path, "wb") as out:
                out.writelines(line for line, stay in zip(lines, stays) if stay)
        for lengths in (*(self.lengths[side]["train"] for side in SIDES), self.sentences["train"]):
            lengths.keep(stays)
        removed = stays.count(False)
        self.counts["train"]["written"] -= removed
        self.counts["train"]["overlap"] = removed
        return removed


def digest(text):
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def digests(packed):
    """Yield the digests of a bytearray."""
    for start in range(0, len(packed), DIGEST_BYTES):
        yield bytes(packed[start : start + DIGEST_BYTES])
