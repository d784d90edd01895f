"""Plans of experiments: what a TOML file may say."""

from pathlib import Path

import pytest

from recipes.evidence.plan import START, PlanError, read_plan
from recipes.evidence.work import SYMBOLS, Place, cell_stages, value_of
from recipes.later_arguments import refused
from recipes.options import TABLE
from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.models.encoders.settings import EncoderSettings

KINDS = (SegmentSettings, EncoderSettings)
ROOT = Path(__file__).resolve().parents[3]
PLANS = sorted((ROOT / "recipes/plans").glob("*.toml"))
PLAN = """
title = "A plan"
[data]
encode = "--bpe sentencepiece --max-source 64"
[train]
flags = "--arch srformer_bart_tiny --adam-betas '(0.9, 0.98)'"
[start]
updates = 6
[adapt]
updates = 3
[decode]
flags = "--beam 2"
[report]
against = ["full"]
[[system]]
name = "full"
flags = "--cross-attention full"
seeds = [1, 2]
[[system]]
name = "Segments of 8"
flags = "--cross-attention segmented --segment-size 8"
updates = 5
"""


@pytest.fixture
def plan(tmp_path):
    """`plan(old, new)`: the plan with one passage in place of another."""

    def read(old="", new=""):
        assert old in PLAN
        path = tmp_path / "plan.toml"
        path.write_text(PLAN.replace(old, new, 1) if old else PLAN, encoding="utf-8")
        return read_plan(path)

    return read


def test_a_plan_is_read_with_its_defaults(plan):
    found = plan()
    assert found.train == ("--arch", "srformer_bart_tiny", "--adam-betas", "(0.9, 0.98)")
    assert found.data["format"] == "lines"
    assert found.start == {"updates": 6, "flags": (), "passes": 0, "share": 0.6, "short": []}
    assert [(system.updates, system.seeds) for system in found.systems] == [(3, (1, 2)), (5, (1,))]
    assert found.against == ("full",)


def test_runs_have_the_order_of_the_file_after_the_start(plan):
    assert [cell.name for cell in plan().cells] == [START, "full.1", "full.2", "segments-of-8.1"]


def test_a_plan_without_a_start_has_none(plan):
    assert plan("[start]\nupdates = 6\n", "").start is None


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("updates = 6", "updates = 0", "start.updates = 0 is not a whole number above 0"),
        ("updates = 6", "updates = true", "start.updates = True is not a int"),
        ("updates = 6", "updates = 6\nshare = 2", "start.share between 0 and 1"),
        ("updates = 6", "updates = 6\nshort = [8]", "start.short needs start.passes"),
        ("updates = 6", "updates = 6\npasses = 1\nshort = [0]", "start.short = 0 is not a whole number above 0"),
        ("updates = 6", "epochs = 6", "start.epochs is not known; known here: updates"),
        ("updates = 3", "", "adapt.updates is missing"),
        ("[decode]", "[decoding]", "decoding is not known"),
        ('title = "A plan"', "", "title is missing"),
        ("seeds = [1, 2]", "seeds = [1, 1]", "system 'full': seeds = [1, 1] is not a list of different numbers"),
        ("seeds = [1, 2]", "seeds = []", "system 'full': seeds = []"),
        ("updates = 5", "updates = -5", "system.updates = -5"),
        ('"Segments of 8"', '"FULL!"', "'FULL!' of a system is empty, or too like 'full'"),
        ('"Segments of 8"', '"start"', "too like 'start'"),
        ('against = ["full"]', 'against = ["half"]', "report.against: there is no system 'half'"),
        ('"--beam 2"', '"--beam \'2"', "decode: No closing quotation"),
        ("[data]", "[data", "not TOML"),
        ("[[system]]", "[system]", "Cannot"),
    ],
)
def test_what_cannot_be_carried_out_is_one_line_that_names_the_file(plan, old, new, message):
    with pytest.raises(PlanError) as found:
        plan(old, new)
    (line,) = str(found.value).splitlines()
    assert "plan.toml: " in line
    if message != "Cannot":
        assert message in line


def test_a_plan_without_systems_is_refused(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.split("[[system]]")[0])
    with pytest.raises(PlanError, match=r"there is no \[\[system\]\]"):
        read_plan(path)


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_the_settings_of_every_plan_are_such_as_the_models_take(path):
    """A plan cannot rot: its flags of attention are parsed and checked as fairseq-train does it."""
    import argparse

    from fairseq.dataclass.utils import gen_parser_from_dataclass

    from srformer_plugin.optim.fused_adam import FusedAdamConfig

    found = read_plan(path)
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for settings in (*KINDS, FusedAdamConfig):
        gen_parser_from_dataclass(parser, settings())
    parser.add_argument("--max-source-positions", type=int)
    for system in found.systems:
        for settings in KINDS:
            settings.from_namespace(parser.parse_args(system.flags)).check()
    assert set(found.against) <= {system.name for system in found.systems}


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_the_training_of_every_plan_is_such_as_fairseq_train_takes(path, monkeypatch):
    monkeypatch.chdir(ROOT)  # where commands run, and find the plugin
    plan = read_plan(path)
    training = cell_stages(plan, Place(Path("out"), Path("raw")), plan.cells[1])[0]
    assert training.commands[0].words[0] == "fairseq-train"
    assert refused(training) is None


def test_t5_is_compared_on_the_data_and_in_the_steps_of_bart():
    t5, bart = (read_plan(ROOT / f"recipes/plans/{name}.toml") for name in ("t5", "content"))
    assert (t5.data, t5.decode) == (bart.data, bart.decode)
    assert {name: value for name, value in t5.start.items() if name != "flags"} == {
        name: value for name, value in bart.start.items() if name != "flags"
    }
    flags = {
        system.name: system.flags
        for name in ("content", "paper")
        for system in read_plan(ROOT / f"recipes/plans/{name}.toml").systems
    }
    assert all(system.flags == flags[system.name] for system in t5.systems)
    assert all(system.updates == bart.systems[0].updates for system in t5.systems)


def test_the_papers_own_table_is_trained_as_its_recipe_trains():
    plan = read_plan(ROOT / "recipes/plans/bart_cnn_dailymail.toml")
    script = (ROOT / "recipes/cnn_dailymail.sh").read_text(encoding="utf-8")
    defaults = {option.name: option.default for section in TABLE.values() for option in section}
    found = {word: value_of([*plan.train, *plan.adapt], f"--{word}", None) for word in defaults}
    shared = ("batch-size", "lr", "warmup-updates", "dropout", "label-smoothing", "clip-norm")
    assert {name: found[name] for name in shared} == {name: defaults[name] for name in shared}
    assert value_of(plan.train, "--attention-dropout", None) == defaults["dropout"]
    for flag in ("--criterion", "--optimizer", "--weight-decay"):
        assert f"{flag} {value_of(plan.train, flag, None)} " in script


def test_the_symbols_of_copying_examples_are_those_of_the_tool():
    from srformer_plugin.tools.marked_sentences import MARK, MASK

    assert SYMBOLS == ("--add", MARK, "--add", MASK)
