"""Every mend may be applied twice."""

from fairseq import checkpoint_utils, trainer
from fairseq.data import data_utils, language_pair_dataset
from fairseq.distributed import utils as distributed_utils
from fairseq.modules import MultiheadAttention, transformer_layer
from fairseq.trainer import Trainer

from srformer_plugin import compat


def test_applying_the_mends_again_changes_nothing():
    places = [
        (data_utils, "batch_by_size"),
        (data_utils, "get_buckets"),
        (language_pair_dataset, "np"),
        (MultiheadAttention, "forward"),
        (checkpoint_utils, "load_checkpoint_to_cpu"),
        (distributed_utils, "call_main"),
        (transformer_layer.TransformerEncoderLayerBase, "__init__"),
        (transformer_layer.TransformerEncoderLayerBase, "upgrade_state_dict_named"),
        (Trainer, "load_checkpoint"),
        (trainer, "torch"),
    ]
    before = [getattr(owner, name) for owner, name in places]
    compat.apply()
    assert all(getattr(owner, name) is old for (owner, name), old in zip(places, before))
