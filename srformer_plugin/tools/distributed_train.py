"""fairseq-train as one of the processes that torchrun starts.

    torchrun --standalone --nproc-per-node 8 -m srformer_plugin.tools.distributed_train DATA --user-dir ... --arch ...

takes the arguments of fairseq-train. Rank, number of processes and device come from torchrun, which alone knows them.
Given to fairseq-train itself they are a trap: torchrun without --distributed-world-size ends with 0 and has trained
independent models, on a machine without GPU it divides by their number, and inside SLURM fairseq trusts SLURM's count.
Here the processes train one model or none, and each says which of how many it is.

Without a GPU (--cpu) the processes talk over gloo. --ddp-backend is pytorch_ddp unless it is given, which sums the
gradients during the backward pass; with LayerDrop and --no-cross-attention, where that fails since an update leaves
parameters without a gradient, and with --zero-sharding it is legacy_ddp, which sums them afterwards.
"""

import logging
import os
import sys
from collections.abc import Mapping

from ..errors import ConfigurationError

# What would contradict torchrun.
DECIDED_BY_TORCHRUN = (
    "--distributed-world-size",
    "--distributed-num-procs",
    "--distributed-rank",
    "--distributed-init-method",
    "--distributed-port",
    "--distributed-no-spawn",
    "--device-id",
    "--local_rank",
    "--local-rank",
)
# With these legacy_ddp is the default.
SUMMED_AFTERWARDS = ("--encoder-layerdrop", "--decoder-layerdrop", "--no-cross-attention", "--zero-sharding")


def distributed_arguments(arguments: list[str], environment: Mapping[str, str]) -> list[str]:
    """The arguments of fairseq-train for one process.

    Args:
        arguments: fairseq-train's, the same in all processes.
        environment: with torchrun's RANK, LOCAL_RANK and WORLD_SIZE.
    Raises:
        ConfigurationError: it was not started by torchrun, or an argument is torchrun's to decide.
    """
    given = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
    for name in DECIDED_BY_TORCHRUN:
        if name in given:
            raise ConfigurationError(f"{name} is decided by torchrun: leave it out")
    try:
        rank, local_rank, world_size = (int(environment[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    except KeyError as error:
        raise ConfigurationError(
            f"the environment has no {error.args[0]}: start this with torchrun, or one process with fairseq-train"
        ) from error
    added = ["--distributed-world-size", str(world_size), "--distributed-rank", str(rank)]
    if world_size > 1:
        added += ["--distributed-init-method", "env://", "--distributed-no-spawn", "--device-id", str(local_rank)]
        if "--cpu" in given and "--distributed-backend" not in given:
            added += ["--distributed-backend", "gloo"]
        if "--ddp-backend" not in given:
            added += ["--ddp-backend", "legacy_ddp" if given.intersection(SUMMED_AFTERWARDS) else "pytorch_ddp"]
    return [*arguments, *added]


def main() -> None:
    """The command line."""
    try:
        sys.argv[1:] = distributed_arguments(sys.argv[1:], os.environ)
    except ConfigurationError as error:
        sys.exit(f"error: {error}")
    # fairseq_cli.train sets up the log at its import, but only where nothing has done so before
    logging.getLogger().handlers.clear()
    from fairseq_cli import train

    train.logger.info("process %s of %s", 1 + int(os.environ["RANK"]), os.environ["WORLD_SIZE"])
    train.cli_main()


if __name__ == "__main__":
    main()
