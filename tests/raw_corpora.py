"""Corpora in every official raw format: made up, or the real sample files repeated."""

import csv
import hashlib
import importlib.util
import itertools
import json
import os
import struct
from pathlib import Path

import pytest

from data_prep import gpt2_bpe
from data_prep.prepare import default_options

ROOT = Path(__file__).resolve().parents[1]

# split -> (id, sentences of the source, sentences of the target)
DOCUMENTS = {
    "train": [
        ("one", ["The bridge opened on Monday .", "Many people came ."], ["A bridge opened .", "Many came ."]),
        ("two", ["The clock was repaired , at last .", "It cost 3,500 euros ."], ["The clock works again ."]),
        ("three", ["Forty lime trees were planted in the \u201cold\u201d park ."], ["Trees were planted .", "Forty ."]),
    ],
    "valid": [("four", ["The ferry did not leave .", "There was a storm ."], ["No ferry in the storm ."])],
    "test": [
        ("five", ["The museum found a painting .", "It had been lost ."], ["A lost painting was found ."]),
        ("six", ["The concert was cancelled ."], ["No concert tonight ."]),
    ],
}
FILE_NAMES = {"train": "train", "valid": "val", "test": "test"}
NEEDS = {"mediasum": "ijson", "fields_parquet": "pyarrow"}


def write_cnn_dailymail(folder, documents):
    for split, members in documents.items():
        urls = []
        for name, source, target in members:
            urls.append(f"http://example.org/{name}")
            stories = folder / "stories"
            stories.mkdir(exist_ok=True)
            parts = [*source, *(part for sentence in target for part in ("@highlight", sentence))]
            # as the official files: no newline after the last highlight
            story = stories / f"{hashlib.sha1(urls[-1].encode()).hexdigest()}.story"
            story.write_text("\n\n".join(parts), encoding="utf-8")
        (folder / f"all_{FILE_NAMES[split]}.txt").write_text("\n".join(urls) + "\n")


def write_cnn_dailymail_bin(folder, documents):
    def field(number, data):
        return bytes([number << 3 | 2]) + varint(len(data)) + data

    def varint(value):
        digits = []
        while value > 127:
            digits.append(value & 127 | 128)
            value >>= 7
        return bytes([*digits, value])

    def feature(name, text):
        return field(1, field(1, name.encode()) + field(2, field(1, field(1, text.encode()))))

    for split, members in documents.items():
        with open(folder / f"{FILE_NAMES[split]}_000.bin", "wb") as out:
            for _, source, target in members:
                abstract = " ".join(f"<s> {sentence} </s>" for sentence in target)
                example = field(1, feature("article", " ".join(source)) + feature("abstract", abstract))
                out.write(struct.pack("<q", len(example)) + example)


def write_xsum(folder, documents):
    (folder / "bbc-summary-data").mkdir()
    splits = {}
    for split, members in documents.items():
        splits["validation" if split == "valid" else split] = [name for name, _, _ in members]
        for name, source, target in members:
            sections = {"URL": "http://example.org", "TITLE": "A title", "FIRST-SENTENCE": "\n".join(target)}
            sections["RESTBODY"] = "\n".join(source)
            text = "\n\n".join(f"[SN]{title}[SN]\n{body}" for title, body in sections.items()) + "\n"
            (folder / "bbc-summary-data" / f"{name}.summary").write_text(text, encoding="utf-8")
    (folder / "XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json").write_text(json.dumps(splits))


def write_arxiv(folder, documents):
    for split, members in documents.items():
        papers = [
            {
                "article_id": name,
                "article_text": source,
                "abstract_text": [f"<S> {sentence} </S>" for sentence in target],
                "labels": None,
                "section_names": [f"Part {number}" for number in range(len(source))],
                "sections": [[sentence] for sentence in source],
            }
            for name, source, target in members
        ]
        (folder / f"{FILE_NAMES[split]}.txt").write_text("".join(json.dumps(paper) + "\n" for paper in papers))


def write_mediasum(folder, documents):
    interviews = [
        {
            "id": name,
            "program": "A program",
            "date": "2020-01-01",
            "url": "http://example.org",
            "title": "A title",
            "summary": "\n".join(target),
            "utt": source,
            "speaker": ["HOST"] * (len(source) + 1),
        }
        for members in documents.values()
        for name, source, target in members
    ]
    (folder / "news_dialogue.json").write_text(json.dumps(interviews, indent=1))
    ids = {FILE_NAMES[split]: [name for name, _, _ in members] for split, members in documents.items()}
    (folder / "train_val_test_split.json").write_text(json.dumps(ids))


def rows(members):
    return [{"key": name, "text": " ".join(source), "summary": "\n".join(target)} for name, source, target in members]


def write_fields_jsonl(folder, documents):
    for split, members in documents.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(members)))


def write_fields_csv(folder, documents):
    for split, members in documents.items():
        with open(folder / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["key", "text", "summary"])
            writer.writeheader()
            writer.writerows(rows(members))


def write_fields_parquet(folder, documents):
    import pyarrow
    import pyarrow.parquet

    for split, members in documents.items():
        table = pyarrow.Table.from_pylist(rows(members))
        pyarrow.parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def write_lines(folder, documents):
    for split, members in documents.items():
        for side, text in (
            ("source", "".join(" ".join(source) + "\n" for _, source, _ in members)),
            ("target", "".join(" <q> ".join(target) + "\n" for _, _, target in members)),
        ):
            (folder / f"{split}.{side}").write_text(text, encoding="utf-8")


WRITERS = {name.removeprefix("write_"): write for name, write in globals().items() if name.startswith("write_")}


def write_corpus(name, folder, documents=DOCUMENTS):
    """Write `documents` to the new `folder` in format `name`; returns the reader's name and its options."""
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"needs {NEEDS[name]}, which is not installed")
    folder.mkdir(parents=True)
    WRITERS[name](folder, documents)
    if name.startswith("fields"):
        return "fields", default_options("fields", source_field="text", target_field="summary", id_field="key")
    return name, default_options(name)


def real_files():
    """The folder with real files in the official formats, or None; they are not ours to distribute."""
    folder = Path(os.environ.get("SRFORMER_FORMATS", ROOT.parent / "shared" / "formats"))
    return folder if folder.is_dir() else None


def repeat_cnn_dailymail(samples, folder, sizes):
    stories = sorted(samples.glob("*.story"))
    for split, numbers in sizes.items():
        urls = []
        for number in numbers:
            text = stories[number % len(stories)].read_text(encoding="utf-8")
            urls.append(f"http://example.org/{number}")
            name = hashlib.sha1(urls[-1].encode()).hexdigest()
            (folder / f"{name}.story").write_text(f"Copy {number}\n\n{text}", encoding="utf-8")
        (folder / f"all_{FILE_NAMES[split]}.txt").write_text("\n".join(urls) + "\n")


def repeat_xsum(samples, folder, sizes):
    text = (samples / "10000983.summary").read_text(encoding="utf-8")
    for number in itertools.chain(*sizes.values()):
        copy = text.replace("[SN]RESTBODY[SN]\n", f"[SN]RESTBODY[SN]\nCopy {number} .\n")
        (folder / f"{number}.summary").write_text(copy, encoding="utf-8")
    splits = {("validation" if s == "valid" else s): [str(n) for n in numbers] for s, numbers in sizes.items()}
    (folder / "XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json").write_text(json.dumps(splits))


def repeat_arxiv(samples, folder, sizes):
    lines = [line for name in ("train", "val") for line in (samples / f"{name}.txt").read_bytes().splitlines()]
    papers = [json.loads(line) for line in lines]
    for split, numbers in sizes.items():
        with open(folder / f"{FILE_NAMES[split]}.txt", "w") as file:
            for number in numbers:
                paper = papers[number % len(papers)]
                text = [f"Copy {number} .", *paper["article_text"]]
                file.write(json.dumps({**paper, "article_id": str(number), "article_text": text}) + "\n")


def repeat_mediasum(samples, folder, sizes):
    interviews = json.loads((samples / "news_dialogue.tfds_dummy.json").read_text(encoding="utf-8"))
    copies = []
    for number in itertools.chain(*sizes.values()):
        interview = interviews[number % len(interviews)]
        copies.append({**interview, "id": str(number), "utt": [f"Copy {number}.", *interview["utt"]]})
    (folder / "news_dialogue.json").write_text(json.dumps(copies))
    ids = {FILE_NAMES[split]: [str(number) for number in numbers] for split, numbers in sizes.items()}
    (folder / "train_val_test_split.json").write_text(json.dumps(ids))


REPEATERS = {
    "cnn_dailymail": repeat_cnn_dailymail,
    "xsum": repeat_xsum,
    "arxiv": repeat_arxiv,
    "pubmed": repeat_arxiv,
    "mediasum": repeat_mediasum,
}


def repeat_real(name, folder, sizes):
    """Write the real sample files of format `name` to the new `folder` as often as `sizes`, {split: documents}, needs.

    Copies differ in their id and their first words, so that none counts as a duplicate.
    """
    folder.mkdir(parents=True)
    numbers = iter(range(sum(sizes.values())))
    split_numbers = {split: list(itertools.islice(numbers, size)) for split, size in sizes.items()}
    REPEATERS[name](real_files() / name, folder, split_numbers)


def write_gpt2(folder):
    """Write a byte-level BPE without merges in GPT-2's format, with its dict.txt, to the new `folder`."""
    folder.mkdir(parents=True)
    pieces = [*gpt2_bpe.byte_characters().values(), gpt2_bpe.END_OF_TEXT]
    (folder / "encoder.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "vocab.bpe").write_text("#version: 0.2\n")
    (folder / "dict.txt").write_text("".join(f"{number} 1\n" for number in range(256)))
