"""torchrun's processes train one model: what each of them passes on to fairseq-train."""

import pytest

from srformer_plugin.errors import ConfigurationError
from srformer_plugin.tools.distributed_train import DECIDED_BY_TORCHRUN, distributed_arguments

SECOND_OF_FOUR = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}


def value(arguments, flag):
    return arguments[arguments.index(flag) + 1]


def test_rank_and_world_size_are_torchruns():
    arguments = distributed_arguments(["data", "--lr", "1"], {"RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "16"})
    assert arguments[:3] == ["data", "--lr", "1"]
    assert value(arguments, "--distributed-rank") == "9"
    assert value(arguments, "--distributed-world-size") == "16"
    assert value(arguments, "--device-id") == "1"
    assert value(arguments, "--distributed-init-method") == "env://"
    assert "--distributed-no-spawn" in arguments
    assert value(arguments, "--ddp-backend") == "pytorch_ddp"
    assert "--distributed-backend" not in arguments


def test_a_single_process_is_no_group():
    arguments = distributed_arguments(["data"], {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"})
    assert arguments == ["data", "--distributed-world-size", "1", "--distributed-rank", "0"]


def test_without_a_gpu_they_talk_over_gloo():
    assert value(distributed_arguments(["--cpu"], SECOND_OF_FOUR), "--distributed-backend") == "gloo"


@pytest.mark.parametrize("given", [["--ddp-backend", "no_c10d"], ["--ddp-backend=no_c10d"]])
def test_a_backend_that_is_given_stays(given):
    assert not {"legacy_ddp", "pytorch_ddp"} & set(distributed_arguments(given, SECOND_OF_FOUR))


@pytest.mark.parametrize(
    "given",
    [["--encoder-layerdrop", "0.1"], ["--decoder-layerdrop=0.1"], ["--no-cross-attention"], ["--zero-sharding", "os"]],
)
def test_updates_that_leave_parameters_out_are_summed_afterwards(given):
    assert value(distributed_arguments(given, SECOND_OF_FOUR), "--ddp-backend") == "legacy_ddp"


@pytest.mark.parametrize("flag", DECIDED_BY_TORCHRUN)
def test_what_would_contradict_torchrun_is_refused(flag):
    for given in ([flag, "1"], [f"{flag}=1"]):
        with pytest.raises(ConfigurationError, match=f"{flag} is decided by torchrun"):
            distributed_arguments(given, SECOND_OF_FOUR)


@pytest.mark.parametrize("missing", SECOND_OF_FOUR)
def test_without_torchrun_it_does_not_start(missing):
    environment = {name: text for name, text in SECOND_OF_FOUR.items() if name != missing}
    with pytest.raises(ConfigurationError, match=f"no {missing}: start this with torchrun"):
        distributed_arguments([], environment)
