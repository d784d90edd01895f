"""Faults in data preparation, scoring and conversion that their tests must notice."""

TEXT = "data_prep/text.py"
TABLES = "data_prep/readers/tables.py"
ADDED = "data_prep/added_tokens.py"
UNSEEN = "srformer_plugin/scoring/unseen.py"

TEXT_TESTS = "tests/data_prep/test_text.py"
TABLE_TESTS = "tests/data_prep/test_tables.py"
ENCODE_TESTS = "tests/data_prep/test_encode.py"
STATISTICS_TESTS = "tests/scoring/test_text_statistics.py"
UNSEEN_TESTS = "tests/scoring/test_unseen.py"
ADDED_TESTS = "tests/convert/test_added_tokens.py"

MUTANTS = [
    {
        "file": TEXT,
        "old": "    parts = _LINE_END.split(text)\n    return parts if parts[-1] else parts[:-1]",
        "new": "    return text.splitlines()",
        "tests": f"{TEXT_TESTS} -k separators_of_unicode",
    },
    {
        "file": TEXT,
        "old": '.removesuffix(b"\\r").split(b"\\r")',
        "new": '.split(b"\\x00")',
        "tests": f"{TEXT_TESTS} -k pythons_text_files",
    },
    {
        "file": TEXT,
        "old": "    return data.removeprefix(codecs.BOM_UTF8).decode()",
        "new": "    return data.decode()",
        "tests": f"{TEXT_TESTS} -k byte_order_mark",
    },
    {
        "file": TEXT,
        "old": "    start = codecs.BOM_UTF8\n",
        "new": '    start = b""\n',
        "tests": f"{TEXT_TESTS} -k byte_order_mark",
    },
    {
        "file": TEXT,
        "old": "[word for word in text.split() if word != SENTENCE_MARK]",
        "new": "text.split()",
        "tests": "tests/data_prep/test_prepare.py -k counted_in_words",
    },
    {
        "file": "srformer_plugin/scoring/text_statistics.py",
        "old": "tokens = rouge_words(without_marks(text))",
        "new": "tokens = rouge_words(text)",
        "tests": f"{STATISTICS_TESTS} -k no_words",
    },
    {
        "file": TABLES,
        "old": '(quoting == "auto" and path.suffix == ".csv")',
        "new": 'quoting == "auto"',
        "tests": f"{TABLE_TESTS} -k no_row_of_a_tsv",
    },
    {
        "file": TABLES,
        "old": "if not all(map(is_row, lines)):",
        "new": "if True:",
        "tests": f"{TABLE_TESTS} -k stray_quotes_of_a_csv",
    },
    {
        "file": TABLES,
        "old": "return sum(found) >= SHARE_OF_ROWS * len(found)",
        "new": "return all(found)",
        "tests": f"{TABLE_TESTS} -k broken_rows_do_not_hide",
    },
    {
        "file": "data_prep/prepare.py",
        "old": "malformed += result.lines",
        "new": "malformed += 1",
        "tests": f"{TABLE_TESTS} -k counts_lines",
    },
    {
        "file": "data_prep/sentencepiece_model.py",
        "old": "run(hard_vocab_limit=False)",
        "new": "raise",
        "tests": f"{ENCODE_TESTS} -k made_smaller",
    },
    {
        "file": ADDED,
        "old": "sorted(added, key=len, reverse=True)",
        "new": "sorted(added, key=len)",
        "tests": f"{ADDED_TESTS} -k t5_have_the_tokenizers_ids",
    },
    {
        "file": "srformer_plugin/convert/t5.py",
        "old": "ours = rows + (last == rows - 1)",
        "new": "ours = rows",
        "tests": f"{ADDED_TESTS} -k spare_row",
    },
    {
        "file": UNSEEN,
        "old": "2 * sum(map(len, rouge_words(text))) < characters",
        "new": "characters and not rouge_words(text)",
        "tests": f"{UNSEEN_TESTS} -k other_scripts",
    },
    {
        "file": "data_prep/whole.py",
        "old": "open(partial, mode, **encoding) as file:\n            yield file\n        os.replace",
        "new": "open(path, mode, **encoding) as file:\n            yield file\n        False and os.replace",
        "tests": "tests/data_prep/test_whole.py -k earlier_file",
    },
]
