"""Carry the tensors of one model over to the names of another, and account for every one of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from ..errors import ConfigurationError


@dataclass(frozen=True)
class Parameter:
    """One tensor under its two names, with the shape that the configuration calls for.

    Attributes:
        shape: in Hugging Face's system.
        reserved: rows that fairseq's tensor has before those of Hugging Face, which are not used: zeros.
    """

    huggingface: str
    fairseq: str
    shape: tuple[int, ...]
    reserved: int = 0


@dataclass
class Names:
    """All tensors of a model under both systems' names.

    Attributes:
        parameters: every tensor that both systems store, once.
        huggingface_copies, fairseq_copies: other names of the same (tied) tensor -> the name in `parameters`. They may
            be missing, and must be equal where they are there.
        huggingface_zeros: tensors of Hugging Face that fairseq has no place for -> shape. They are all zeros.
        fairseq_constants: tensors that are the same in every model, such as version numbers; fairseq asks for them.
        ignored: names without information.
        token_rows: fairseq's names of tensors whose rows are tokens.
        row_of_id: (V,) int64, the row in Hugging Face's tensors of every fairseq id; None: the order is the same.
    """

    parameters: list[Parameter]
    huggingface_copies: dict[str, str] = field(default_factory=dict)
    fairseq_copies: dict[str, str] = field(default_factory=dict)
    huggingface_zeros: dict[str, tuple[int, ...]] = field(default_factory=dict)
    fairseq_constants: dict[str, torch.Tensor] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    token_rows: frozenset[str] = frozenset()
    row_of_id: torch.Tensor | None = None


def to_fairseq(source: Mapping[str, torch.Tensor], names: Names, report: Callable = lambda line: None) -> dict:
    """The state of a fairseq model. `report` is called with a line for every tensor.

    Raises:
        ConfigurationError: see `rename`.
    """
    pairs = {p.huggingface: (p.fairseq, p.shape) for p in names.parameters}
    for name in names.huggingface_zeros:
        if name in source:
            if source[name].any():
                raise ConfigurationError(f"weight {name} is not zero, and fairseq has no place for it")
            report(f"{name} -> dropped: all zeros")
    for name in names.ignored & source.keys():
        report(f"{name} -> dropped: not used")
    ignored = names.ignored | names.huggingface_zeros.keys()
    state = rename(source, pairs, names.huggingface_copies, ignored, report)
    for name in names.token_rows & state.keys():
        state[name] = state[name][names.row_of_id]
        report(f"{name}: rows in the order of fairseq's dictionary")
    for p in (p for p in names.parameters if p.reserved):
        rows = state[p.fairseq]
        state[p.fairseq] = torch.cat((rows.new_zeros(p.reserved, *rows.shape[1:]), rows))
        report(f"{p.fairseq}: {p.reserved} rows of zeros before, which fairseq reserves")
    for copy, original in names.fairseq_copies.items():
        state[copy] = state[original]
        report(f"{original} -> also {copy} (tied)")
    return {**state, **names.fairseq_constants}


def to_huggingface(source: Mapping[str, torch.Tensor], names: Names, report: Callable = lambda line: None) -> dict:
    """The weights of a Hugging Face model, tied ones once. The inverse of `to_fairseq`.

    Raises:
        ConfigurationError: see `rename`.
    """
    pairs = {p.fairseq: (p.huggingface, (p.shape[0] + p.reserved, *p.shape[1:])) for p in names.parameters}
    ignored = names.ignored | names.fairseq_constants.keys()
    weights = rename(source, pairs, names.fairseq_copies, ignored, report)
    for new in (new for name, (new, _) in pairs.items() if name in names.token_rows):
        weights[new] = weights[new][names.row_of_id.argsort()]
        report(f"{new}: rows in the order of Hugging Face's vocabulary")
    for p in (p for p in names.parameters if p.reserved):
        weights[p.huggingface] = weights[p.huggingface][p.reserved :]
        report(f"{p.huggingface}: without the first {p.reserved} rows, which fairseq reserves")
    like = next(iter(weights.values()))
    for name, shape in names.huggingface_zeros.items():
        weights[name] = like.new_zeros(shape)
        report(f"(nothing) -> {name} {shape}: zeros")
    return weights


def rename(source, pairs, copies, ignored, report) -> dict:
    """Every tensor of `source` under its new name; all of them have a place, and every place has one.

    Args:
        source: name -> tensor.
        pairs: name -> (new name, shape).
        copies: name -> the name in `pairs` whose tensor it repeats.
        ignored: names that are passed over.

    Raises:
        ConfigurationError: a tensor that is unknown, missing, of another shape, not of floating point, or that differs
            from the one it should repeat.
    """
    for name in source:
        if name not in pairs and name not in copies and name not in ignored:
            others = sum(n not in pairs and n not in copies and n not in ignored for n in source) - 1
            raise ConfigurationError(
                f"weight {name} is unknown{f' (and {others} more)' if others else ''}: this kind of model has no place "
                "for it"
            )
    missing = [name for name in pairs if name not in source and _any_copy(name, copies, source) is None]
    if missing:
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ConfigurationError(f"weight {missing[0]} is missing{others}")
    renamed = {}
    for name, (new, shape) in tqdm(pairs.items(), unit="tensor", leave=False, disable=None):
        stored = name if name in source else _any_copy(name, copies, source)
        tensor = source[stored]
        if tuple(tensor.shape) != tuple(shape):
            raise ConfigurationError(
                f"weight {stored} has shape {tuple(tensor.shape)}, but the configuration asks for {tuple(shape)}"
            )
        if not tensor.is_floating_point():
            raise ConfigurationError(f"weight {stored} is not of floating point but {tensor.dtype}")
        for copy in (c for c, original in copies.items() if original == name and c in source):
            if not torch.equal(source[copy], tensor):
                raise ConfigurationError(
                    f"weight {copy} differs from {stored}, which it should repeat: the configuration ties them"
                )
        renamed[new] = tensor
        report(f"{stored} -> {new} {tuple(shape)} {str(tensor.dtype).removeprefix('torch.')}")
    return renamed


def _any_copy(name, copies, source):
    """A name under which `source` has the tensor `name` after all, or None."""
    return next((copy for copy, original in copies.items() if original == name and copy in source), None)
