"""What a folder holds: a checkpoint of fairseq's or Hugging Face's files, dictionaries, subwords, settings."""

import json
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from fairseq.data import encoders
from fairseq.models.bart import BARTModel

from ..attention.settings import FULL
from ..errors import ConfigurationError
from ..models import hub, pretrained
from ..models.checkpoint_file import CHECKPOINT
from ..models.checkpoint_file import load as load_checkpoint
from ..models.segmented_model import SegmentedModel
from .cache import converted, default_folder
from .decoding import Decoding, of_huggingface
from .same_weights import with_the_same_weights

CHECKPOINTS = ("checkpoint_best.pt", CHECKPOINT, "checkpoint_last.pt")  # the first that is there


@dataclass(frozen=True)
class Found:
    """A model that can be opened.

    Attributes:
        checkpoint: file of fairseq's.
        data: folder of the dictionaries.
        decoding, prefix: of the model's own files.
    """

    checkpoint: Path
    data: Path
    decoding: Decoding
    prefix: str


def find(folder: Path, cache: Path | None = None, data=None, say=lambda line: None) -> Found:
    """What `folder` holds. Arguments and errors as of `model.load`; `cache`: None is `cache.default_folder`."""
    if folder.is_file():
        return _of_fairseq(folder, data)
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is no folder: --model takes one with a checkpoint or config.json")
    checkpoint = next((folder / name for name in CHECKPOINTS if (folder / name).is_file()), None)
    if checkpoint is not None:
        return _of_fairseq(checkpoint, data)
    if not (folder / "config.json").is_file():
        raise ConfigurationError(
            f"{folder} holds neither {', '.join(CHECKPOINTS)} nor a Hugging Face model's config.json"
        )
    if data is not None:
        raise ConfigurationError(f"--data {data}: {folder} is a Hugging Face folder, which has its own dictionary")
    decoding, prefix = of_huggingface(folder)
    entry = converted(folder, cache or default_folder(), say)
    return Found(entry / CHECKPOINT, entry, decoding, prefix)


def _of_fairseq(checkpoint, data):
    places = [Path(data)] if data is not None else [checkpoint.parent]
    if data is None and not _has_dictionaries(checkpoint.parent):
        stored = load_checkpoint(checkpoint)["cfg"]["task"]  # where the training found them
        if getattr(stored, "data", None):
            places.append(Path(stored.data))
    place = next((place for place in places if _has_dictionaries(place)), None)
    if place is None:
        where = " and ".join(map(str, places))
        raise ConfigurationError(f"{where}: no dict.*.txt there; --data names the folder with the dictionaries")
    return Found(checkpoint, place, Decoding(), "")


def _has_dictionaries(folder):
    return any(folder.glob("dict.*.txt"))


def open_hub(found: Found):
    """The interface of a model.

    Raises:
        ConfigurationError: a checkpoint of no such model, or without its subwords.
    """
    where = found.checkpoint.parent, found.checkpoint.name, str(found.data.resolve())
    loaded = pretrained.load(*where, load_checkpoint_heads=True)
    kind = hub.SRformerHubInterface
    if isinstance(loaded["models"][0], BARTModel):
        kind = hub.SRformerBARTHubInterface
        if not isinstance(loaded["models"][0], SegmentedModel):  # fairseq's own: the same weights as ours
            loaded = with_the_same_weights(loaded, {"cross_attention": FULL})
    opened = kind(loaded["args"], loaded["task"], loaded["models"])
    if not _has_subwords(opened):
        opened.bpe = _subwords_of_the_training(opened.cfg.task) or opened.bpe
    _check_subwords(opened, found)
    return opened


def _has_subwords(opened):
    return opened.bpe is not None and type(opened.bpe).__module__.startswith("fairseq.")


def _subwords_of_the_training(task):
    """Those with which `--eval-rouge` made words of hypotheses, where their files still are; or None."""
    kind = getattr(task, "eval_rouge_bpe", None)
    if kind not in pretrained.BPE_FILES:
        return None
    files = json.loads(task.eval_rouge_bpe_args)
    if set(files) != set(pretrained.BPE_FILES[kind]) or not all(Path(str(file)).is_file() for file in files.values()):
        return None
    return encoders.build_bpe(Namespace(bpe=kind, **files))


def _check_subwords(opened, found):
    """Refuse a dictionary of subwords without the files that make them of words."""
    if _has_subwords(opened):
        return
    dictionary = opened.task.source_dictionary
    words = dictionary.symbols[dictionary.nspecial :][:1000]
    for needed, holds in (
        ("encoder.json and vocab.bpe", lambda word: word.isdigit()),
        ("sentencepiece.model", lambda word: word.startswith("\u2581")),
    ):
        if sum(map(holds, words)) > len(words) / 4:
            raise ConfigurationError(
                f"{found.checkpoint.parent} has no {needed}, which its dictionary was made with: copy it there, or to "
                "the folder that --data names"
            )
