"""Models that a command is given and cannot use, and checkpoints that do not fit the model they are read into."""

import logging
import os

from fairseq import checkpoint_utils
from fairseq.models import (
    ARCH_MODEL_REGISTRY,
    MODEL_REGISTRY,
    BaseFairseqModel,
    FairseqEncoderDecoderModel,
    FairseqEncoderModel,
    FairseqLanguageModel,
)
from fairseq.tasks import FairseqTask
from fairseq.tasks.language_modeling import LanguageModelingTask
from fairseq.tasks.translation import TranslationTask
from fairseq.trainer import Trainer

from ..errors import ConfigurationError, WeightsDoNotFitError
from .patching import wrap

logger = logging.getLogger(__name__)

NOT_LOADED = "Error(s) in loading state_dict"  # how PyTorch's error begins


def need_a_source_and_a_target():
    """Name the architecture of a model that makes no target of a source, where the task needs one that does.

    fairseq-generate writes what a language model in --path likes best, the same for every source, which it never sees
    (``sequence_generator.py:801``). Not needed when fairseq-generate refuses it.
    """

    def make_wrapper(original):
        def build_model(self, cfg, *args, **kwargs):
            model = original(self, cfg, *args, **kwargs)
            check_encoder_decoder(model, f"--arch {getattr(cfg, 'arch', None) or getattr(cfg, '_name', None)}")
            return model

        return build_model

    wrap(TranslationTask, "build_model", make_wrapper)


def check_encoder_decoder(model, where) -> None:
    """Raise a ConfigurationError where a model makes no target of a source; `where` is what errors call it."""
    if isinstance(model, (FairseqEncoderModel, FairseqLanguageModel)):
        raise ConfigurationError(
            f"{where}: a {type(model).__name__} makes no target of a source; give a model with an encoder and a "
            "decoder, such as srformer_bart or bart_base"
        )


def need_a_language_model():
    """Name the architecture of a model with an encoder, where the task needs a language model.

    ``tasks/language_modeling.py:277`` says "Unsupported language modeling target: future", behind whatever the model
    itself misses in such data. Not needed when that names the architecture, before the model is made.
    """

    def make_wrapper(original):
        def build_model(self, args, *more, **kwargs):
            name = getattr(args, "arch", None) or getattr(args, "_name", None)
            kind = ARCH_MODEL_REGISTRY.get(name) or MODEL_REGISTRY.get(name)
            if isinstance(kind, type) and issubclass(kind, FairseqEncoderDecoderModel):
                raise ConfigurationError(
                    f"--arch {name} is no language model, and --task language_modeling, fairseq-eval-lm's own, needs "
                    "one: take --task summarization, and fairseq-validate for the loss on pairs"
                )
            return original(self, args, *more, **kwargs)

        return build_model

    wrap(LanguageModelingTask, "build_model", make_wrapper)


def check_language_models():
    """Refuse a model of ``--lm-path`` that is no language model, or one of other words; keep within its positions.

    ``fairseq_cli/generate.py:107`` takes any checkpoint. One with an encoder ends in "missing 2 required positional
    arguments" (``sequence_generator.py:368``); one of another dictionary scores the wrong words; and one with learned
    positions ends in "index out of range in self" at the first hypothesis that is longer. Not needed when
    fairseq-generate refuses all three.
    """

    def make_wrapper(original):
        def build_generator(self, models, args, seq_gen_cls=None, extra_gen_cls_kwargs=None, **kwargs):
            model = (extra_gen_cls_kwargs or {}).get("lm_model")
            if model is not None:
                _check_language_model(model, f"--lm-path {args.lm_path}", self.target_dictionary)
            generator = original(self, models, args, seq_gen_cls, extra_gen_cls_kwargs, **kwargs)
            if model is not None:
                _keep_within_positions(generator, model)
            return generator

        return build_generator

    wrap(FairseqTask, "build_generator", make_wrapper)


def _check_language_model(model, flag, dictionary) -> None:
    if not isinstance(model, FairseqLanguageModel):
        raise ConfigurationError(
            f"{flag} holds a {type(model).__name__}, which is no language model: give a checkpoint that was trained "
            "with --task language_modeling, or leave the flag out"
        )
    own = getattr(model.decoder, "dictionary", None)
    if own is not None and own != dictionary:
        raise ConfigurationError(
            f"{flag}: its dictionary, dict.txt of the data folder, is not that of the targets: give a language model "
            "that was trained with the targets' dictionary"
        )


def _keep_within_positions(generator, model) -> None:
    """Let hypotheses end before the language model, which reads them, has no position for them."""
    embedding = getattr(model.decoder, "embed_positions", None)
    positions = getattr(embedding, "max_positions", None)
    if positions is not None and positions < generator.max_len:
        generator.max_len = positions
        logger.info(f"hypotheses have up to {positions:,} tokens, as many as the model of --lm-path has positions for")


def name_weights_that_do_not_fit():
    """Name the checkpoint, of several the one at fault, and its first weight that does not fit, or is not there.

    PyTorch's error, a line for each of them, ends fairseq-generate with a traceback where the data have another
    dictionary; a training hides it behind "please ensure that the architectures match" (``trainer.py:597``). Not needed
    when ``fairseq-generate`` with a shorter dictionary prints one line.
    """

    def make_wrapper(original):
        def load_state_dict(self, state_dict, *args, **kwargs):
            try:
                return original(self, state_dict, *args, **kwargs)
            except RuntimeError as error:
                if not str(error).startswith(NOT_LOADED):
                    raise
                raise WeightsDoNotFitError(_what_does_not_fit(self, state_dict)) from error

        return load_state_dict

    def of_training(original):
        def load_checkpoint(self, filename, *args, **kwargs):
            try:
                return original(self, filename, *args, **kwargs)
            except WeightsDoNotFitError as error:
                raise ConfigurationError(f"{filename}: {error}") from error

        return load_checkpoint

    def of_ensemble(original):
        def load_model_ensemble_and_task(filenames, arg_overrides=None, task=None, *args, **kwargs):
            ensemble, cfg = [], None
            for filename in filenames:  # one by one, as fairseq does within: an error is of this one
                try:
                    models, cfg, task = original([filename], arg_overrides, task, *args, **kwargs)
                except ConfigurationError as error:
                    is_told = os.fspath(filename) in str(error) or len(filenames) == 1
                    if is_told and not isinstance(error, WeightsDoNotFitError):
                        raise
                    raise ConfigurationError(f"{filename}: {error}") from error
                ensemble += models
            return ensemble, cfg, task

        return load_model_ensemble_and_task

    wrap(BaseFairseqModel, "load_state_dict", make_wrapper)
    wrap(Trainer, "load_checkpoint", of_training)
    wrap(checkpoint_utils, "load_model_ensemble_and_task", of_ensemble)


def _what_does_not_fit(model, state) -> str:
    """One sentence about the first of the weights that differ, those of another shape before the others."""
    own = model.state_dict()
    shapes = [
        f"{name} is {_shape(state[name])} there and {_shape(own[name])} here"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    others = [f"it has no {name}" for name in own.keys() - state.keys()]
    others += [f"the model has no {name}" for name in state.keys() - own.keys()]
    found = [*sorted(shapes), *sorted(others)]
    more = f" (and {len(found) - 1:,} more)" if len(found) > 1 else ""
    return (
        f"the checkpoint does not fit this {type(model).__name__}: {found[0]}{more}; use the dictionary, the --arch "
        "and the sizes that it was trained with"
    )


def _shape(tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"
