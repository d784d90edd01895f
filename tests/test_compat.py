"""What stock fairseq gets wrong on today's platform, and that it is mended.

Each mend has a test that shows the fault with fairseq's own function (``function.srformer_original``) and a
test of the mended one. When a test named ``test_stock_...`` fails, fairseq has been repaired and the mend can
go.
"""

import argparse
import builtins
import collections
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils, options, utils
from fairseq.data import (
    bucket_pad_length_dataset,
    data_utils,
    language_pair_dataset,
    token_block_dataset,
)
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed import utils as distributed_utils
from fairseq.logging import meters
from fairseq.modules import MultiheadAttention, dynamic_crf_layer, transformer_layer
from fairseq.ngram_repeat_block import NGramRepeatBlock
from fairseq.trainer import Trainer
from hypothesis import given
from hypothesis import strategies as st

from srformer_plugin import compat
from srformer_plugin.errors import ConfigurationError, UnsafeCheckpointError

USER_DIR = Path(__file__).resolve().parents[1] / "srformer_plugin"

TINY_BART = [
    "--arch", "bart_base", "--share-all-embeddings", "--encoder-layers", "1", "--decoder-layers", "1",
    "--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "32", "--encoder-attention-heads", "2",
    "--decoder-embed-dim", "16", "--decoder-ffn-embed-dim", "32", "--decoder-attention-heads", "2",
]  # fmt: skip


def train_arguments(corpus, save_dir, *more):
    """Arguments of a two-update training run of a tiny stock BART."""
    return [
        str(corpus.binarised), "--task", "translation", "--source-lang", "source", "--target-lang", "target",
        *TINY_BART, "--criterion", "label_smoothed_cross_entropy", "--optimizer", "adam", "--lr", "1e-3",
        "--batch-size", "8", "--max-update", "2", "--save-dir", str(save_dir), "--no-epoch-checkpoints",
        "--log-format", "simple", "--log-interval", "1", "--num-workers", "0", "--cpu", *map(str, more),
    ]  # fmt: skip


@pytest.fixture
def train_here(tiny_corpus, tmp_path, train_in_process):
    """:func:`train_in_process` with the arguments of :func:`train_arguments` and more."""
    return lambda *more: train_in_process(*train_arguments(tiny_corpus, tmp_path, *more))


@pytest.fixture(scope="session")
def trained(run_fairseq, tiny_corpus, tmp_path_factory):
    """A stock BART trained by fairseq-train with ``--user-dir`` and validated on splits of 9 and 5."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = train_arguments(tiny_corpus, folder, "--valid-subset", "valid,test1", "--eval-bleu")
    arguments += ["--eval-bleu-args", '{"max_len_b": 5}', "--user-dir", str(USER_DIR)]
    log = run_fairseq("train", *arguments).stdout
    return argparse.Namespace(checkpoint=folder / "checkpoint_last.pt", log=log)


def generate_arguments(corpus, checkpoint):
    return [
        corpus.binarised, "--source-lang", "source", "--target-lang", "target", "--path", checkpoint,
        "--beam", "2", "--max-len-b", "5", "--cpu", "--user-dir", USER_DIR,
    ]  # fmt: skip


def stock(function):
    """fairseq's own version of a mended function."""
    return function.srformer_original


# --- apply ------------------------------------------------------------------------------------------------


def test_applying_the_mends_again_changes_nothing():
    places = [
        (data_utils, "batch_by_size"), (data_utils, "get_buckets"), (language_pair_dataset, "np"),
        (MultiheadAttention, "forward"), (checkpoint_utils, "load_checkpoint_to_cpu"), (distributed_utils, "call_main"),
        (transformer_layer.TransformerEncoderLayerBase, "__init__"),
        (transformer_layer.TransformerEncoderLayerBase, "upgrade_state_dict_named"),
        (Trainer, "load_checkpoint"),
        (Trainer, "train_step"),
    ]  # fmt: skip
    before = [getattr(owner, name) for owner, name in places]
    compat.apply()
    assert all(getattr(owner, name) is old for (owner, name), old in zip(places, before))


# --- the last batch ---------------------------------------------------------------------------------------


def test_stock_batching_loses_the_last_sentences():
    batches = stock(data_utils.batch_by_size)(
        np.arange(11), num_tokens_fn=None, num_tokens_vec=np.full(11, 7), required_batch_size_multiple=8
    )
    assert sum(map(len, batches)) == 8


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60),
    max_tokens=st.none() | st.integers(30, 200),
    max_sentences=st.none() | st.integers(1, 20),
    multiple=st.integers(1, 8),
    vector=st.booleans(),
)
def test_batches_hold_every_sentence_once_in_order_and_within_the_limits(
    lengths, max_tokens, max_sentences, multiple, vector
):
    lengths = np.array(sorted(lengths))
    batches = data_utils.batch_by_size(
        np.arange(len(lengths)),
        num_tokens_fn=lambda index: lengths[index],
        num_tokens_vec=lengths if vector else None,
        max_tokens=max_tokens,
        max_sentences=max_sentences,
        required_batch_size_multiple=multiple,
    )
    assert np.concatenate(batches).tolist() == list(range(len(lengths)))
    for batch in batches:
        assert max_sentences is None or len(batch) <= max_sentences
        assert max_tokens is None or len(batch) * lengths[batch].max() <= max_tokens


def test_batches_of_fixed_shapes_are_left_to_fairseq():
    arguments = {"num_tokens_fn": lambda index: 5, "fixed_shapes": np.array([[4, 5]])}
    ours = data_utils.batch_by_size(np.arange(11), **arguments)
    theirs = stock(data_utils.batch_by_size)(np.arange(11), **arguments)
    assert [list(batch) for batch in ours] == [list(batch) for batch in theirs]


def test_indices_may_be_any_iterable():
    lengths = np.full(11, 7)
    batches = data_utils.batch_by_size(iter(range(11)), lambda index: lengths[index], None, 20, None, 8)
    assert np.concatenate(batches).tolist() == list(range(11))


def test_fairseq_generate_answers_every_sentence(run_fairseq, tiny_corpus, trained):
    printed = run_fairseq("generate", *generate_arguments(tiny_corpus, trained.checkpoint)).stdout
    answered = sorted(int(line[2:].split("\t")[0]) for line in printed.splitlines() if line.startswith("H-"))
    assert answered == list(range(tiny_corpus.sizes["test"]))


def test_five_sentences_can_be_validated_on(trained):
    assert "valid on 'valid' subset | loss" in trained.log
    assert "valid on 'test1' subset | loss" in trained.log


def test_stock_validation_on_five_sentences_dies(train_here, monkeypatch):
    monkeypatch.setattr(data_utils, "batch_by_size", stock(data_utils.batch_by_size))
    with pytest.raises(Exception, match="dataset is empty|division by zero"):
        train_here("--valid-subset", "test1")


# --- checkpoints ------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_registered():
    """PyTorch's list of loadable classes as it is without the plugin."""
    registered = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.add_safe_globals(registered)


def full_configuration(corpus):
    """The namespace and the omegaconf configuration of a training run."""
    parser = options.get_training_parser()
    namespace = options.parse_args_and_arch(parser, train_arguments(corpus, "unused"))
    return namespace, convert_namespace_to_omegaconf(namespace)


def test_stock_fairseq_cannot_read_its_own_checkpoint(trained, nothing_registered):
    with pytest.raises(pickle.UnpicklingError, match="argparse.Namespace"):
        stock(checkpoint_utils.load_checkpoint_to_cpu)(str(trained.checkpoint))


def test_a_checkpoint_can_be_read(trained):
    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([str(trained.checkpoint)])
    assert type(models[0]).__name__ == "BARTModel"


@pytest.mark.parametrize("style", ["args", "cfg"])
def test_a_checkpoint_of_an_older_fairseq_can_be_read(style, trained, tiny_corpus, tmp_path):
    """Up to 0.10 checkpoints held the argparse namespace, then the omegaconf configuration itself."""
    state = torch.load(trained.checkpoint)
    namespace, configuration = full_configuration(tiny_corpus)
    state["args"], state["cfg"] = (namespace, None) if style == "args" else (None, configuration)
    torch.save(state, tmp_path / "old.pt")
    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "old.pt")])
    assert type(models[0]).__name__ == "BARTModel"


def test_a_checkpoint_of_fairseq_0_12_2_can_be_read(trained, tmp_path):
    """The last official release saved eight copies of parameters in every encoder layer."""
    state = torch.load(trained.checkpoint)
    for name in ("in_proj", "out_proj", "fc1", "fc2"):
        state["model"][f"encoder.layers.0.{name}_weight"] = torch.zeros(16, 16)
        state["model"][f"encoder.layers.0.{name}_bias"] = torch.zeros(16)
    torch.save(state, tmp_path / "official.pt")
    checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "official.pt")])


def meter():
    average = meters.AverageMeter()
    average.update(3.0)
    return average


@pytest.mark.parametrize(
    "value",
    [
        argparse.Namespace(arch="bart_large", adam_betas="(0.9, 0.999)"),
        np.float64(27.5),
        np.float32(0.5),
        np.int64(3),
        np.bool_(True),
        np.arange(4.0),
        collections.defaultdict(dict),
        distributed_utils._TensorPlaceholder(index=3),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_a_checkpoint_may_hold_survives(value, zipped, tmp_path):
    file = tmp_path / "value.pt"
    torch.save({"value": value}, file, _use_new_zipfile_serialization=zipped)
    read = torch.load(file)["value"]
    assert type(read) is type(value)
    assert np.all(read == value)


def test_arrays_pickled_by_the_other_numpy_can_be_read(tmp_path):
    """NumPy 2 calls the module ``numpy._core``, NumPy 1 ``numpy.core``."""
    torch.save({"value": np.arange(4.0)}, tmp_path / "value.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "value.pt").read_bytes()
    assert b"numpy._core.multiarray" in content
    (tmp_path / "old.pt").write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert torch.load(tmp_path / "old.pt")["value"].tolist() == [0, 1, 2, 3]


def test_meters_of_a_checkpoint_of_2019_can_be_read(tmp_path):
    torch.save({"value": meter()}, tmp_path / "value.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "value.pt").read_bytes()
    old = content.replace(b"fairseq.logging.meters", b"fairseq.meters")
    for name, text in (("new.pt", content), ("old.pt", old)):
        (tmp_path / name).write_bytes(text)
        assert torch.load(tmp_path / name)["value"].avg == 3.0


class Smuggled:
    """Pickles as a call that leaves a file behind when it is read without care."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def smuggle(how, marker):
    python = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": lambda: Smuggled(os.system, f"touch {marker}"),
        "subprocess": lambda: Smuggled(subprocess.check_call, ["touch", str(marker)]),
        "exec": lambda: Smuggled(builtins.exec, python),
        "eval": lambda: Smuggled(builtins.eval, python),
        "getattr": lambda: Smuggled(getattr, Smuggled(__import__, "os"), "system"),
        "in a namespace": lambda: argparse.Namespace(arch=Smuggled(os.system, f"touch {marker}")),
        "in an object array": lambda: np.array([Smuggled(os.system, f"touch {marker}")], dtype=object),
    }[how]()


HOW = ["os.system", "subprocess", "exec", "eval", "getattr", "in a namespace", "in an object array"]


def malicious_checkpoint(checkpoint, how, folder, zipped=True):
    """Copy a checkpoint and hide a call in its configuration; returns the copy and the file it would leave."""
    marker, file = folder / "executed", folder / "downloaded.pt"
    state = torch.load(checkpoint)
    state["cfg"]["common"]["wandb_project"] = smuggle(how, marker)
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    return file, marker


def test_the_smuggled_code_would_run(trained, tmp_path):
    """Otherwise the tests below would prove nothing."""
    file, marker = malicious_checkpoint(trained.checkpoint, "os.system", tmp_path)
    torch.load(file, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("how", HOW)
def test_code_in_a_checkpoint_is_refused(how, zipped, trained, tmp_path):
    file, marker = malicious_checkpoint(trained.checkpoint, how, tmp_path, zipped)
    with pytest.raises(UnsafeCheckpointError, match="downloaded.pt is refused"):
        checkpoint_utils.load_checkpoint_to_cpu(str(file))
    assert not marker.exists()


@pytest.mark.parametrize("tool", ["generate", "train"])
def test_tools_refuse_a_checkpoint_with_code(tool, run_fairseq, tiny_corpus, trained, tmp_path):
    file, marker = malicious_checkpoint(trained.checkpoint, "os.system", tmp_path)
    arguments = {
        "generate": generate_arguments(tiny_corpus, file),
        "train": train_arguments(tiny_corpus, tmp_path, "--restore-file", file, "--user-dir", USER_DIR),
    }
    done = run_fairseq(tool, *arguments[tool], check=False)
    assert done.returncode != 0
    assert not marker.exists()
    last_line = done.stdout.strip().splitlines()[-1]
    assert f"checkpoint {file} is refused: it asks to run or build" in last_line
    assert "system" in last_line


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_two_processes_resume_from_a_checkpoint(tiny_corpus, trained, tmp_path):
    """Rank 0 reads the file and sends its content, configuration included, to rank 1."""
    command = [Path(sys.executable).with_name("fairseq-train")]
    command += train_arguments(tiny_corpus, tmp_path, "--restore-file", trained.checkpoint)
    command += ["--max-update", "3", "--user-dir", USER_DIR, "--distributed-world-size", "2"]
    command += ["--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp", "--distributed-no-spawn"]
    command += ["--distributed-init-method", f"tcp://127.0.0.1:{free_port()}", "--distributed-rank"]
    ranks = [
        subprocess.Popen(
            [*map(str, command), str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
        for rank in range(2)
    ]
    printed = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], printed
    assert "Loaded checkpoint" in printed[0]
    assert "num_updates 3" in printed[0]


# --- half precision ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--bf16", "--memory-efficient-bf16", "--fp16", "--memory-efficient-fp16"])
def test_half_precision_trains_on_a_cpu(flag, train_here):
    log = train_here(flag, "--fp16-init-scale", "4")
    assert "num_updates 2" in log
    assert "nan" not in log


@pytest.mark.parametrize(
    "flag, message", [("--bf16", "xla_device"), ("--fp16", "not compiled with CUDA|NVIDIA driver")]
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="--fp16 is only wrong where there is no GPU")
def test_stock_half_precision_fails_on_a_cpu(flag, message, train_here, monkeypatch):
    monkeypatch.setattr(distributed_utils, "call_main", stock(distributed_utils.call_main))
    with pytest.raises((AttributeError, AssertionError, RuntimeError), match=message):
        train_here(flag)


OVERFLOW = ["--fp16", "--fp16-init-scale", "1073741824", "--max-update", "2"]


def test_a_training_on_a_cpu_goes_on_after_an_overflow(train_here):
    log = train_here(*OVERFLOW)
    assert "gradient overflow detected" in log
    assert "num_updates 2" in log
    assert torch.Tensor.cuda.__name__ == "cuda"  # as it was


@pytest.mark.skipif(torch.cuda.is_available(), reason="only wrong where there is no GPU")
def test_stock_training_on_a_cpu_ends_with_an_overflow(train_here, monkeypatch):
    monkeypatch.setattr(Trainer, "train_step", stock(Trainer.train_step))
    with pytest.raises((AssertionError, RuntimeError), match="not compiled with CUDA|NVIDIA driver"):
        train_here(*OVERFLOW)


def test_a_machine_with_a_tpu_still_uses_it(tiny_corpus, monkeypatch):
    """What --bf16 means where torch_xla is installed stays fairseq's choice."""
    monkeypatch.setattr(utils, "xm", object())
    parser = options.get_training_parser()
    arguments = train_arguments(tiny_corpus, "unused", "--bf16")
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, arguments))
    seen = []
    distributed_utils.call_main(cfg, lambda cfg: seen.append(cfg.common.tpu))
    assert seen == [True]


def test_no_part_of_the_configuration_still_says_tpu(tiny_corpus):
    parser = options.get_training_parser()
    arguments = train_arguments(tiny_corpus, "unused", "--bf16")
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, arguments))
    seen = []
    distributed_utils.call_main(cfg, seen.append)
    assert not seen[0].common.tpu
    assert not seen[0].optimizer.tpu
    assert not seen[0].distributed_training.tpu


# --- NumPy ------------------------------------------------------------------------------------------------


def test_stock_buckets_fail():
    with pytest.raises(TypeError, match="interpolation"):
        stock(data_utils.get_buckets)(np.arange(10), 2)


def test_buckets_are_quantiles_that_occur():
    assert data_utils.get_buckets(np.array([1, 2, 3, 4, 100]), 2).tolist() == [3, 100]
    assert bucket_pad_length_dataset.get_buckets(np.array([5, 5, 5]), 3).tolist() == [5]


def test_batches_can_be_bucketed(train_here):
    assert "num_updates 2" in train_here("--num-batch-buckets", "3", "--max-tokens", "400")


def test_stock_batches_cannot_be_bucketed(train_here, monkeypatch):
    monkeypatch.setattr(language_pair_dataset, "np", np)
    with pytest.raises(AttributeError, match="compat"):
        train_here("--num-batch-buckets", "3", "--max-tokens", "400")


@pytest.mark.parametrize("module", [language_pair_dataset, token_block_dataset, dynamic_crf_layer])
def test_removed_aliases_exist_for_fairseq_alone(module):
    assert (module.np.float, module.np.compat.long) == (float, int)
    assert module.np.int64 is np.int64
    assert not hasattr(np, "compat")


# --- cross-attention after a generator was built ----------------------------------------------------------


def teacher_forced(model, task):
    """Log-probabilities that a model gives to a batch of four different sentences."""
    model.eval()
    dataset = task.dataset("valid")
    batch = dataset.collater([dataset[index] for index in range(4)])
    with torch.no_grad():
        output, _ = model(**batch["net_input"])
    return output


@pytest.fixture
def loaded(trained):
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(trained.checkpoint)])
    task.load_dataset("valid")
    return models[0], task


def test_stock_bart_confuses_the_sources_after_a_generator_was_built(loaded, monkeypatch):
    model, task = loaded
    model.set_beam_size(1)
    before = teacher_forced(model, task)
    monkeypatch.setattr(MultiheadAttention, "forward", stock(MultiheadAttention.forward))
    model.set_beam_size(2)
    assert not torch.allclose(teacher_forced(model, task), before)


@pytest.mark.parametrize("beam", [2, 3])
def test_a_generator_does_not_change_what_a_model_computes(beam, loaded):
    model, task = loaded
    model.set_beam_size(1)
    before = teacher_forced(model, task)
    model.set_beam_size(beam)
    assert torch.equal(teacher_forced(model, task), before)


# --- the encoder of fairseq 0.12.2 ------------------------------------------------------------------------


def test_the_fast_path_of_an_encoder_layer_is_off(tiny_corpus, monkeypatch):
    """ve-fairseq has no such path, so this gives its layer the attribute that 0.12.2's has."""
    layer_class = transformer_layer.TransformerEncoderLayerBase
    monkeypatch.setattr(layer_class, "can_use_fastpath", True, raising=False)
    namespace, _ = full_configuration(tiny_corpus)
    layer = transformer_layer.TransformerEncoderLayer(namespace)
    assert layer.can_use_fastpath is False


# --- errors -----------------------------------------------------------------------------------------------


@pytest.fixture
def model_refuses(monkeypatch):
    """Make BART's ``load_state_dict`` raise a given error."""

    def refuse(error):
        def load_state_dict(self, *args, **kwargs):
            raise error

        monkeypatch.setattr("fairseq.models.bart.BARTModel.load_state_dict", load_state_dict)

    return refuse


REASON = "--segment-size 64 does not fit the checkpoint, which was trained with 16."


def test_stock_training_hides_why_a_checkpoint_does_not_fit(train_here, trained, model_refuses, monkeypatch):
    monkeypatch.setattr(Trainer, "load_checkpoint", stock(Trainer.load_checkpoint))
    model_refuses(ConfigurationError(REASON))
    with pytest.raises(Exception, match="ensure that the architectures match"):
        train_here("--restore-file", trained.checkpoint)


def test_training_says_why_a_checkpoint_does_not_fit(train_here, trained, model_refuses):
    model_refuses(ConfigurationError(REASON))
    with pytest.raises(ConfigurationError, match="--segment-size 64") as raised:
        train_here("--restore-file", trained.checkpoint)
    assert raised.value.__suppress_context__


def test_other_errors_keep_the_sentence_of_fairseq(train_here, trained, model_refuses):
    model_refuses(RuntimeError("size mismatch for decoder.embed_positions.weight"))
    with pytest.raises(Exception, match="ensure that the architectures match"):
        train_here("--restore-file", trained.checkpoint)


# --- no-repeat n-grams ------------------------------------------------------------------------------------


def blocked(forward):
    """Which of 9 words may not follow </s> 4 5 6 4 5, with n = 3, in a buffer of 20 tokens."""
    tokens = torch.full((1, 20), 1)
    tokens[0, :6] = torch.tensor([2, 4, 5, 6, 4, 5])
    scores = forward(NGramRepeatBlock(3, use_extension=False), tokens, torch.zeros(1, 9), 1, 1, 5)
    return scores[0].isinf().nonzero().flatten().tolist()


def test_stock_blocks_no_repeated_ngram():
    assert blocked(stock(NGramRepeatBlock.forward)) == []


def test_a_repeated_ngram_is_blocked():
    assert blocked(NGramRepeatBlock.forward) == [6]
