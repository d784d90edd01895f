"""The systems whose training steps are timed."""

from dataclasses import dataclass, field, replace

from benchmarks.random_models import HUGGING_FACE
from srformer_plugin.criterions.fused_label_smoothed_cross_entropy import NAME as OUR_CRITERION
from srformer_plugin.optim.foreach_adafactor import ForeachAdafactorConfig
from srformer_plugin.optim.fused_adam import FusedAdamConfig

PEER = "bart_base"
OUR_OPTIMIZER = "fused_adam"


def optimizer_settings(name):
    """The settings of one of fairseq's optimizers or ours, as `fairseq.optim.build_optimizer` takes them."""
    if name.endswith("adafactor"):
        settings = ForeachAdafactorConfig(scale_parameter=True, lr=[1e-5])
    else:
        settings = FusedAdamConfig(adam_betas="(0.9, 0.999)", weight_decay=0.01, lr=[1e-5])
    settings._name = name
    return settings


@dataclass
class System:
    """A line of the table: an architecture of fairseq's or transformers', and the system it must agree with.

    `optimizer` and `criterion` are names of fairseq's; transformers' have their own. `compiled`: with --compile, a
    stock model with torch.compile layer by layer. What is not `timed` is there for others to agree with.
    """

    arch: str
    settings: dict = field(default_factory=dict)
    same_as: str | None = None
    optimizer: str = "adam"
    criterion: str = "label_smoothed_cross_entropy"
    compiled: bool = False
    timed: bool = True

    @property
    def is_stock(self) -> bool:
        """A model of fairseq's own (or transformers')."""
        return not self.arch.startswith("srformer")


def systems(backends, with_transformers, source):
    """name -> `System`, the peer of all others first. Without --systems those with stock's optimizer are not timed."""
    chosen = {
        PEER: System("bart_base"),
        f"{PEER}, {OUR_OPTIMIZER}": System("bart_base", same_as=PEER, optimizer=OUR_OPTIMIZER),
        f"{PEER}, {OUR_OPTIMIZER}, compiled": System("bart_base", same_as=PEER, optimizer=OUR_OPTIMIZER, compiled=True),
        "full attention": System("srformer_bart_base", {"cross_attention": "full"}, PEER),
    }
    for cross_attention, name in (("segmented", "segmented"), ("srformer", "srformer_bart_base")):
        for backend in backends:
            settings = {"cross_attention": cross_attention, "attention_backend": backend}
            other = f"{name}, {backends[0]}" if backend != backends[0] else None
            last = f"{name}, {backend}"
            chosen[last] = System("srformer_bart_base", settings, other)
    for name in ("full attention", last):
        fused = replace(chosen[name], same_as=chosen[name].same_as or name, optimizer=OUR_OPTIMIZER)
        chosen[f"{name}, {OUR_OPTIMIZER}"] = fused
        chosen[f"{name}, {OUR_OPTIMIZER}, compiled"] = replace(fused, compiled=True)
    for name in (PEER, last):
        fused = replace(chosen[f"{name}, {OUR_OPTIMIZER}"], criterion=OUR_CRITERION)
        chosen[f"{name}, {OUR_OPTIMIZER}, fused loss"] = fused
    chosen[f"{name}, {OUR_OPTIMIZER}, compiled, fused loss"] = replace(fused, compiled=True)
    shown = {
        PEER,
        f"{PEER}, {OUR_OPTIMIZER}",
        f"full attention, {OUR_OPTIMIZER}",
        f"{last}, {OUR_OPTIMIZER}",
        f"{last}, {OUR_OPTIMIZER}, fused loss",
        f"{last}, {OUR_OPTIMIZER}, compiled, fused loss",
    }
    chosen = {name: replace(system, timed=name in shown) for name, system in chosen.items()}
    if with_transformers:
        kinds = ["bart"] if source <= 1024 else ["bart", "led"]
        chosen.update({HUGGING_FACE[kind]: System(kind) for kind in kinds})
    return chosen


def long_systems(backends):
    """As `systems`, for long sources: those of the chunked encoder, with our optimizer and the last of `backends`.

    Each is to have the loss of one with the first of `backends`, which is not timed.
    """
    chosen = {
        PEER: System("bart_base"),
        f"{PEER}, {OUR_OPTIMIZER}": System("bart_base", same_as=PEER, optimizer=OUR_OPTIMIZER),
    }
    for choice, arch in (("clock", "srformer_bart_base"), ("content", "srformer_bart_content")):
        settings, name = {"encoder_attention": "chunked"}, f"chunked, {choice}"
        other = f"{name}, {backends[0]}, to compare with"
        chosen[other] = System(arch, {**settings, "attention_backend": backends[0]}, timed=False)
        settings = {**settings, "attention_backend": backends[-1]}
        chosen[f"{name}, {OUR_OPTIMIZER}"] = System(arch, settings, other, OUR_OPTIMIZER)
    chosen[f"{name}, {OUR_OPTIMIZER}, compiled"] = System(arch, settings, other, OUR_OPTIMIZER, compiled=True)
    settings = {**settings, "checkpoint_activations": True}
    chosen[f"{name}, {OUR_OPTIMIZER}, checkpointed"] = System(arch, settings, other, OUR_OPTIMIZER)
    return chosen
