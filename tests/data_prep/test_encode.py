"""`python -m data_prep.encode`: the numbers of GPT-2 BPE, SentencePiece, and what is cut."""

import json
import re

import pytest
import sentencepiece

from data_prep import encode as encode_module
from data_prep import gpt2_bpe
from data_prep.encode import encode, main
from data_prep.errors import EXIT_STATUS, WrongVocabulary
from data_prep.gpt2_bpe import END_OF_TEXT, byte_characters
from data_prep.sentencepiece_model import short_texts, train

NO_LIMITS = {"source": 0, "target": 0}
MERGES = ["t h", "th e", "\u0120 the", "o l", "ol d", "\u0120 old", "i n", "in g"]


def lines(path):
    return path.read_text(encoding="utf-8").split("\n")[:-1]


@pytest.fixture
def corpus(tmp_path):
    """`corpus(sources, targets)`: a folder of line files, the same lines in every split."""

    def make(sources, targets=None, splits=("train", "valid", "test")):
        folder = tmp_path / "corpus"
        folder.mkdir(exist_ok=True)
        for split in splits:
            (folder / f"{split}.source").write_text("".join(line + "\n" for line in sources), encoding="utf-8")
            targets = targets or ["a summary"] * len(sources)
            (folder / f"{split}.target").write_text("".join(line + "\n" for line in targets), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def vocabulary(tmp_path):
    """A byte-level BPE of eight merges in the format of GPT-2's."""
    pytest.importorskip("tiktoken", reason="needs tiktoken, which is not installed")
    folder = tmp_path / "bpe"
    folder.mkdir()
    pieces = [*byte_characters().values(), *(merge.replace(" ", "") for merge in MERGES), END_OF_TEXT]
    numbers = {piece: number for number, piece in enumerate(pieces)}
    (folder / "encoder.json").write_text(json.dumps(numbers))
    (folder / "vocab.bpe").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def fairseq_encode():
    """`fairseq_encode(folder)`: fairseq's own encoder, a function text -> numbers."""
    from fairseq.data.encoders.gpt2_bpe_utils import get_encoder

    return lambda folder: get_encoder(folder / "encoder.json", folder / "vocab.bpe").encode


TEXTS = [
    "the old thing , theold",
    "It's the 'old' one, they'll say we've 3,500\u20ac ...",
    "caf\u00e9 \u4e2d\u6587 \U0001f600 na\u00efve \u00bd \u0e01\u0e33",
    f"tokens such as {END_OF_TEXT} are text <q> here",
    "x" * 3000,
]


def test_numbers_are_those_of_fairseq(corpus, vocabulary, fairseq_encode, tmp_path):
    reference = fairseq_encode(vocabulary)
    encode(corpus(TEXTS), tmp_path / "out", "gpt2", vocabulary, NO_LIMITS)
    assert lines(tmp_path / "out" / "valid.source") == [" ".join(map(str, reference(text))) for text in TEXTS]


def test_numbers_are_those_of_fairseq_with_the_real_vocabulary(formats, fairseq_encode):
    pytest.importorskip("tiktoken", reason="needs tiktoken, which is not installed")
    gpt2_bpe.check_files(formats / "gpt2_bpe")
    ours, theirs = gpt2_bpe.load(formats / "gpt2_bpe"), fairseq_encode(formats / "gpt2_bpe")
    texts = [*TEXTS, *lines(formats / "rouge" / "cnndm.target"), *lines(formats / "rouge" / "bart.hypo")]
    texts += [" ".join(path.read_text(encoding="utf-8").split()) for path in formats.rglob("*.s*")]
    assert len(texts) > 1000
    for text in texts:
        assert ours(text) == theirs(text)


def test_every_character_is_classed_as_fairseq_does(vocabulary, fairseq_encode):
    ours, theirs = gpt2_bpe.load(vocabulary), fairseq_encode(vocabulary)
    # a letter, a digit and a mark beside each: their merging shows which class the character is of
    # all of the first blocks, and of the others one in 17
    codes = [*range(0x3100), *range(0x3100, 0xD800, 17), *range(0xE000, 0x110000, 17 * 17)]
    for begin in range(0, len(codes), 256):
        characters = map(chr, codes[begin : begin + 256])
        text = "".join(f"the{character}the1{character}!ing{character} {character}old" for character in characters)
        assert ours(text) == theirs(text), f"in the 256 from U+{codes[begin]:04X}"


def test_output_does_not_depend_on_the_number_of_workers(corpus, vocabulary, tmp_path):
    folder = corpus([f"the old thing number {n} " * (n % 7 + 1) for n in range(250)])
    limits = {"source": 20, "target": 20}
    first = encode(folder, tmp_path / "first", "gpt2", vocabulary, limits, workers=1)
    assert encode(folder, tmp_path / "second", "gpt2", vocabulary, limits, workers=2) == first
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


@pytest.mark.parametrize(("limit", "kept"), [(0, 5), (7, 5), (6, 5), (5, 4), (2, 1)])
def test_a_text_is_cut_so_that_the_end_of_sentence_fits(limit, kept, corpus, vocabulary, tmp_path):
    # 5 pieces and the end of sentence make 6 tokens
    manifest = encode(corpus(["1 2 3"]), tmp_path / "out", "gpt2", vocabulary, {"source": limit, "target": 0})
    (line,) = lines(tmp_path / "out" / "train.source")
    assert len(line.split()) == kept
    counts = manifest["counts"]["train"]
    assert counts.get("truncated source", 0) == (kept < 5)
    assert counts.get("tokens cut from source", 0) == 5 - kept
    assert manifest["tokens"]["source"]["train"]["max"] == 6


def test_targets_have_a_limit_of_their_own(corpus, vocabulary, tmp_path):
    manifest = encode(corpus(["1 2 3"], ["4 5 6"]), tmp_path / "out", "gpt2", vocabulary, {"source": 0, "target": 3})
    assert len(lines(tmp_path / "out" / "train.target")[0].split()) == 2
    assert manifest["counts"]["train"]["truncated target"] == 1


def test_no_line_is_left_out(corpus, vocabulary, tmp_path):
    manifest = encode(corpus(["the", "", " ", "a\u2028b\x85c", "old"]), tmp_path / "out", "gpt2", vocabulary, NO_LIMITS)
    assert [bool(line) for line in lines(tmp_path / "out" / "train.source")] == [True, False, False, True, True]
    assert manifest["counts"]["train"]["lines"] == 5
    assert manifest["counts"]["train"]["empty source"] == 2


def test_very_long_white_space_is_folded(corpus, vocabulary, tmp_path):
    encode(corpus(["the" + " " * 1_000_000 + "old"]), tmp_path / "out", "gpt2", vocabulary, NO_LIMITS)
    assert lines(tmp_path / "out" / "train.source") == ["257 261"]


def test_the_report_says_how_many_sources_are_longer(corpus, vocabulary, tmp_path, capsys):
    folder = corpus(["1 2 3", "1", "1", "1"])
    arguments = ["--bpe", "gpt2", "--gpt2-files", str(vocabulary), "--own-vocabulary", "--workers", "1"]
    assert main([str(folder), str(tmp_path / "out"), *arguments, "--max-source", "4"]) == 0
    text = capsys.readouterr().out
    assert "| sources longer than 4 and cut | 1 (25.0%) | 1 (25.0%) | 1 (25.0%) |" in text
    assert "| tokens cut from sources | 2 | 2 | 2 |" in text
    assert (tmp_path / "out" / "report.md").read_text() in text


def test_files_that_are_not_gpt2s_are_refused(corpus, vocabulary, tmp_path, capsys):
    arguments = [str(corpus(["a"])), str(tmp_path / "out"), "--bpe", "gpt2", "--gpt2-files", str(vocabulary)]
    assert main(arguments) == EXIT_STATUS
    assert re.search("encoder.json is not GPT-2's: its sha256 is [0-9a-f]{64}", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "vocab.bpe").unlink(),
        lambda folder: (folder / "encoder.json").write_text("{"),
        lambda folder: (folder / "encoder.json").write_text("[]"),
        lambda folder: (folder / "encoder.json").write_text('{"a": 0}'),
        lambda folder: (folder / "vocab.bpe").write_text("#version\n" + "\n".join(reversed(MERGES)), encoding="utf-8"),
        lambda folder: (folder / "vocab.bpe").write_text("#version\n" + "\n".join(MERGES[:-1]), encoding="utf-8"),
    ],
)
def test_damaged_files_of_a_vocabulary_are_an_error(damage, vocabulary):
    damage(vocabulary)
    with pytest.raises(WrongVocabulary, match=str(vocabulary)):
        gpt2_bpe.load(vocabulary)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "valid.target").write_text("a\n"), "valid.source and valid.target differ"),
        (lambda folder: (folder / "valid.source").write_bytes(b"a\n\xff\n"), "valid.source:2: not UTF-8 at byte 0"),
        (lambda folder: (folder / "valid.target").unlink(), "valid.target"),
    ],
)
def test_a_damaged_corpus_is_an_error_that_says_where_and_nothing_is_written(
    damage, message, corpus, vocabulary, tmp_path, capsys
):
    folder = corpus(["a", "b"])
    damage(folder)
    arguments = ["--bpe", "gpt2", "--gpt2-files", str(vocabulary), "--own-vocabulary", "--workers", "1"]
    assert main([str(folder), str(tmp_path / "out"), *arguments]) == EXIT_STATUS
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))


SENTENCES = [
    f"the {a} {b} opened a {c} ." for a in ("old", "new") for b in ("city", "ferry") for c in ("bridge", "park")
]


def test_sentencepiece_is_trained_on_the_corpus_and_keeps_the_separator_whole(corpus, tmp_path):
    folder = corpus(SENTENCES, ["a bridge . <q> a park ."] * len(SENTENCES))
    manifest = encode(folder, tmp_path / "out", "sentencepiece", None, NO_LIMITS, train_size=25)
    target = lines(tmp_path / "out" / "test.target")[0].split(" ")
    assert target.count("<q>") == 1
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "out" / encode_module.MODEL))
    assert processor.get_piece_size() == 25
    assert processor.decode(lines(tmp_path / "out" / "test.source")[0].split(" ")) == SENTENCES[0]
    assert encode_module.MODEL in manifest["sha256"]


def test_separators_may_be_left_out_of_the_targets(corpus, vocabulary, tmp_path):
    folder = corpus(["the <q> old", "the"], ["old <q> the", "the"])
    arguments = ["--bpe", "gpt2", "--gpt2-files", str(vocabulary), "--own-vocabulary", "--workers", "1"]
    assert main([str(folder), str(tmp_path / "with"), *arguments]) == 0
    assert main([str(folder), str(tmp_path / "without"), *arguments, "--leave-out-separator"]) == 0
    folder = corpus(["the <q> old", "the"], ["old the", "the"])
    plain = encode(folder, tmp_path / "plain", "gpt2", vocabulary, NO_LIMITS)
    assert lines(tmp_path / "without" / "test.target") == lines(tmp_path / "plain" / "test.target")
    assert lines(tmp_path / "without" / "test.source") == lines(tmp_path / "with" / "test.source")
    assert lines(tmp_path / "without" / "test.target") != lines(tmp_path / "with" / "test.target")
    assert plain["options"]["separator"]


def test_a_sentencepiece_model_may_be_given(corpus, tmp_path):
    folder = corpus(SENTENCES)
    encode(folder, tmp_path / "first", "sentencepiece", None, NO_LIMITS, train_size=25)
    model = tmp_path / "first" / encode_module.MODEL
    arguments = [str(folder), str(tmp_path / "out"), "--bpe", "sentencepiece", "--model", str(model), "--workers", "2"]
    assert main(arguments) == 0
    assert lines(tmp_path / "out" / "test.source") == lines(tmp_path / "first" / "test.source")


@pytest.mark.parametrize(
    ("line", "lengths"),
    [
        (" ".join(["river"] * 250), [599, 599, 299]),  # 100 words of 5 characters and a space
        (" ".join(["x" * 19] * 51), [999, 19]),
        ("-" * 2500, [1000, 1000, 500]),
        ("a " + "b" * 1000 + " c", [1, 1000, 1]),
        ("", []),
    ],
)
def test_sentencepiece_is_trained_on_pieces_that_are_short_in_words_and_in_characters(line, lengths, tmp_path):
    """It takes minutes for one that repeats itself over 200,000 characters, and texts of some scripts have no space."""
    (tmp_path / "text").write_text(f"{line}\n")
    pieces = list(short_texts([tmp_path / "text"]))
    assert [len(piece) for piece in pieces] == lengths
    assert "".join(pieces).replace(" ", "") == line.replace(" ", "")


def encode_with_sentencepiece(folder, out, *flags):
    return main([str(folder), str(out), "--bpe", "sentencepiece", "--workers", "1", *flags])


def test_a_vocabulary_that_the_corpus_cannot_fill_is_made_smaller_and_that_is_said(corpus, tmp_path, capfd):
    assert encode_with_sentencepiece(corpus(SENTENCES), tmp_path / "out", "--vocabulary", "9000") == 0
    size = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "out" / encode_module.MODEL)).piece_size()
    assert 25 < size < 100
    said = [line for line in capfd.readouterr().err.splitlines() if "vocab" in line or "subwords" in line]
    assert said == [f"note: the text is enough for {size} subwords, not 9,000"]


def test_a_vocabulary_of_fewer_pieces_than_characters_is_one_line_with_the_remedy(corpus, tmp_path, capsys):
    assert encode_with_sentencepiece(corpus(SENTENCES), tmp_path / "out", "--vocabulary", "5") == EXIT_STATUS
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"error: --vocabulary 5 is too small: .* are \d+ subwords already; give at least that many$", line)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x0a\x00" * 20])
def test_a_file_that_is_no_model_is_one_line(content, corpus, tmp_path, capsys):
    (tmp_path / "spiece.model").write_bytes(content)
    flags = ["--model", str(tmp_path / "spiece.model")]
    assert encode_with_sentencepiece(corpus(SENTENCES), tmp_path / "out", *flags) == EXIT_STATUS
    assert capsys.readouterr().err == f"error: {tmp_path}/spiece.model is no SentencePiece model, or damaged\n"
    assert not (tmp_path / "out").exists()


def test_capital_letters_may_be_made_small(corpus, tmp_path):
    folder = corpus([line.upper() for line in SENTENCES])
    assert encode_with_sentencepiece(folder, tmp_path / "out", "--vocabulary", "25", "--fold-case") == 0
    decode = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "out" / encode_module.MODEL)).decode
    assert decode(lines(tmp_path / "out" / "test.source")[0].split(" ")) == SENTENCES[0]


def test_splits_that_are_not_there_are_not_asked_for(corpus, tmp_path):
    folder = corpus(SENTENCES, splits=("train",))
    assert encode_with_sentencepiece(folder, tmp_path / "out", "--vocabulary", "25") == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.*rce")) == ["train.source"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no {train,valid,test}.{source,target}"),
        ({"test.source": "a\n", "test.target": "b\n"}, "has no train.source to train SentencePiece on"),
        ({"train.source": "a\n"}, "train.target is missing, but train.source is there"),
        ({"train.source": "", "train.target": ""}, "train.source is empty"),
        ({"train.source": "\n", "train.target": " \n"}, "no text to train SentencePiece on"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_one_line(files, message, tmp_path, capsys):
    folder = tmp_path / "é x"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    assert encode_with_sentencepiece(folder, tmp_path / "out") == EXIT_STATUS
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_byte_order_mark_and_other_line_ends_change_nothing(corpus, vocabulary, tmp_path):
    folder = corpus(["the old", "thing"])
    encode(folder, tmp_path / "plain", "gpt2", vocabulary, NO_LIMITS)
    for path in folder.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    encode(folder, tmp_path / "marked", "gpt2", vocabulary, NO_LIMITS)
    assert lines(tmp_path / "marked" / "train.source") == lines(tmp_path / "plain" / "train.source")
    assert lines(tmp_path / "marked" / "test.target") == lines(tmp_path / "plain" / "test.target")


def test_added_tokens_of_a_model_stay_whole(corpus, tmp_path):
    folder = corpus([*SENTENCES, "the <sep>old <sep2> ferry"])
    encode(folder, tmp_path / "first", "sentencepiece", None, NO_LIMITS, train_size=30)
    model = tmp_path / "first" / encode_module.MODEL
    plain = lines(tmp_path / "first" / "train.source")
    (tmp_path / "first" / "added_tokens.json").write_text('{"<sep>": 31, "<sep2>": 32, "<extra_id_0>": 30}')
    encode(folder, tmp_path / "second", "sentencepiece", model, NO_LIMITS)
    *others, last = lines(tmp_path / "second" / "train.source")
    assert others == plain[:-1]
    encoder = sentencepiece.SentencePieceProcessor(model_file=str(model)).encode
    expected = [*encoder("the ", out_type=str), "<sep>", *encoder("old ", out_type=str)]
    assert last.split(" ") == [*expected, "<sep2>", *encoder(" ferry", out_type=str)]


def test_a_run_of_a_million_characters_is_encoded(vocabulary):
    encode_text = gpt2_bpe.load(vocabulary)
    for character in "x.1\u00e9":
        assert len(encode_text(character * 1_000_000)) == 1_000_000 * len(character.encode())


def test_articles_of_any_length_are_trained_on(tmp_path):
    # SentencePiece by itself leaves out a line of more than 4,192 bytes
    text = tmp_path / "long"
    text.write_text(" ".join(SENTENCES * 50) + " \u4e2d\n", encoding="utf-8")
    assert train([text], tmp_path / "spiece.model", 25) == 25
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    assert processor.piece_to_id("\u4e2d") != processor.unk_id()


def test_what_is_encoded_can_be_binarised(corpus, vocabulary, tmp_path, run_fairseq):
    folder = corpus(["the old thing", "1 2 3"])
    encode(folder, tmp_path / "out", "gpt2", vocabulary, {"source": 4, "target": 0})
    run_fairseq(
        "preprocess", "--source-lang", "source", "--target-lang", "target", "--joined-dictionary",
        "--trainpref", tmp_path / "out" / "train", "--destdir", tmp_path / "data", "--workers", 1,
    )  # fmt: skip
    from fairseq.data.indexed_dataset import MMapIndexedDataset

    sources = MMapIndexedDataset(str(tmp_path / "data" / "train.source-target.source"))
    assert [len(source) for source in sources] == [4, 4]
    assert all(source[-1] == 2 for source in sources)  # the end of sentence
