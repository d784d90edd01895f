"""The encoder layer of the official fairseq 0.12.2."""

from fairseq.modules import transformer_layer

from .patching import wrap


def avoid_encoder_fast_path():
    """Keep the encoder of the official fairseq 0.12.2 off PyTorch's fused layer.

    Its ``modules/transformer_layer.py:319`` calls ``torch._transformer_encoder_layer_fwd`` without the mask's
    type, which PyTorch has asked for since 1.13: an evaluated encoder with post-normalisation fails with
    "Mask Type should be defined". ve-fairseq and fairseq's main have no such path.
    """

    def make_wrapper(original):
        def __init__(self, *args, **kwargs):
            original(self, *args, **kwargs)
            if hasattr(self, "can_use_fastpath"):
                self.can_use_fastpath = False

        return __init__

    wrap(transformer_layer.TransformerEncoderLayerBase, "__init__", make_wrapper)


FAST_PATH_PARAMETERS = ("in_proj", "out_proj", "fc1", "fc2")


def drop_fast_path_parameters():
    """Load checkpoints of the official fairseq 0.12.2.

    They hold eight copies of parameters in every encoder layer (``in_proj_weight`` ... ``fc2_bias``), made for
    the path of :func:`avoid_encoder_fast_path` and never trained; later versions refuse them as "Unexpected
    key(s) in state_dict". Not needed when ``modules/transformer_layer.py`` drops them itself.
    """

    def make_wrapper(original):
        def upgrade_state_dict_named(self, state_dict, name):
            original(self, state_dict, name)
            if not hasattr(self, "in_proj_weight"):
                for parameter in FAST_PATH_PARAMETERS:
                    for kind in ("weight", "bias"):
                        state_dict.pop(f"{name}.{parameter}_{kind}", None)

        return upgrade_state_dict_named

    wrap(transformer_layer.TransformerEncoderLayerBase, "upgrade_state_dict_named", make_wrapper)
