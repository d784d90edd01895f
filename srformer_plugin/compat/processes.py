"""Several processes that train one model on CPUs."""

import torch
from fairseq import utils
from fairseq.distributed import utils as distributed_utils
from fairseq.models import distributed_fairseq_model

from .patching import wrap


def sum_gradients_on_cpus():
    """Make ``--ddp-backend pytorch_ddp`` run over gloo on CPUs.

    ``models/distributed_fairseq_model.py:66`` names a GPU as the device of every process, and PyTorch then refuses a
    model that is not there. Not needed when ``fairseq-train --cpu`` on two processes trains with fairseq's default.
    """

    def make_wrapper(original):
        def DistributedDataParallel(module, device_ids=None, output_device=None, **options):
            if all(parameter.device.type == "cpu" for parameter in module.parameters()):
                device_ids = output_device = None
            return original(module, device_ids=device_ids, output_device=output_device, **options)

        return DistributedDataParallel

    wrap(distributed_fairseq_model, "DistributedDataParallel", make_wrapper)


def gather_objects_on_cpus():
    """Let processes without GPUs train with a criterion whose logging outputs cannot be summed (FairseqCriterion's own
    default).

    ``distributed/utils.py:620`` gathers them in a buffer of CUDA: "type torch.cuda.ByteTensor not available". Not
    needed when ``all_gather_list`` returns over gloo where PyTorch has no CUDA.
    """

    def make_wrapper(original):
        def all_gather_list(data, group=None, max_size=16384):
            group = distributed_utils.get_global_group() if group is None else group
            if not isinstance(group, torch.distributed.ProcessGroup) or torch.distributed.get_backend(group) != "gloo":
                return original(data, group, max_size)
            gathered = [None] * distributed_utils.get_world_size(group)
            torch.distributed.all_gather_object(gathered, utils.move_to_cpu(data), group=group)
            return gathered

        return all_gather_list

    wrap(distributed_utils, "all_gather_list", make_wrapper)
