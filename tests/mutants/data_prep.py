"""Faults in data preparation that its tests must notice."""

SPANS_TESTS = "tests/data_prep/test_spans.py"
QMSUM_TESTS = "tests/data_prep/test_qmsum.py"

MUTANTS = [
    {
        "file": "data_prep/readers/qmsum.py",
        "old": "relevant.append((ends[first], ends[last + 1]))",
        "new": "relevant.append((ends[first], ends[last]))",
        "tests": f"{QMSUM_TESTS} -k words_of_the_relevant",
    },
    {
        "file": "data_prep/readers/qmsum.py",
        "old": "initial=len(question)))",
        "new": "initial=len(question) - 1))",
        "tests": f"{QMSUM_TESTS} -k words_of_the_relevant",
    },
    {
        "file": "data_prep/spans.py",
        "old": "cut=self.cut or kept != self.spans",
        "new": "cut=self.cut or len(kept) != len(self.spans)",
        "tests": f"{SPANS_TESTS} -k left_of_a_cut",
    },
    {
        "file": "data_prep/encode.py",
        "old": "spans = spans.first(len(kept))",
        "new": "pass",
        "tests": f"{SPANS_TESTS} -k subwords_that_are_cut",
    },
    {
        "file": "data_prep/encode.py",
        "old": "lambda count: common(pieces, _pieces(",
        "new": "lambda count: len(_pieces(",
        "tests": f"{SPANS_TESTS} -k subwords_that_cross",
    },
    {
        "file": "data_prep/corpus_writer.py",
        "old": "record.spans.first(len(text.split()))",
        "new": "record.spans.first(len(words(text)))",
        "tests": f"{QMSUM_TESTS} -k cut_sources",
    },
    {
        "file": "data_prep/corpus_writer.py",
        "old": 'for side in (side for split, side in self.files if split == "train"):',
        "new": "for side in SIDES:",
        "tests": f"{SPANS_TESTS} -k left_out_leave",
    },
    {
        "file": "data_prep/prepare.py",
        "old": "if result.spans is not None and mend_mojibake:",
        "new": "if False:",
        "tests": f"{SPANS_TESTS} -k mended",
    },
]
