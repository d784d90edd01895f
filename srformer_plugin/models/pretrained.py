"""What `from_pretrained` loads: checkpoints of a local folder, as they are or with another attention, and subwords."""

import os
from pathlib import Path

from fairseq import checkpoint_utils, hub_utils

from ..attention.settings import CHANGEABLE
from ..compat.given_models import check_encoder_decoder
from ..compat.overrides import check_overrides
from ..errors import ConfigurationError
from .change_attention import change_attention
from .checkpoint_file import load as load_checkpoint
from .encoders.settings import CHANGEABLE as CHANGEABLE_ENCODER

# --bpe's value -> (its options, the file beside a checkpoint or the dictionaries that each is for)
BPE_FILES = {
    "gpt2": {"gpt2_encoder_json": ("encoder.json",), "gpt2_vocab_bpe": ("vocab.bpe",)},
    "sentencepiece": {"sentencepiece_model": ("spiece.model", "sentencepiece.model", "sentencepiece.bpe.model")},
}


def load(folder, checkpoint_file="model.pt", data_name_or_path=".", bpe=None, **options) -> dict:
    """fairseq's `hub_utils.from_pretrained` for local folders: {"args", "task", "models"}.

    Args:
        folder: where the checkpoint is.
        data_name_or_path: folder of the dictionaries; one that begins with "." is relative to `folder`.
        bpe: as --bpe; None: what the files beside the checkpoint or the dictionaries are for, else the checkpoint's.
        options: override those of the checkpoint. Those of the cross-attention (`segment_schedule="content"`, ...)
            and of the encoder (`encoder_attention="chunked"`, ...) make the weights decode with another one
            (`change_attention`), None as in the checkpoint. The BPE's files are looked for there as well.
    Raises:
        ConfigurationError: an option that there is not, a value of another kind, a folder that is none, or what cannot
            work.
    """
    check_overrides(options, "from_pretrained", ("generation_args", "is_vocoder"))
    folder, data = str(folder), str(data_name_or_path)
    places = [Path(folder), Path(folder) / data if data.startswith(".") else Path(data)]
    for place, what in zip(places, ("a checkpoint", "dictionaries")):
        if not place.is_dir():
            raise ConfigurationError(f"from_pretrained: {place} is no folder: name one with {what}")
    found = {kind: _find(files, places) for kind, files in BPE_FILES.items()}
    if bpe is None:
        bpe = next((kind for kind, files in found.items() if len(files) == len(BPE_FILES[kind])), None)
    options = {**found.get(bpe, {}), **options}
    if bpe is not None:
        options["bpe"] = bpe
    named = {name: options.pop(name) for name in (*CHANGEABLE, *CHANGEABLE_ENCODER) if name in options}
    changes = {name: value for name, value in named.items() if value is not None}
    if not changes:
        loaded = hub_utils.from_pretrained(folder, checkpoint_file, data, archive_map={}, **options)
        for model in loaded["models"]:
            check_encoder_decoder(model, f"{folder}/{checkpoint_file}")
        return loaded
    paths = [Path(folder) / name for name in checkpoint_file.split(os.pathsep)]
    return _load_changed(paths, places[1], changes, options)


def _load_changed(paths, data: Path, changes, options) -> dict:
    """As `hub_utils.from_pretrained`, of checkpoints with another attention."""
    options, models, args, task = {**options, "data": str(data.resolve())}, [], None, None
    for path in paths:
        limit = options.get("max_source_positions")
        content = change_attention(load_checkpoint(path, options), changes, str(path), limit)
        loaded, args, task = checkpoint_utils.load_model_ensemble_and_task(
            [str(path)], options, task=task, state=content
        )
        models += loaded
    return {"args": args, "task": task, "models": models}


def _find(files, places) -> dict[str, str]:
    """Option -> path, for the files that are there."""
    found = {}
    for option, names in files.items():
        paths = [place / name for place in places for name in names if (place / name).is_file()]
        if paths:
            found[option] = str(paths[0])
    return found
