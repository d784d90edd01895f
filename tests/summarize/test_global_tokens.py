"""A PRIMERA that is summarised with gives global attention to every <doc-sep> of a text, without being told."""

import pytest
import torch
from convert.conftest import SEPARATOR
from summarize.conftest import words

from srformer_plugin import summarize

DOCUMENTS = [words(9, seed=1), words(6, seed=2), words(12, seed=3)]


@pytest.fixture(scope="module")
def primera(save_primera, tmp_path_factory):
    """(Hugging Face's model, id of <doc-sep>, its folder, our model)."""
    folder = tmp_path_factory.mktemp("primera")
    theirs, separator = save_primera(folder / "hf", seed=10)
    ours = summarize.load(folder / "hf", cache_dir=folder / "cache", max_len=20, min_len=2)
    return theirs, separator, folder / "hf", ours


@pytest.mark.parametrize("between", [f" {SEPARATOR} ", SEPARATOR, f"{SEPARATOR} "])
def test_the_encoder_computes_what_transformers_does_with_a_mask(transformers, primera, between):
    theirs, separator, folder, ours = primera
    text = between.join(DOCUMENTS)
    ids = ours.tokenizer.encode(text)
    assert ids == transformers.AutoTokenizer.from_pretrained(folder)(text).input_ids
    ids = torch.tensor(ids)[None]
    mask = ids.eq(separator).long()
    assert mask.sum() == 2
    mask[:, 0] = 1
    with torch.no_grad():
        expected = theirs.get_encoder()(ids, global_attention_mask=mask).last_hidden_state
        found = ours.network.encoder(ids)["encoder_out"][0].transpose(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_so_does_every_chunk_of_a_long_text(primera):
    """The middle of a second row, encoded as a text of its own."""
    _, separator, _, ours = primera
    text = f" {SEPARATOR} ".join(DOCUMENTS * 4)
    ids = torch.tensor(ours.tokenizer.encode(text))[None]
    assert ids.size(1) > ours.source_positions
    encoder = ours.long_network.encoder
    assert encoder.global_index == separator
    start, width, context = encoder.chunk, encoder.width, encoder.context
    row = ids[:, start : start + width]
    assert row.eq(separator).sum() > 1
    with torch.no_grad():
        found = encoder(ids)["encoder_out"][0][start + context : start + width - context]
        expected = ours.network.encoder(row)["encoder_out"][0][context : width - context]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
