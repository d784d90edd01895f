"""Several processes that train one model on CPUs."""

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
