"""Nothing in README points into the void, and every flag of the attention is documented."""

import re
from pathlib import Path

from conftest import ROOT

from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.models.encoders.settings import EncoderSettings

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_file_that_is_named_exists():
    names = re.findall(r"`([\w/.]+\.(?:py|sh|md|txt))`|\]\(([\w/.]+)\)", README)
    names = [a or b for a, b in names if not (a or b).endswith("dict.txt")]
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_every_flag_of_the_attention_is_documented():
    fields = (*SegmentSettings.__dataclass_fields__, *EncoderSettings.__dataclass_fields__)
    names = [name for name in fields if not name.startswith("_")]
    choices = (ROOT / "docs" / "choices.md").read_text(encoding="utf-8")
    assert [name for name in names if f"`--{name.replace('_', '-')}`" not in choices] == []


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
