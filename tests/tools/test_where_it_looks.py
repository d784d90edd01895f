"""How much of the cross-attention is on what is relevant: `python -m srformer_plugin.tools.where_it_looks`."""

import json
import re
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq.data import indexed_dataset
from fairseq.sequence_generator import SequenceGenerator
from models.conftest import StubTask, build_model, make_sample

from data_prep.spans import Spans
from srformer_plugin.attention.method.reference import chosen_segments, segment_of_position
from srformer_plugin.attention.source_context import SourceContext
from srformer_plugin.errors import ConfigurationError
from srformer_plugin.models.attention_calls import AttentionCall, for_each_call
from srformer_plugin.models.checkpoint_file import write_checkpoint
from srformer_plugin.tools.looks_report import table, what_is_read
from srformer_plugin.tools.shares import Measured, Shares, held, over_examples, relevant_tokens
from srformer_plugin.tools.where_it_looks import Looking, look, main

# ---- shares, by hand


def call(weights, segments=None, size=2):
    """A layer's call with these weights (T, N) and segments (H, T, k)."""
    module = torch.nn.Module()
    if segments is not None:
        module.segment_size = size
        module.segments_read = lambda *inputs: torch.tensor([segments])
    return AttentionCall(torch.tensor([weights]), module, None, None, None)


def test_relevant_tokens_are_those_of_the_spans():
    assert relevant_tokens([(0, 1), (3, 5)], 7, 1).nonzero().flatten().tolist() == [1, 4, 5]


def test_a_share_is_the_weight_on_relevant_tokens_as_the_mean_over_positions():
    measured = Measured(torch.tensor([False, True, True, False, False]))
    measured.take(call([[0.5, 0.25, 0.25, 0.0, 0.0], [0.0, 0.125, 0.0, 0.0, 0.875]]))
    measured.take(call([[0.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]]))
    assert measured.attention == Shares((0.3125, 1.0), 0.4)
    assert measured.segments is None


def test_segments_count_that_hold_a_relevant_token():
    """Five tokens are three segments; what is none, or beyond the source, is not attended to."""
    measured = Measured(torch.tensor([False, True, True, False, False]))
    assert held(measured.relevant, 2).tolist() == [True, True, False]
    measured.take(call([[0.2] * 5], [[[0, 2]], [[-1, 1]], [[2, 3]]]))
    assert measured.segments == Shares((2 / 4,), 2 / 3)


def test_means_ratios_and_intervals_over_examples():
    found = over_examples([Shares((0.5, 0.1), 0.2), Shares((0.2, 0.4), 0.1)], samples=400)
    assert found["share"] == pytest.approx(0.3) and found["chance"] == pytest.approx(0.15)
    assert found["ratio"] == pytest.approx(2)
    assert [row["ratio"] for row in found["layers"]] == pytest.approx([0.35 / 0.15, 0.25 / 0.15])
    # of two examples a resampling has one twice, or both
    assert found["share_interval"] == pytest.approx([0.3, 0.3])
    assert found["ratio_interval"] == pytest.approx([0.3 / 0.2, 0.3 / 0.1])
    assert found["layers"][0]["share_interval"] == pytest.approx([0.2, 0.5])
    assert found == over_examples([Shares((0.5, 0.1), 0.2), Shares((0.2, 0.4), 0.1)], samples=400)


# ---- which segments are read

SETTINGS = {
    "full": {"cross_attention": "full"},
    "hepos": {"cross_attention": "hepos", "head_stride": 2},
    "clock": {"cross_attention": "segmented", "segment_size": 4, "expected_target_length": 5},
    "srformer": {"cross_attention": "srformer", "segment_size": 4, "expected_target_length": 5},
    "target": {"cross_attention": "srformer", "segment_size": 4, "segment_schedule": "target"},
    "pooled": {"cross_attention": "pooled", "segment_size": 4, "expected_target_length": 5},
    "previous": {"cross_attention": "previous", "segment_size": 4, "expected_target_length": 5},
    "content": {
        "cross_attention": "segmented",
        "segment_schedule": "content",
        "segment_size": 4,
        "segments_per_query": 2,
    },
}
ENCODERS = {
    "full": {},
    "chunked": {
        "encoder_attention": "chunked",
        "encoder_chunk": 6,
        "encoder_context": 2,
        "encoder_positions": 64,
        "encoder_prefix_symbol": "w0",
    },
    "window": {"encoder_attention": "window", "encoder_window": 3},
}


@pytest.mark.parametrize("kind", ["clock", "target", "previous", "content"])
@torch.inference_mode()
def test_the_segments_that_are_read_are_those_with_weights(kind):
    """Of padded sources, and those that the reference says."""
    model = build_model(decoder_layers=2, **SETTINGS[kind])
    sample, length = make_sample([19, 11], seed=5), 6
    targets = make_sample([length, length], seed=6)["net_input"]["src_tokens"]
    found = []

    def take(one):
        everything = one.attention.forward(  # past the hooks
            one.query, one.key, one.key, one.key_padding_mask, need_weights=True, need_head_weights=True
        )[1]
        found.append((one, everything.transpose(0, 1)))  # (B, H, T, N)

    states = model.encoder(**sample["net_input"])
    for_each_call(model, states, targets, take)
    assert len(found) == 2
    for one, weights in found:
        assert torch.allclose(weights.mean(1), one.weights)
        segments = one.segments_read().expand(-1, weights.size(1), -1, -1)
        for row, (count, padding) in enumerate(((5, 0), (3, 8))):
            parts = weights[row, ..., padding:].split(4, dim=-1)
            has = torch.stack([part.sum(-1) > 0 for part in parts], dim=-1)
            for head, position in np.ndindex(*has.shape[:2]):
                said = [n for n in segments[row, head, position].tolist() if 0 <= n < count]
                assert sorted(said) == has[head, position].nonzero().flatten().tolist()
                if kind in ("clock", "target"):
                    clock = 5 if kind == "clock" else length
                    assert said == [segment_of_position(position, count, clock)]
        if kind == "content":
            keys = one.attention.k_proj(one.key)[:, 0].unflatten(1, (weights.size(1), -1))  # (N, H, D)
            queries = one.attention.project_query(one.query, 1)
            means = [part[:, 0].mean(0) for part in keys.split(4)]
            assert segments[0, 0, 2].tolist() == chosen_segments(queries[0, 0, 2], means, 2)


def test_a_decoder_without_cross_attention_is_refused():
    with pytest.raises(ConfigurationError, match="without cross-attention"):
        for_each_call(
            SimpleNamespace(decoder=SimpleNamespace(layers=[SimpleNamespace(encoder_attn=None)])), {}, None, None
        )


# ---- a checkpoint and a split

SOURCES = ["w1 w2 w0 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 w13 w14 w15 w16", "w5 w0 w6 w7 w8", "w1 w0 w2 w3 w4 w5 w6"]
TARGETS = ["w3 w4 w5 w6 w7", "w7", "w2 w9"]
SPANS = [Spans("one", 17, ((4, 6), (9, 14))), Spans("two", 5, ()), Spans("three", 7, ((2, 4),))]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder as fairseq-preprocess writes it, with a test split, and the spans beside it."""
    return write_data(tmp_path_factory.mktemp("data"), SOURCES)


def write_data(folder, sources):
    dictionary = StubTask().source_dictionary
    for side, texts in (("source", sources), ("target", TARGETS)):
        dictionary.save(str(folder / f"dict.{side}.txt"))
        prefix = str(folder / f"test.source-target.{side}")
        builder = indexed_dataset.make_builder(f"{prefix}.bin", "mmap", vocab_size=len(dictionary))
        for text in texts:
            builder.add_item(dictionary.encode_line(text, add_if_not_exist=False))
        builder.finalize(f"{prefix}.idx")
    write_spans(folder / "spans", SPANS)
    return folder


@pytest.fixture(scope="module")
def full(save):
    """A checkpoint with full attention that finds all keys alike."""
    return save(even=True, cross_attention="full")


def write_spans(path, spans):
    path.write_text("".join(one.to_json() + "\n" for one in spans))
    return path


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    """`save(arch, even, options)`: a checkpoint; with `even`, queries are 0, so that no token scores above another."""

    def write(arch="srformer_bart_tiny", even=False, **options):
        options = {
            "dropout": 0.0,
            "decoder_layers": 2,
            "max_source_positions": 64,
            "max_target_positions": 64,
            **options,
        }
        model = build_model(arch, **options)
        if even:
            for layer in model.decoder.layers:
                for parameter in layer.encoder_attn.q_proj.parameters():
                    torch.nn.init.zeros_(parameter)
        path = tmp_path_factory.mktemp("model") / "model.pt"
        write_checkpoint(path, arch, {**options, "expected_target_length": 5}, model.state_dict())
        return path

    return write


def expected_of_even(kind, spans, target):
    """The share of an attention that finds all keys alike, for one example: a mean over positions."""
    tokens = spans.length + 1
    relevant = [any(start <= n < end for start, end in spans.spans) for n in range(tokens)]
    count, visited, shares = -(-tokens // 4), [], []
    for position in range(target):
        visited.append(segment_of_position(position, count, target if kind == "target" else 5))
        before = [n for n in visited if n != visited[-1]][-1:]
        segments = {
            "content": [0, 1],  # of equals the first
            "previous": [*before, visited[-1]],
            "full": range(count),
            "pooled": range(count),  # n tokens by their mean, with log n
        }.get(kind, visited[-1:])
        own = [here for n in segments for here in relevant[4 * n : 4 * n + 4]]
        heads = [relevant[head::2] for head in range(2)] if kind == "hepos" else [own]
        shares.append(np.mean([np.mean(one) for one in heads]))
    return np.mean(shares), np.mean(relevant)


@pytest.mark.parametrize(
    ("kind", "encoder"),
    [*product(SETTINGS, ["chunked"]), *product(["full", "content"], ["full", "window"])],
)
def test_shares_of_an_attention_that_finds_all_keys_alike(kind, encoder, data, save):
    path = save(even=True, **SETTINGS[kind], **ENCODERS[encoder])
    result = look(Looking(data, path, "test", data / "spans"))
    assert result["counts"] == {"examples": 3, "measured": 2, "without_spans": 1, "cut_off": 0, "cut_in_part": 0}
    expected = [expected_of_even(kind, SPANS[0], 6), expected_of_even(kind, SPANS[2], 3)]
    for one, (share, chance) in zip(result["per_example"], expected):
        assert one["attention"]["layers"] == pytest.approx([share] * 2, abs=1e-6)
        assert one["attention"]["chance"] == pytest.approx(chance)
        if kind in ("full", "pooled"):
            assert share == pytest.approx(chance)
    assert result["attention"]["ratio"] == pytest.approx(
        sum(share for share, _ in expected) / sum(chance for _, chance in expected)
    )
    assert ("segments" in result) == (kind not in ("full", "hepos"))
    if kind == "content":
        # five segments of the first source, of which 1, 2 and 3 hold relevant tokens; two of the other one: 0
        assert [one["segments"] for one in result["per_example"]] == [
            {"layers": (0.5, 0.5), "chance": 0.6},
            {"layers": (0.5, 0.5), "chance": 0.5},
        ]


@pytest.mark.parametrize("arch", ["srformer_bart_tiny", "srformer_t5_tiny"])
@pytest.mark.parametrize("kind", ["full", "srformer", "content"])
def test_shares_are_those_of_the_weights_of_every_layer(arch, kind, data, save):
    """As fairseq hands out one layer's, of the whole batch, which is padded on the left."""
    path = save(arch, **SETTINGS[kind], **ENCODERS["chunked"])
    looking = Looking(data, path, "test", data / "spans")
    result = look(looking)
    batch = looking.dataset.collater([looking.dataset[number] for number in range(3)])
    row = batch["id"].tolist().index(2)
    for layer in range(2):
        with torch.inference_mode():
            states = looking.model.encoder(batch["net_input"]["src_tokens"], batch["net_input"]["src_lengths"])
            previous = batch["net_input"]["prev_output_tokens"]
            extra = looking.model.decoder(previous, encoder_out=states, alignment_layer=layer)[1]
        weights = extra["attn"][0][row][:3, -8:]
        assert result["per_example"][1]["attention"]["layers"][layer] == pytest.approx(
            float(weights[:, 2:4].sum(1).mean()), abs=1e-5
        )
    assert abs(result["attention"]["ratio"] - 1) > 1e-3


def test_sources_that_are_cut_lose_relevant_tokens(data, full, tmp_path):
    spans = [*SPANS[:2], SPANS[2]._replace(spans=((5, 7),))]
    looking = Looking(data, full, "test", write_spans(tmp_path / "spans", spans), 6)
    result = look(looking)
    assert result["counts"] == {"examples": 3, "measured": 1, "without_spans": 1, "cut_off": 1, "cut_in_part": 1}
    assert result["per_example"][0]["attention"] == {"layers": pytest.approx((1 / 6, 1 / 6)), "chance": 1 / 6}
    with pytest.raises(ConfigurationError, match="nothing is known of 1 of 3, the others are cut off .*positions is 3"):
        look(Looking(data, full, "test", tmp_path / "spans", 3))


def test_a_source_that_is_cut_is_read_as_one_that_ends_there(data, save, tmp_path):
    path = save(**SETTINGS["srformer"])
    cut = look(Looking(data, path, "test", data / "spans", 8))["per_example"]
    short = write_data(tmp_path, [" ".join(source.split()[:7]) for source in SOURCES])
    whole = Looking(short, path, "test", write_spans(tmp_path / "spans", [spans.first(7) for spans in SPANS]))
    assert look(whole)["per_example"] == cut


def test_spans_count_behind_the_start_of_a_source(save, tmp_path):
    """Where every source begins with <s>."""
    data = write_data(tmp_path, [f"<s> {source}" for source in SOURCES])
    path = save(even=True, **SETTINGS["content"])
    result = look(Looking(data, path, "test", data / "spans"))
    # nine tokens, of which 3 and 4 are relevant, are three segments, of which 0 and 1 are; these two are read
    assert result["per_example"][1]["segments"] == {"layers": (1, 1), "chance": 2 / 3}
    assert result["per_example"][1]["attention"] == {"layers": pytest.approx((0.25, 0.25)), "chance": 2 / 9}
    counts = look(Looking(data, path, "test", data / "spans", 6))["counts"]  # <s>, four words, </s>
    assert counts == {"examples": 3, "measured": 1, "without_spans": 1, "cut_off": 1, "cut_in_part": 0}


def test_a_checkpoint_that_was_trained_on_less_reads_less(data, save):
    assert Looking(data, save(max_source_positions=9), "test", data / "spans").limit == 9
    assert Looking(data, save(**ENCODERS["chunked"]), "test", data / "spans").limit == 64


def test_its_own_output_is_the_greedy_one(data, save):
    path = save(**SETTINGS["srformer"])
    looking = Looking(data, path, "test", data / "spans")
    search = {"max_len_b": 9, "no_repeat_ngram_size": 2}
    result = look(looking, search)
    generator = SequenceGenerator([looking.model], looking.task.target_dictionary, beam_size=1, max_len_a=0, **search)
    source = looking.source(0)[None]
    net_input = {"src_tokens": source, "src_lengths": torch.tensor([source.size(1)])}
    own = generator.generate([looking.model], {"net_input": net_input})[0][0]["tokens"]
    measured = Measured(relevant_tokens(SPANS[0].spans, 18))
    previous = torch.cat((torch.tensor([2]), own[:-1]))[None]
    for_each_call(looking.model, looking.model.encoder(**net_input), previous, measured.take)
    assert result["target"] == "own output"
    assert result["per_example"][0]["attention"]["layers"] == pytest.approx(measured.attention.layers, abs=1e-6)
    reference = look(looking)["per_example"][0]["attention"]["layers"]
    assert reference != pytest.approx(measured.attention.layers, abs=1e-3)


def test_the_command_prints_and_saves(data, save, tmp_path, capsys):
    command = [str(data), "--path", str(save(**SETTINGS["content"])), "--spans", str(data / "spans")]
    assert main([*command, "--save", str(tmp_path / "out"), "--bootstrap-samples", "50"]) == 0
    printed = capsys.readouterr().out
    saved = json.loads((tmp_path / "out/where_it_looks.json").read_text())
    assert printed == table(saved) + "\n" == (tmp_path / "out/where_it_looks.txt").read_text()
    assert printed.startswith("reads 2 segments of 4 tokens, which every head of a position chooses\n2 of 3 examples")
    assert f"{saved['segments']['share']:.1%}" in printed
    assert (tmp_path / "out/where_it_looks.png").read_bytes().startswith(b"\x89PNG")
    assert main([*command, "--json", "--bootstrap-samples", "50"]) == 0
    assert json.loads(capsys.readouterr().out) == saved


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("full", "the whole source"),
        ("hepos", "each head one of 2"),
        ("srformer", "recurrent memory adds of all others has no weights"),
        ("pooled", "means of all others"),
        ("previous", "the segment visited before"),
    ],
)
def test_it_says_what_the_weights_are_of(kind, words):
    assert words in what_is_read(build_model(**SETTINGS[kind]))


@pytest.mark.parametrize(
    ("spans", "options", "message"),
    [
        (SPANS[:2], [], "has 2 lines, but test of .* 3 examples: give the spans of that split"),
        (
            [*SPANS[:2], SPANS[2].first(6)],
            [],
            "spans:3: of a source of 6 subwords, but that of example 2 has 7: give the file that data_prep.encode",
        ),
        (SPANS, ["--gen-subset", "valid"], "Dataset not found: valid"),
        (SPANS, ["--max-source-positions", "65"], "--max-source-positions 65: it must be .* at most the model's 64"),
        (SPANS, ["--max-source-positions", "1"], "--max-source-positions 1: it must be at least 2"),
        (SPANS, ["--device", "nowhere"], "--device nowhere cannot be used"),
        (SPANS, ["--device", "meta"], "--device meta cannot be used"),
        ([one._replace(spans=()) for one in SPANS], [], "no example has relevant tokens that are read"),
    ],
)
def test_bad_input_is_one_line(spans, options, message, data, full, tmp_path, capsys):
    path = write_spans(tmp_path / "spans", spans)
    assert main([str(data), "--path", str(full), "--spans", str(path), *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(message, error)


def test_spans_that_are_damaged_are_named(data, full, tmp_path, capsys):
    path = tmp_path / "spans"
    path.write_text("{}\n")
    assert main([str(data), "--path", str(full), "--spans", str(path)]) == 2
    assert f"error: {path}:1: no line of spans" in capsys.readouterr().err


def test_a_folder_without_data_is_one_line(full, data, tmp_path, capsys):
    (tmp_path / "nothing").mkdir()
    assert main([str(tmp_path / "nothing"), "--path", str(full), "--spans", str(data / "spans")]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: ")


def test_a_context_is_no_part_of_the_answer():
    """`segments_read` takes a bare mask as well as what the decoder makes of it."""
    model = build_model(**SETTINGS["content"])
    attention, states = model.decoder.layers[0].encoder_attn, torch.randn(9, 2, 64)
    mask = torch.tensor([[True] * 3 + [False] * 6, [False] * 9])
    query = torch.randn(3, 2, model.decoder.embed_dim)
    one, other = (attention.segments_read(query, states[..., : query.size(2)], m) for m in (mask, SourceContext(mask)))
    assert torch.equal(one, other)
