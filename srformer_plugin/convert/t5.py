"""T5, T5 v1.1 and Flan-T5: configurations, names, and the order of the vocabulary."""

from pathlib import Path

import torch

from data_prep import text
from data_prep.added_tokens import ADDED_TOKENS
from data_prep.sentencepiece_model import SENTINEL
from data_prep.whole import write_json

from ..errors import ConfigurationError
from ..models.t5_names import OUTPUT, ROWS_ARE_TOKENS, SHARED_EMBEDDINGS, t5_names, t5_row_of_fairseq_id
from .added_tokens import added_tokens
from .fields import check_config, choose, from_options, number, switch, to_options
from .rename import Names, Parameter
from .t5_dictionary import FIRST_PIECE, read_pieces, t5_dictionary

SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")
MODEL_TYPES = ("t5",)
ARCHITECTURE = "srformer_t5"  # of converted checkpoints
MODELS = ("srformer_t5",)  # fairseq models that can be converted

# Hugging Face's field -> (fairseq's options, the value where config.json is silent)
FIELDS = {
    "d_model": (("encoder_embed_dim", "decoder_embed_dim"), 512),
    "d_kv": (("d_kv",), 64),
    "d_ff": (("encoder_ffn_embed_dim", "decoder_ffn_embed_dim"), 2048),
    "num_layers": (("encoder_layers",), 6),
    "num_heads": (("encoder_attention_heads", "decoder_attention_heads"), 8),
    "relative_attention_num_buckets": (("relative_position_buckets",), 32),
    "relative_attention_max_distance": (("relative_position_max_distance",), 128),
}
FEED_FORWARDS = {"relu": "relu", "gated-gelu": "gated-gelu"}
SPECIAL_IDS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
OF_EVERY_T5 = {"layer_norm_epsilon": 1e-6}
# fairseq's rates of dropout; T5 has one for all
DROPOUTS = ("dropout", "attention_dropout", "activation_dropout")
SIDES = ("encoder", "decoder")
# The first T5s hold a bias that no T5 uses.
UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


def fairseq_options(config: dict, generation: dict) -> dict:
    """fairseq's options of a Hugging Face configuration (`generation`: of generation_config.json, or empty).

    Raises:
        ConfigurationError: a value that `srformer_t5` cannot have.
    """
    check_config({**config, **generation}, SPECIAL_IDS, "srformer_t5")
    check_config(config, OF_EVERY_T5, "srformer_t5")
    options = to_options(config, FIELDS)
    # Until transformers 5 an output that is not scaled was said to be not tied, which newer ones take apart.
    scaled = switch(config, "scale_decoder_outputs", switch(config, "tie_word_embeddings", True))
    feed_forward = config.get("feed_forward_proj", "relu")
    return {
        **options,
        **dict.fromkeys(DROPOUTS, number(config, "dropout_rate", 0.1)),
        "decoder_layers": number(config, "num_decoder_layers", options["encoder_layers"]),
        "decoder_input_dim": options["decoder_embed_dim"],
        "decoder_output_dim": options["decoder_embed_dim"],
        "feed_forward": choose(FEED_FORWARDS, feed_forward, "feed_forward_proj in config.json"),
        "untied_output": not scaled,
        "share_all_embeddings": True,
        "cross_attention": "full",
    }


def huggingface_config(options: dict, rows: int) -> tuple[dict, dict]:
    """config.json and generation_config.json for fairseq's options. The inverse of `fairseq_options`.

    Args:
        rows: of the embedding.

    Raises:
        ConfigurationError: an option that Hugging Face's T5 cannot have.
    """
    config = {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "vocab_size": rows,
        "num_decoder_layers": options["decoder_layers"],
        "dropout_rate": options["dropout"],
        "feed_forward_proj": choose(FEED_FORWARDS, options["feed_forward"], "--feed-forward"),
        "tie_word_embeddings": not options["untied_output"],
        **from_options(options, FIELDS, "Hugging Face's T5"),
        **OF_EVERY_T5,
        **SPECIAL_IDS,
    }
    return config, dict(SPECIAL_IDS)


def names(options: dict, rows: int, weights=None, fairseq_rows: int | None = None) -> Names:
    """Every tensor of a T5 of these sizes.

    Args:
        rows: of Hugging Face's embedding.
        weights: those of a Hugging Face folder, by name.
        fairseq_rows: of fairseq's embedding (default: `rows`). One that Hugging Face lacks repeats that of <pad>.
    """
    row_of_id = t5_row_of_fairseq_id(torch.arange(fairseq_rows or rows), fairseq_rows or rows)
    tied = not options["untied_output"]
    both = t5_names(options["encoder_layers"], options["decoder_layers"], options["feed_forward"], tied)
    embeddings = dict.fromkeys((f"{side}.embed_tokens.weight" for side in SIDES), "shared.weight")
    if tied:
        embeddings["lm_head.weight"] = "shared.weight"
    elif weights is not None and "lm_head.weight" not in weights:
        # transformers 5 ties what is not scaled as well, unless the file holds both
        embeddings["shared.weight"] = "lm_head.weight"
    shared, *copies = SHARED_EMBEDDINGS
    return Names(
        [Parameter(theirs, ours, _shape(ours, options, rows)) for theirs, ours in both.items()],
        huggingface_copies=embeddings,
        fairseq_copies=dict.fromkeys((*copies, OUTPUT) if tied else copies, shared),
        fairseq_constants={f"{side}.version": torch.tensor([3.0]) for side in SIDES},
        ignored=frozenset({UNUSED}),
        token_rows=frozenset(ROWS_ARE_TOKENS),
        row_of_id=row_of_id.where(row_of_id < rows, 0),
    )


def _shape(name: str, options: dict, rows: int) -> tuple[int, ...]:
    """The shape of one of fairseq's tensors."""
    side = name.split(".")[0]
    width, inner = options[f"{side}_embed_dim"], options[f"{side}_ffn_embed_dim"]
    heads = options[f"{side}_attention_heads"]
    shapes = {
        "embed_tokens.weight": (rows, width),
        "output_projection.weight": (rows, width),
        "relative_attention_bias.weight": (options["relative_position_buckets"], heads),
        "layer_norm.weight": (width,),
        "out_proj.weight": (width, heads * options["d_kv"]),
        "_proj.weight": (heads * options["d_kv"], width),
        "fc1.weight": (inner, width),
        "fc1.linear.weight": (inner, width),
        "fc2.weight": (width, inner),
    }
    return next(shape for end, shape in shapes.items() if name.endswith(end))


def dictionary_writer(source: Path, rows: int):
    """(rows, function (folder) that writes dictionaries); `source` is read and checked at once.

    The rows are those of fairseq's embedding: `rows`, or one more where the last one holds a token and so cannot be
    that of <s>.

    Raises:
        ConfigurationError: no tokenizer, or not T5's, or one with more tokens than rows.
    """
    found = added_tokens(source)
    added = {n: token for token, n in found.items() if token not in SPECIAL_TOKENS and not SENTINEL.fullmatch(token)}
    pieces = read_pieces(source / "spiece.model")
    last = max(len(pieces) + FIRST_PIECE - 1, *added, 0)
    if last >= rows:
        token = added.get(last, pieces[-1])
        raise ConfigurationError(
            f"{source / 'config.json'} has vocab_size {rows}, but the tokenizer's {token} has the id {last}"
        )
    ours = rows + (last == rows - 1)
    dictionary = t5_dictionary(source / "spiece.model", ours, added)

    def write(folder: Path):
        for side in text.SIDES:
            dictionary.save(str(folder / f"dict.{side}.txt"))
        if added and not (folder / ADDED_TOKENS).exists():
            write_json(folder / ADDED_TOKENS, {token: number for number, token in sorted(added.items())})

    return ours, write
