"""A converted BART computes what the original computes."""

import argparse
import json

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.models.bart import BARTModel
from fairseq.ngram_repeat_block import NGramRepeatBlock
from fairseq.sequence_generator import SequenceGenerator

pytest.importorskip("transformers", reason="the development extra (transformers) is not installed")

from srformer_plugin.convert.cli import fairseq_to_hf, hf_to_fairseq
from srformer_plugin.convert.weights import Weights

LENGTHS = [13, 5, 8]


@pytest.fixture
def working_ngram_blocker(monkeypatch):
    """Without its CUDA extension fairseq's n-gram blocker looks at the end of a buffer that is not filled up yet, and
    blocks nothing."""
    stock = NGramRepeatBlock.forward

    def forward(self, tokens, lprobs, bsz, beam_size, step):
        return stock(self, tokens[:, : step + 1], lprobs, bsz, beam_size, step)

    monkeypatch.setattr(NGramRepeatBlock, "forward", forward)


def load(folder, **options):
    """(model, task) of a converted folder; options override those of the checkpoint."""
    models, _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(folder / "model.pt")], arg_overrides={"data": str(folder), **options}
    )
    return models[0].eval(), task


def sentences(rows, lengths=LENGTHS, seed=2):
    """Random sources that end in </s>, as lists of ids."""
    generator = torch.Generator().manual_seed(seed)
    return [[*torch.randint(4, rows, (length - 1,), generator=generator).tolist(), 2] for length in lengths]


def padded(rows, left):
    """(B, N) int64 ids, padded with 1 on one side."""
    width = max(map(len, rows))
    pads = [[1] * (width - len(row)) for row in rows]
    return torch.tensor([pad + row if left else row + pad for row, pad in zip(rows, pads)])


@torch.no_grad()
def logits_of_both(theirs, ours, rows):
    """Logits (B, T, V) of the same sentences in Hugging Face's model (padded right) and fairseq's (padded left)."""
    sources, targets = sentences(rows), sentences(rows, lengths=[7, 9, 4], seed=3)
    right, previous = padded(sources, left=False), padded([[2, *target[:-1]] for target in targets], left=False)
    expected = theirs(input_ids=right, attention_mask=right.ne(1).long(), decoder_input_ids=previous).logits
    lengths = torch.tensor([len(source) for source in sources])
    actual = ours(padded(sources, left=True), lengths, previous)[0]
    real = previous.ne(1)
    return expected[real], actual[real]


@pytest.mark.parametrize(
    "configuration",
    [
        {},
        {"activation_function": "relu", "scale_embedding": True},
        {"activation_function": "gelu_new", "encoder_layers": 1, "decoder_layers": 3, "encoder_ffn_dim": 24},
        {"encoder_attention_heads": 4, "decoder_attention_heads": 8, "decoder_ffn_dim": 40, "vocab_size": 500},
    ],
    ids=["default", "relu-scaled", "layers", "heads-rows"],
)
def test_logits_equal_transformers_on_padded_batches(save_bart, tmp_path, configuration):
    theirs = save_bart(tmp_path / "hf", **configuration)
    hf_to_fairseq(tmp_path / "hf", tmp_path / "out")
    ours, task = load(tmp_path / "out")
    assert len(task.source_dictionary) == len(task.target_dictionary) == theirs.config.vocab_size
    expected, actual = logits_of_both(theirs, ours, theirs.config.vocab_size)
    assert expected.std() > 0.5  # far from uniform: a wrong weight would show
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_fairseqs_own_bart_takes_the_checkpoint(bart, converted_bart):
    content = torch.load(converted_bart / "model.pt", weights_only=True)
    args = argparse.Namespace(**{**vars(content["cfg"]["model"]), "arch": "bart_base"})
    stock = ARCH_MODEL_REGISTRY["bart_base"].build_model(args, load(converted_bart)[1])
    assert type(stock) is BARTModel
    stock.load_state_dict(content["model"])
    expected, actual = logits_of_both(bart[1], stock.eval(), bart[1].config.vocab_size)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_a_bare_model_without_prefix_and_head_is_taken(save_bart, tmp_path):
    """facebook/bart-base is one: its weights are called shared.weight and not model.shared.weight."""
    theirs = save_bart(tmp_path / "hf", kind="BartModel")
    assert "shared.weight" in Weights(tmp_path / "hf")
    hf_to_fairseq(tmp_path / "hf", tmp_path / "out")
    ours, _ = load(tmp_path / "out")
    assert torch.equal(ours.decoder.output_projection.weight, theirs.shared.weight)
    assert torch.equal(ours.decoder.layers[1].fc2.bias, theirs.decoder.layers[1].fc2.bias)


@pytest.mark.parametrize(
    ("penalty", "shortest", "ngram"), [(1.0, 1, 0), (0.5, 4, 2), (1.5, 3, 3)], ids=["plain", "short", "long"]
)
@pytest.mark.usefixtures("working_ngram_blocker")
def test_beam_search_finds_what_transformers_generate_finds(bart, converted_bart, penalty, shortest, ngram):
    """20 sources, beam 4. The two search alike, but count differently:

    * Hugging Face's min_length and max_length count the start token, and max_length the </s> as well; fairseq's count
      neither. So min_len n is min_length n + 1, and max_len n is max_length n + 2.
    * fairseq stops at `beam` finished hypotheses; Hugging Face does so with early_stopping=True only.
    * fairseq ends the longest hypotheses with </s> and counts its probability; Hugging Face ends them with
      forced_eos_token_id only, and then without: equal but for the word before it. Here a processor does as fairseq.
    * fairseq never chooses <pad>; Hugging Face has to be told.
    Both divide a score by (tokens with </s>, without the start) ** penalty.
    """
    theirs, longest = bart[1], 14
    ours, task = load(converted_bart)

    def end_like_fairseq(input_ids, scores):
        if input_ids.size(1) < longest + 1:
            return scores
        return torch.full_like(scores, -torch.inf).index_copy(1, torch.tensor([2]), scores[:, 2:3])

    sources = sentences(theirs.config.vocab_size, lengths=[3 + n for n in range(20)], seed=4)
    right = padded(sources, left=False)
    expected = theirs.generate(
        right, attention_mask=right.ne(1).long(), num_beams=4, length_penalty=penalty, early_stopping=True,
        min_length=shortest + 1, max_length=longest + 2, no_repeat_ngram_size=ngram, suppress_tokens=[1],
        do_sample=False, forced_eos_token_id=None, logits_processor=[end_like_fairseq],
    )  # fmt: skip
    expected = [[token for token in row[1:].tolist() if token != 1] for row in expected]
    generator = SequenceGenerator(
        [ours], task.target_dictionary, beam_size=4, max_len_b=longest, min_len=shortest, len_penalty=penalty,
        no_repeat_ngram_size=ngram,
    )  # fmt: skip
    lengths = torch.tensor([len(source) for source in sources])
    found = generator.generate(
        [ours], {"net_input": {"src_tokens": padded(sources, left=True), "src_lengths": lengths}}
    )
    assert [best[0]["tokens"].tolist() for best in found] == expected
    assert len({tuple(row) for row in expected}) > 10  # the sources matter
    assert len({len(row) for row in expected}) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_there_and_back_is_the_identity_for_every_weight(transformers, save_bart, tmp_path, dtype):
    theirs = save_bart(tmp_path / "hf", dtype=dtype, dropout=0.2, scale_embedding=True)
    hf_to_fairseq(tmp_path / "hf", tmp_path / "fairseq")
    fairseq_to_hf(tmp_path / "fairseq" / "model.pt", tmp_path / "back")
    before, after = Weights(tmp_path / "hf"), Weights(tmp_path / "back")
    assert before.keys() == after.keys()
    for name in before:
        assert after[name].dtype == dtype
        assert torch.equal(before[name], after[name]), name
    again = transformers.BartForConditionalGeneration.from_pretrained(tmp_path / "back")
    assert again.dtype == dtype
    wanted, got = theirs.config.to_dict(), again.config.to_dict()
    assert {k for k in wanted if wanted[k] != got.get(k)} <= {"architectures", "_name_or_path"}
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "hf" / name).read_bytes()


def test_back_and_there_is_the_identity_for_a_fairseq_checkpoint(converted_bart, tmp_path):
    fairseq_to_hf(converted_bart / "model.pt", tmp_path / "hf")
    hf_to_fairseq(tmp_path / "hf", tmp_path / "again")
    before, after = (torch.load(f / "model.pt", weights_only=True) for f in (converted_bart, tmp_path / "again"))
    assert before["model"].keys() == after["model"].keys()
    assert all(torch.equal(before["model"][name], after["model"][name]) for name in before["model"])
    assert vars(before["cfg"]["model"]) == vars(after["cfg"]["model"])


def test_the_dictionary_gives_the_ids_of_the_tokenizer(transformers, bart, converted_bart):
    from fairseq.data.encoders.gpt2_bpe import GPT2BPE, GPT2BPEConfig

    theirs = transformers.BartTokenizer.from_pretrained(bart[0])
    files = {"gpt2_encoder_json": "encoder.json", "gpt2_vocab_bpe": "vocab.bpe"}
    bpe = GPT2BPE(GPT2BPEConfig(**{option: str(converted_bart / name) for option, name in files.items()}))
    dictionary = load(converted_bart)[1].source_dictionary
    for text in ("the council opened the harbour", " after the storm, naïve Ünïcode 雨!", "a  b\tc"):
        ids = dictionary.encode_line(f"<s> {bpe.encode(text)} </s>", append_eos=False).tolist()
        assert ids == theirs(text)["input_ids"]
        assert bpe.decode(dictionary.string(torch.tensor(ids[1:-1]))) == text
    assert dictionary.index("<mask>") == json.loads((bart[0] / "vocab.json").read_text())["<mask>"]
