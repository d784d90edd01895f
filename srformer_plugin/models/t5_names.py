"""The names of a T5's parameters in Hugging Face's checkpoints and in `srformer_t5`, and the order of its rows.

Two differences are not a matter of names:

* fairseq's checkpoints hold a shared tensor once per place that uses it (`SHARED_EMBEDDINGS`; with a tied output
  also `OUTPUT`). Hugging Face's hold it once, as `shared.weight`.
* fairseq's dictionaries start with `<s> <pad> </s> <unk>`, T5's vocabulary with `<pad> </s> <unk>`: see
  `t5_row_of_fairseq_id`.
"""

# N stands for the number of a layer. Encoder and decoder:
_BOTH = {
    "{side}.block.N.layer.0.SelfAttention.q.weight": "{side}.layers.N.self_attn.q_proj.weight",
    "{side}.block.N.layer.0.SelfAttention.k.weight": "{side}.layers.N.self_attn.k_proj.weight",
    "{side}.block.N.layer.0.SelfAttention.v.weight": "{side}.layers.N.self_attn.v_proj.weight",
    "{side}.block.N.layer.0.SelfAttention.o.weight": "{side}.layers.N.self_attn.out_proj.weight",
    "{side}.block.N.layer.0.layer_norm.weight": "{side}.layers.N.self_attn_layer_norm.weight",
    "{side}.block.N.layer.{ffn}.DenseReluDense.wi.weight": "{side}.layers.N.fc1.weight",
    "{side}.block.N.layer.{ffn}.DenseReluDense.wi_0.weight": "{side}.layers.N.fc1.weight",
    "{side}.block.N.layer.{ffn}.DenseReluDense.wi_1.weight": "{side}.layers.N.fc1.linear.weight",
    "{side}.block.N.layer.{ffn}.DenseReluDense.wo.weight": "{side}.layers.N.fc2.weight",
    "{side}.block.N.layer.{ffn}.layer_norm.weight": "{side}.layers.N.final_layer_norm.weight",
    # one table a stack, held by the first layer and used by all
    "{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "{side}.relative_attention_bias.weight",
    "{side}.final_layer_norm.weight": "{side}.layer_norm.weight",
}
_DECODER = {
    "decoder.block.N.layer.1.EncDecAttention.q.weight": "decoder.layers.N.encoder_attn.q_proj.weight",
    "decoder.block.N.layer.1.EncDecAttention.k.weight": "decoder.layers.N.encoder_attn.k_proj.weight",
    "decoder.block.N.layer.1.EncDecAttention.v.weight": "decoder.layers.N.encoder_attn.v_proj.weight",
    "decoder.block.N.layer.1.EncDecAttention.o.weight": "decoder.layers.N.encoder_attn.out_proj.weight",
    "decoder.block.N.layer.1.layer_norm.weight": "decoder.layers.N.encoder_attn_layer_norm.weight",
}

# All places of the embedding that Hugging Face calls `shared.weight`; the first stands for it in `t5_names`.
SHARED_EMBEDDINGS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# The output projection: T5's is the embedding (tied), T5 v1.1's a matrix of its own, `lm_head.weight`.
OUTPUT = "decoder.output_projection.weight"
# Tensors whose rows are tokens, in the order of `t5_row_of_fairseq_id`.
ROWS_ARE_TOKENS = (*SHARED_EMBEDDINGS, OUTPUT)


def _templates(gated: bool) -> dict[str, str]:
    other = (".wi.",) if gated else (".wi_0.", ".wi_1.")
    table = {}
    for side, ffn in (("encoder", "1"), ("decoder", "2")):
        for hf, ours in _BOTH.items():
            if not any(part in hf for part in other):
                table[hf.replace("{side}", side).replace("{ffn}", ffn)] = ours.replace("{side}", side)
    return {**table, **_DECODER}


# Hugging Face name -> our name, with N for the layer; by the kind of feed-forward: "relu" (T5), "gated-gelu" (v1.1).
_NAMES = {"relu": _templates(gated=False), "gated-gelu": _templates(gated=True)}


def t5_names(encoder_layers: int, decoder_layers: int, feed_forward: str = "relu", tied: bool = True) -> dict[str, str]:
    """Every parameter of a T5: Hugging Face name -> our name, one to one.

    Args:
        encoder_layers, decoder_layers: how many.
        feed_forward: "relu" (T5) or "gated-gelu" (T5 v1.1, Flan-T5).
        tied: the output projection is the embedding (T5), and not a parameter of its own (v1.1).
    """
    layers = {"encoder": encoder_layers, "decoder": decoder_layers}
    names = {"shared.weight": SHARED_EMBEDDINGS[0]}
    if not tied:
        names["lm_head.weight"] = OUTPUT
    for hf, ours in _NAMES[feed_forward].items():
        if ".layers.N." not in ours:
            names[hf] = ours
            continue
        for number in range(layers[ours.split(".")[0]]):
            names[hf.replace(".N.", f".{number}.")] = ours.replace(".N.", f".{number}.")
    return names


def t5_row_of_fairseq_id(fairseq_id, rows: int):
    """The row of T5's embedding (of `rows` rows) that holds the token which fairseq's dictionary numbers `fairseq_id`.

    T5 has no `<s>`; everything else comes in T5's order, one later: `<pad>` 0 -> 1, `</s>` 1 -> 2, `<unk>` 2 -> 3,
    piece n -> n + 1. Row 0 of fairseq's embedding, `<s>`, is T5's last row, which pads the embedding to 32,128 and
    belongs to no token. So no row is lost or invented, and the softmax over the vocabulary stays T5's.
    Works on integers and on tensors: `ours = theirs[t5_row_of_fairseq_id(torch.arange(rows), rows)]`.
    """
    return (fairseq_id - 1) % rows
