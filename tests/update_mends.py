"""What the mends of an update replace, to compare with fairseq's own, and an update as one of several processes."""

import torch
from fairseq.distributed import utils as distributed_utils
from fairseq.logging.meters import MetersDict
from fairseq.models import BaseFairseqModel, FairseqEncoder
from fairseq.optim.fairseq_optimizer import FairseqOptimizer
from fairseq.optim.fp16_optimizer import _FP16OptimizerMixin
from fairseq.tasks import FairseqTask
from fairseq.trainer import Trainer

MENDED = [
    (_FP16OptimizerMixin, "_sync_fp16_grads_to_fp32"),
    (_FP16OptimizerMixin, "_sync_fp32_params_to_fp16"),
    (_FP16OptimizerMixin, "zero_grad"),
    (FairseqOptimizer, "multiply_grads"),
    (Trainer, "_set_seed"),
    (BaseFairseqModel, "train"),
    (BaseFairseqModel, "set_num_updates"),
    (FairseqEncoder, "set_num_updates"),
    (Trainer, "_reduce_and_log_stats"),
    (MetersDict, "get_smoothed_values"),
    (distributed_utils, "all_reduce_dict"),
    (Trainer, "_fast_stat_sync_sum"),
    (Trainer, "cumulative_training_time"),
    (Trainer, "clip_grad_norm"),
    (Trainer, "_check_grad_norms"),
    (FairseqTask, "optimizer_step"),
]


def leave_updates_to_fairseq(set_attribute=setattr):
    """Put fairseq's own functions where the mends of an update are."""
    for owner, name in MENDED:
        set_attribute(owner, name, getattr(owner, name).srformer_original)


def update_as_one_of_several(monkeypatch, norm_of_other=lambda norm: norm):
    """Let a training of one process sum statistics and compare norms as one of two.

    The other adds nothing to the sums, and its norm is `norm_of_other` of this one's. fairseq compares norms on a GPU
    alone; here on any device.
    """
    begin = Trainer.__init__

    def __init__(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        self._grad_norm_buf = torch.zeros(2, dtype=torch.double, device=self.device)
        norms.append(self._grad_norm_buf)

    def all_reduce(tensor, group, op="sum"):
        if tensor is norms[-1]:
            tensor[1] = norm_of_other(tensor[0])
        return tensor

    norms = []
    monkeypatch.setattr(Trainer, "__init__", __init__)
    monkeypatch.setattr(Trainer, "_sync_stats", lambda self: True)
    monkeypatch.setattr(distributed_utils, "all_reduce", all_reduce)


def without_clocks(content):
    """What a checkpoint holds, tensors as numbers, without what a clock has measured and without the settings."""
    if torch.is_tensor(content):
        return content.item() if content.numel() == 1 else content.tolist()
    if isinstance(content, dict):
        return {key: without_clocks(part) for key, part in content.items() if key not in LEFT_OUT}
    if isinstance(content, (list, tuple)):
        is_clock = len(content) == 4 and content[2] in ("TimeMeter", "StopwatchMeter")
        return [without_clocks(part) for part in (content[:3] if is_clock else content)]
    return content


LEFT_OUT = ("cfg", "previous_training_time")
