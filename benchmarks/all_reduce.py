"""The sum of a model's gradients over the processes that torchrun started, by itself: one flat tensor, summed in place.

    torchrun --standalone --nproc-per-node 2 -m benchmarks.all_reduce 100000000 --dtype bfloat16

prints a line of JSON. `benchmarks.distributed` runs it.
"""

import argparse
import json
import os
import statistics
import time

import torch
import torch.distributed as dist

DTYPES = ("float32", "bfloat16", "float16")


def measure(numbers: int, dtype: torch.dtype, device: torch.device, repeats: int) -> list[float]:
    """Milliseconds of each all-reduce of a flat tensor, as this process waits for it.

    Raises:
        RuntimeError: the sum is wrong.
    """
    world = dist.get_world_size()
    gradients = torch.empty(numbers, dtype=dtype, device=device)
    found = []
    for number in range(repeats + 3):  # the first ones open connections
        gradients.fill_(1 + dist.get_rank())
        _wait(device)
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(gradients)
        _wait(device)
        if number >= 3:
            found.append(1000 * (time.perf_counter() - start))
    expected = world * (world + 1) / 2
    if gradients.min() != expected or gradients.max() != expected:
        raise RuntimeError(f"the sum over {world} processes is not {expected}")
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", type=int, help="how many gradients the model has")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--cpu", action="store_true", help="gloo in place of NCCL")
    options = parser.parse_args()
    device = torch.device("cpu" if options.cpu else f"cuda:{os.environ['LOCAL_RANK']}")
    if not options.cpu:
        torch.cuda.set_device(device)
    dist.init_process_group("gloo" if options.cpu else "nccl")
    dtype = getattr(torch, options.dtype)
    times = measure(options.numbers, dtype, device, options.repeats)
    if dist.get_rank() == 0:
        mib = options.numbers * dtype.itemsize / 2**20
        print(json.dumps({"all_reduce_ms": round(statistics.median(times), 3), "all_reduce_mib": round(mib, 1)}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
