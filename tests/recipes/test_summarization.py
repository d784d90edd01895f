"""The recipes of the four data sets and of one's own data, end to end.

They run on the real sample files where those are, repeated, and otherwise on made-up ones of the same form.
"""

import json
import re
import shlex
import signal
import subprocess
import time

import pytest
import sentencepiece
import warm
from conftest import run_side_by_side, sentence_pairs
from helpers import free_port
from raw_corpora import real_files, repeat_real, write_corpus, write_gpt2
from recipe_runs import FRESH, RECIPES, SIZES, TINY, TINY_ARCH, command, documents, environment, recipe


def check_experiment(out, name, model):
    """What a finished experiment must hold."""
    score = json.loads((out / "score" / "score.json").read_text())
    assert f"| {score['rouge1']:.2f} (" in (out / "score" / "score.txt").read_text()
    assert len((out / "score" / "examples.jsonl").read_text().splitlines()) == SIZES["test"]
    generated = (out / "generate" / "generate-test.txt").read_text(encoding="utf-8")
    assert len(re.findall(r"^D-\d+\t", generated, flags=re.M)) == SIZES["test"]
    lines = [json.loads(line) for line in (out / "train" / "train.log").read_text().splitlines() if line[:2] == '{"']
    assert max(int(line["valid_num_updates"]) for line in lines if "valid_rouge1" in line) == 6
    assert sorted(path.name for path in (out / "train").glob("*.pt")) == ["checkpoint_best.pt", "checkpoint_last.pt"]
    settings = json.loads((out / "settings.json").read_text())
    assert settings["recipe"] == name
    assert settings["seed"] == 1
    assert settings["settings"]["arch"] == TINY_ARCH[model]
    assert settings["settings"]["lr"] == "1e-2"
    assert settings["command"][:2] == ["bash", str(RECIPES / f"{name}.sh")]
    assert settings["versions"].keys() >= {"python", "torch", "srformer-plugin"}
    assert re.fullmatch(r"[0-9a-f]{40}", settings["commit"])


@pytest.fixture(scope="session")
def raw_folder(tmp_path_factory):
    """`raw_folder(format)`: raw files in that format."""
    folder = tmp_path_factory.mktemp("raw")

    def make(name):
        if real_files() is not None and not name.startswith("fields"):
            repeat_real(name, folder / name, SIZES)
        elif name == "pubmed":
            write_corpus("arxiv", folder / name, documents())
        else:
            write_corpus(name, folder / name, documents())
        return folder / name

    return make


@pytest.mark.parametrize(
    ("name", "raw", "options"),
    [
        ("cnn_dailymail", "cnn_dailymail", []),
        ("arxiv", "pubmed", ["--dataset", "pubmed"]),
        ("mediasum", "mediasum", []),
    ],
)
def test_raw_files_of_each_data_set_become_lines(name, raw, options, raw_folder, tmp_path):
    arguments = ["--raw", raw_folder(raw), "--init", "scratch", "--bpe", "sentencepiece", "--workers", 1, *options]
    recipe(name, *arguments, "--out", tmp_path / "out", "--to", "prepare")
    lines = (tmp_path / "out/corpus/test.target").read_text(encoding="utf-8").splitlines()
    assert len(lines) == SIZES["test"]
    settings = json.loads((tmp_path / "out/settings.json").read_text())
    assert settings["recipe"] == ("pubmed" if name == "arxiv" else name)
    assert "lr" not in settings["settings"]


@pytest.mark.slow
def test_ones_own_files_become_scores(raw_folder, tmp_path):
    fields = ["--source-field", "text", "--target-field", "summary", "--raw", raw_folder("fields_jsonl")]
    tiny = [*TINY, *fields, "--arch", TINY_ARCH["bart"], "--bpe", "sentencepiece"]
    shown = recipe("custom", *tiny, "--out", tmp_path / "bart", **FRESH).stdout
    assert len(shown.splitlines()) < 30
    assert "arning" not in shown
    check_experiment(tmp_path / "bart", "custom", "bart")
    marks = {part: " <q> " in (tmp_path / "bart" / part / "train.target").read_text() for part in ("corpus", "encoded")}
    assert marks == {"corpus": True, "encoded": False}
    # nothing is left to do
    before = (tmp_path / "bart/settings.json").read_bytes()
    again = recipe("custom", *tiny, "--out", tmp_path / "bart", "--to", "score").stdout
    assert again.count("done before") == 6
    assert again.endswith((tmp_path / "bart" / "score" / "score.txt").read_text())
    assert (tmp_path / "bart/settings.json").read_bytes() == before


@pytest.fixture(scope="session")
def t5_tokenizer(tmp_path_factory):
    """A SentencePiece model with T5's special ids."""
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [text for pair in sentence_pairs(40, seed=3) for text in pair]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(folder / "spiece"),
        vocab_size=120,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return folder / "spiece.model"


@pytest.mark.slow
def test_xsum_with_the_vocabularies_of_the_published_models(raw_folder, t5_tokenizer, tmp_path):
    """BART with GPT-2's BPE, T5 with a tokenizer of its kind."""
    raw = ["--raw", raw_folder("xsum")]
    if real_files() is None:
        write_gpt2(tmp_path / "gpt2")
        bart = ["--gpt2-files", tmp_path / "gpt2", "--encode-args", "--own-vocabulary"]
    else:
        bart = ["--gpt2-files", real_files() / "gpt2_bpe"]
    t5 = ["--model", "t5", "--arch", TINY_ARCH["t5"], "--spiece", t5_tokenizer, "--out", tmp_path / "t5"]
    runs = [
        command("xsum", *raw, *TINY, *bart, "--arch", TINY_ARCH["bart"], "--out", tmp_path / "bart"),
        command("xsum", *raw, *TINY, *t5),
    ]
    run_side_by_side(*(["env", f"PYTHON={warm.programs()}/python", *run] for run in runs))
    for model in TINY_ARCH:
        check_experiment(tmp_path / model, "xsum", model)
    dictionary = (tmp_path / "t5" / "data" / "dict.source.txt").read_text().splitlines()
    assert any(line.startswith("<extra_id_0> ") for line in dictionary)
    # BART's text is text again and no numbers
    hypotheses = re.findall(r"^D-\d+\t\S+\t(.*)$", (tmp_path / "bart/generate/generate-test.txt").read_text(), re.M)
    assert not all(re.fullmatch(r"[\d ]*", text) for text in hypotheses)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """An experiment whose data are binarised, of made-up line files."""
    folder = tmp_path_factory.mktemp("data")
    write_corpus("lines", folder / "raw", documents())
    options = [*TINY, "--arch", TINY_ARCH["bart"], "--bpe", "sentencepiece"]
    recipe("custom", "--raw", folder / "raw", "--out", folder / "out", *options, "--to", "binarise")
    return folder / "out"


def training(data, out, *more):
    """The arguments of a training on those data."""
    own = ["--arch", TINY_ARCH["bart"], "--bpe", "sentencepiece", "--data-from", data, "--out", out, "--to", "train"]
    return [*TINY, *own, *more]


@pytest.mark.slow
def test_two_nodes_train_one_model_with_the_batch_that_was_asked_for(data, tmp_path):
    master = f"127.0.0.1:{free_port()}"
    nodes = ["--nodes", "2", "--master", master, "--node-rank"]
    run_side_by_side(
        *(
            [
                "env",
                f"PYTHON={warm.programs()}/python",
                *command("custom", *training(data, tmp_path / "out", *nodes, rank)),
            ]
            for rank in (0, 1)
        )
    )
    log = (tmp_path / "out/logs/train.log").read_text()
    assert "training on 2 devices" in log
    assert "process 1 of 2" in log
    assert "process 2 of 2" in (tmp_path / "out/logs/train.node1.log").read_text()
    # an epoch is 40 / 8 updates, as with one process; two models would have taken 10 updates of 4 each
    assert "grouped total_num_itrs = 5" in log
    epoch = json.loads(re.findall(r"\| train \| (\{.*\})", log)[0])
    assert float(epoch["train_bsz"]) == pytest.approx(8)


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_last_checkpoint(data, tmp_path):
    out = tmp_path / "out"
    arguments = training(data, out, "--max-update", "4000", "--train-args", "--max-update 30 --stop-min-lr -1")
    endless = training(data, out, "--max-update", "4000", "--train-args", "--max-update 4000 --stop-min-lr -1")
    process = subprocess.Popen(
        command("custom", *endless),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(**FRESH),
    )
    deadline = time.monotonic() + 120
    while not (out / "train/checkpoint_last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    # while it works nobody else may
    second = recipe("custom", *endless, check=False)
    assert second.returncode == 2
    assert f"another run is at work in {out}" in second.stdout
    process.send_signal(signal.SIGTERM)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert "again to go on where it stopped" in text.splitlines()[-1]
    # other settings do not cost the checkpoints
    changed = recipe("custom", *arguments, check=False)
    assert changed.returncode == 2
    assert "before: --max-update 4000\n" in changed.stdout
    assert "now:    --max-update 30\n" in changed.stdout
    assert "--changed keep" in changed.stdout
    last = out / "train/checkpoint_last.pt"
    content = last.read_bytes()
    last.write_bytes(content[: len(content) // 2])
    damaged = recipe("custom", *arguments, "--changed", "keep", check=False)
    assert damaged.returncode != 0
    assert f"error: {last} is no fairseq checkpoint: it is damaged or cut off" in damaged.stdout
    last.write_bytes(content)
    recipe("custom", *arguments, "--changed", "keep")
    log = (out / "logs/train.log").read_text()
    updates = int(re.search(r"Loaded checkpoint .*checkpoint_last.pt \(epoch \d+ @ (\d+) updates\)", log)[1])
    assert updates >= 4
    assert json.loads((out / ".stages/train.json").read_text())["state"] == "finished"
    # and another training may start from it
    start = out / "train/checkpoint_best.pt"
    recipe(
        "custom",
        *training(
            data, tmp_path / "second", "--init", start, "--dict", data / "data/dict.source.txt", "--max-update", "2"
        ),
    )
    log = (tmp_path / "second/logs/train.log").read_text()
    assert f"loading pretrained model from {start}" in log


# ---- one stage of a real recipe -----------------------------------------------------------------------------


@pytest.fixture
def lines(tmp_path):
    write_corpus("lines", tmp_path / "raw", documents())
    raw = ["--raw", tmp_path / "raw", "--out", tmp_path / "out"]
    return [*raw, "--cpu", "--init", "scratch", "--bpe", "sentencepiece", "--workers", 1]


def test_changed_settings_stop_and_keep_the_files_until_told_otherwise(lines, tmp_path):
    recipe("custom", *lines, "--only", "prepare")
    target = tmp_path / "out/corpus/train.target"
    before, settings = target.read_text(), (tmp_path / "out/settings.json").read_bytes()
    changed = [*lines, "--only", "prepare", "--prepare-args", "--max-target-words 2"]
    done = recipe("custom", *changed, check=False)
    assert done.returncode == 2
    assert "now:    --max-target-words 2\n" in done.stdout
    assert "--changed redo" in done.stdout
    assert target.read_text() == before
    assert (tmp_path / "out/settings.json").read_bytes() == settings
    recipe("custom", *changed, "--changed", "redo")
    assert target.read_text() != before
    # how many processes do the work changes nothing
    assert "prepare: done before" in recipe("custom", *changed, "--workers", 2).stdout


def test_a_failed_stage_says_how_to_go_on(lines, tmp_path):
    (tmp_path / "raw/test.target").write_text("too short\n")
    done = recipe("custom", *lines, check=False)
    assert done.returncode == 2
    text = done.stdout[done.stdout.index("test.source: more lines than the 1 of its other side") :]
    assert f"Read {tmp_path}/out/logs/prepare.log, then run" in text
    again = shlex.split(re.search(r'run "(bash .*)" again', text)[1])
    assert again == command("custom", *lines)


def test_arguments_of_a_later_stage_are_tried_before_the_first(lines, tmp_path):
    done = recipe("custom", *lines, "--score-args", "--jsonn", check=False)
    assert (done.returncode, done.stdout) == (2, "error: --score-args --jsonn: unrecognized arguments: --jsonn\n")
    assert not (tmp_path / "out").exists()
