"""What a plan's report counts and compares: costs, measures, estimates."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from recipes.evidence.comparison import difference, estimate, over_seeds
from recipes.evidence.cost import cost, head_size, options_of
from recipes.evidence.measures import losses, read_cell, scores, speed
from recipes.evidence.report import sizes
from srformer_plugin.attention.cross_attention import SegmentedCrossAttention
from srformer_plugin.attention.hepos import HeposCrossAttention
from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.attention.source_context import SourceContext


def shares(flags, source=1024, targets=128, arch="srformer_bart"):
    found = cost(["--arch", arch, *flags.split()], [source], targets)
    return found.keys, found.operations


# ---- cost ----


def test_full_attention_is_the_measure():
    assert shares("--cross-attention full") == (1, 1)


@pytest.mark.parametrize("flags", ["--cross-attention segmented", "--cross-attention previous"])
def test_one_segment_is_full_attention(flags):
    assert shares(f"{flags} --segment-size 1024") == (1, 1)


def test_as_many_chosen_segments_as_there_are_is_full_attention():
    flags = "--cross-attention segmented --segment-schedule content --segments-per-query 64 --segment-size 16"
    assert shares(flags) == (1, 1)


@pytest.mark.parametrize(
    "flags, keys, operations",
    [
        ("hepos --head-stride 4", 1 / 4, 1 / 4),
        ("hepos --head-stride 6 --segment-schedule content", 1 / 6, 1 / 6),
        ("segmented --segment-size 64", 64 / 1024, 64 / 1024),
        # the paper's cell: 40.6% fewer at s = 64; 45.3% at s = 16 without the clip (docs/attention.md, section 6)
        ("srformer --segment-size 64", 64 / 1024, 1 - 0.406),
        ("srformer --segment-size 16 --kv-clamp 0", 16 / 1024, 1 - 0.453),
        # 8 positions each in 16 segments; all but the first 8 positions see two
        ("previous --segment-size 64", 64 / 1024 * (2 - 1 / 16), 64 / 1024 * (2 - 1 / 16)),
        ("pooled --segment-size 64", (64 + 15) / 1024, (64 + 15) / 1024 + 1 / 128),
        (
            "segmented --segment-schedule content --segments-per-query 8 --segment-size 16",
            128 / 1024,
            128 / 1024 + 1 / 32 + 1 / 256,
        ),
        (
            "pooled --segment-schedule content --segments-per-query 8 --segment-size 16",
            (128 + 56) / 1024,
            (128 + 56) / 1024 + 1 / 32 + 1 / 128,
        ),
    ],
)
def test_shares_of_full_attention(flags, keys, operations):
    assert shares(f"--cross-attention {flags}") == pytest.approx((keys, operations), abs=1e-3)


@pytest.mark.parametrize(
    ("flags", "share"),
    [
        ("full", 1),
        ("srformer", 1),
        ("pooled --segment-schedule content", 1),
        # 8 heads, 4 slots: a token is projected for 2 of them
        ("hepos --head-stride 4", 2 / 8),
        ("hepos --head-stride 4 --max-source-positions 256", 2 / 8 * 256 / 1024),
        ("full --max-source-positions 256", 256 / 1024),
    ],
)
def test_projections_of_a_source_are_counted_by_themselves(flags, share):
    words = ["--arch", "srformer_bart", "--cross-attention", *flags.split()]
    assert cost(words, [1024], 128).projections == pytest.approx(share)


@pytest.mark.parametrize("kind", ["hepos", "segmented", "srformer"])
def test_projections_are_counted_as_the_code_computes_them(kind):
    """Of 64 states of 24 numbers and 4 heads of 6; 4 N C H D operations are full attention's."""
    settings = SegmentSettings(cross_attention=kind, head_stride=2, segment_size=8, expected_target_length=16)
    states, context = torch.randn(64, 1, 24), SourceContext(None)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if kind == "hepos":
            HeposCrossAttention(24, 4, settings).split_source(states, context)
        else:
            SegmentedCrossAttention(24, 4, settings).project_source(states, context)
    words = ["--arch", "srformer_bart", "--cross-attention", kind, "--head-stride", "2"]
    share = cost(words, [64], 16).projections
    assert counter.get_total_flops() == 4 * 64 * 24 * 24 * share


def test_the_clock_counts_a_short_last_segment():
    # 3 segments of 4, 4 and 1 tokens, 3 positions each
    flags = "--cross-attention segmented --segment-size 4"
    assert shares(flags, 9, 9)[0] == pytest.approx(3 / 9)
    # all positions from the third on are beyond the expected length: the last segment
    assert shares(f"{flags} --expected-target-length 3", 9, 9)[0] == pytest.approx((4 + 4 + 7) / 9 / 9)


@pytest.mark.parametrize(
    ("flags", "arch", "spelled_out"),
    [
        ("", "srformer_bart", "--cross-attention srformer --segment-size 64 --kv-clamp 2"),
        ("--segment-size 16", "srformer_t5", "--segment-size 16 --kv-clamp 0"),
        (
            "",
            "srformer_bart_content",
            "--cross-attention segmented --segment-schedule content --segment-size 16 --segments-per-query 8",
        ),
        ("--segment-schedule content --segment-size 16", "srformer_bart",
         "--segment-schedule content --segment-size 16 --segments-per-query 8"),
        ("", "srformer_led", "--cross-attention full"),
    ],
)  # fmt: skip
def test_what_no_flag_says_is_what_the_training_takes(flags, arch, spelled_out):
    assert shares(flags, arch=arch) == shares(spelled_out)


@pytest.mark.parametrize(
    "flags, head",
    [
        ("--arch srformer_bart", 64),
        ("--arch srformer_bart --decoder-embed-dim 512 --decoder-attention-heads 4", 128),
        ("--arch srformer_bart_tiny", 16),
        ("--arch srformer_led_tiny", 16),
        ("--arch srformer_t5", 64),
        ("--arch srformer_t5_base --decoder-embed-dim 512 --decoder-attention-heads 2", 64),
        ("--arch srformer_t5 --d-kv 32", 32),
        ("--arch srformer_t5_tiny", 8),
    ],
)
def test_costs_are_counted_with_the_heads_of_the_model(flags, head):
    assert head_size(options_of(flags.split())) == head


def test_a_system_that_cuts_its_sources_is_counted_beside_full_attention_to_the_whole():
    assert shares("--cross-attention full --max-source-positions 256") == (1 / 4, 1 / 4)
    assert shares("--cross-attention full --max-source-positions 4096") == (1, 1)
    content = "--cross-attention segmented --segment-schedule content --segments-per-query 8 --segment-size 16"
    keys, operations = shares(content, 512)
    assert shares(f"{content} --max-source-positions 512") == pytest.approx((keys / 2, operations / 2))


def test_costs_are_means_over_the_sources():
    flags = ["--arch", "srformer_bart", "--cross-attention", "segmented", "--segment-size", "100"]
    assert cost(flags, [100, 200], 10).keys == pytest.approx((1 + 0.5) / 2)


class OfAnOlderNumPy(np.ndarray):
    """Before 2.1 an array is clipped by a bound at least."""

    def clip(self, min=None, max=None, out=None):
        assert not (min is None and max is None)
        return super().clip(min, max, out)


@pytest.mark.parametrize(("flags", "lengths"), [([], [3, 5]), (["--max-source-positions", "4"], [3, 4])])
def test_sources_are_counted_as_they_are_cut(flags, lengths, tmp_path, monkeypatch):
    (tmp_path / "encoded").mkdir()
    (tmp_path / "encoded/test.source").write_text("a b\na b c d\n")
    (tmp_path / "encoded/test.target").write_text("a\n\n")
    made = np.array
    monkeypatch.setattr(np, "array", lambda *words, **more: made(*words, **more).view(OfAnOlderNumPy))
    plan = SimpleNamespace(train=["--arch", "srformer_bart_tiny", *flags])
    sources, targets = sizes(plan, SimpleNamespace(out=tmp_path))
    assert (sources.tolist(), targets) == (lengths, 1.5)


# ---- comparison ----


@pytest.fixture
def systems():
    """Two systems, three seeds, 400 texts: the second is better by 2 on every text, but for noise."""
    rng = np.random.default_rng(0)
    texts = rng.normal(30, 10, (400, 1))
    return [{seed: texts + shift + rng.normal(0, 1, (400, 3)) for seed in (1, 2, 3)} for shift in (0.0, 2.0)]


def test_a_difference_is_paired_by_text(systems):
    worse, better = systems
    found = difference(better, worse)
    assert found.mean == pytest.approx([2, 2, 2], abs=0.2)
    low, high = found.over_texts
    assert np.all(low > 1.8) and np.all(high < 2.2)
    # texts differ by 10, so the intervals of the systems themselves overlap
    assert estimate(better).over_texts[0][0] < estimate(worse).over_texts[1][0]
    assert np.all(found.p_values < 0.01)


def test_a_system_does_not_differ_from_itself(systems):
    found = difference(systems[0], systems[0])
    assert not found.mean.any()
    assert found.p_values == pytest.approx([1, 1, 1])


def test_only_seeds_that_both_have_are_compared(systems):
    worse, better = systems
    found = difference({2: better[2], 9: better[3] + 50}, worse)
    assert found.seeds == (2,)
    assert found.mean == pytest.approx([2, 2, 2], abs=0.3)
    assert found.over_seeds is None
    assert difference({9: better[3]}, worse) is None


def test_the_interval_over_seeds_is_students():
    # mean 2, standard deviation 1, t of 2 degrees of freedom 4.303
    low, high = over_seeds(np.array([[1.0], [2.0], [3.0]]))
    assert (low[0], high[0]) == pytest.approx((2 - 4.303 / math.sqrt(3), 2 + 4.303 / math.sqrt(3)))
    assert over_seeds(np.ones((1, 2))) is None


# ---- measures ----


TRAINING = """
2026-01-01 | INFO | train_inner | {"epoch": 1, "loss": "9.1", "nll_loss": "9.0", "num_updates": "50"}
2026-01-01 | INFO | valid | {"epoch": 1, "valid_loss": "8.1", "valid_nll_loss": "8", "valid_num_updates": "100"}
2026-01-01 | INFO | train | {"epoch": 1, "train_loss": "8.1", "train_nll_loss": "7.9", "train_wall": "31.5"}
2026-01-01 | INFO | valid | {"epoch": 2, "valid_loss": "6.1", "valid_nll_loss": "6", "valid_num_updates": "200"}
2026-01-01 | INFO | train | {"epoch": 2, "train_loss": "6.1", "train_nll_loss": "5.9", "train_wall": "63.0"}
"""
VALIDATION = '2026-01-01 | INFO | valid | {"epoch": 1, "valid_loss": "8.1", "valid_nll_loss": "8"}\n'
DECODING = "D-0\t-0.5\ta text\n2026-01-01 | INFO | fairseq_cli.generate | Translated 2,000 sentences (130,000 tokens) "
DECODING += "in 65.0s (30.77 sentences/s, 2000.00 tokens/s)\n"


def test_the_loss_is_that_of_the_last_validation_in_nats(tmp_path):
    (tmp_path / "log").write_text(TRAINING)
    assert losses(tmp_path / "log") == (pytest.approx(6 * math.log(2)), 63.0)
    (tmp_path / "log").write_text(VALIDATION)
    assert losses(tmp_path / "log") == (pytest.approx(8 * math.log(2)), None)


@pytest.mark.parametrize("place", ["generate-test.txt", "generate.log"])
def test_the_speed_is_what_fairseq_generate_says_wherever_it_says_it(tmp_path, place):
    paths = [tmp_path / "generate-test.txt", tmp_path / "generate.log"]
    for path in paths:
        path.write_text("D-0\t-0.5\ta text\n")
    assert speed(*paths) == (None, None)
    (tmp_path / place).write_text(DECODING)
    assert speed(*paths) == (2000.0, 65.0)


def test_a_cell_says_which_stages_have_not_finished(tmp_path):
    for folder in (".stages", "logs"):
        (tmp_path / folder).mkdir()
    assert read_cell(tmp_path, "full.1", ["train", "score"]).missing == ["train", "score"]
    (tmp_path / "logs/train.log").write_text(TRAINING)
    (tmp_path / ".stages/train.json").write_text(json.dumps({"state": "finished"}))
    (tmp_path / ".stages/score.json").write_text(json.dumps({"state": "started"}))
    found = read_cell(tmp_path, "full.1", ["train", "score"])
    assert (found.missing, found.complete, found.rouge) == (["score"], False, None)
    assert found.loss == pytest.approx(6 * math.log(2))


def test_scores_are_of_the_three_kinds_text_by_text(tmp_path):
    rows = [{"index": index, "rouge1": 30.5, "rouge2": 10.0, "rougeL": 1.0, "rougeLsum": index} for index in range(3)]
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert scores(tmp_path / "examples.jsonl").tolist() == [[30.5, 10, 0], [30.5, 10, 1], [30.5, 10, 2]]
