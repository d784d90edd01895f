"""Read and write the weights of a Hugging Face folder, without running anything from it."""

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..compat.checkpoints import damage_of
from ..errors import ConfigurationError, UnsafeCheckpointError

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
LARGEST = 1e6  # of a weight; those of trained models are below some hundreds


def read_json(path: Path) -> dict:
    """A JSON object.

    Raises:
        ConfigurationError: no such file, no JSON, or no object.
    """
    try:
        value = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigurationError(f"{path} holds no JSON object")
    return value


class Weights(Mapping):
    """Name -> tensor of a Hugging Face folder; a tensor is read when it is asked for.

    ``model.safetensors`` is preferred to ``pytorch_model.bin``, and each may be in several files with an index.

    A file of `torch.save` has checksums, unless it is older than PyTorch 1.6. One of safetensors has none: its names,
    kinds, shapes and offsets must cover its length, and of wrong bytes within a tensor only those are noticed that make
    a number of `LARGEST` or more, an infinite one or none of it.

    Raises:
        ConfigurationError: no weights in the folder, a file that is damaged or missing; where a tensor is read, one
            that no trained model has.
        UnsafeCheckpointError: a pickle that asks for more than tensors.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._readers = {}  # name -> (file, name -> tensor of that file)
        for whole, open_file in ((SAFETENSORS, _SafetensorsFile), (PICKLE, _open_pickle)):
            index = self.folder / f"{whole}.index.json"
            if (self.folder / whole).is_file():
                reader = open_file(self.folder / whole)
                self._readers = dict.fromkeys(reader, (self.folder / whole, reader))
            elif index.is_file():
                self._readers = _open_shards(index, open_file)
            if self._readers:
                return
        raise ConfigurationError(f"{folder} has no weights: neither {SAFETENSORS} nor {PICKLE}, whole or in parts")

    def __getitem__(self, name) -> torch.Tensor:
        path, reader = self._readers[name]
        tensor = reader[name]
        check_numbers(tensor, f"{path}: {name}")
        return tensor

    def __contains__(self, name):
        return name in self._readers  # without reading it

    def __iter__(self):
        return iter(self._readers)

    def __len__(self):
        return len(self._readers)


def check_numbers(tensor: torch.Tensor, what: str) -> None:
    """Raise a ConfigurationError where a weight, which errors call `what`, has a number that none can have."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return
    wide = tensor.float() if tensor.element_size() == 1 else tensor  # PyTorch knows no order of 8 bits
    least, most = (float(x) for x in torch.aminmax(wide))
    if not (least > -LARGEST and most < LARGEST):  # nor where either is nan
        raise ConfigurationError(
            f"{what} has numbers from {least:g} to {most:g}, as no trained model has: the file is damaged, get it again"
        )


class _SafetensorsFile(Mapping):
    """Name -> tensor of one file; the file stays open."""

    def __init__(self, path):
        try:
            self._file = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ConfigurationError(f"{path} is damaged or no safetensors file: {error}") from error
        self._names = dict.fromkeys(self._file.keys())

    def __getitem__(self, name):
        return self._file.get_tensor(name)

    def __contains__(self, name):
        return name in self._names

    def __iter__(self):
        return iter(self._names)

    def __len__(self):
        return len(self._names)


def _open_pickle(path):
    """The tensors of a ``torch.save`` file. Code in it is refused, not run."""
    damage = damage_of(path)
    if damage is not None:
        raise ConfigurationError(f"{path} is {damage}: get it again")
    try:
        # files of PyTorch before 1.6 are no zip archives and cannot be mapped
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpointError(
            f"{path} is refused: it is not made of tensors only and may run code. "
            "Get it again from a source that you trust, best as safetensors"
        ) from error
    except (OSError, RuntimeError, EOFError) as error:
        raise ConfigurationError(f"{path} is damaged: {str(error).partition(chr(10))[0]}") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConfigurationError(f"{path} is not a mapping of names to tensors")
    return state


def _open_shards(index: Path, open_file):
    """Name -> (its file, the file's reader), for weights in several files."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ConfigurationError(f"{index} has no weight_map")
    opened, readers = {}, {}
    for name, file in names.items():
        if not isinstance(file, str) or file != Path(file).name:
            raise ConfigurationError(f"{index} places {name} outside of its folder: {file!r}")
        if file not in opened:
            if not (index.parent / file).is_file():
                raise ConfigurationError(f"{index.parent} lacks {file}, which {index.name} names")
            opened[file] = open_file(index.parent / file)
        if name not in opened[file]:
            raise ConfigurationError(f"{index.parent / file} lacks {name}, which {index.name} places there")
        readers[name] = index.parent / file, opened[file]
    return readers


def write_weights(folder: Path, weights: dict):
    """Write ``model.safetensors`` as `transformers` reads it. No two entries may share memory."""
    try:
        save_file({name: x.contiguous() for name, x in weights.items()}, folder / SAFETENSORS, {"format": "pt"})
    except SafetensorError as error:  # of the disk: the names and tensors are right
        raise ConfigurationError(f"{folder / SAFETENSORS} cannot be written: {error}") from error
