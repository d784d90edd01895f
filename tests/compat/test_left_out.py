"""Commands without --arch, --optimizer or --path, or with a model of another kind, name the flag."""

import argparse

import pytest
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks.language_modeling import LanguageModelingTask
from stock_bart import TINY_BART, stock

from data_prep.errors import TRACEBACK
from srformer_plugin.compat.refusals import check_command
from srformer_plugin.errors import ConfigurationError


def test_a_training_without_an_architecture_names_the_flag(monkeypatch):
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(ConfigurationError, match="^fairseq-train needs --arch, such as srformer_bart_base$"):
        options.parse_args_and_arch(options.get_training_parser(), ["data"])
    with pytest.raises(RuntimeError, match="^$"):
        stock(options.parse_args_and_arch)(options.get_training_parser(), ["data"])


def test_a_training_without_an_optimizer_names_the_flag():
    arguments = ["data", *TINY_BART, "--batch-size", "8"]
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), arguments))
    with pytest.raises(ConfigurationError, match="^fairseq-train needs --optimizer, such as fused_adam$"):
        check_command(cfg, "train")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "fairseq-eval-lm needs --path, the checkpoint"),
        (["--path", "x.pt", "--task", "translation"], "--task translation has no language model for fairseq-eval-lm"),
        (["--path", "x.pt", "--model-overrides", "{'dropuot': 0}"], "there is no option 'dropuot'"),
    ],
)
def test_an_evaluation_of_language_models_needs_one(arguments, message):
    parsed = options.parse_args_and_arch(options.get_eval_lm_parser(), ["data", *arguments])
    with pytest.raises(ConfigurationError, match=message):
        check_command(convert_namespace_to_omegaconf(parsed), "eval_lm")


@pytest.mark.parametrize("architecture", ["srformer_bart_tiny", "bart_base"])
def test_a_model_with_an_encoder_is_no_language_model(architecture):
    with pytest.raises(ConfigurationError, match=f"^--arch {architecture} is no language model"):
        LanguageModelingTask.build_model(None, argparse.Namespace(arch=architecture))
