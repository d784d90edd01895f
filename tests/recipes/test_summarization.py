"""The recipes of the four data sets and of one's own data, end to end and option by option.

End to end they run on the real sample files where those are, repeated, and otherwise on made-up ones of the same form.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import sentencepiece
from conftest import ROOT, run_side_by_side, sentence_pairs
from helpers import free_port
from raw_corpora import real_files, repeat_real, write_corpus, write_gpt2

RECIPES = ROOT / "recipes"
NAMES = ["cnn_dailymail", "xsum", "arxiv", "mediasum", "custom"]
SIZES = {"train": 40, "valid": 9, "test": 11}
TINY = [
    "--cpu", "--init", "scratch", "--max-update", "6", "--validate-every", "4", "--batch-size", "8",
    "--warmup-updates", "1", "--lr", "1e-2", "--max-source", "48", "--max-target", "96", "--min-len", "1",
    "--max-len", "12", "--beam", "2", "--workers", "1", "--vocabulary", "100",
]  # fmt: skip
TINY_ARCH = {"bart": "srformer_bart_tiny", "t5": "srformer_t5_tiny"}


def environment(**more):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") and name != "CLEAN"}
    return {**clean, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}


def command(name, *arguments):
    return ["bash", str(RECIPES / f"{name}.sh"), *map(str, arguments)]


def recipe(name, *arguments, cwd=ROOT, check=True, **more):
    """Run a recipe; returns the finished process, ``stdout`` holding standard error as well."""
    done = subprocess.run(
        command(name, *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd,
        env=environment(**more), timeout=280,
    )  # fmt: skip
    if check and done.returncode != 0:
        pytest.fail(f"{name} {' '.join(map(str, arguments))}\n{done.stdout}")
    return done


def commands(text):
    """The commands that --dry-run printed, as lists of words."""
    return [shlex.split(line) for line in text.splitlines() if line and not line.startswith("#")]


def dry_run(name, *arguments, **more):
    return commands(recipe(name, "--dry-run", *arguments, **more).stdout)


def the(program, found):
    """The one command that runs ``program``."""
    matching = [words for words in found if program in words]
    assert len(matching) == 1, found
    return matching[0]


def value(words, flag):
    """What a flag has in a command: that of its last place, as in the tools."""
    return words[len(words) - words[::-1].index(flag)]


def documents():
    """Made-up documents of two to five sentences, with summaries of two."""
    pairs = iter(sentence_pairs(sum(SIZES.values()), seed=11))
    return {
        split: [
            (f"{split}-{number}", source.replace(" . ", " .\n").split("\n"), [target, "It is so ."])
            for number, (source, target) in zip(range(size), pairs)
        ]
        for split, size in SIZES.items()
    }


# ---- end to end ---------------------------------------------------------------------------------------------


def check_experiment(out, name, model):
    """What a finished experiment must hold."""
    score = json.loads((out / "score" / "score.json").read_text())
    assert score["rouge1"] >= 0
    assert f"| {score['rouge1']:.2f} (" in (out / "score" / "score.txt").read_text()
    assert len((out / "score" / "examples.jsonl").read_text().splitlines()) == SIZES["test"]
    generated = (out / "generate" / "generate-test.txt").read_text(encoding="utf-8")
    assert len(re.findall(r"^D-\d+\t", generated, flags=re.M)) == SIZES["test"]
    lines = [json.loads(line) for line in (out / "train" / "train.log").read_text().splitlines() if line[:2] == '{"']
    assert max(int(line["valid_num_updates"]) for line in lines if "valid_rouge1" in line) == 6
    assert sorted(path.name for path in (out / "train").glob("*.pt")) == ["checkpoint_best.pt", "checkpoint_last.pt"]
    settings = json.loads((out / "settings.json").read_text())
    assert settings["recipe"] == ("pubmed" if name == "arxiv" else name)
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


def run_both(name, out, *arguments):
    """Train, decode and score BART and T5 on the same data, side by side."""
    runs = []
    for model, arch in TINY_ARCH.items():
        data = [] if model == "bart" else ["--data-from", out / "bart"]
        own = ["--model", model, "--arch", arch, "--bpe", "sentencepiece", "--from", "train"]
        runs.append(command(name, *TINY, *arguments, *data, *own, "--out", out / model))
    run_side_by_side(*(["env", f"PYTHON={sys.executable}", *run] for run in runs))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "raw", "options"),
    [
        ("cnn_dailymail", "cnn_dailymail", []),
        ("arxiv", "pubmed", ["--dataset", "pubmed"]),
        ("mediasum", "mediasum", []),
        ("custom", "fields_jsonl", ["--source-field", "text", "--target-field", "summary"]),
    ],
)
def test_raw_files_become_scores_of_both_models(name, raw, options, raw_folder, tmp_path):
    options = [*options, "--raw", raw_folder(raw)]
    if raw in ("cnn_dailymail", "pubmed") and real_files() is not None:
        options += ["--vocabulary", "400"]  # more characters
    tiny = [*TINY, "--arch", TINY_ARCH["bart"], "--bpe", "sentencepiece"]
    recipe(name, *tiny, *options, "--out", tmp_path / "bart", "--to", "binarise")
    run_both(name, tmp_path, *options)
    for model in TINY_ARCH:
        check_experiment(tmp_path / model, name, model)
    marks = {part: " <q> " in (tmp_path / "bart" / part / "train.target").read_text() for part in ("corpus", "encoded")}
    assert marks == {"corpus": name != "mediasum" or real_files() is None, "encoded": False}
    # nothing is left to do
    again = recipe(name, *tiny, *options, "--out", tmp_path / "bart").stdout
    assert again.count("done before") == 6
    assert again.endswith((tmp_path / "bart" / "score" / "score.txt").read_text())


@pytest.fixture(scope="session")
def t5_tokenizer(tmp_path_factory):
    """A SentencePiece model with T5's special ids."""
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [text for pair in sentence_pairs(40, seed=3) for text in pair]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(folder / "spiece"), vocab_size=120, character_coverage=1.0,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
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
    run_side_by_side(*(["env", f"PYTHON={sys.executable}", *run] for run in runs))
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
    run_side_by_side(*(
        ["env", f"PYTHON={sys.executable}", *command("custom", *training(data, tmp_path / "out", *nodes, rank))]
        for rank in (0, 1)
    ))  # fmt: skip
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
        command("custom", *endless), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
    )
    deadline = time.monotonic() + 120
    while not (out / "train/checkpoint_last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    # while it works nobody else may
    second = recipe("custom", *endless, check=False)
    assert second.returncode == 1
    assert f"another run is at work in {out}" in second.stdout
    process.send_signal(signal.SIGTERM)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert 'again to go on where it stopped' in text.splitlines()[-1]
    # other settings do not cost the checkpoints
    changed = recipe("custom", *arguments, check=False)
    assert changed.returncode == 1
    assert "before: --max-update 4000\n" in changed.stdout
    assert "now:    --max-update 30\n" in changed.stdout
    assert "--changed keep" in changed.stdout
    assert (out / "train/checkpoint_last.pt").exists()
    recipe("custom", *arguments, "--changed", "keep")
    log = (out / "logs/train.log").read_text()
    updates = int(re.search(r"Loaded checkpoint .*checkpoint_last.pt \(epoch \d+ @ (\d+) updates\)", log)[1])
    assert updates >= 4
    assert (out / ".stages/train.finished").exists()
    # and another training may start from it
    start = out / "train/checkpoint_best.pt"
    recipe("custom", *training(data, tmp_path / "second", "--init", start, "--max-update", "2"))
    log = (tmp_path / "second/logs/train.log").read_text()
    assert f"loading pretrained model from {start}" in log


# ---- options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_help_names_every_option_once_with_the_defaults_of_the_recipe(name):
    text = recipe(name, "--help").stdout
    table = (RECIPES / "options.sh").read_text().partition('OPTION_TABLE="')[2].partition("\n\n")[0]
    names = [line.partition("|")[0] for line in table.splitlines() if "|" in line]
    assert len(names) > 40
    for option in names:
        assert len(re.findall(rf"^  --{option}\b(?!-)", text, flags=re.M)) == 1, option
    beam = {"cnn_dailymail": 4, "xsum": 6, "arxiv": 4, "mediasum": 6, "custom": 4}[name]
    assert re.search(rf"--beam N +\(default: {beam}\)", text)


@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_prints_every_command_and_writes_nothing(name, tmp_path):
    done = recipe(name, "--dry-run", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
    stages = re.findall(r"^# ([a-z]+):", done.stdout, flags=re.M)
    assert stages == ["download", "prepare", "encode", "binarise", "train", "generate", "score"]
    found = commands(done.stdout)
    assert found[0] == ["cd", str(ROOT)]
    train, generate = the("fairseq-train", found), the("fairseq-generate", found)
    assert value(train, "--lr") == "5e-5"
    assert value(train, "--max-source-positions") == "1024"
    assert value(train, "--optimizer") == "fused_adam"
    assert value(train, "--adam-betas") == "(0.9, 0.999)"
    assert value(train, "--best-checkpoint-metric") == "rouge1"
    assert value(train, "--finetune-from-model") == str(tmp_path / "pretrained/bart.base/model.pt")
    assert value(the("data_prep.encode", found), "--max-target") == "128"
    assert value(generate, "--path").endswith("train/checkpoint_best.pt")
    assert value(the("srformer-score", found), "--save") == str(tmp_path / f"experiments/{name}-bart/score")


def test_published_decoding_settings():
    flags = ["--beam", "--lenpen", "--min-len", "--max-len-b", "--no-repeat-ngram-size"]
    found = {name: the("fairseq-generate", dry_run(name)) for name in NAMES[:2]}
    assert [value(found["cnn_dailymail"], flag) for flag in flags] == ["4", "2", "55", "140", "3"]
    assert [value(found["xsum"], flag) for flag in flags] == ["6", "1", "10", "60", "3"]


def test_what_the_command_line_says_wins(tmp_path):
    found = dry_run(
        "xsum", "--lr", "3e-5", "--beam=5", "--cross-attention", "segmented", "--segment-size", 16, "--max-update", 7,
        "--precision", "fp16", "--train-args", "--lr 1e-3 --adam-betas '(0.9, 0.98)' --memory-gate",
        "--generate-args", "--nbest 2", "--out", tmp_path / "here",
    )  # fmt: skip
    train, generate = the("fairseq-train", found), the("fairseq-generate", found)
    assert value(train, "--lr") == "1e-3"
    assert value(train, "--adam-betas") == "(0.9, 0.98)"
    assert train[-1] == "--memory-gate"
    assert value(train, "--cross-attention") == "segmented"
    assert value(train, "--segment-size") == "16"
    assert value(train, "--max-update") == value(train, "--total-num-update") == "7"
    assert "--fp16" in train
    assert "--fp16" in generate
    assert value(generate, "--beam") == "5"
    assert value(generate, "--nbest") == "2"
    assert value(generate, "--results-path") == str(tmp_path / "here/generate")


def test_t5_starts_from_the_published_weights_and_their_tokenizer(tmp_path):
    found = dry_run("arxiv", "--dataset", "pubmed", "--model", "t5", cwd=tmp_path)
    published = tmp_path / "pretrained/t5-small"
    assert value(the("fairseq-train", found), "--finetune-from-model") == str(published / "model.pt")
    assert value(the("fairseq-train", found), "--arch") == "srformer_t5_small"
    assert value(the("data_prep.encode", found), "--model") == str(published / "spiece.model")
    assert value(the("fairseq-preprocess", found), "--srcdict") == str(published / "dict.source.txt")
    assert the("srformer-convert", found)[1:] == ["hf-to-fairseq", f"{published}-hf", str(published)]
    assert the("data_prep.prepare", found)[3] == "pubmed"


def test_data_of_another_experiment_bring_their_settings(tmp_path):
    kept = {"bpe": "sentencepiece", "max-source": "512", "splits": "train valid", "sentence-marks": "", "spiece": ""}
    (tmp_path / "settings.json").write_text(json.dumps({"settings": kept, "seed": 1}, indent=1))
    found = dry_run("xsum", "--data-from", tmp_path)
    train, generate = the("fairseq-train", found), the("fairseq-generate", found)
    assert train[1] == generate[1] == str(tmp_path / "data")
    assert value(train, "--max-source-positions") == "512"
    assert value(train, "--eval-rouge-remove-bpe") == value(generate, "--remove-bpe") == "sentencepiece"
    assert value(generate, "--gen-subset") == "valid"
    assert value(the("fairseq-train", dry_run("xsum", "--data-from", tmp_path, "--max-source", 256)),
                 "--max-source-positions") == "256"  # fmt: skip
    done = recipe("xsum", "--dry-run", "--data-from", tmp_path, "--bpe", "gpt2", check=False)
    assert "--bpe gpt2, but the data of --data-from are in sentencepiece" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--beams", "4"], 'unknown option --beams: "bash .*xsum.sh --help" lists'),
        (["beam"], "unknown option beam"),
        (["--beam"], "--beam needs a value: N"),
        (["--beam", "four"], "--beam four: a whole number is needed"),
        (["--lr", "5e"], "--lr 5e: a number is needed"),
        (["--model", "gpt"], "--model gpt: choose one of bart, t5"),
        (["--model", "bart,t5"], "--model bart,t5: choose one of"),
        (["--only", "training"], "--only training: choose one of download, prepare"),
        (["--cpu=1"], "--cpu takes no value"),
        (["--init", "nowhere.pt"], "--init nowhere.pt: there is no such file"),
        (["--from", "score", "--to", "train"], "--from score comes after --to train"),
        (["--arch", "srformer_bart_tiny"], "--arch srformer_bart_tiny: no published weights are known"),
        (["--arch", "srformer_t5_base"], "--arch srformer_t5_base is no --model bart"),
        (["--batch-size", "16", "--gpus", "3"], "--batch-size 16 cannot be shared by 3 GPUs"),
        (["--gpus", "0"], "--gpus and --nodes must be at least 1"),
        (["--nodes", "2"], "say which one this is with --node-rank"),
        (["--nodes", "2", "--node-rank", "2"], "--node-rank 2: there are 2 nodes, from 0"),
        (["--nodes", "2", "--node-rank", "1"], "say where node 0 listens with --master HOST:PORT"),
        (["--train-args", "--adam-betas '(0.9"], "--train-args .*: a quote is not closed"),
        (["--from", "train", "--data-from", "nowhere"], "--data-from .*nowhere has no finished data"),
        (["--from", "train"], "is missing: run the download stage, or name a checkpoint"),
        (["--from", "train", "--init", "scratch"], "PyTorch sees no GPU: run this where there is one, or say --cpu"),
        (["--from", "prepare", "--raw", "nowhere"], "--raw .*nowhere: there is no such folder"),
    ],
)
def test_a_bad_option_is_one_clear_error_before_anything_is_written(arguments, message, tmp_path):
    done = recipe("xsum", *arguments, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1, done.stdout
    assert re.search(message, done.stdout), done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "batch", "passes"),
    [
        (["--gpus", "8"], 2, 1),
        (["--gpus", "1", "--batch-size", "64"], 16, 4),
        (["--gpus", "2", "--batch-size", "24", "--gpu-batch-size", "5"], 4, 3),
        (["--gpus", "4", "--nodes", "2", "--node-rank", "1", "--master", "there:29500"], 2, 1),
    ],
)
def test_an_update_is_the_same_batch_on_any_number_of_gpus(arguments, batch, passes):
    found = dry_run("xsum", *arguments)
    train = next(words for words in found if "--eval-rouge" in words)
    assert (value(train, "--batch-size"), value(train, "--update-freq")) == (str(batch), str(passes))
    if arguments == ["--gpus", "1", "--batch-size", "64"]:
        assert train[0] == "fairseq-train"
        assert value(train, "--distributed-world-size") == "1"  # and not as many as there are GPUs
    else:
        assert train[0] == "torchrun"
        assert "srformer_plugin.tools.distributed_train" in train
    if "--nodes" in arguments:
        flags = ["--nproc-per-node", "--nnodes", "--node-rank", "--master-addr", "--master-port"]
        assert [value(train, flag) for flag in flags] == ["4", "2", "1", "there", "29500"]


def test_in_slurm_the_node_and_the_master_are_found(tmp_path):
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho node7\necho node8\n")
    (tmp_path / "scontrol").chmod(0o755)
    slurm = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_ID": "123456",
        "SLURM_NODEID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0",
    }  # fmt: skip
    train = the("torchrun", dry_run("xsum", "--only", "train", "--nodes", 2, **slurm))
    assert [value(train, flag) for flag in ("--node-rank", "--master-addr", "--master-port")] == ["0", "node7", "23456"]
    # without --nodes each task would train a model of its own
    done = recipe("xsum", "--dry-run", check=False, **slurm)
    assert done.returncode == 1
    assert "srun has started this 2 times: say --nodes 2" in done.stdout


# ---- stages -------------------------------------------------------------------------------------------------


@pytest.fixture
def lines(tmp_path):
    write_corpus("lines", tmp_path / "raw", documents())
    raw = ["--raw", tmp_path / "raw", "--out", tmp_path / "out"]
    return [*raw, "--cpu", "--init", "scratch", "--bpe", "sentencepiece", "--workers", 1]


def test_changed_settings_stop_and_keep_the_files_until_told_otherwise(lines, tmp_path):
    recipe("custom", *lines, "--only", "prepare")
    target = tmp_path / "out/corpus/train.target"
    before = target.read_text()
    changed = [*lines, "--only", "prepare", "--prepare-args", "--max-target-words 2"]
    done = recipe("custom", *changed, check=False)
    assert done.returncode == 1
    assert "now:    --max-target-words 2\n" in done.stdout
    assert "--changed redo" in done.stdout
    assert target.read_text() == before
    recipe("custom", *changed, "--changed", "redo")
    assert target.read_text() != before
    # how many processes do the work changes nothing
    assert "prepare: done before" in recipe("custom", *changed, "--workers", 2).stdout


def test_a_stage_that_needs_another_says_which(lines):
    done = recipe("custom", *lines, "--only", "binarise", check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].endswith("run that first")
    assert "binarise needs prepare" in done.stdout


def test_a_failed_stage_says_how_to_go_on(lines, tmp_path):
    (tmp_path / "raw/test.target").write_text("too short\n")
    done = recipe("custom", *lines, check=False)
    assert done.returncode == 1
    text = done.stdout[done.stdout.index("test.source: more lines than the 1 of its other side") :]
    assert f"Read {tmp_path}/out/logs/prepare.log, then run" in text
    again = shlex.split(re.search(r'run "(bash .*)" again', text)[1])
    assert again == command("custom", *lines)


def fake_curl(folder, script):
    (folder / "bin").mkdir()
    (folder / "bin/curl").write_text(f"#!/usr/bin/env bash\n{script}\n")
    (folder / "bin/curl").chmod(0o755)
    return {"PATH": f"{folder}/bin:{os.environ['PATH']}"}


def test_without_a_network_download_says_what_to_put_where(tmp_path):
    offline = fake_curl(tmp_path, "exit 6")
    done = recipe("xsum", "--only", "download", cwd=tmp_path, check=False, **offline)
    assert done.returncode == 1
    assert "fetch   http://bollin.inf.ed.ac.uk/" in done.stdout
    assert f"put it  {tmp_path}/raw/xsum/XSUM-EMNLP18-Summary-Data-Original.tar.gz\n" in done.stdout
    assert "sha256  10b48aa187fc9c904b30f76ca97e2da0de8d3a1238acc26acadef93e2001af90" in done.stdout


def test_a_download_that_is_not_the_published_file_is_removed(tmp_path):
    wrong = fake_curl(tmp_path, 'while [[ $1 != --output ]]; do shift; done; echo wrong > "$2"')
    done = recipe("xsum", "--only", "download", cwd=tmp_path, check=False, **wrong)
    assert done.returncode == 1
    assert "is not the published file: its sha256 is" in done.stdout
    assert list((tmp_path / "raw/xsum").iterdir()) == []


def test_what_is_there_is_not_downloaded(tmp_path):
    never = fake_curl(tmp_path, "exit 6")
    for name in ("encoder.json", "vocab.bpe", "dict.txt"):
        (tmp_path / "pretrained/gpt2_bpe").mkdir(parents=True, exist_ok=True)
        (tmp_path / "pretrained/gpt2_bpe" / name).touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    done = recipe("xsum", "--only", "download", "--raw", "mine", "--init", "scratch", cwd=tmp_path, **never)
    assert "mine has files: nothing is fetched into it" in done.stdout


def test_an_archive_is_unpacked_whole(tmp_path):
    (tmp_path / "made/arxiv-dataset").mkdir(parents=True)
    for name in ("train.txt", "val.txt", "test.txt"):
        (tmp_path / "made/arxiv-dataset" / name).write_text(name)
    subprocess.run(
        [sys.executable, "-m", "zipfile", "-c", tmp_path / "made.zip", tmp_path / "made/arxiv-dataset"], check=True
    )
    script = f'while [[ $1 != --output ]]; do shift; done; cp {tmp_path}/made.zip "$2"'
    checksum = subprocess.run(["sha256sum", tmp_path / "made.zip"], capture_output=True, text=True).stdout.split()[0]
    # a copy of the recipe that expects this archive
    text = (RECIPES / "arxiv.sh").read_text()
    text = re.sub(r"82ed30dd[0-9a-f]+", checksum, text).replace('$(dirname "${BASH_SOURCE[0]}")', str(RECIPES))
    (tmp_path / "arxiv.sh").write_text(text)
    arguments = ["--only", "download", "--init", "scratch", "--bpe", "sentencepiece"]
    for _ in range(2):
        done = subprocess.run(
            ["bash", tmp_path / "arxiv.sh", *arguments], cwd=tmp_path, capture_output=True, text=True,
            env=environment(**(fake_curl(tmp_path, script) if not (tmp_path / "bin").exists() else {})),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in (tmp_path / "raw/arxiv").iterdir()) == [
        "arxiv-dataset", "test.txt", "train.txt", "val.txt",
    ]  # fmt: skip
    assert (tmp_path / "raw/arxiv/val.txt").read_text() == "val.txt"


def test_a_folder_that_no_recipe_made_is_not_written_to(tmp_path):
    (tmp_path / "thesis.tex").touch()
    done = recipe("custom", "--out", tmp_path, "--only", "prepare", "--raw", tmp_path, "--cpu", check=False)
    assert done.returncode == 1
    assert "was not made by a recipe" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
