"""The chunked encoder computes what the stock one does of every row, whatever the batch, in linear memory."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from largest_tensor import largest_tensor
from models.conftest import StubTask, build_model, make_sample

from srformer_plugin.errors import ConfigurationError
from srformer_plugin.models.encoders import chunked
from srformer_plugin.models.encoders.rows import cut
from srformer_plugin.models.encoders.settings import EncoderSettings

ARCHITECTURES = ["srformer_bart_tiny", "srformer_t5_tiny"]
CHUNK, CONTEXT = 6, 2
WIDTH = CHUNK + 2 * CONTEXT
LENGTHS = [37, WIDTH, 23, 4, WIDTH + 1]
SEPARATOR = "w0"


def pair(arch, **options):
    """A model with the stock encoder and one with the same weights and the chunked one."""
    shared = {"cross_attention": "full", "encoder_layers": 2, **options.pop("both", {})}
    stock = build_model(arch, **shared)
    sizes = {"encoder_chunk": CHUNK, "encoder_context": CONTEXT, "encoder_positions": 64}
    ours = build_model(arch, encoder_attention="chunked", **{**sizes, **options}, **shared)
    ours.load_state_dict(stock.state_dict())
    return stock, ours


def sentences(sample):
    """The sentences of a batch without their padding, each (N,)."""
    return [row[row != 1] for row in sample["net_input"]["src_tokens"]]


def encode(model, tokens):
    """The states of every sentence of a batch, each (N, C); and what the encoder returned."""
    found = model.encoder(tokens)
    states, padding = found["encoder_out"][0].transpose(0, 1), found["encoder_padding_mask"][0]
    return [row[~mask] for row, mask in zip(states, padding)], found


def expected_states(stock, sentence, question=0):
    """By the words of docs/long.md, one row after the other."""
    states, n = [], len(sentence)
    if n <= WIDTH:
        return encode(stock, sentence[None])[0][0]
    stride, start = CHUNK - question, 0
    while True:
        start_of_row = min(start, n - WIDTH)
        tokens = sentence[start_of_row + question : start_of_row + WIDTH]
        tokens = torch.cat((sentence[:question], tokens))
        encoded = encode(stock, tokens[None])[0][0]
        before = question + CONTEXT + start - start_of_row
        kept_from = 0 if start == 0 else before
        if start_of_row + WIDTH == n:
            return torch.cat([*states, encoded[kept_from:]])
        states.append(encoded[kept_from : before + stride])
        start += stride


@given(length=st.integers(1, 60), chunk=st.integers(1, 9), context=st.integers(0, 4), question=st.integers(0, 8))
def test_every_token_is_kept_once_with_its_context(length, chunk, context, question):
    question = min(question, chunk - 1)
    rows = cut(length, chunk, context, question)
    assert [n for row in rows for n in range(row.start_kept, row.end_kept)] == list(range(length))
    width = chunk + 2 * context
    for row in rows:
        assert row.length == min(length, width) == len(row.tokens())
        kept = row.tokens()[row.kept_columns()]
        assert kept.tolist() == list(range(row.start_kept, row.end_kept))
        assert row.tokens()[:question].tolist() == list(range(min(question, row.length)))
        body = row.tokens()[row.question :]
        assert (body == range(row.first, row.end)).all()
        assert row.first == 0 or row.start_kept - row.first >= context
        assert row.end == length or row.end - row.end_kept >= context
    # what is kept of a growing source stays
    assert cut(length + 1, chunk, context, question)[: len(rows) - 1] == rows[:-1]


@pytest.mark.parametrize("left_pad", [True, False])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_rows_are_sentences_of_the_stock_encoder_whatever_the_batch(arch, left_pad):
    stock, ours = (model.double() for model in pair(arch))
    sample = make_sample(LENGTHS, left_pad)
    found, returned = encode(ours, sample["net_input"]["src_tokens"])
    for states, sentence in zip(found, sentences(sample)):
        torch.testing.assert_close(states, expected_states(stock, sentence), rtol=0, atol=1e-10)
        alone = encode(ours, sentence[None])[0][0]
        torch.testing.assert_close(states, alone, rtol=0, atol=1e-10)
    assert returned["src_lengths"][0].flatten().tolist() == LENGTHS
    assert (returned["encoder_out"][0].transpose(0, 1)[returned["encoder_padding_mask"][0]] == 0).all()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_what_fits_a_row_is_the_stock_model_to_the_bit(arch):
    stock, ours = pair(arch, both={"cross_attention": "srformer"})
    sample = make_sample([WIDTH, 3, CHUNK])["net_input"]
    previous = torch.randint(4, 20, (3, 7))
    assert torch.equal(ours(**sample, prev_output_tokens=previous)[0], stock(**sample, prev_output_tokens=previous)[0])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_portions_are_what_all_rows_at_once_are(arch, monkeypatch):
    _, ours = pair(arch)
    tokens = make_sample(LENGTHS)["net_input"]["src_tokens"]
    whole, _ = encode(ours, tokens)
    shapes = []
    forward = type(ours.encoder).__mro__[2].forward_scriptable
    monkeypatch.setattr(chunked, "PORTION", 3 * WIDTH)
    monkeypatch.setattr(
        type(ours.encoder).__mro__[2],
        "forward_scriptable",
        lambda self, tokens, *more: shapes.append(tuple(tokens.shape)) or forward(self, tokens, *more),
    )
    with torch.no_grad():
        portions, _ = encode(ours, tokens)
    # 6, 1, 4 and 2 full rows, and a short sentence by itself: full rows need no mask
    assert shapes == [(3, WIDTH)] * 4 + [(1, WIDTH), (1, 4)]
    for ours, theirs in zip(portions, whole):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_gradients_are_those_of_the_rows(arch):
    stock, ours = (model.double() for model in pair(arch))
    sample = make_sample(LENGTHS)
    gradients = []
    for model, states in (
        (ours, encode(ours, sample["net_input"]["src_tokens"])[0]),
        (stock, [expected_states(stock, sentence) for sentence in sentences(sample)]),
    ):
        states = torch.cat(states)
        loss = (states * torch.linspace(-1, 1, states.numel(), dtype=states.dtype).view_as(states)).sum()
        gradients.append(
            torch.autograd.grad(loss, [p for p in model.encoder.parameters() if p.requires_grad], allow_unused=True)
        )
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_training_step_with_dropout_reaches_every_weight(arch, checkpointed):
    _, ours = pair(arch, both={"checkpoint_activations": checkpointed, "dropout": 0.1, "cross_attention": "segmented"})
    sample = make_sample([40, 12])["net_input"]
    ours.train()(**sample, prev_output_tokens=torch.randint(4, 20, (2, 7)))[0].square().sum().backward()
    gradients = {name: p.grad for name, p in ours.encoder.named_parameters() if "embed_tokens" not in name}
    assert gradients and all(g is not None and g.isfinite().all() for g in gradients.values())


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_question_stands_before_every_row_and_is_kept_once(arch):
    stock, ours = (model.double() for model in pair(arch, encoder_prefix_symbol=SEPARATOR))
    separator = StubTask().source_dictionary.index(SEPARATOR)
    sample = make_sample([37, 20, 25, 8])
    tokens = sample["net_input"]["src_tokens"]
    tokens[tokens == separator] += 1
    questions = [3, 1, 0, 2]  # the separator included
    for row, sentence, question in zip(tokens, sentences(sample), questions):
        if question > 0:
            row[len(row) - len(sentence) + question - 1] = separator
            row[len(row) - 2] = separator  # only the first ends a question
    found, _ = encode(ours, tokens)
    for states, sentence, question in zip(found, sentences(sample), questions):
        torch.testing.assert_close(states, expected_states(stock, sentence, question), rtol=0, atol=1e-10)


def test_a_question_that_is_too_long_is_said_and_left_where_it_is(caplog):
    stock, ours = pair("srformer_bart_tiny", encoder_prefix_symbol=SEPARATOR)
    sentence = make_sample([30])["net_input"]["src_tokens"][0]
    sentence[CHUNK // 2] = StubTask().source_dictionary.index(SEPARATOR)
    sentence[: CHUNK // 2] = 9
    states = encode(ours, sentence[None])[0][0]
    torch.testing.assert_close(states, expected_states(stock, sentence), rtol=0, atol=1e-4)
    assert f"a question of {CHUNK // 2 + 1} tokens has no room" in caplog.text


def test_a_symbol_that_is_not_in_the_dictionary_is_refused():
    with pytest.raises(ConfigurationError, match="--encoder-prefix-symbol 'nowhere' is not in the source dictionary"):
        pair("srformer_bart_tiny", encoder_prefix_symbol="nowhere")


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("grad", [True, False])
def test_no_tensor_grows_with_the_square_of_the_length(arch, grad, monkeypatch):
    monkeypatch.setattr(chunked, "PORTION", 4 * WIDTH)
    _, ours = pair(arch)
    sizes = []
    for length in (150, 300):
        tokens = make_sample([length])["net_input"]["src_tokens"]
        with torch.set_grad_enabled(grad), largest_tensor() as largest:
            states = ours.encoder(tokens)["encoder_out"][0]
            if grad:
                states.sum().backward()
        sizes.append(largest.elements)
    assert sizes[1] <= 2.2 * sizes[0]  # the last row is one more of a few
    assert sizes[1] < 300 * 300
    if not grad:  # no more than the states, and what a portion needs
        assert sizes == [150 * 32, 300 * 32]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_attention": "pooled"}, "--encoder-attention 'pooled' is unknown; choose one of: chunked, full, w"),
        ({"encoder_chunk": 0}, "--encoder-chunk must be at least 1, got 0"),
        ({"encoder_context": -1}, "--encoder-context must be at least 0, got -1"),
        ({"encoder_positions": 64}, "a chunk with --encoder-context 128 on either side does not fit"),
        (
            {"encoder_context": 600},
            "a chunk with --encoder-context 600 on either side does not fit --encoder-positions 1024",
        ),
        ({"encoder_chunk": 1000, "encoder_positions": 1024}, "--encoder-chunk 1000 with --encoder-context 128"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(options, message):
    with pytest.raises(ConfigurationError, match=message):
        EncoderSettings(**{"encoder_attention": "chunked", **options}).check()


@pytest.mark.parametrize(
    ("options", "chunk", "positions"),
    [
        ({}, 768, 1024),
        ({"encoder_context": 0}, 1024, 1024),
        ({"encoder_chunk": 256}, 256, 1024),
        ({"encoder_chunk": 4096}, 4096, 4096 + 256),
        ({"encoder_positions": 512}, 256, 512),
    ],
)
def test_what_is_left_open_fits_a_published_bart(options, chunk, positions):
    settings = EncoderSettings(encoder_attention="chunked", **options).check()
    assert (settings.encoder_chunk, settings.encoder_positions) == (chunk, positions)
