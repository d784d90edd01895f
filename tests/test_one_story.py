"""The commands of docs/one_story.md, and what the page says that they print."""

import os
import re
import subprocess
from pathlib import Path

import fairseq
import pytest
import warm
from conftest import ROOT

PAGE = (ROOT / "docs" / "one_story.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```\n(?:\n```\n(.*?)^```\n)?", PAGE, flags=re.M | re.S)
COMMANDS, TOLD = [commands for commands, _ in BLOCKS], [text.splitlines() for _, text in BLOCKS]
SHARES = "share that fires "
CLONE = ("data_prep", "docs", "srformer_plugin")


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The lines on standard output of every block, all of them pasted into one shell in a folder like a clone."""
    clone = tmp_path_factory.mktemp("clone")
    for name in CLONE:
        (clone / name).symlink_to(ROOT / name)
    script = "set -euo pipefail\n" + "".join(f"{commands}printf '\\0'\n" for commands in COMMANDS)
    path = os.pathsep.join((str(warm.programs()), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        encoding="utf-8",
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        timeout=280,
        cwd=clone,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in clone.iterdir()} == {*CLONE, "one_story"}  # where the page says that all is written
    return [[line.rstrip() for line in text.splitlines()] for text in done.stdout.split("\0")[:-1]]


@pytest.mark.slow
def test_every_block_prints_what_stands_below_it(printed):
    """But for numbers that trained weights decide, which another processor may round otherwise."""
    assert [bool(lines) for lines in TOLD] == [False, True, True, True, True]
    assert list(map(without_weights, printed)) == list(map(without_weights, TOLD))


def without_weights(lines):
    """Lines without the shares that fire, and without the column of segments chosen by content."""
    return [SHARES if line.startswith(SHARES) else re.sub(r"\t\[[\d, ]+\]\t", "\t[]\t", line) for line in lines]


@pytest.mark.slow
def test_the_memory_fires_about_as_often_as_on_the_page(printed):
    ran, told = ([float(share) for share in shares_of(lines)] for lines in (printed[2], TOLD[2]))
    assert len(told) == 2 * 6
    # a short training at a high rate: how a processor rounds moves single shares by more than all of them
    assert ran == pytest.approx(told, abs=0.2)
    assert sum(ran) / len(ran) == pytest.approx(sum(told) / len(told), abs=0.1)


def shares_of(lines):
    (line,) = (line for line in lines if line.startswith(SHARES))
    return line.removeprefix(SHARES).split()


@pytest.mark.slow
def test_two_heads_choose_two_segments_each(printed):
    for rows in (printed[3], TOLD[3]):
        chosen = [[int(number) for number in re.findall(r"\d+", row.split("\t")[2])] for row in rows[1:]]
        assert len(chosen) == 7 and max(map(len, chosen)) > 2
        assert all(row == sorted(set(row)) and 2 <= len(row) <= 4 and max(row) < 6 for row in chosen)


def test_every_module_that_is_named_exists():
    stock = Path(fairseq.__file__).parent
    plugin = ROOT / "srformer_plugin"
    places = (ROOT, plugin, plugin / "attention" / "method", stock, stock.parent)
    table = PAGE[PAGE.index("| step |") :]
    names = re.findall(r"`([\w/]+(?:\.py|/))`", table)
    assert len(names) > 15
    assert [name for name in names if not any((place / name).exists() for place in places)] == []
