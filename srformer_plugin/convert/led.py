"""LED (Longformer-Encoder-Decoder): configurations and names. A BART but for its encoder's attention and positions."""

from dataclasses import replace
from pathlib import Path

from ..errors import ConfigurationError
from ..models.checkpoint_state import POSITIONS_BEFORE_THE_FIRST
from ..models.encoders.led import parse_windows
from ..models.encoders.window import GLOBAL_PROJECTIONS
from . import bart, bart_dictionary
from .bart import dictionary_writer  # noqa: F401 (the tokenizer is BART's)
from .fields import check_config
from .rename import Names, Parameter

MODEL_TYPES = ("led",)
ARCHITECTURE = "srformer_led"  # of converted checkpoints
MODELS = ("srformer_led",)  # fairseq models that can be converted

POSITIONS = {
    "max_encoder_position_embeddings": (("max_source_positions",), 16384),
    "max_decoder_position_embeddings": (("max_target_positions",), 1024),
}
FIELDS = {**{name: value for name, value in bart.FIELDS.items() if name != "max_position_embeddings"}, **POSITIONS}
WINDOW = 512  # where config.json is silent
GLOBAL_TOKEN = "<doc-sep>"  # PRIMERA's, between the documents of a source
# fairseq's name of what an encoder layer's self-attention holds -> Hugging Face's
SELF_ATTENTION = {
    **{f"{name[0]}_proj": f"longformer_self_attn.{name}" for name in ("query", "key", "value")},
    **{f"global_{name[0]}_proj": f"longformer_self_attn.{name}_global" for name in ("query", "key", "value")},
    "out_proj": "output",
}


def fairseq_options(config: dict, generation: dict) -> dict:
    """fairseq's options of a Hugging Face configuration (`generation`: of generation_config.json, or empty).

    Raises:
        ConfigurationError: a value that `srformer_led` cannot have.
    """
    # transformers' LED has no such field, and scales nothing
    check_config(config, {"scale_embedding": False}, "LED")
    options = bart.fairseq_options(config, generation, FIELDS, "srformer_led")
    windows = config.get("attention_window")
    windows = WINDOW if windows is None else windows
    text = ",".join(map(str, windows if isinstance(windows, list) else [windows]))
    try:
        parse_windows(text, options["encoder_layers"])
    except ConfigurationError as error:
        raise ConfigurationError(
            f"config.json has attention_window {windows}: LED's is an even number from 2 on, or one for each of the "
            f"{options['encoder_layers']} encoder layers"
        ) from error
    return {**options, "attention_window": text}


def global_symbol(source: Path, token: str | None = None) -> str | None:
    """The `encoder_global_symbol` of a Hugging Face folder: the symbol of a token that is global wherever it stands.

    Hugging Face's files do not say which tokens are: callers of its models do, with `global_attention_mask`.

    Args:
        token: of the folder's tokenizer; "": none; None: `GLOBAL_TOKEN`, where the tokenizer has it.
    Raises:
        ConfigurationError: the tokenizer has no such token.
    """
    called = bart_dictionary.fairseq_names(bart_dictionary.read_tokenizer(source))
    if token and token not in called:
        raise ConfigurationError(
            f"--global-token {token!r} is no token of the tokenizer in {source}: add it there first"
        )
    return called.get(GLOBAL_TOKEN if token is None else token)


def huggingface_config(options: dict, rows: int) -> tuple[dict, dict]:
    """config.json and generation_config.json for fairseq's options. The inverse of `fairseq_options`.

    Args:
        rows: of the embedding.

    Raises:
        ConfigurationError: an option that Hugging Face's LED cannot have.
    """
    if not options["no_scale_embedding"]:
        raise ConfigurationError("Hugging Face's LED does not scale embeddings: only --no-scale-embedding is converted")
    config, generation = bart.huggingface_config(options, rows, FIELDS, "Hugging Face's LED")
    del config["scale_embedding"]
    return {
        **config,
        "architectures": ["LEDForConditionalGeneration"],
        "model_type": "led",
        "attention_window": parse_windows(options["attention_window"], options["encoder_layers"]),
    }, generation


def names(options: dict, rows: int, weights=None, fairseq_rows=None) -> Names:
    """Every tensor of a LED of these sizes; `fairseq_rows` are `rows`.

    Args:
        weights: the names of a Hugging Face folder. Those of a bare `LEDModel` have no prefix.
    """
    found = bart.names(options, rows, weights, prefix="led.")
    parameters = []
    for parameter in found.parameters:
        if parameter.fairseq.endswith("embed_positions.weight"):
            positions, width = parameter.shape
            parameter = replace(
                parameter, shape=(positions - POSITIONS_BEFORE_THE_FIRST, width), reserved=POSITIONS_BEFORE_THE_FIRST
            )
        if ".self_attn." in parameter.fairseq and parameter.fairseq.startswith("encoder."):
            ours, theirs = (name.rsplit(".", 2) for name in (parameter.fairseq, parameter.huggingface))
            projection, kind = ours[1:]
            for one in (projection, *(g for g, original in GLOBAL_PROJECTIONS.items() if original == projection)):
                huggingface = f"{theirs[0]}.{SELF_ATTENTION[one]}.{kind}"
                parameters.append(Parameter(huggingface, f"{ours[0]}.{one}.{kind}", parameter.shape))
        else:
            parameters.append(parameter)
    return replace(found, parameters=parameters)
