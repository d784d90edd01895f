"""Names that NumPy has dropped and fairseq uses."""

import types

import numpy as np
from fairseq.data import language_pair_dataset, token_block_dataset
from fairseq.modules import dynamic_crf_layer


class _NumpyWithAliases(types.ModuleType):
    """NumPy with aliases of Python types that 1.24 and 2.0 removed."""

    float = float
    compat = types.SimpleNamespace(long=int)

    def __getattr__(self, name):
        return getattr(np, name)


def restore_numpy_aliases():
    """Give three modules the ``np.compat.long`` and ``np.float`` that they use.

    ``data/language_pair_dataset.py:292`` (``--num-batch-buckets``), ``data/token_block_dataset.py:125``
    (language models) and ``modules/dynamic_crf_layer.py:108`` (the CRF of a non-autoregressive model) fail with
    AttributeError since NumPy 2.0 or 1.24. Only those modules see the aliases. Not needed when no file of
    fairseq holds them. (``data/data_utils.py:524`` and ``:1107`` use ``np.int`` for the span masks of speech
    models, which fail for another reason as well.)
    """
    for module in (language_pair_dataset, token_block_dataset, dynamic_crf_layer):
        if not isinstance(module.np, _NumpyWithAliases):
            module.np = _NumpyWithAliases("numpy")
