"""The settings of a generator: which exist, what they may be, and which go together."""

import json
import math

from fairseq.dataclass.configs import GenerationConfig

from ..errors import ConfigurationError
from ..registry import nearest

# What `FairseqTask.build_generator` reads and a validation can use. The rest is for fairseq-generate alone.
READ_BY_GENERATORS = frozenset(
    (
        "beam", "max_len_a", "max_len_b", "min_len", "match_source_len", "unnormalized", "lenpen", "unkpen",
        "no_repeat_ngram_size", "sampling", "sampling_topk", "sampling_topp", "temperature", "diverse_beam_groups",
        "diverse_beam_strength", "diversity_rate",
    )
)  # fmt: skip

MOST_HYPOTHESES = 1000  # each has scores of the whole vocabulary, and keys and values of all layers

# name -> (test, what it must be). What is added to log-probabilities, or multiplies or divides them, leaves sums over
# thousands of tokens finite, and the differences between words more than rounding.
BOUNDS = {
    "lenpen": (lambda x: abs(x) <= 10, "from -10 to 10"),  # an exponent of lengths
    **dict.fromkeys(("diverse_beam_strength", "lm_weight"), (lambda x: abs(x) <= 1000, "from -1000 to 1000")),
    "diversity_rate": (lambda x: x <= -1 or 0 <= x <= 1000, "from 0 to 1000"),  # between it would favour worse words
    "unkpen": (lambda x: x >= -1000, "at least -1000"),  # inf: never
    "beam": (lambda x: 1 <= x <= MOST_HYPOTHESES, f"from 1 to {MOST_HYPOTHESES:,}"),
    "nbest": (lambda x: x >= 1, "at least 1"),
    "prefix_size": (lambda x: x >= 0, "at least 0"),
    "max_len_a": (lambda x: 0 <= x <= 1000, "from 0 to 1000"),
    "max_len_b": (lambda x: x >= 0, "at least 0"),
    "min_len": (lambda x: x >= 0, "at least 0"),
    "temperature": (lambda x: 1e-30 <= x < math.inf, "finite, and at least 1e-30"),  # float32 ends at 3e38
    "no_repeat_ngram_size": (lambda x: x >= 0, "at least 0"),
    "sampling_topp": (lambda x: x <= 1, "at most 1"),  # as of top-k and groups, 0 and less are none
}
LEAST_OF_HALF = 0.001  # a temperature: float16 ends at 65,504
KINDS = {int: (int,), float: (int, float), bool: (bool,)}
STRATEGIES = {
    "sampling": lambda settings: settings["sampling"],
    "diverse_beam_groups": lambda settings: settings["diverse_beam_groups"] > 0,
    "match_source_len": lambda settings: settings["match_source_len"],
    "diversity_rate": lambda settings: settings["diversity_rate"] > 0,
    "constraints": lambda settings: settings["constraints"] is not None,
}


def json_object(text: str, flag: str) -> dict:
    """The JSON object that `text`, the value of `flag`, is.

    Raises:
        ConfigurationError: it is none.
    """
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{flag} {text!r} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigurationError(f"{flag} {text!r} is not a JSON object")
    return found


def check_generation(
    settings: "str | dict", flag: "str | None", usable: "frozenset | None" = READ_BY_GENERATORS, half: bool = True
) -> dict:
    """Check the settings of a generator.

    Args:
        settings: name -> value as in fairseq's `GenerationConfig`, or the JSON of such.
        flag: whose value they are, such as --eval-rouge-args; None: each is a flag of its own.
        usable: names that do something there; None: all.
        half: the model may compute in float16.
    Returns:
        The settings as a dictionary.
    Raises:
        ConfigurationError: the first that cannot work, by its name.
    """
    settings = json_object(settings, flag) if isinstance(settings, str) else settings

    def refuse(name, what):
        shown = f"--{name.replace('_', '-')} {settings[name]}" if flag is None else f"{flag}: {name!r}"
        raise ConfigurationError(f"{shown} {what}")

    fields = GenerationConfig.__dataclass_fields__
    if flag is not None:
        for name, value in settings.items():
            if name not in fields:
                near = nearest(name, fields)
                hint = f"; did you mean {near!r}?" if near else ""
                raise ConfigurationError(f"{flag} has {name!r}, which fairseq-generate does not know{hint}")
            if usable is not None and name not in usable:
                refuse(name, "does nothing in a validation, or cannot work there; leave it out")
            kind = fields[name].type
            if kind not in KINDS:
                continue
            if not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind is not bool):
                refuse(name, f"must be of type {kind.__name__}, got {_as_json(value)}")
    for name, (holds, bound) in BOUNDS.items():
        if name in settings and not holds(settings[name]):
            got = "" if flag is None else f", got {settings[name]}"
            refuse(name, f"must be {bound}{got}; change it, or leave it out")
    if half and settings.get("temperature", 1) < LEAST_OF_HALF:
        refuse("temperature", f"must be at least {LEAST_OF_HALF} in float16, which ends at 65,504; change it")

    full = {**{name: field.default for name, field in fields.items()}, **settings}
    chosen = [name for name, holds in STRATEGIES.items() if holds(full)]
    if len(chosen) > 1:
        refuse(chosen[0], f"and {chosen[1].replace('_', '-')} exclude each other")
    for name in ("sampling_topk", "sampling_topp"):
        if full[name] >= 0 and not full["sampling"]:
            refuse(name, "does nothing without sampling")
    if full["diverse_beam_groups"] > 0 and full["beam"] % full["diverse_beam_groups"]:
        refuse("diverse_beam_groups", f"must divide the beam, {full['beam']}")
    if flag is not None and "diverse_beam_strength" in settings and full["diverse_beam_groups"] < 1:
        refuse("diverse_beam_strength", "does nothing without diverse_beam_groups")
    longest = None if full["match_source_len"] or full["max_len_a"] > 0 else full["max_len_b"]
    if longest is not None and full["min_len"] > longest:
        name = "max_len_b" if full["min_len"] == fields["min_len"].default else "min_len"
        refuse(name, f"makes the shortest output ({full['min_len']}) longer than the longest ({longest})")
    return settings


def _as_json(value) -> str:
    """A value as it was written in JSON; from Python it may be anything."""
    return json.dumps(value, default=repr)
