"""SRformer-BART: fairseq's BART with segmented recurrent cross-attention in every decoder layer."""

import logging

from fairseq.models import register_model, register_model_architecture
from fairseq.models.bart import BARTModel
from fairseq.models.bart.model import bart_base_architecture, bart_large_architecture
from fairseq.models.transformer import TransformerConfig

from ..errors import ConfigurationError
from .checkpoint_state import fit_positions
from .encoders.registry import encoder_class
from .encoders.window import fill_global_projections
from .hub import SRformerBARTHubInterface
from .packed_encoder import PackedEncoder
from .pretrained import load
from .segmented_decoder import SegmentedDecoder
from .segmented_model import SegmentedModel, choose_by_content

logger = logging.getLogger(__name__)


@register_model("srformer_bart")
class SRformerBARTModel(SegmentedModel, BARTModel):
    """BART whose decoder attends to one source segment per position and to a recurrent memory of the others.

    With `--cross-attention full`, or where the segment size is at least the source length, its logits are
    BART's. A stock BART checkpoint starts it (`--finetune-from-model bart.pt`).
    """

    @classmethod
    def check_arguments(cls, args):
        """As `SegmentedModel.check_arguments`; heads must divide the width."""
        for side in ("encoder", "decoder"):
            width, heads = getattr(args, f"{side}_embed_dim"), getattr(args, f"{side}_attention_heads")
            if heads < 1 or width % heads != 0:
                raise ConfigurationError(f"--{side}-attention-heads {heads} does not divide --{side}-embed-dim {width}")
        return super().check_arguments(args)

    @classmethod
    def build_encoder(cls, args, src_dict, embed_tokens):
        kind = encoder_class(args.encoder_attention, PackedEncoder)
        return kind(TransformerConfig.from_namespace(args), src_dict, embed_tokens)

    @classmethod
    def build_decoder(cls, args, tgt_dict, embed_tokens):
        cfg = TransformerConfig.from_namespace(args)
        return SegmentedDecoder(cfg, tgt_dict, embed_tokens, no_encoder_attn=cfg.no_cross_attention)

    def forward(
        self,
        src_tokens,
        src_lengths,
        prev_output_tokens,
        features_only=False,
        classification_head_name=None,
        token_embeddings=None,
        return_all_hiddens=False,
        alignment_layer=None,
        alignment_heads=None,
    ):
        """As in `BARTModel.forward`: the decoder's output (B, T, V) and more of it.

        `return_all_hiddens` is False unless asked for: fairseq's is True, but nothing that it returns holds the states
        of the encoder's layers, for which `PackedEncoder` has to compute padding as well.
        """
        return super().forward(
            src_tokens, src_lengths, prev_output_tokens, features_only, classification_head_name,
            token_embeddings, return_all_hiddens, alignment_layer, alignment_heads,
        )  # fmt: skip

    @classmethod
    def from_pretrained(cls, folder, checkpoint_file="model.pt", data_name_or_path=".", bpe=None, **options):
        """A checkpoint as a `SRformerBARTHubInterface`, whose `sample` works on text.

        Arguments are those of `pretrained.load`, and `prepend_bos` of the interface.
        """
        prepend_bos = options.pop("prepend_bos", None)
        loaded = load(folder, checkpoint_file, data_name_or_path, bpe, load_checkpoint_heads=True, **options)
        return SRformerBARTHubInterface(loaded["args"], loaded["task"], loaded["models"], prepend_bos)

    def upgrade_state_dict_named(self, state_dict, name):
        super().upgrade_state_dict_named(state_dict, name)
        prefix = f"{name}." if name else ""
        for side in ("encoder", "decoder"):
            module = getattr(self, side)
            flag = getattr(module, "positions_flag", f"--max-{'source' if side == 'encoder' else 'target'}-positions")
            embedding = getattr(module, "embed_positions", None)
            fit_positions(state_dict, f"{prefix}{side}.embed_positions.weight", embedding, flag)
        count = fill_global_projections(state_dict, self.state_dict(prefix=prefix))
        if count > 0:
            logger.info(f"not in the checkpoint, copied from what all tokens have: {count} global projections")


@register_model_architecture("srformer_bart", "srformer_bart_large")
def srformer_bart_large(args):
    """bart_large's sizes: 12 + 12 layers of 1,024."""
    bart_large_architecture(args)


@register_model_architecture("srformer_bart", "srformer_bart_base")
def srformer_bart_base(args):
    """bart_base's sizes: 6 + 6 layers of 768."""
    bart_base_architecture(args)


@register_model_architecture("srformer_bart", "srformer_bart")
def srformer_bart(args):
    """The default: base sizes."""
    srformer_bart_base(args)


@register_model_architecture("srformer_bart", "srformer_bart_content")
def srformer_bart_content(args):
    """Base sizes; every query of every head chooses 8 segments of 16 tokens by content."""
    choose_by_content(args)
    srformer_bart_base(args)


@register_model_architecture("srformer_bart", "srformer_bart_content_large")
def srformer_bart_content_large(args):
    """Large sizes; segments as with `srformer_bart_content`."""
    choose_by_content(args)
    srformer_bart_large(args)


@register_model_architecture("srformer_bart", "srformer_bart_tiny")
def srformer_bart_tiny(args):
    """1 + 1 layers of 32 with segments of 4 tokens, for tests."""
    args.encoder_embed_dim = getattr(args, "encoder_embed_dim", 32)
    args.encoder_ffn_embed_dim = getattr(args, "encoder_ffn_embed_dim", 64)
    args.encoder_layers = getattr(args, "encoder_layers", 1)
    args.encoder_attention_heads = getattr(args, "encoder_attention_heads", 2)
    args.decoder_layers = getattr(args, "decoder_layers", 1)
    args.decoder_attention_heads = getattr(args, "decoder_attention_heads", 2)
    args.segment_size = getattr(args, "segment_size", 4)
    srformer_bart_base(args)
