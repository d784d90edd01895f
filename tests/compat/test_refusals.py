"""Settings that cannot work are refused by name before any work, and those that can are left alone."""

import json
import math
import re

import pytest
from fairseq import options
from fairseq.dataclass.configs import GenerationConfig
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from stock_bart import TINY_BART, full_configuration

from srformer_plugin.compat.generation_settings import READ_BY_GENERATORS, check_generation
from srformer_plugin.compat.refusals import check_command
from srformer_plugin.errors import ConfigurationError

BASE = ["data", "--source-lang", "source", "--target-lang", "target"]
ROUGE = ["--task", "summarization", "--eval-rouge", "--best-checkpoint-metric", "rouge1"]
TRIANGULAR = ["--lr-scheduler", "triangular", "--max-lr", "0.1"]
COSINE = ["--lr-scheduler", "cosine", "--max-update", "3"]
PHASES = ["--lr-scheduler", "tri_stage", "--max-update", "3", "--phase-ratio"]
MAXIMIZE = "--maximize-best-checkpoint-metric"


def training(*flags):
    """The configuration of a training with these flags, checked."""
    parser = options.get_training_parser()
    arguments = [*BASE, *TINY_BART, "--optimizer", "adam", "--batch-size", "8", *flags]
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, arguments))
    check_command(cfg, "train")
    return cfg


def decoding(command, *flags):
    parser = options.get_generation_parser(interactive=command == "interactive")
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, [*BASE, *flags]))
    check_command(cfg, command)
    return cfg


def refuses(message):
    return pytest.raises(ConfigurationError, match=re.escape(message))


# --- the best checkpoint ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "summarization", *ROUGE[3:], MAXIMIZE], "rouge1 is not measured: add --eval-rouge"),
        (["--best-checkpoint-metric", "bleu", MAXIMIZE], "bleu is not measured: add --eval-bleu"),
        (["--best-checkpoint-metric", "accuracy", MAXIMIZE], "accuracy is not measured: add --report-accuracy"),
        (["--best-checkpoint-metric", "rogue1"], "rogue1 is not measured: choose one of loss, ppl"),
        (["--best-checkpoint-metric", "nll_loss"], "nll_loss is not measured: choose one of loss, ppl"),
        (
            ["--best-checkpoint-metric", "rogue1", "--criterion", "fused_label_smoothed_cross_entropy"],
            "rogue1 is not measured: choose one of loss, nll_loss, ppl",
        ),
        ([MAXIMIZE], "--best-checkpoint-metric loss with --maximize-best-checkpoint-metric keeps the worst"),
        (["--eval-bleu-args", '{"beam": 4}'], "does nothing without --eval-bleu"),
        (["--task", "summarization", "--eval-rouge-args", '{"beam": 4}'], "does nothing without --eval-rouge"),
        (["--eval-bleu", "--eval-bleu-args", '{"beam": "4"}'], "--eval-bleu-args: 'beam' must be of type int"),
        (["--eval-bleu", "--eval-bleu-detok-args", "{"], "--eval-bleu-detok-args '{' is not JSON"),
        ([*ROUGE, "--eval-rouge-bpe-args", "[]"], "--eval-rouge-bpe-args '[]' is not a JSON object"),
        (["--optimizer", "fused_adam", "--adam-betas", "(0.9,"], "--adam-betas '(0.9,' is not two numbers"),
        *(
            (["--optimizer", "adam", "--adam-betas", text], f"--adam-betas {text!r} is not two numbers of at least 0")
            for text in ("(0.9,", "0.9", "(0.9, 1)", "(0.9, 0.99, 0.9)", "(a, b)", "print('run')")
        ),
        (["--optimizer", "adamax", "--adamax-betas", "x"], "--adamax-betas 'x' is not two numbers"),
        (["--optimizer", "adafactor", "--adafactor-eps", "(1, -1)"], "--adafactor-eps '(1, -1)' is not two numbers"),
        (["--optimizer", "adafactor", "--relative-step"], "--relative-step needs --optimizer foreach_adafactor"),
        (["--optimizer", "foreach_adafactor", "--decay-rate", "0.8"], "--decay-rate 0.8 must be below 0"),
        (["--lr-scheduler", "pass_through"], "--lr-scheduler pass_through leaves the rate to --optimizer composite"),
        *(
            (["--lr-scheduler", "manual", "--update2lr", text], f"--update2lr {text!r} is no dictionary of rates")
            for text in ("{1: 0.1}", "{'1': 0.1", "0.1", "['1']", "{'x': 0.1}", "{'1': 'a'}", "{'1': [1]}")
        ),
        (
            ["--lr-scheduler", "inverse_sqrt", "--warmup-updates", "0"],
            "--warmup-updates 0 with --lr-scheduler inverse_",
        ),
        (["--lr-scheduler", "step", "--lr-deacy-period", "0"], "--lr-deacy-period 0 with --lr-scheduler step: it must"),
        ([*TRIANGULAR, "--lr-period-updates", "1"], "--lr-period-updates 1 with --lr-scheduler triangular: it must be"),
        ([*TRIANGULAR, "--lr", "0.1"], "--max-lr 0.1 must be above --lr 0.1"),
        ([*COSINE, "--warmup-updates", "3"], "--warmup-updates 3 with --max-update 3 leaves no update for the cosine"),
        (
            ["--lr-scheduler", "tri_stage"],
            "--lr-scheduler tri_stage has no update in which the rate falls: give --decay",
        ),
        (["--lr-scheduler", "tri_stage", "--decay-steps", "2", "--final-lr-scale", "0"], "--final-lr-scale 0 must be"),
        ([*PHASES, "(0.1, 0.4, 0.6)"], "--phase-ratio (0.1, 0.4, 0.6) must be three numbers whose sum is 1 as Python"),
        ([*PHASES, "(0.5, 0.4, 0.1)"], "--lr-scheduler tri_stage has no update in which the rate falls"),
        (["--optimizer", "fused_adam", "--use-old-adam"], "--use-old-adam does not go with --optimizer fused_adam"),
    ],
)
def test_a_training_that_cannot_choose_is_refused(flags, message):
    with refuses(message):
        training(*flags)


@pytest.mark.parametrize("flags", [[], ["--lr-scheduler", "reduce_lr_on_plateau"]])
def test_the_best_is_the_highest_where_more_is_better(flags, caplog):
    cfg = training(*ROUGE, *flags)
    assert cfg.checkpoint.maximize_best_checkpoint_metric
    if flags:
        assert cfg.lr_scheduler.maximize_best_checkpoint_metric
    assert caplog.text.count("rouge1: more is better, so it is taken with --maximize-best-checkpoint-metric") == 1


@pytest.mark.parametrize(
    "flags",
    [
        [*ROUGE, MAXIMIZE],
        ["--best-checkpoint-metric", "nll_loss", "--criterion", "label_smoothed_cross_entropy"],
        ["--best-checkpoint-metric", "nll_loss", "--sentence-avg"],
        ["--best-checkpoint-metric", "rouge1", "--disable-validation"],
        ["--adam-betas", "0.9, 0.98"],
        ["--adam-betas", "[0.9, 0]"],
        ["--optimizer", "adafactor"],
        ["--optimizer", "foreach_adafactor", "--relative-step"],
        ["--lr-scheduler", "manual", "--update2lr", "{'1,2': 1e-3, '3-10': 1e-4}"],
        ["--lr-scheduler", "inverse_sqrt"],
        ["--lr-scheduler", "step"],
        [*TRIANGULAR, "--lr", "0.01"],
        [*COSINE, "--warmup-updates", "2"],
        [*COSINE, "--warmup-updates", "3", "--lr-period-updates", "5"],
        ["--lr-scheduler", "tri_stage", "--decay-steps", "2"],
        [*PHASES, "(0.1, 0.4, 0.5)"],
    ],
)
def test_what_can_be_chosen_by_is_left_alone(flags, caplog):
    with caplog.at_level("WARNING"):  # whatever other tests' imports have made it
        training(*flags)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "flags",
    [
        ["--adam-eps", "nan"],
        ["--dropout", "nan"],
        ["--clip-norm", "nan"],
        ["--arch", "srformer_bart", "--raf-leak", "nan"],
    ],
)
def test_nan_is_no_value_of_any_flag(flags):
    with refuses(f"{flags[-2]} nan is no number"):
        training(*flags)


@pytest.mark.parametrize(
    ("flag", "value", "bound"),
    [
        ("--required-batch-size-multiple", 0, "at least 1"),  # ends the process by a signal
        ("--required-seq-len-multiple", 0, "from 1 to 1,000,000"),
        ("--required-seq-len-multiple", 10**9, "from 1 to 1,000,000"),  # every batch takes all memory
        ("--batch-size-valid", 0, "at least 1"),
        ("--log-interval", 0, "at least 1"),
        ("--validate-interval", 0, "at least 1"),
        ("--num-workers", -1, "from 0 to 1,000"),
        ("--num-workers", 10**6, "from 0 to 1,000"),
        ("--seed", -1, "from 0 to 2^32 - 1"),
    ],
)
def test_a_number_out_of_bounds_is_refused(flag, value, bound):
    with refuses(f"{flag} {value} must be {bound}"):
        training(flag, str(value))


def test_a_training_needs_a_batch_size(tiny_corpus):
    _, cfg = full_configuration(tiny_corpus)
    cfg.dataset.batch_size = None
    with refuses("give --max-tokens or --batch-size"):
        check_command(cfg, "train")


# --- several processes ------------------------------------------------------------------------------------

SHARDED = ["--zero-sharding", "os", "--ddp-backend", "legacy_ddp"]
FULLY = ["--ddp-backend", "fully_sharded"]


@pytest.mark.parametrize(
    ("flags", "processes", "gpus", "message"),
    [
        (FULLY, 2, 0, "fully_sharded cannot run on a CPU: use --ddp-backend legacy_ddp"),
        ([*FULLY, "--cpu"], 2, 2, "fully_sharded cannot run on a CPU"),
        (FULLY, 1, 1, "--ddp-backend fully_sharded shares a training among processes, and there is one"),
        (SHARDED, 1, 0, "--zero-sharding os shares a training among processes, and there is one: leave it out"),
        (SHARDED, 2, 2, "--zero-sharding os needs a package that is missing: pip install fairscale"),
        (FULLY, 2, 2, "--ddp-backend fully_sharded needs a package that is missing: pip install fairscale"),
        (["--ddp-backend", "slowmo"], 2, 2, "--ddp-backend slowmo needs a package that is missing"),
        (["--decoder-layerdrop", "0.1"], 2, 2, "with --decoder-layerdrop, which leaves parameters without a gradient"),
        (
            ["--cpu"],
            2,
            0,
            "--distributed-world-size 2: fairseq-train starts a process for a GPU",
        ),
        (["--no-cross-attention"], 2, 2, "pytorch_ddp with --no-cross-attention, which leaves"),
    ],
)
def test_what_the_processes_cannot_do_together_is_refused(flags, processes, gpus, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refuses(message):
        training("--distributed-world-size", str(processes), *flags)


@pytest.mark.parametrize(
    ("flags", "gpus"),
    [
        ([], 2),
        (["--distributed-no-spawn"], 0),
        (["--cpu"], 2),
        (["--ddp-backend", "legacy_ddp", "--encoder-layerdrop", "0.1"], 2),
        (["--no-cross-attention", "--find-unused-parameters"], 2),
        (SHARDED, 2),
    ],
)
def test_what_they_can_do_together_is_left_alone(flags, gpus, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    training("--distributed-world-size", "2", *flags)


# --- the settings of a generator --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('{"beam": 4', "is not JSON"),
        ("[4]", "is not a JSON object"),
        ({"max_len": 4}, "has 'max_len', which fairseq-generate does not know"),
        ({"nbest": 2}, "'nbest' does nothing in a validation"),
        ({"constraints": "ordered"}, "'constraints' does nothing"),
        ({"score_reference": True}, "'score_reference' does nothing"),
        ({"beam": True}, "'beam' must be of type int, got true"),
        ({"beam": 4.0}, "'beam' must be of type int, got 4.0"),
        ({"lenpen": "2"}, "'lenpen' must be of type float, got \"2\""),
        ({"sampling": 1}, "'sampling' must be of type bool, got 1"),
        ({"beam": 0}, "'beam' must be from 1 to 1,000, got 0"),
        ({"beam": 1001}, "'beam' must be from 1 to 1,000, got 1001"),
        ({"temperature": 0}, "'temperature' must be finite, and at least 1e-30, got 0; change it, or"),
        ({"temperature": 0.0001}, "'temperature' must be at least 0.001 in float16"),
        ({"temperature": 1e-308}, "'temperature' must be finite, and at least 1e-30, got 1e-308"),
        ({"lenpen": math.nan}, "'lenpen' must be from -10 to 10, got nan"),
        ({"max_len_a": math.inf}, "'max_len_a' must be from 0 to 1000, got inf"),
        ({"diverse_beam_strenght": 1}, "did you mean 'diverse_beam_strength'?"),
        ({"no_repeat_ngram_size": -1}, "'no_repeat_ngram_size' must be at least 0"),
        ({"sampling": True, "sampling_topp": 1.5}, "'sampling_topp' must be at most 1, got 1.5"),
        ({"sampling_topk": 5}, "'sampling_topk' does nothing without sampling"),
        ({"sampling_topp": 0}, "'sampling_topp' does nothing without sampling"),
        ({"diverse_beam_strength": 0.1}, "'diverse_beam_strength' does nothing without diverse_beam_groups"),
        ({"beam": 4, "diverse_beam_groups": 3}, "'diverse_beam_groups' must divide the beam, 4"),
        ({"sampling": True, "match_source_len": True}, "'sampling' and match-source-len exclude each other"),
        ({"min_len": 10, "max_len_b": 5}, "'min_len' makes the shortest output (10) longer than the longest (5)"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with refuses(message):
        check_generation(settings if isinstance(settings, str) else json.dumps(settings), "--eval-rouge-args")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beam": 4, "lenpen": 2, "max_len_b": 140, "min_len": 55, "no_repeat_ngram_size": 3},
        {"min_len": 10, "max_len_b": 5, "max_len_a": 0.5},
        {"beam": 4, "diverse_beam_groups": 2, "diverse_beam_strength": 0.1},
        {"sampling": True, "sampling_topk": 5},
    ],
)
def test_settings_that_work_are_returned(settings):
    assert check_generation(json.dumps(settings), "--eval-rouge-args") == settings


def test_the_settings_that_are_read_exist():
    assert GenerationConfig.__dataclass_fields__.keys() >= READ_BY_GENERATORS


# --- decoding ---------------------------------------------------------------------------------------------

PATH = ["--path", "checkpoint.pt"]


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("generate", [], "fairseq-generate needs --path"),
        ("generate", [*PATH, "--beam", "0"], "--beam 0 must be from 1 to 1,000"),
        ("generate", [*PATH, "--lenpen", "nan"], "--lenpen nan is no number"),
        ("interactive", [*PATH, "--unkpen", "nan"], "--unkpen nan is no number"),
        ("generate", [*PATH, "--lenpen", "inf"], "--lenpen inf must be from -10 to 10"),
        ("generate", [*PATH, "--lenpen", "1e308"], "--lenpen 1e+308 must be from -10 to 10"),
        ("generate", [*PATH, "--unkpen=-1e308"], "--unkpen -1e+308 must be at least -1000"),
        ("interactive", [*PATH, "--beam", "1000000000"], "--beam 1000000000 must be from 1 to 1,000"),
        ("generate", [*PATH, "--max-len-a", "1e308"], "--max-len-a 1e+308 must be from 0 to 1000"),
        ("generate", [*PATH, "--diversity-rate", "1e308"], "--diversity-rate 1e+308 must be from 0 to 1000"),
        ("generate", [*PATH, "--diversity-rate=-0.5"], "-rate -0.5 must be from 0 to 1000; change it, or leave it out"),
        ("generate", [*PATH, "--diverse-beam-strength", "1e308"], "-strength 1e+308 must be from -1000 to 1000"),
        ("generate", [*PATH, "--lm-path", "lm.pt", "--lm-weight", "inf"], "--lm-weight inf must be from -1000 to 1000"),
        ("generate", [*PATH, "--nbest", "0"], "--nbest 0 must be at least 1"),
        ("generate", [*PATH, "--sampling", "--nbest", "6"], "--sampling with --nbest 6 and --beam 5"),
        ("generate", [*PATH, "--fp16", "--temperature", "1e-4"], "--temperature 0.0001 must be at least 0.001 in fl"),
        ("generate", [*PATH, "--prefix-size", "-1"], "--prefix-size -1 must be at least 0"),
        ("generate", [*PATH, "--max-tokens", str(2**63)], f"--max-tokens {2**63} is too large a number"),
        ("generate", [*PATH, "--max-len-b", "0"], "--max-len-b 0 makes the shortest output (1) longer"),
        ("generate", [*PATH, "--sampling"], "--sampling with --nbest 1 and --beam 5"),
        ("generate", [*PATH, "--constraints"], "--constraints in fairseq-generate"),
        ("interactive", [*PATH, "--constraints", "--match-source-len"], "match-source-len True and constraints"),
        ("generate", [*PATH, "--print-step"], "--print-step is for models that refine"),
        ("generate", [*PATH, "--retain-iter-history"], "--retain-iter-history is for models that refine"),
        ("interactive", [*PATH, "--replace-unk"], "--replace-unk needs to know"),
        ("generate", [*PATH, "--replace-unk", "--print-alignment"], "it needs --dataset-impl raw"),
        ("interactive", [*PATH, "--lm-path", "lm.pt"], "--lm-path in fairseq-interactive: it is not asked there"),
        ("generate", [*PATH, "--lm-path", "lm.pt"], "--lm-path lm.pt: there is no such file; name a checkpoint, or"),
        ("generate", [*PATH, "--lm-path", "lm.pt", "--score-reference"], "--lm-path with --score-reference"),
        ("interactive", [*PATH, "--score-reference"], "--score-reference in fairseq-interactive"),
        ("interactive", [*PATH, "--print-alignment", "soft"], "--print-alignment soft in fairseq-interactive"),
        ("interactive", [*PATH, "--batch-size", "4"], "--batch-size 4 is above --buffer-size 1"),
        ("generate", [*PATH, "--model-overrides", "{x"], "--model-overrides '{x' is not a Python dictionary"),
        ("generate", [*PATH, "--model-overrides", "[1]"], "--model-overrides '[1]' is not a dictionary"),
        (
            "generate",
            [*PATH, "--model-overrides", "{'segment_schedul': 'content'}"],
            "--model-overrides: there is no option 'segment_schedul'; did you mean segment_schedule?",
        ),
        ("generate", [*PATH, "--model-overrides", "{'model': {'dropout': '0'}}"], "dropout must be a number, got '0'"),
        ("validate", [], "fairseq-validate needs --path"),
        ("validate", [*PATH, "--model-overrides", "{x"], "--model-overrides '{x' is not a Python dictionary"),
        (
            "generate",
            [*PATH, "--distributed-world-size", "2", "--distributed-rank", "2"],
            "--distributed-rank 2 is no share of --distributed-world-size 2: they are counted from 0",
        ),
        ("generate", [*PATH, "--num-shards", "2"], "--num-shards 2 --shard-id 0 does nothing here: for a share"),
        ("generate", [*PATH, "--scoring", "rouge", "--rouge-seed", "-1"], "--rouge-seed -1 must be at least 0"),
        ("generate", [*PATH, "--scoring", "rouge", "--rouge-bootstrap-samples", "0"], "-samples 0 must be from 1 to"),
        (
            "generate",
            [*PATH, "--scoring", "rouge", "--rouge-bootstrap-samples", "1000001"],
            "-samples 1000001 must be from 1 to 1,000,000",
        ),
        ("generate", [*PATH, "--model-overrides", "{'dropout': 7.0}"], "dropout 7.0 must be from 0 to 1"),
        ("generate", [*PATH, "--model-overrides", "{'beam': 3}"], "beam is no setting of a model or task, and does"),
        ("interactive", [*PATH, "--model-overrides", "{'dataset': {'max_tokens': 9}}"], "give --max-tokens to the"),
    ],
)
def test_decoding_that_cannot_work_is_refused(command, flags, message):
    with refuses(message):
        decoding(command, *flags)


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("generate", []),
        ("generate", ["--nbest", "10"]),
        ("generate", ["--sampling", "--nbest", "5"]),
        ("generate", ["--sampling", "--nbest", "5", "--sampling-topk", "0", "--sampling-topp", "0"]),
        ("generate", ["--sampling", "--nbest", "5", "--sampling-topk=-3", "--sampling-topp=-2.5"]),
        ("generate", ["--diverse-beam-groups", "0", "--diversity-rate=-2"]),
        ("interactive", ["--temperature", "1e-4"]),
        ("interactive", ["--temperature", "1e-4", "--fp16", "--cpu"]),
        ("generate", ["--replace-unk", "--print-alignment", "--dataset-impl", "raw"]),
        ("interactive", ["--constraints"]),
        ("generate", ["--unkpen", "inf"]),
        ("generate", ["--model-overrides", "{'data': 'folder', 'model': {'segment_size': 4}, 'dropout': 0}"]),
        ("interactive", ["--replace-unk", "--print-alignment"]),
        ("interactive", ["--batch-size", "4", "--buffer-size", "4"]),
        ("generate", ["--distributed-world-size", "2", "--distributed-rank", "1"]),
    ],
)
def test_decoding_that_works_is_left_alone(command, flags):
    decoding(command, *PATH, *flags)
