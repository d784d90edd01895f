"""CNN/DailyMail as the pointer-generator network's .bin files: train*.bin, val*.bin, test*.bin.

The text is lower-cased and tokenised. A file is a sequence of records: the length as 8 bytes, little-endian, then a
serialised `tf.Example` with the features `article` and `abstract`, whose sentences stand between <s> and </s>. The few
fields of the protocol buffer that matter are decoded here, so that TensorFlow is not needed.

A damaged record is skipped; a damaged length is fatal, since nothing marks where the next record begins.
"""

import re
import struct

from data_prep.readers.raw_files import files_by_split
from data_prep.record import MalformedRecord, RawDataError, Unit, make_record

# The longest record of the corpus has about 100 kB: a larger length is a damaged one, and would swallow its successors.
LARGEST_RECORD = 16 * 2**20
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
SENTENCE = re.compile(r"<s>(.*?)</s>", re.DOTALL)


def units(raw, options):
    """A unit a record; `line` is the record's number in its file, from 1."""
    for split, paths in files_by_split(raw, (".bin",), options.splits).items():
        for path in paths:
            for number, payload in enumerate(records_of(path), 1):
                yield Unit(str(path), number, f"{path.stem}-{number}", split, payload)


def records_of(path):
    with open(path, "rb") as file:
        while header := file.read(8):
            offset = file.tell() - len(header)
            length = struct.unpack("<q", header)[0] if len(header) == 8 else -1
            if not 0 <= length <= LARGEST_RECORD:
                raise RawDataError(f"{path}: no record's length at byte {offset}: the file is damaged or cut off there")
            payload = file.read(length)
            if len(payload) < length:
                raise RawDataError(f"{path}: cut off: the record at byte {offset} should have {length} bytes")
            yield payload


def parse(unit):
    features = {}
    for field, value in message(only(unit.payload, 1)):
        if field == 1:
            entry = dict(message(value))
            features[entry.get(1)] = entry.get(2)
    texts = {}
    for name in (b"article", b"abstract"):
        if features.get(name) is None:
            raise MalformedRecord(f"no feature {name.decode()!r}")
        try:
            texts[name] = only(only(features[name], 1), 1).decode()
        except UnicodeDecodeError as error:
            raise MalformedRecord(f"{name.decode()} is not UTF-8") from error
    abstract = texts[b"abstract"]
    sentences = SENTENCE.findall(abstract)
    if SENTENCE.sub("", abstract).strip():
        raise MalformedRecord("text of the abstract outside <s> ... </s>")
    return make_record(unit, texts[b"article"], sentences)


def only(data, number):
    """The first field `number` of the message `data`, which must have it."""
    for field, value in message(data):
        if field == number and isinstance(value, bytes):
            return value
    raise MalformedRecord(f"no field {number} in the protocol buffer")


def message(data):
    """Yield `(field number, value)` of a serialised protocol buffer; values are bytes, or int for numbers."""
    if not isinstance(data, bytes):
        raise MalformedRecord("a number where the protocol buffer should have a message")
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == VARINT:
            value, at = varint(data, at)
        elif kind in (FIXED64, BYTES, FIXED32):
            length, at = varint(data, at) if kind == BYTES else (8 if kind == FIXED64 else 4, at)
            if at + length > len(data):
                raise MalformedRecord("the protocol buffer ends within a field")
            value, at = data[at : at + length], at + length
        else:
            raise MalformedRecord(f"unknown wire type {kind} in the protocol buffer")
        yield key >> 3, value


def varint(data, at):
    """`(number, position after it)` of the base-128 number at `at`."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise MalformedRecord("the protocol buffer ends within a number")
        number |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return number, at
    raise MalformedRecord("a number of more than 10 bytes in the protocol buffer")
