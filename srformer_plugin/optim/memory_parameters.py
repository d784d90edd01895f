"""A memory's own parameters in an optimizer: how they are known, and as what checkpoints keep them.

fairseq hands an optimizer parameters without their names. What a memory owns is marked where it is built, by an
attribute of ours, which `compat.optimizers` copies to the float32 copies of `--bf16` and `--fp16-no-flatten-grads`. By
fairseq's own, ``param_group``, ``--optimizer composite`` chooses an optimizer.
"""

from torch import nn

from ..errors import ConfigurationError


def mark_memory(memory: nn.Module) -> None:
    """Mark all parameters of `memory` as a memory's own."""
    for parameter in memory.parameters():
        parameter.is_of_memory = True


def is_of_memory(parameter: nn.Parameter) -> bool:
    """Whether :func:`mark_memory` has marked it, or what it is the float32 copy of."""
    return getattr(parameter, "is_of_memory", False)


class ParameterGroups:
    """A model's parameters in one group or, with `split`, in two: all others, and a memory's own.

    Checkpoints know one group in the model's order whatever `split` is, as fairseq's Adam writes it: a training goes on
    with another rate of the memory, or with an optimizer that has none.

    Args:
        params: the parameters in the model's order, [n].
        split: make two groups.
    """

    def __init__(self, params: list[nn.Parameter], split: bool):
        self.params = params
        apart = [split and is_of_memory(p) for p in params]
        self.groups = [
            {"params": [p for p, own in zip(params, apart) if own == kind]} for kind in ((0, 1)[: 1 + split])
        ]
        # place among the groups, one behind the other -> place in the model
        self._in_model = sorted(range(len(params)), key=apart.__getitem__)

    def as_one(self, state_dict: dict) -> dict:
        """PyTorch's state of an optimizer of these groups as that of one group in the model's order."""
        first, *rest = state_dict["param_groups"]
        if not rest:
            return state_dict
        group = {**first, "params": list(range(len(self.params)))}
        state = {self._in_model[place]: value for place, value in state_dict["state"].items()}
        return {**state_dict, "param_groups": [group], "state": dict(sorted(state.items()))}

    def as_these(self, state_dict: dict) -> dict:
        """The state of one group in the model's order as that of an optimizer of these groups.

        Raises:
            ConfigurationError: it is of other parameters.
        """
        found = [len(group["params"]) for group in state_dict["param_groups"]]
        if found != [len(self.params)]:
            raise ConfigurationError(
                f"the checkpoint's optimizer has {' + '.join(map(str, found))} parameters, and this one "
                f"{len(self.params)}: go on as it was trained, or add --reset-optimizer"
            )
        if len(self.groups) == 1:
            return state_dict
        (saved,) = state_dict["param_groups"]
        groups, begin = [], 0
        for group in self.groups:
            end = begin + len(group["params"])
            groups.append({**saved, "params": list(range(begin, end))})
            begin = end
        # --zero-sharding os takes the keys for places among its groups, so that they have to be those
        state = {
            place: state_dict["state"][key]
            for place, key in enumerate(saved["params"][index] for index in self._in_model)
            if key in state_dict["state"]
        }
        return {**state_dict, "param_groups": groups, "state": state}
