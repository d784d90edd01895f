"""fairseq-train as one of several processes over gloo, with or without the mends of an update.

Run by a path: MENDED ("mended" or "stock") and fairseq-train's arguments. Criterions of users are here for it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from fairseq import metrics
from fairseq.criterions import register_criterion
from fairseq.criterions.cross_entropy import CrossEntropyCriterion, CrossEntropyCriterionConfig
from fairseq.distributed import utils as distributed_utils
from fairseq_cli import train
from update_mends import leave_updates_to_fairseq

import srformer_plugin  # noqa: F401 (applies the mends)


@register_criterion("logs_tensors", dataclass=CrossEntropyCriterionConfig)
class LogsTensors(CrossEntropyCriterion):
    """Of several numbers too, by the second process in another order, and asks them as tensors."""

    def forward(self, model, sample, reduce=True):
        loss, size, log = super().forward(model, sample, reduce)
        rank = distributed_utils.get_global_rank()
        tensors = {"loss": log.pop("loss"), "two": torch.tensor([1.0, 2.0]) + rank, "vector": torch.ones(1)}
        numbers = {**log, "large": 2**53 + 1}
        return loss, float(size), {**tensors, **numbers} if rank == 0 else {**numbers, **tensors}

    @classmethod
    def reduce_metrics(cls, logging_outputs):
        (log,) = logging_outputs
        metrics.log_scalar("loss", log["loss"].item() / log["ntokens"].item(), log["sample_size"], round=3)
        for name in ("two", "vector"):
            metrics.log_scalar(name, torch.sqrt(log[name])[-1], round=5)
        metrics.log_scalar("large", log["large"])


@register_criterion("gathered", dataclass=CrossEntropyCriterionConfig)
class Gathered(CrossEntropyCriterion):
    """What it logs cannot be summed."""

    def forward(self, model, sample, reduce=True):
        loss, size, log = super().forward(model, sample, reduce)
        return loss, size, {**log, "words": "word " * (1 + distributed_utils.get_global_rank())}

    @classmethod
    def reduce_metrics(cls, logging_outputs):
        super().reduce_metrics(logging_outputs)
        metrics.log_scalar("words", len("".join(log["words"] for log in logging_outputs)))

    @staticmethod
    def logging_outputs_can_be_summed():
        return False


@register_criterion("without_a_size", dataclass=CrossEntropyCriterionConfig)
class WithoutASize(CrossEntropyCriterion):
    """All processes have nothing to train on in every second update."""

    updates = 0

    def forward(self, model, sample, reduce=True):
        type(self).updates += 1
        loss, size, log = super().forward(model, sample, reduce)
        return (loss, size, log) if self.updates % 2 else (loss * 0, 0, {**log, "loss": log["loss"] * 0})


@register_criterion("out_of_memory", dataclass=CrossEntropyCriterionConfig)
class OutOfMemory(CrossEntropyCriterion):
    """The second process has no memory for its second batch."""

    batches = 0

    def forward(self, model, sample, reduce=True):
        type(self).batches += 1
        if self.batches == 2 and distributed_utils.get_global_rank() == 1:
            raise RuntimeError("out of memory")
        return super().forward(model, sample, reduce)


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    if kind == "stock":
        leave_updates_to_fairseq()
    sys.argv[1:] = arguments
    train.cli_main()
