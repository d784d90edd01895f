"""Readers of the official raw formats: a new format is one small module and one line in `READERS`.

A reader is a module with

- `add_arguments(parser)`: its own command line options, if any;
- `units(raw, options)`: yields `Unit`s and `Malformed`s in an order that depends on the data only; cheap, as it runs
  in one process. `options.splits` are the splits asked for; raises RawDataError;
- `parse(unit)`: the `Record` of a unit; runs in any process, in any order; raises MalformedRecord and nothing else.

The first line of the module's docstring is its help.
"""

from data_prep.readers import (
    cnn_dailymail,
    fields,
    lines,
    mediasum,
    pointer_generator,
    qmsum,
    scientific_papers,
    xsum,
)

READERS = {
    "cnn_dailymail": cnn_dailymail,
    "cnn_dailymail_bin": pointer_generator,
    "xsum": xsum,
    "arxiv": scientific_papers,
    "pubmed": scientific_papers,
    "mediasum": mediasum,
    "qmsum": qmsum,
    "fields": fields,
    "lines": lines,
}
