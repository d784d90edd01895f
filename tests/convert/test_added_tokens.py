"""Tokens that a user added to a tokenizer keep their name and id, from text to fairseq's ids and back."""

import json

import pytest
import torch
from convert.parity import load, logits_of_both

pytest.importorskip("transformers", reason="the development extra (transformers) is not installed")

from data_prep.encode import main as encode
from data_prep.errors import EXIT_STATUS
from srformer_plugin.convert.cli import fairseq_to_hf, hf_to_fairseq, main
from srformer_plugin.convert.weights import Weights

ADDED = ["<sep>", "[Topic]", "<sep>2"]
TEXT = "the museum <sep> opened [Topic] a new bridge<sep>2 , cancelled<sep>the concert"


# without words that the small BPE of the tests has in two ways
TEXT_OF_BYTES = "the<sep>the a[Topic], n<sep>2 c"


def encoded_ids(converted, out, text, *flags):
    """fairseq's ids of a text by way of data_prep.encode and the converted dictionary."""
    corpus = out.with_name("corpus é")
    corpus.mkdir()
    for side in ("source", "target"):
        (corpus / f"test.{side}").write_text(text + "\n")
    assert encode([str(corpus), str(out), "--workers", "1", *map(str, flags)]) == 0
    dictionary = load(converted)[1].source_dictionary
    line = (out / "test.source").read_text().rstrip("\n")
    ids = dictionary.encode_line(line, add_if_not_exist=False).tolist()
    assert dictionary.unk() not in ids
    return ids, line


@pytest.fixture
def bart_with_added_tokens(save_bart, tmp_path, transformers):
    """(folder, its tokenizer, rows)."""
    folder = tmp_path / "hf"
    rows = save_bart(folder).config.vocab_size
    tokenizer = transformers.BartTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(ADDED)
    tokenizer.save_pretrained(folder)
    model = transformers.BartForConditionalGeneration.from_pretrained(folder)
    model.resize_token_embeddings(rows + len(ADDED))
    model.save_pretrained(folder)
    return folder, tokenizer, rows


@pytest.mark.parametrize("files", ["tokenizer.json", "added_tokens.json", "all"])
def test_those_of_bart_have_the_tokenizers_ids_and_are_decoded(bart_with_added_tokens, tmp_path, files):
    from fairseq.data.encoders.gpt2_bpe import GPT2BPE, GPT2BPEConfig

    folder, tokenizer, rows = bart_with_added_tokens
    if files == "added_tokens.json":
        (folder / "tokenizer.json").unlink()
        (folder / files).write_text(json.dumps({token: rows + number for number, token in enumerate(ADDED)}))
    elif files == "tokenizer.json":
        (folder / "vocab.json").unlink()
    out = tmp_path / "out"
    hf_to_fairseq(folder, out)
    flags = ["--bpe", "gpt2", "--gpt2-files", out, "--own-vocabulary"]
    ids, line = encoded_ids(out, tmp_path / "encoded", TEXT_OF_BYTES, *flags)
    assert ids == tokenizer(TEXT_OF_BYTES).input_ids[1:]  # without <s>
    bpe = GPT2BPE(GPT2BPEConfig(gpt2_encoder_json=str(out / "encoder.json"), gpt2_vocab_bpe=str(out / "vocab.bpe")))
    assert bpe.decode(line) == TEXT_OF_BYTES
    assert bpe.encode(TEXT_OF_BYTES) == line


def test_gpt2s_checksum_is_that_of_its_own_tokens(formats_or_skip, tmp_path):
    from data_prep import gpt2_bpe

    for name in gpt2_bpe.SHA256:
        (tmp_path / name).write_bytes((formats_or_skip / name).read_bytes())
    numbers = json.loads((tmp_path / "encoder.json").read_bytes())
    (tmp_path / "encoder.json").write_text(json.dumps({**numbers, "<sep>": 50257}))
    gpt2_bpe.check_files(tmp_path)
    assert gpt2_bpe.load(tmp_path)("a<sep> b") == [64, 50257, 275]
    (tmp_path / "encoder.json").write_text(json.dumps({**numbers, "!": 1, '"': 0, "<sep>": 50257}))
    with pytest.raises(gpt2_bpe.WrongVocabulary, match="is not GPT-2's"):
        gpt2_bpe.check_files(tmp_path)


@pytest.fixture
def formats_or_skip():
    from raw_corpora import real_files

    folder = real_files()
    if folder is None or not (folder / "gpt2_bpe").is_dir():
        pytest.skip("no gpt2_bpe: name its folder with SRFORMER_FORMATS")
    return folder / "gpt2_bpe"


T5_TOKENS = 220  # 120 pieces and 100 sentinels
T5_ADDED = {token: T5_TOKENS + number for number, token in enumerate(ADDED)}
WAYS = {
    "added_tokens.json": T5_ADDED,
    "tokenizer.json": {"added_tokens": [{"content": token, "id": number} for token, number in T5_ADDED.items()]},
    "tokenizer_config.json": {
        "added_tokens_decoder": {
            **{str(number): {"content": token} for token, number in T5_ADDED.items()},
            "0": {"content": "<pad>"},
            "219": {"content": "<extra_id_0>"},
        }
    },
}


@pytest.mark.parametrize("file", WAYS)
def test_those_of_t5_have_the_tokenizers_ids(save_t5, tmp_path, file):
    import sentencepiece

    save_t5(tmp_path / "hf")
    (tmp_path / "hf" / file).write_text("\ufeff" + json.dumps(WAYS[file]), encoding="utf-8")
    out = tmp_path / "out"
    hf_to_fairseq(tmp_path / "hf", out)
    ids, _ = encoded_ids(out, tmp_path / "encoded", TEXT, "--bpe", "sentencepiece", "--model", out / "spiece.model")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(out / "spiece.model"))
    parts = ["the museum ", 220, " opened ", 221, " a new bridge", 222, " , cancelled", 220, "the concert"]
    expected = [number for part in parts for number in ([part] if isinstance(part, int) else processor.encode(part))]
    assert [number - 1 for number in ids[:-1]] == expected
    dictionary = load(out)[1].source_dictionary
    assert [dictionary.index(token) for token in ADDED] == [221, 222, 223]
    assert dictionary[220] == "<extra_id_0>" and dictionary[224] == "madeupword0000"
    assert len(dictionary) == 256


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"<a>": 50}, "the added token '<a>' has the id 50, which is that of "),
        ({"<a>": 256}, "vocab_size 256, but the tokenizer's <a> has the id 256"),
        ({"a b": 230}, "white space in it: 'a b'"),
        ({"<mask>": 230, "<s>": 231}, "'<s>' more than once, or as a special token"),
    ],
)
def test_those_of_t5_that_have_no_place_are_named(save_t5, tmp_path, capsys, tokens, message):
    save_t5(tmp_path / "hf")
    (tmp_path / "hf" / "added_tokens.json").write_text(json.dumps(tokens))
    assert main(["hf-to-fairseq", str(tmp_path / "hf"), str(tmp_path / "out")]) == EXIT_STATUS
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and message in line


@pytest.mark.parametrize("added", [{}, {"<sep>": T5_TOKENS}], ids=["sentinel last", "added token last"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_t5_without_a_spare_row_gets_one_for_the_start(save_t5, tmp_path, added, tied):
    rows = T5_TOKENS + len(added)
    kind = {} if tied else {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    theirs = save_t5(tmp_path / "hf", vocab_size=rows, **kind)
    (tmp_path / "hf" / "added_tokens.json").write_text(json.dumps(added))
    hf_to_fairseq(tmp_path / "hf", tmp_path / "out")
    ours, task = load(tmp_path / "out")
    assert len(task.source_dictionary) == rows + 1
    assert task.source_dictionary.index("<extra_id_0>") == T5_TOKENS
    # fairseq's <s> is <pad> for T5, and no other id has a row of its own or another's
    expected, actual = logits_of_both(theirs, ours, rows + 1, lambda ids: (ids - 1).clamp(min=0))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    fairseq_to_hf(tmp_path / "out" / "model.pt", tmp_path / "back")
    before, after = Weights(tmp_path / "hf"), Weights(tmp_path / "back")
    for name in before:
        assert torch.equal(after[name][: len(before[name])], before[name])
    assert after["shared.weight"].shape == (rows + 1, 32)


def test_a_t5_with_fewer_rows_than_tokens_is_refused_without_naming_a_flag_that_is_not_there(save_t5, tmp_path, capsys):
    save_t5(tmp_path / "hf", vocab_size=T5_TOKENS - 1)
    assert main(["hf-to-fairseq", str(tmp_path / "hf"), str(tmp_path / "out")]) == EXIT_STATUS
    error = capsys.readouterr().err
    assert "config.json has vocab_size 219, but the tokenizer's <extra_id_0> has the id 219" in error
    assert "--" not in error
