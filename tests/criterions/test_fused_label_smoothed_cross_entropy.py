"""`--criterion fused_label_smoothed_cross_entropy` beside fairseq's: losses of every model, trainings, refusals."""

import re
from argparse import Namespace

import pytest
import torch
import warm
from conftest import USER_DIR, run_side_by_side
from fairseq import utils
from fairseq.criterions import label_smoothed_cross_entropy as stock
from fairseq_cli import generate
from fairseq_here import here
from helpers import free_port, train_arguments
from largest_tensor import largest_tensor
from stock_bart import TINY_BART
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from srformer_plugin.criterions import fused_label_smoothed_cross_entropy as fused
from srformer_plugin.errors import ConfigurationError

BOTH = ["label_smoothed_cross_entropy", fused.NAME]
SHARED = {"share_all_embeddings": True}
UNTIED = {"share_all_embeddings": False, "share_decoder_input_output_embed": False}
MODELS = {
    "bart": ("srformer_bart_tiny", UNTIED),
    "bart, shared": ("srformer_bart_tiny", SHARED),
    "bart, a narrower output": ("srformer_bart_tiny", {**UNTIED, "decoder_output_dim": 8}),
    "bart, checkpointed": ("srformer_bart_tiny", {**SHARED, "checkpoint_activations": True}),
    "bart, content": ("srformer_bart_tiny", {"segment_schedule": "content", "segments_per_query": 2}),
    "t5, tied": ("srformer_t5_tiny", SHARED),
    "t5, untied": ("srformer_t5_tiny", {**SHARED, "feed_forward": "gated-gelu", "untied_output": True}),
    "led": ("srformer_led_tiny", SHARED),
    "stock": ("transformer_tiny", {"share_decoder_input_output_embed": True}),
}


def criteria(dictionary, smoothing=0.1, **options):
    """fairseq's criterion and ours."""
    task = Namespace(target_dictionary=dictionary)
    kinds = stock.LabelSmoothedCrossEntropyCriterion, fused.LabelSmoothedCrossEntropyCriterion
    return [kind(task, **{"sentence_avg": False, **options}, label_smoothing=smoothing) for kind in kinds]


@pytest.fixture
def build(build_model):
    def build(kind, dtype=torch.float32, **more):
        arch, options = MODELS[kind]
        return build_model(arch, **{**options, **more}).to(dtype)

    return build


@pytest.fixture
def batch(make_sample):
    """Six pairs of sentences; targets padded on the right."""
    sample = make_sample([9, 23, 14, 30, 5, 18])
    target = make_sample([7, 12, 3, 12, 9, 1], left_pad=False, seed=4)["net_input"]["src_tokens"]
    previous = target.roll(1, dims=1)
    previous[:, 0] = 2
    return {
        **sample,
        "net_input": {**sample["net_input"], "prev_output_tokens": previous},
        "target": target,
        "ntokens": target.ne(1).sum().item(),
    }


def backward(criterion, model, batch, reduce=True):
    """Loss, sample size, log and gradients by name."""
    model.zero_grad()
    loss, sample_size, log = criterion(model, batch, reduce=reduce)
    loss.sum().backward()
    return loss, sample_size, log, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def check_the_same(model, batch, tolerance, *, smoothing=0.1, reduce=True, **options):
    theirs, ours = (
        backward(criterion, model, batch, reduce)
        for criterion in criteria(model.decoder.dictionary, smoothing, **options)
    )
    assert (ours[0].dtype, ours[0].shape) == (theirs[0].dtype, theirs[0].shape)
    assert ours[1] == theirs[1]
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-5)
    assert ours[2].keys() == theirs[2].keys()
    for name, value in theirs[2].items():
        found = ours[2][name]
        assert float(torch.as_tensor(found).sum()) == pytest.approx(float(torch.as_tensor(value).sum()), rel=1e-5), name
    assert ours[3].keys() == theirs[3].keys() and len(ours[3]) > 20
    for name, gradient in theirs[3].items():
        # that of a key's bias is nothing but roundings, that of a threshold a sum that cancels
        scale = max(gradient.double().norm().item(), 0.5)
        assert (ours[3][name].double() - gradient.double()).norm().item() < tolerance * scale, name


# --- one batch ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_losses_and_gradients_of_every_model_are_fairseqs(build, batch, kind, monkeypatch):
    # fairseq's log-softmax is in float32, whatever comes in
    monkeypatch.setattr(utils, "log_softmax", lambda x, dim, onnx_trace=False: x.log_softmax(dim))
    check_the_same(build(kind, torch.float64).train(), batch, 1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("options", [
    {}, {"ignore_prefix_size": 3}, {"report_accuracy": True, "sentence_avg": True},
    {"report_accuracy": True, "ignore_prefix_size": 1},
])  # fmt: skip
@pytest.mark.parametrize("reduce", [True, False])
def test_losses_of_every_option_are_fairseqs(build, batch, options, smoothing, reduce):
    check_the_same(build("t5, tied"), batch, 1e-4, smoothing=smoothing, reduce=reduce, **options)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
@pytest.mark.parametrize("kind", ["bart, shared", "t5, tied", "t5, untied"])
def test_half_precision_differs_by_roundings(build, batch, dtype, tolerance, kind):
    check_the_same(build(kind, dtype, spread=2.0), batch, tolerance)


def test_accuracy_counts_what_fairseq_counts(build, batch):
    model = build("bart")
    with torch.no_grad():
        best = model(**batch["net_input"])[0].argmax(-1)
    batch["target"][:, ::2] = torch.where(batch["target"] == 1, 1, best)[:, ::2]
    for prefix in (0, 2):
        options = {"report_accuracy": True, "ignore_prefix_size": prefix}
        theirs, ours = (criterion(model, batch)[2] for criterion in criteria(model.decoder.dictionary, **options))
        assert (ours["n_correct"], ours["total"]) == (theirs["n_correct"], theirs["total"])
        assert 5 < ours["n_correct"] < ours["total"]


def test_validation_has_the_losses_and_no_gradients(build, batch):
    model = build("bart")
    with torch.no_grad():
        theirs, ours = (criterion(model, batch) for criterion in criteria(model.decoder.dictionary))
    torch.testing.assert_close(ours[0], theirs[0])
    assert not ours[0].requires_grad


def test_the_model_makes_logits_again_after_the_loss_and_after_a_failure(build, batch):
    model = build("bart")
    expected = model(**batch["net_input"])[0]
    criterion = criteria(model.decoder.dictionary)[1]
    criterion(model, batch)
    assert torch.equal(model(**batch["net_input"])[0], expected)
    with pytest.raises(TypeError):
        criterion(model, {**batch, "net_input": {**batch["net_input"], "unknown": 1}})
    assert torch.equal(model(**batch["net_input"])[0], expected)
    assert not model.decoder._forward_hooks


def test_a_frozen_embedding_gets_no_gradient_and_the_rest_does(build, batch):
    model = build("bart, shared")
    model.decoder.output_projection.weight.requires_grad_(False)
    check_the_same(model, batch, 1e-4)
    assert model.decoder.embed_tokens.weight.grad is None


def test_a_training_step_makes_no_logits_of_all_positions(build, batch, monkeypatch):
    model = build("bart")
    words = len(model.decoder.dictionary)
    monkeypatch.setattr(fused.linear_cross_entropy, "__kwdefaults__", {"max_elements": 5 * words, "reduce": True})
    sizes = []
    for criterion in criteria(model.decoder.dictionary):
        with largest_tensor(last_size=words) as largest:
            backward(criterion, model, batch)
        sizes.append(largest.elements // words)
    # rows: all positions, and those of a chunk, beside the transposed weight
    assert sizes == [batch["target"].numel(), model.decoder.output_embed_dim]


# --- what it cannot do ----------------------------------------------------------------------------------------


class OtherLinear(nn.Linear):
    """Computes something else."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_what_is_not_one_plain_projection_is_refused_by_name(build, batch, monkeypatch):
    def refused(match):
        with pytest.raises(ConfigurationError, match=match) as error:
            criterion(model, batch)
        assert "use --criterion label_smoothed_cross_entropy" in str(error.value) and "\n" not in str(error.value)

    model = build("stock")
    criterion = criteria(model.decoder.dictionary)[1]
    decoder, right = model.decoder, model.decoder.output_projection
    for wrong in (OtherLinear(4, 5), nn.Linear(4, 5), nn.Identity()):
        decoder.output_projection = wrong
        refused(r"needs a decoder whose output_projection is a linear layer without a bias, and this")
    decoder.output_projection = right
    for output_layer in (
        lambda x: 2 * right(x),  # does something to the logits
        lambda x: x,  # makes them in another way
        lambda x: right(x[:1]) + right(x[1:]),  # in two parts
    ):
        with monkeypatch.context() as patch:
            patch.setattr(decoder, "output_layer", output_layer)
            refused("does not return what its output_projection makes of one batch")
    criterion(model, batch)


@pytest.mark.parametrize(("arguments", "named"), [
    ([*TINY_BART[2:], "--arch", "bart_base", "--adaptive-softmax-cutoff", "10,20"], "--adaptive-softmax-cutoff"),
    (["--arch", "lstm", "--share-all-embeddings", "--encoder-embed-dim", "16", "--decoder-embed-dim", "16",
      "--decoder-out-embed-dim", "16", "--encoder-hidden-size", "16", "--decoder-hidden-size", "16"],
     "output_projection"),
])  # fmt: skip
def test_fairseq_train_refuses_other_models_in_one_line(tiny_corpus, run_fairseq, tmp_path, arguments, named):
    own = train_arguments(tiny_corpus, tmp_path, "--criterion", fused.NAME, "--max-update", "1", *arguments)
    done = run_fairseq("train", *own, check=False)
    errors = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stdout
    assert len(errors) == 1 and named in errors[0] and "Traceback" not in done.stdout


# --- fairseq-train --------------------------------------------------------------------------------------------


def arguments(corpus, save_dir, criterion, *more):
    own = ["--criterion", criterion, "--label-smoothing", "0.1", "--dropout", "0.1", "--clip-norm", "1"]
    own += ["--report-accuracy", "--batch-size", "5", "--task", "summarization"]
    return train_arguments(corpus, save_dir, *own, *more)


def logged(log, name):
    """A number after every update, as logged."""
    return [float(x) for x in re.findall(rf"train_inner:progress_bar.*? {name}=([0-9.naif]+),", log)]


def validated(log, name):
    return [float(x) for x in re.findall(rf"valid:progress_bar.*?\b{name} ([0-9.]+)", log)]


def load(folder):
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)


TRAININGS = {
    "float32": [],
    "a prefix, update-freq 2": ["--ignore-prefix-size", "2", "--update-freq", "2", "--sentence-avg"],
    "bf16": ["--bf16"],
    "fp16": ["--fp16", "--fp16-init-scale", "16"],
    "checkpoint-activations": ["--checkpoint-activations"],
    "t5": ["--arch", "srformer_t5_tiny"],
}


@pytest.mark.parametrize("training", TRAININGS)
def test_fifty_updates_log_the_losses_of_fairseqs_criterion(tiny_corpus, train_in_process, tmp_path, training):
    flags = ["--max-update", "50", "--optimizer", "fused_adam", *TRAININGS[training]]
    logs = [train_in_process(*arguments(tiny_corpus, tmp_path / name, name, *flags)) for name in BOTH]
    half = training in ("bf16", "fp16")
    for name in ("loss", "nll_loss", "gnorm", "accuracy", "n_correct", "total"):
        theirs, ours = (logged(log, name) for log in logs)
        assert len(theirs) == 50
        if name in ("accuracy", "n_correct"):  # a tie may fall on either side
            assert sum(ours) == pytest.approx(sum(theirs), rel=0.02)
        else:
            # what rounding changes grows from update to update, of the gradients' norm first
            tolerance = 0.06 if half else 2e-2 if name == "gnorm" else 2e-3
            assert ours == pytest.approx(theirs, rel=tolerance, abs=2e-3), name
    for name in ("loss", "nll_loss", "accuracy"):
        theirs, ours = (validated(log, name) for log in logs)
        # of 42 tokens two are 5 points of accuracy
        tolerance = {"abs": 5, "rel": 0} if name == "accuracy" else {"rel": 0.05 if half else 2e-3}
        assert ours and ours == pytest.approx(theirs, **tolerance)
    assert logged(logs[1], "loss")[-1] < logged(logs[1], "loss")[0] - 1  # it learns


@pytest.mark.parametrize(("first", "second"), [(BOTH[0], BOTH[1]), (BOTH[1], BOTH[0]), (BOTH[1], BOTH[1])])
def test_a_training_goes_on_with_either_criterion(tiny_corpus, train_in_process, tmp_path, first, second):
    flags = ["--max-update", "6", "--save-interval-updates", "3", "--disable-validation"]
    whole = train_in_process(*arguments(tiny_corpus, tmp_path / "whole", first, *flags))
    saved = next((tmp_path / "whole").glob("checkpoint_*_3.pt"))
    resumed = train_in_process(*arguments(tiny_corpus, tmp_path / "on", second, *flags, "--restore-file", saved))
    assert logged(resumed, "loss") == pytest.approx(logged(whole, "loss")[3:], abs=2e-3)
    first, second = (load(tmp_path / folder) for folder in ("whole", "on"))
    for name, value in first["model"].items():
        torch.testing.assert_close(second["model"][name], value, rtol=1e-4, atol=1e-5, msg=name)
    steps = [{state["step"] for state in x["last_optimizer_state"]["state"].values()} for x in (first, second)]
    assert steps == [{6}, {6}]


def test_rouge_is_measured_in_training_and_the_checkpoint_decodes(tiny_corpus, train_in_process, tmp_path):
    rouge = ["--eval-rouge", "--eval-rouge-args", '{"beam": 2, "max_len_b": 8}', "--best-checkpoint-metric", "rouge1"]
    flags = [*rouge, "--maximize-best-checkpoint-metric", "--max-update", "20"]
    logs = [train_in_process(*arguments(tiny_corpus, tmp_path / name, name, *flags)) for name in BOTH]
    theirs, ours = (validated(log, "rouge1") for log in logs)
    assert ours == pytest.approx(theirs, abs=5) and max(ours) > 0
    text = here(
        generate, tiny_corpus.binarised, "--user-dir", USER_DIR, "--task", "summarization", "--cpu", "--beam", 2,
        "--path", tmp_path / fused.NAME / "checkpoint_best.pt", "--max-len-b", 5, "--results-path", tmp_path / "out",
    )  # fmt: skip
    assert "error" not in text.lower()
    hypotheses = (tmp_path / "out" / "generate-test.txt").read_text(encoding="utf-8")
    assert len(re.findall("^H-", hypotheses, re.MULTILINE)) == tiny_corpus.sizes["test"]


# --- several processes ----------------------------------------------------------------------------------------


def test_two_processes_step_as_one_on_the_joined_batch(tiny_corpus, train_in_process, tmp_path):
    own = ["--dropout", "0", "--optimizer", "sgd", "--lr", "0.5", "--max-update", "2", "--batch-size", "4"]
    own += ["--disable-validation"]
    alone, two, port = tmp_path / "alone", tmp_path / "two", free_port()
    train_in_process(*arguments(tiny_corpus, alone, BOTH[0], *own, "--update-freq", "2"))
    run_side_by_side(*(
        [
            warm.programs() / "python", "-m", "fairseq_cli.train",
            *arguments(
                tiny_corpus, two, fused.NAME, *own, "--distributed-world-size", "2", "--distributed-rank", str(rank),
                "--distributed-no-spawn", "--distributed-init-method", f"tcp://127.0.0.1:{port}",
                "--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp",
            ),
        ]
        for rank in range(2)
    ))  # fmt: skip
    one = load(alone)["model"]
    for name, value in load(two)["model"].items():
        torch.testing.assert_close(value, one[name], rtol=1e-5, atol=1e-6, msg=name)


class Proxied(DistributedDataParallel):
    """With what fairseq's `ModuleProxyWrapper` adds: attributes of the model within."""

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


@pytest.mark.parametrize("find_unused", [False, True])
@pytest.mark.parametrize("kind", ["bart, shared", "t5, untied"])
def test_pytorchs_ddp_reduces_the_gradient_of_the_projection_once(build, batch, tmp_path, kind, find_unused):
    """With --find-unused-parameters DDP asks what the model's output came from: the projection is to be among it."""
    model = build(kind)
    expected = backward(criteria(model.decoder.dictionary)[0], model, batch)[3]
    options = {"rank": 0, "world_size": 1, "init_method": f"file://{tmp_path}/store"}
    torch.distributed.init_process_group("gloo", **options)
    try:
        wrapped = Proxied(model, find_unused_parameters=find_unused)
        reduced = []

        def reduce(_, bucket):
            reduced.extend(id(p) for p in bucket.parameters())
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        wrapped.register_comm_hook(None, reduce)
        for _ in range(2):  # the second pass fails where the first left something unreduced
            found = backward(criteria(model.decoder.dictionary)[1], wrapped, batch)[3]
    finally:
        torch.distributed.destroy_process_group()
    assert reduced.count(id(model.decoder.output_projection.weight)) == 2
    for name, gradient in expected.items():
        torch.testing.assert_close(found[f"module.{name}"], gradient, rtol=1e-3, atol=1e-5, msg=name)
