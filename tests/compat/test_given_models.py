"""Models that a command cannot use are named, whatever flag they are given by."""

import argparse
import os
import re
import shutil

import helpers
import pytest
import torch
from conftest import USER_DIR, run_fairseq
from fairseq import checkpoint_utils
from fairseq.models import BaseFairseqModel
from fairseq.tasks.fairseq_task import FairseqTask
from fairseq.tasks.translation import TranslationTask
from fairseq_cli import generate, interactive, train
from fairseq_here import here
from stock_bart import generate_arguments, stock

from srformer_plugin.compat.commands import name_the_setting_that_cannot_be_read
from srformer_plugin.errors import ConfigurationError
from srformer_plugin.models.srformer_bart import SRformerBARTModel

POSITIONS = 64  # of the language model, and enough for all sources


@pytest.fixture(scope="module")
def language_model(tiny_corpus, tmp_path_factory):
    """A folder with a language model of the targets' words that knows few positions, and the data's dictionary."""
    folder = tmp_path_factory.mktemp("language_model")
    run_fairseq(
        "preprocess", "--only-source", "--srcdict", tiny_corpus.binarised / "dict.target.txt", "--workers", 1,
        "--trainpref", tiny_corpus.raw / "train.target", "--validpref", tiny_corpus.raw / "valid.target",
        "--destdir", folder,
    )  # fmt: skip
    here(
        train, folder, "--task", "language_modeling", "--arch", "transformer_lm", "--decoder-layers", 1,
        "--decoder-embed-dim", 8, "--decoder-ffn-embed-dim", 8, "--decoder-attention-heads", 1,
        "--decoder-learned-pos", "--tokens-per-sample", POSITIONS, "--optimizer", "adam", "--batch-size", 8,
        "--max-update", 1, "--cpu", "--save-dir", folder, "--no-epoch-checkpoints",
    )  # fmt: skip
    shutil.copytree(tiny_corpus.binarised, folder / "data")
    shutil.copy(folder / "dict.txt", folder / "data")
    return argparse.Namespace(folder=folder, data=folder / "data", checkpoint=folder / "checkpoint_last.pt")


@pytest.fixture
def with_language_model(language_model, trained):
    """Function (its checkpoint, more arguments) -> the log of fairseq-generate on data that have its dictionary."""

    def run(checkpoint, *more, data=language_model.data):
        given = argparse.Namespace(binarised=data)
        return here(generate, *generate_arguments(given, trained.checkpoint), "--lm-path", checkpoint, *more)

    return run


def refuses(message):
    return pytest.raises(ConfigurationError, match=re.escape(message))


def test_a_language_model_may_have_fewer_positions_than_the_model(with_language_model, language_model, monkeypatch):
    longer = ("--max-len-b", 2 * POSITIONS, "--min-len", POSITIONS - 2)
    log = with_language_model(language_model.checkpoint, *longer)
    assert f"hypotheses have up to {POSITIONS} tokens, as many as the model of --lm-path has positions for" in log
    monkeypatch.setattr(FairseqTask, "build_generator", stock(FairseqTask.build_generator))
    with pytest.raises(IndexError, match="out of range"):
        with_language_model(language_model.checkpoint, *longer, "--min-len", POSITIONS + 2)


def test_a_language_model_with_an_encoder_is_refused(with_language_model, trained, monkeypatch):
    with refuses(f"--lm-path {trained.checkpoint} holds a BARTModel, which is no language model: give a checkpoint"):
        with_language_model(trained.checkpoint)
    monkeypatch.setattr(FairseqTask, "build_generator", stock(FairseqTask.build_generator))
    with pytest.raises(TypeError, match="missing 2 required positional arguments"):
        with_language_model(trained.checkpoint)


@pytest.mark.parametrize("kind", ["text", "folder", "missing"])
def test_a_language_model_that_is_no_checkpoint_is_named(kind, with_language_model, tiny_corpus, tmp_path):
    path = {"text": tiny_corpus.raw / "train.source", "folder": tiny_corpus.raw, "missing": tmp_path / "lm.pt"}[kind]
    with pytest.raises((ConfigurationError, OSError), match=re.escape(str(path))):
        with_language_model(path)


def test_a_language_model_of_other_words_is_refused(with_language_model, language_model, tmp_path):
    lines = (language_model.data / "dict.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    for name, words in (("shorter", lines[:-40]), ("turned", lines[::-1])):
        shutil.copytree(language_model.data, tmp_path / name)
        (tmp_path / name / "dict.txt").write_text("".join(words), encoding="utf-8")
    with refuses("its dictionary, dict.txt of the data folder, is not that of the targets"):
        with_language_model(language_model.checkpoint, data=tmp_path / "turned")
    message = "the checkpoint does not fit this TransformerLanguageModel: decoder.embed_tokens.weight is"
    with refuses(f"{language_model.checkpoint}: {message}"):
        with_language_model(language_model.checkpoint, data=tmp_path / "shorter")


@pytest.mark.parametrize("tool", [generate, interactive])
def test_a_language_model_is_no_summarizer(tool, tiny_corpus, language_model):
    arguments = generate_arguments(tiny_corpus, language_model.checkpoint)
    with refuses("--arch transformer_lm: a TransformerLanguageModel makes no target of a source; give a model with an"):
        here(tool, *arguments)


def test_stock_never_shows_a_language_model_the_sources(tiny_corpus, language_model, monkeypatch, capsys):
    monkeypatch.setattr(TranslationTask, "build_model", stock(TranslationTask.build_model))
    here(generate, *generate_arguments(tiny_corpus, language_model.checkpoint))
    found = {line.split("\t")[2] for line in capsys.readouterr().out.splitlines() if line.startswith("H-")}
    assert len(found) == 1


def test_a_language_model_from_python_is_named(language_model):
    with refuses(f"{language_model.folder}/checkpoint_last.pt: a TransformerLanguageModel makes no target of a source"):
        SRformerBARTModel.from_pretrained(str(language_model.folder), "checkpoint_last.pt", str(language_model.data))


def test_a_language_models_architecture_is_for_another_task(train_in_process, tiny_corpus, tmp_path):
    name_the_setting_that_cannot_be_read()  # fairseq-train was imported behind the plugin here
    with refuses("model.tokens_per_sample is by default what another --task says"):
        train_in_process(*helpers.train_arguments(tiny_corpus, tmp_path)[:5], "--arch", "transformer_lm")


def test_a_dictionary_of_another_size_is_named(trained, tiny_corpus, tmp_path):
    shutil.copytree(tiny_corpus.binarised, tmp_path / "data")
    words = (tmp_path / "data" / "dict.source.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    for side in ("source", "target"):
        (tmp_path / "data" / f"dict.{side}.txt").write_text("".join(words[:-9]), encoding="utf-8")
    arguments = generate_arguments(argparse.Namespace(binarised=tmp_path / "data"), trained.checkpoint)
    size = len(words) + 4  # the special symbols
    message = f"{trained.checkpoint}: the checkpoint does not fit this BARTModel: decoder.embed_tokens.weight is"
    with refuses(message) as raised:
        here(generate, *arguments)
    assert f"weight is {size} x 16 there and {size - 9} x 16 here (and 2 more); use the dic" in str(raised.value)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_of_several_checkpoints_the_one_that_does_not_fit_is_named(place, trained, tiny_corpus, tmp_path):
    content = torch.load(trained.checkpoint, weights_only=True)
    del content["model"]["decoder.layers.0.fc1.bias"]
    torch.save(content, tmp_path / "lacking.pt")
    paths = [str(trained.checkpoint)] * 2
    paths.insert(place, str(tmp_path / "lacking.pt"))
    with refuses("the checkpoint does not fit this BARTModel: it has no decoder.layers.0.fc1.bias") as raised:
        here(generate, *generate_arguments(tiny_corpus, os.pathsep.join(paths)))
    assert str(raised.value).startswith(f"{tmp_path}/lacking.pt: the checkpoint does not fit")


def test_of_several_checkpoints_the_one_with_options_that_cannot_be_is_named(trained, tiny_corpus, monkeypatch):
    paths, built = [str(trained.checkpoint), str(trained.checkpoint.with_name("checkpoint_best.pt"))], []

    def refuse_the_second(self, cfg, *args):
        built.append(cfg)
        if len(built) == 2:
            raise ConfigurationError("--head-stride 3 does not divide --decoder-attention-heads 2")
        return original(self, cfg, *args)

    original = TranslationTask.build_model
    monkeypatch.setattr(TranslationTask, "build_model", refuse_the_second)
    with refuses("checkpoint_best.pt: --head-stride 3 does not divide"):
        here(generate, *generate_arguments(tiny_corpus, os.pathsep.join(paths)))


def test_an_ensemble_is_what_fairseq_makes_of_it(trained):
    paths = [str(trained.checkpoint)] * 2
    models, cfg, task = checkpoint_utils.load_model_ensemble_and_task(paths)
    expected, _, _ = stock(checkpoint_utils.load_model_ensemble_and_task)(paths)
    assert len(models) == len(expected) == 2
    for one, other in zip(models, expected, strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict())
    assert cfg.model.arch == "bart_base"
    assert type(task) is TranslationTask


def test_a_language_model_without_its_words_is_told_at_once(with_language_model, language_model, tmp_path):
    shutil.copytree(language_model.data, tmp_path / "data")
    (tmp_path / "data" / "dict.txt").unlink()
    message = f"--lm-path {language_model.checkpoint}: {tmp_path}/data/dict.txt, the words of the language model, is"
    with refuses(message) as raised:
        with_language_model(language_model.checkpoint, data=tmp_path / "data")
    assert "copy dict.target.txt there" in str(raised.value)


@pytest.mark.parametrize("flag", ["--restore-file", "--finetune-from-model"])
def test_a_training_names_the_checkpoint_that_does_not_fit(flag, train_here, trained):
    with refuses(f"{trained.checkpoint}: the checkpoint does not fit this BARTModel: "):
        train_here(flag, trained.checkpoint, "--encoder-ffn-embed-dim", 48)


def test_weights_that_are_missing_or_have_no_place_are_named(trained, monkeypatch):
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(trained.checkpoint)])
    state = model.state_dict()
    renamed = {name.replace("fc1.bias", "fc9.bias"): weight for name, weight in state.items()}
    with refuses("BARTModel: it has no decoder.layers.0.fc1.bias (and 3 more); use"):
        model.load_state_dict(dict(renamed))
    with refuses("BARTModel: the model has no extra; use"):
        model.load_state_dict({**model.state_dict(), "extra": state["encoder.embed_tokens.weight"]})
    monkeypatch.setattr(BaseFairseqModel, "load_state_dict", stock(BaseFairseqModel.load_state_dict))
    with pytest.raises(RuntimeError, match="loading state_dict"):
        model.load_state_dict(dict(renamed))


def test_a_training_from_a_model_of_another_kind_ends_with_one_sentence(train_here, language_model, tmp_path):
    with refuses("; please ensure that the architectures match. KeyError: 'encoder.embed_tokens.weight'"):
        train_here("--finetune-from-model", language_model.checkpoint, "--user-dir", USER_DIR)
