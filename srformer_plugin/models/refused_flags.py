"""Flags of fairseq's transformer that an SRformer cannot use, refused by name before a model is built."""

from ..errors import ConfigurationError


def _shares_embeddings(args) -> bool:
    return args.share_all_embeddings or args.share_decoder_input_output_embed


# flag -> (whether the arguments ask for it, what to say)
REFUSED = {
    **{
        f"--{side}-layers-to-keep": (
            lambda args, name=f"{side}_layers_to_keep": isinstance(getattr(args, name, None), list),
            f"is not for training; prune a trained model: --model-overrides \"{{'{side}_layers_to_keep': '0,2'}}\"",
        )
        for side in ("encoder", "decoder")
    },
    **{
        f"--{side}-xformers-att-config": (
            lambda args, name=f"{side}_xformers_att_config": bool(getattr(args, name, None)),
            "is not supported: leave it out",
        )
        for side in ("encoder", "decoder")
    },
    "--quant-noise-scalar": (
        lambda args: (getattr(args, "quant_noise_scalar", 0) or 0) > 0,
        "cannot quantize these models' embeddings (fairseq knows plain layers only); use --quant-noise-pq",
    ),
    "--cross-self-attention": (
        lambda args: getattr(args, "cross_self_attention", False),
        "has no segments to attend to: leave it out",
    ),
    "--decoder-output-dim": (
        lambda args: (
            int(getattr(args, "decoder_output_dim", None) or args.decoder_embed_dim) != args.decoder_embed_dim
            and _shares_embeddings(args)
        ),
        "other than --decoder-embed-dim cannot be shared with the embeddings: leave it out",
    ),
    "--adaptive-softmax-cutoff": (
        lambda args: (
            getattr(args, "adaptive_softmax_cutoff", None) is not None
            and getattr(args, "criterion", None) != "adaptive_loss"
        ),
        "needs --criterion adaptive_loss",
    ),
    "--base-layers": (lambda args: (getattr(args, "base_layers", 0) or 0) > 0, "is not supported: leave it out"),
}


def refuse_flags(args) -> None:
    """Raise a ConfigurationError for the first flag among the arguments of a model that cannot work with it."""
    for flag, (asked, reason) in REFUSED.items():
        if asked(args):
            raise ConfigurationError(f"{flag} {reason}")
