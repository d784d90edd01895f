"""One training step of srformer_bart_base beside stock bart_base, fairseq's and transformers', and LED.

    python -m benchmarks.training_step --profile --json benchmarks/results/training_step.json
    python -m benchmarks.training_step --long --json benchmarks/results/training_long.json

bart_base's sizes, random weights of one seed, dropout 0.1; random batches of B sources between 7/8 N and N tokens,
padded on the right, and B targets of T tokens. A step is forward, label-smoothed loss (0.1), backward, clipping and
Adam. fairseq's models are trained as its --bf16 does it: weights in bfloat16, a copy of them in float32 for its Adam,
or for this package's where a system's name says fused_adam: stock and ours have a line with either. "fused loss" is
`--criterion fused_label_smoothed_cross_entropy`. transformers' are trained as its Trainer's bf16 does it: weights in
float32, autocast to bfloat16, PyTorch's fused AdamW. "wall" is the median of the steps by the clock, "device"
(--profile) what the device is busy with in one: where a step waits for the processor's launches they differ. The peak
is that of a step and holds weights and optimizer states.

Before a case is timed: losses are finite; with equal weights full cross-attention has stock BART's loss, and the
implementations of the segmented attention have one another's. A model that fails is not timed. --long times the systems
for long sources: the chunked encoder, with segments by the clock or by content, and with --checkpoint-activations
("checkpointed"); it ends where a chunked encoder of one chunk has not stock BART's loss. Without a GPU the numbers are
those of the CPU, in float32. About 2 minutes on an H100.
"""

import argparse
import math
import statistics
import time

import torch
import torch.nn.functional as F
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.dataclass.configs import FairseqConfig
from fairseq.optim import build_optimizer
from fairseq.optim.fp16_optimizer import FP16Optimizer
from omegaconf import OmegaConf

from benchmarks.markdown import number
from benchmarks.random_models import HUGGING_FACE, WORDS, StubTask, build, hugging_face, import_transformers
from benchmarks.ranges import mark, record_function, shares
from benchmarks.rows import Results, add_options, attempt, provenance, sizes, this_device
from benchmarks.training_systems import PEER, System, long_systems, optimizer_settings, systems
from srformer_plugin.models import compiled
from srformer_plugin.models.encoders.settings import STOCK_POSITIONS

CASES = [(64, 128, 1024), (16, 256, 4096), (16, 128, 1024)]  # B, T, N: two that fill an H100, one that does not
LONG_CASES = [(4, 512, 16384), (1, 512, 65536)]
SMOOTHING, CLIP = 0.1, 0.1
# Relative, of losses and of logits in bfloat16. Segmented attention is 0.08 away from full, an SRformer 0.15.
LOSS_TOLERANCE, LOGITS_TOLERANCE = 2e-3, 4e-2


def make_batch(task, case, device):
    """A batch of fairseq's: random sources padded on the right, targets of T tokens and the decoder's input."""
    batch_size, targets, source = case
    dictionary, generator = task.source_dictionary, torch.Generator().manual_seed(0)
    tokens = torch.randint(dictionary.nspecial, len(dictionary), (batch_size, source), generator=generator)
    lengths = torch.linspace(source, source * 7 // 8, batch_size).long()  # a batch is as wide as its longest
    index = torch.arange(source)
    tokens[index == lengths.unsqueeze(1) - 1] = dictionary.eos()
    tokens[index >= lengths.unsqueeze(1)] = dictionary.pad()
    target = torch.randint(dictionary.nspecial, len(dictionary), (batch_size, targets), generator=generator)
    target[:, -1] = dictionary.eos()
    inputs = {"src_tokens": tokens, "src_lengths": lengths, "prev_output_tokens": target.roll(1, dims=1)}
    batch = {"net_input": {name: x.to(device) for name, x in inputs.items()}, "target": target.to(device)}
    return {**batch, "ntokens": target.numel()}


def compile_stock_layers(model):
    """torch.compile as a user of fairseq would have it: whole layers, one by one, for the shape at hand."""
    torch._dynamo.reset()  # other shapes
    torch._dynamo.config.recompile_limit = 64  # fairseq's layers know one another apart; with 8 most stay as they are
    for layer in (*model.encoder.layers, *model.decoder.layers):
        layer.compile(dynamic=False, backend=compiled.BACKEND)


class FairseqStep:
    """Loss and training step of a fairseq model in bfloat16 (float32 on a CPU), as fairseq's trainer takes it."""

    def __init__(self, task, system, case, device):
        _, targets, source = case
        ours = {} if system.is_stock else {"compile": system.compiled}
        model = build(task, system.arch, max(source, 1024), {**system.settings, **ours}, targets)
        if system.compiled and system.is_stock:
            compile_stock_layers(model)
        self.model = model.to(device, torch.bfloat16 if device == "cuda" else torch.float32)
        self.optimizer_name = system.optimizer
        criterion = CRITERION_REGISTRY[system.criterion]
        self.criterion = criterion(task, sentence_avg=False, label_smoothing=SMOOTHING)

    def prepare(self):
        """Make the optimizer, after the checks."""
        config = FairseqConfig()
        config.optimizer = optimizer_settings(self.optimizer_name)
        config = OmegaConf.structured(config)
        config.common.bf16 = True
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        half = parameters[0].dtype == torch.bfloat16
        make = FP16Optimizer.build_optimizer if half else lambda c, p: build_optimizer(c.optimizer, p)
        self.optimizer = make(config, parameters)
        self.model.train()

    def mark(self):
        mark(self.model, self.criterion)

    def logits(self, inputs):
        """(B, T, V) of `net_input`."""
        return self.model(**inputs)[0]

    def loss(self, batch):
        """(sum over target tokens, their number)."""
        loss, _, logged = self.criterion(self.model, batch)
        return loss, logged["ntokens"]

    def backward(self, batch):
        self.optimizer.zero_grad()
        loss, count = self.loss(batch)
        self.optimizer.backward(loss)
        self.optimizer.multiply_grads(1 / count)

    def update(self):
        self.optimizer.clip_grad_norm(CLIP)
        self.optimizer.step()


class TransformersStep:
    """The same of a model of transformers."""

    def __init__(self, task, system, case, device):
        self.device, self.padding = device, task.source_dictionary.pad()
        words = len(task.source_dictionary) - task.source_dictionary.nspecial
        self.model = hugging_face(system.arch, case[2], words).to(device)

    def prepare(self):
        fused = self.device == "cuda"
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, weight_decay=0.01, fused=fused)
        self.model.train()

    def logits(self, inputs):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            return self.model(
                input_ids=inputs["src_tokens"],
                attention_mask=inputs["src_tokens"].ne(self.padding).long(),
                decoder_input_ids=inputs["prev_output_tokens"],
                use_cache=False,
            ).logits

    def loss(self, batch):
        logits = self.logits(batch["net_input"])
        target = batch["target"].flatten()
        loss = F.cross_entropy(logits.float().flatten(0, 1), target, reduction="sum", label_smoothing=SMOOTHING)
        return loss, batch["ntokens"]

    def backward(self, batch):
        self.optimizer.zero_grad()
        loss, count = self.loss(batch)
        (loss / count).backward()

    def update(self):
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()


def check(name, system, step, batch, found):
    """Put a token's loss and a sentence's logits, without dropout, into `found`, and compare them with `same_as`'s.

    Raises:
        RuntimeError: they are not finite, or not the same.
    """
    step.model.eval()
    with torch.no_grad():
        loss, count = step.loss(batch)
        logits = step.logits({name: x[:1] for name, x in batch["net_input"].items()}).float().cpu()  # not in a peak
    loss = loss.item() / count
    found[name] = (loss, logits)
    if not (math.isfinite(loss) and logits.isfinite().all()):
        raise RuntimeError(f"the loss is {loss}, or a logit is not finite")
    if system.same_as in found:
        expected, their_logits = found[system.same_as]
        error = ((logits - their_logits).norm() / their_logits.norm()).item()
        if not (abs(loss - expected) < LOSS_TOLERANCE * expected and error < LOGITS_TOLERANCE):
            other = f"{expected:.4f} of {system.same_as}"
            raise RuntimeError(f"the loss is {loss:.4f} beside {other}, the logits are {error:.1e} apart")


def check_one_chunk(task, device):
    """End where a source of one chunk has another loss than stock BART's with full attention and a chunked encoder."""
    case, found = (2, 64, STOCK_POSITIONS), {}
    chunked = System("srformer_bart_base", {"cross_attention": "full", "encoder_attention": "chunked"}, PEER)
    for name, system in ((PEER, System("bart_base")), ("chunked", chunked)):
        step = FairseqStep(task, system, case, device)
        _, failure = attempt(device, check, name, system, step, make_batch(task, case, device), found)
        if failure:
            raise SystemExit(f"{name}, a source of {STOCK_POSITIONS} tokens: {failure}: no report")


def measure(step, batch, device, repeats, warm_up):
    """Median milliseconds of a step and of its forward and backward pass, and the peak in MiB.

    The device is waited for once a step, as fairseq's trainer does it (for the norm of the gradients).
    """
    now, between = (_event, lambda a, b: a.elapsed_time(b)) if device == "cuda" else (time.perf_counter, _milliseconds)
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    whole, passes = [], []
    for turn in range(warm_up + repeats):
        if device == "cuda" and turn == warm_up:
            torch.cuda.reset_peak_memory_stats()
        synchronize()
        began, first = time.perf_counter(), now()
        step.backward(batch)
        second = now()
        step.update()
        synchronize()
        whole.append(1000 * (time.perf_counter() - began))
        passes.append(between(first, second))
    peak = round(torch.cuda.max_memory_allocated() / 2**20) if device == "cuda" else None
    return statistics.median(whole[warm_up:]), statistics.median(passes[warm_up:]), peak


def _event():
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _milliseconds(first, second):
    return 1000 * (second - first)


def profiled(step, batch, device):
    """Milliseconds by range; fairseq's models only."""
    step.mark()

    def whole():
        step.backward(batch)
        with record_function("range: optimizer"):
            step.update()

    return shares(whole, device)


class Case:
    """One batch shape: its systems, their checks, and the rows made of them."""

    def __init__(self, shape, task, options, device, results):
        self.shape, self.task, self.options, self.device, self.results = shape, task, options, device, results
        self.batch, self.checked, self.stock = make_batch(task, shape, device), {}, {}
        if options.long:
            self.systems = long_systems(options.attention_backend)
        else:
            self.systems = systems(options.attention_backend, not options.no_transformers, shape[2])
        self.names = [name for name, system in self.systems.items() if name in (options.systems or [name])]
        if options.systems is None:
            self.names = [name for name in self.names if self.systems[name].timed]
        self.failed = set()  # systems that could not be checked
        self.timed = {}  # name -> what its row says beside the time

    def _add(self, name, kind, ms, failure, **more):
        self.stock.setdefault(kind, ms if name == PEER else None)
        case = dict(zip(("batch", "targets", "source"), self.shape), system=name, time=kind)
        case["precision"] = "bf16" if self.device == "cuda" else "fp32"
        row = self.results.add(case, PEER, ms, self.stock[kind], "ms/step", not_timed=failure, **more)
        shown = f"not timed: {failure}" if failure else f"{ms:8.1f} ms/step  ratio {number(row['ratio'], '.3f')}"
        print("{:3} x {:4} x {:6} ".format(*self.shape) + f"{name:38} {kind:6} {shown}", flush=True)

    def _checked(self, name):
        """A step whose loss is that of its `same_as`, which is looked at first where it was not."""
        other = self.systems[name].same_as
        unknown = other is not None and other not in self.checked and other not in self.failed
        if unknown and attempt(self.device, self._checked, other)[1]:
            self.failed.add(other)
        if other in self.failed:
            print(f"{name} is compared with nothing: {other} failed", flush=True)
        kind = TransformersStep if name in HUGGING_FACE.values() else FairseqStep
        step = kind(self.task, self.systems[name], self.shape, self.device)
        check(name, self.systems[name], step, self.batch, self.checked)
        return step

    def _timing(self, name):
        step = self._checked(name)
        step.prepare()
        return measure(step, self.batch, self.device, self.options.repeats, self.options.warm_up)

    def _profiling(self, name):
        step = FairseqStep(self.task, self.systems[name], self.shape, self.device)
        step.prepare()
        measure(step, self.batch, self.device, 1, 1)
        return profiled(step, self.batch, self.device)

    def time(self):
        """A row with time "wall" for every system."""
        for name in self.names:
            numbers, failure = attempt(self.device, self._timing, name)
            if name not in self.checked:
                self.failed.add(name)
            ms, passes, peak = numbers or (None, None, None)
            more = {"peak_mib": peak, "loss": self.checked[name][0] if name in self.checked else None}
            other = self.systems[name].same_as
            more["compared_with"] = other if other in self.checked and name in self.checked else None
            self._add(name, "wall", ms, failure, forward_backward_ms=passes, ranges_ms=None, **more)
            if numbers:
                self.timed[name] = more

    def profile(self):
        """A row with time "device" for every system of fairseq's that was timed."""
        for name, more in self.timed.items():
            system = self.systems[name]
            if name in HUGGING_FACE.values() or (system.compiled and system.is_stock):
                continue  # without ranges of ours
            parts, failure = attempt(self.device, self._profiling, name)
            busy = parts and sum(parts.values())
            self._add(name, "device", busy, failure, forward_backward_ms=None, ranges_ms=parts, **more)
            for part, milliseconds in (parts or {}).items():
                print(f"    {part:24} {milliseconds:9.2f} ms {milliseconds / busy:6.1%}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    case_help = "sentences x targets x sources (default: two that fill an H100 and one that does not, or two long ones)"
    parser.add_argument("--cases", nargs="+", type=sizes("BxTxN"), metavar="BxTxN", help=case_help)
    backends = ["torch", "triton"] if torch.cuda.is_available() else ["torch"]  # kernels are for a GPU
    help_text = "ours, a line for each (default: all there are here)"
    parser.add_argument("--attention-backend", nargs="+", default=backends, choices=backends, help=help_text)
    parser.add_argument("--long", action="store_true", help="the systems for long sources instead")
    parser.add_argument("--systems", nargs="+", metavar="NAME", help="only these (default: those of the table)")
    parser.add_argument("--no-transformers", action="store_true", help="without the peers of transformers")
    parser.add_argument("--profile", action="store_true", help="say too which part takes how long (fairseq's models)")
    parser.add_argument("--repeats", type=int, default=15, help="timed steps, of which the median counts")
    parser.add_argument("--warm-up", type=int, default=4, help="steps before them")
    parser.add_argument("--words", type=int, default=WORDS, help="of the vocabulary; fewer for a trial")
    add_options(parser, "3 timed steps")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.warm_up = 3, 1
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not (options.no_transformers or options.long):
        import_transformers()
    results = Results(options.json, "training_step", provenance(this_device(), options.commit))
    task = StubTask(options.words)
    shapes = options.cases or (LONG_CASES if options.long else CASES)
    cases = [Case(shape, task, options, device, results) for shape in shapes]
    known = dict.fromkeys(name for case in cases for name in case.systems)
    if not set(options.systems or []) <= known.keys():
        parser.error(f"--systems: choose from {', '.join(map(repr, known))}")
    if options.long:
        check_one_chunk(task, device)
    for case in cases:
        case.time()
    # after all timings: launches take longer once a profiler was attached to the process
    for case in cases if options.profile else []:
        case.profile()


if __name__ == "__main__":
    main()
