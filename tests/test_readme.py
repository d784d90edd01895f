"""Nothing in README points into the void, and every flag of the attention is documented."""

import re
from pathlib import Path

from conftest import ROOT

from recipes.checks import BART_POSITIONS
from recipes.options import TABLE
from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.models.encoders.settings import EncoderSettings

KINDS = (SegmentSettings, EncoderSettings)
README = (ROOT / "README.md").read_text(encoding="utf-8")


def names_of(kind):
    return [name for name in kind.__dataclass_fields__ if not name.startswith("_")]


def test_every_file_that_is_named_exists():
    names = re.findall(r"`([\w/.]+\.(?:py|sh|md|txt))`|\]\(([\w/.]+)\)", README)
    names = [a or b for a, b in names if not (a or b).endswith("dict.txt")]
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_every_flag_of_the_attention_is_documented():
    names = [name for kind in KINDS for name in names_of(kind)]
    choices = (ROOT / "docs" / "choices.md").read_text(encoding="utf-8")
    assert [name for name in names if f"`--{name.replace('_', '-')}`" not in choices] == []


def test_the_defaults_that_the_choices_name_are_those_of_the_settings():
    defaults = {"--" + name.replace("_", "-"): getattr(kind(), name) for kind in KINDS for name in names_of(kind)}
    chunked = EncoderSettings(encoder_attention="chunked").check()
    defaults |= {"--encoder-chunk": chunked.encoder_chunk, "--encoder-positions": chunked.encoder_positions}
    shown = {False: "off", None: "none", defaults["--kv-clamp"]: f"{defaults['--kv-clamp']:g}"}
    choices = (ROOT / "docs" / "choices.md").read_text(encoding="utf-8")
    found = {}
    for flags, named in re.findall(r"^\| (`--.*?`) \| ([^|]*) \|", choices, flags=re.M):
        found |= dict(zip(re.findall(r"`(--[\w-]+)", flags), named.replace("`", "").split(", ")))
    del defaults["--expected-target-length"]  # of the data
    assert {flag: found[flag] for flag in defaults} == {flag: shown.get(v, str(v)) for flag, v in defaults.items()}
    options = {option.name: option.help for section in TABLE.values() for option in section}
    for name in ("cross-attention", "segment-size", "encoder-chunk", "encoder-context"):
        assert f"(of the architecture: {defaults[f'--{name}']})" in options[name]
    assert chunked.encoder_positions == BART_POSITIONS


def test_every_module_that_is_run_exists():
    modules = set(re.findall(r"python -m ([\w.]+)", README))
    assert modules
    assert [m for m in modules if not Path(ROOT, *m.split(".")).with_suffix(".py").exists()] == []


def test_nothing_advises_a_start_that_a_restart_after_a_kill_would_repeat():
    """fairseq-train reads --restore-file at every start, and --finetune-from-model at the first alone."""
    places = [ROOT / "README.md", *(path for folder in ("docs", "recipes") for path in (ROOT / folder).rglob("*.*"))]
    texts = {path.name: path.read_text(encoding="utf-8") for path in places if path.suffix in (".md", ".sh", ".py")}
    assert [name for name, text in texts.items() if re.search(r"--restore-file\s+\S*\w/", text)] == []
    assert "--finetune-from-model" in texts["convert.md"] and "--finetune-from-model" in texts["long.md"]
