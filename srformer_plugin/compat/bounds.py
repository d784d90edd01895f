"""What the numbers among fairseq's settings must be, wherever they are given."""

import math

from data_prep.arguments import MOST_RESAMPLINGS

from ..errors import ConfigurationError

# Settings of several parts of fairseq -> (test, what they must be)
BOUNDS = {
    **dict.fromkeys(
        ("dropout", "attention_dropout", "activation_dropout", "relu_dropout", "adaptive_softmax_dropout",
         "pooler_dropout", "encoder_layerdrop", "decoder_layerdrop", "quant_noise_pq", "label_smoothing", "ema_decay"),
        (lambda x: 0 <= x <= 1, "from 0 to 1"),
    ),
    **dict.fromkeys(
        ("batch_size", "batch_size_valid", "max_tokens", "max_tokens_valid", "update_freq", "max_source_positions",
         "max_target_positions", "required_batch_size_multiple", "log_interval", "save_interval", "validate_interval"),
        (lambda x: x >= 1, "at least 1"),
    ),
    **dict.fromkeys(
        ("lr", "warmup_updates", "ignore_prefix_size", "rouge_seed"),
        (lambda x: 0 <= x < math.inf, "at least 0"),
    ),
    "num_workers": (lambda x: 0 <= x <= 1000, "from 0 to 1,000"),  # each is a process
    "required_seq_len_multiple": (lambda x: 1 <= x <= 1_000_000, "from 1 to 1,000,000"),  # every batch is as wide
    "rouge_bootstrap_samples": (lambda x: 1 <= x <= MOST_RESAMPLINGS, f"from 1 to {MOST_RESAMPLINGS:,}"),
    "seed": (lambda x: 0 <= x < 2**32, "from 0 to 2^32 - 1"),  # NumPy's; the number of updates is added to it
}  # fmt: skip


def check_bound(shown: str, name: str, value) -> None:
    """Raise a ConfigurationError where a number is not what the setting `name` may be; `shown` is what errors call it.

    Settings without a bound and values that are no numbers pass; whole numbers of more than 64 bits never do.
    """
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigurationError(f"{shown} {value} is too large a number: give one below 2^63")
    holds, bound = BOUNDS.get(name, (None, None))
    if holds is not None and isinstance(value, (int, float)) and not holds(value):
        raise ConfigurationError(f"{shown} {value} must be {bound}")
