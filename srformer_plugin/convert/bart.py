"""BART: configurations and names. The parameters are the same in both systems, row for row."""

from pathlib import Path

import torch

from ..errors import ConfigurationError
from ..models.checkpoint_state import POSITIONS_BEFORE_THE_FIRST
from . import bart_dictionary
from .fields import check_config, choose, flag, from_options, switch, to_options
from .rename import Names, Parameter

MODEL_TYPES = ("bart",)
ARCHITECTURE = "srformer_bart"  # of converted checkpoints
MODELS = ("bart", "srformer_bart")  # fairseq models that can be converted

# Hugging Face's field -> (fairseq's options, the value where config.json is silent)
FIELDS = {
    "d_model": (("encoder_embed_dim", "decoder_embed_dim"), 1024),
    "encoder_layers": (("encoder_layers",), 12),
    "decoder_layers": (("decoder_layers",), 12),
    "encoder_ffn_dim": (("encoder_ffn_embed_dim",), 4096),
    "decoder_ffn_dim": (("decoder_ffn_embed_dim",), 4096),
    "encoder_attention_heads": (("encoder_attention_heads",), 16),
    "decoder_attention_heads": (("decoder_attention_heads",), 16),
    "max_position_embeddings": (("max_source_positions", "max_target_positions"), 1024),
    "dropout": (("dropout",), 0.1),
    "attention_dropout": (("attention_dropout",), 0.0),
    "activation_dropout": (("activation_dropout",), 0.0),
    "encoder_layerdrop": (("encoder_layerdrop",), 0.0),
    "decoder_layerdrop": (("decoder_layerdrop",), 0.0),
}
# Hugging Face's name -> fairseq's; gelu_new is the tanh approximation
ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "tanh": "tanh", "gelu_new": "gelu_accurate"}
# Special ids in both systems: fairseq's Dictionary begins with these.
SPECIAL_IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
# What the first BART configurations spell out, and the only value that a BART has.
OF_EVERY_BART = {
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "extra_pos_embeddings": 2,
    "normalize_before": False,
    "normalize_embedding": True,
    "static_position_embeddings": False,
    "tie_word_embeddings": True,
}
# The same for fairseq's options.
OF_EVERY_FAIRSEQ_BART = {
    "adaptive_input": False,
    "adaptive_softmax_cutoff": None,
    "cross_self_attention": False,
    "decoder_learned_pos": True,
    "decoder_normalize_before": False,
    "encoder_learned_pos": True,
    "encoder_normalize_before": False,
    "layernorm_embedding": True,
    "no_cross_attention": False,
    "no_decoder_final_norm": False,
    "no_token_positional_embeddings": False,
    "share_decoder_input_output_embed": True,
    "tie_adaptive_weights": False,
}


def fairseq_options(config: dict, generation: dict, fields: dict = FIELDS, whose: str = "fairseq's BART") -> dict:
    """fairseq's options of a Hugging Face configuration (`generation`: of generation_config.json, or empty).

    Args:
        fields, whose: those of a model that is a BART in all else, and its name.

    Raises:
        ConfigurationError: a value that fairseq's BART cannot have.
    """
    check_config({**config, **generation}, SPECIAL_IDS, whose)
    check_config(config, OF_EVERY_BART, whose)
    options = to_options(config, fields)
    activation = config.get("activation_function", "gelu")
    return {
        **options,
        "decoder_input_dim": options["decoder_embed_dim"],
        "decoder_output_dim": options["decoder_embed_dim"],
        "activation_fn": choose(ACTIVATIONS, activation, "activation_function in config.json"),
        "no_scale_embedding": not switch(config, "scale_embedding", False),
        **OF_EVERY_FAIRSEQ_BART,
        "share_all_embeddings": True,
        "cross_attention": "full",
        # The texts of the pretrained models begin with <s>.
        "prepend_bos": True,
    }


def huggingface_config(
    options: dict, rows: int, fields: dict = FIELDS, whose: str = "Hugging Face's BART"
) -> tuple[dict, dict]:
    """config.json and generation_config.json for fairseq's options. The inverse of `fairseq_options`.

    Args:
        rows: of the embedding.
        fields, whose: as in `fairseq_options`.

    Raises:
        ConfigurationError: an option that Hugging Face's BART cannot have.
    """
    for name, expected in OF_EVERY_FAIRSEQ_BART.items():
        if bool(options.get(name, expected)) != bool(expected):
            raise ConfigurationError(f"{whose} has no {flag(name)} {options[name]}")
    activations = {fairseq: huggingface for huggingface, fairseq in ACTIVATIONS.items()}
    ids = {**SPECIAL_IDS, "forced_eos_token_id": SPECIAL_IDS["eos_token_id"]}
    config = {
        "architectures": ["BartForConditionalGeneration"],
        "model_type": "bart",
        "vocab_size": rows,
        "activation_function": choose(activations, options["activation_fn"], "--activation-fn"),
        "scale_embedding": not options["no_scale_embedding"],
        "num_hidden_layers": options["encoder_layers"],
        "tie_word_embeddings": True,
        **from_options(options, fields, whose),
        **ids,
    }
    return config, ids


def names(options: dict, rows: int, weights=None, fairseq_rows=None, prefix: str = "model.") -> Names:
    """Every tensor of a BART of these sizes; `fairseq_rows` are `rows`.

    Args:
        weights: the names of a Hugging Face folder. Those of a bare `BartModel` (facebook/bart-base) have no prefix.
        prefix: of those of a model with a head.
    """
    parameters = []
    prefix = "" if weights is not None and "shared.weight" in weights else prefix

    def add(huggingface, fairseq, *shape):
        parameters.append(Parameter(f"{prefix}{huggingface}", fairseq, shape))

    def same(name, *shape):
        add(name, name, *shape)

    def linear(name, outputs, inputs):
        same(f"{name}.weight", outputs, inputs)
        same(f"{name}.bias", outputs)

    def norm(name):
        same(f"{name}.weight", width)
        same(f"{name}.bias", width)

    width = options["encoder_embed_dim"]
    add("shared.weight", "encoder.embed_tokens.weight", rows, width)
    for side, positions in (("encoder", "max_source_positions"), ("decoder", "max_target_positions")):
        same(f"{side}.embed_positions.weight", options[positions] + POSITIONS_BEFORE_THE_FIRST, width)
        norm(f"{side}.layernorm_embedding")
        for number in range(options[f"{side}_layers"]):
            layer = f"{side}.layers.{number}"
            for attention in ("self_attn", "encoder_attn") if side == "decoder" else ("self_attn",):
                for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    linear(f"{layer}.{attention}.{projection}", width, width)
                norm(f"{layer}.{attention}_layer_norm")
            linear(f"{layer}.fc1", options[f"{side}_ffn_embed_dim"], width)
            linear(f"{layer}.fc2", width, options[f"{side}_ffn_embed_dim"])
            norm(f"{layer}.final_layer_norm")
    sides = ("encoder", "decoder")
    embeddings = [*(f"{prefix}{side}.embed_tokens.weight" for side in sides), "lm_head.weight"]
    shared = "encoder.embed_tokens.weight"
    return Names(
        parameters,
        huggingface_copies=dict.fromkeys(embeddings, f"{prefix}shared.weight"),
        fairseq_copies=dict.fromkeys(("decoder.embed_tokens.weight", "decoder.output_projection.weight"), shared),
        huggingface_zeros={"final_logits_bias": (1, rows)},
        fairseq_constants={f"{side}.version": torch.tensor([3.0]) for side in sides},
        ignored=frozenset(f"{prefix}{side}.version" for side in sides),
    )


def dictionary_writer(source: Path, rows: int):
    """(rows, function (folder) that writes dictionaries and BPE files); `source` is read and checked at once.

    Raises:
        ConfigurationError: no tokenizer, or not BART's.
    """
    tokenizer = bart_dictionary.read_tokenizer(source)
    names = bart_dictionary.symbols(tokenizer, rows)

    def write(folder: Path):
        bart_dictionary.write_dictionaries(folder, names)
        bart_dictionary.write_gpt2_files(folder, tokenizer)

    return rows, write
