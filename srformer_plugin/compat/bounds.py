"""What the numbers among fairseq's settings must be, wherever they are given."""

import math

from ..errors import ConfigurationError

# Settings of several parts of fairseq -> (test, what they must be)
BOUNDS = {
    **dict.fromkeys(
        ("dropout", "attention_dropout", "activation_dropout", "relu_dropout", "adaptive_softmax_dropout",
         "pooler_dropout", "encoder_layerdrop", "decoder_layerdrop", "quant_noise_pq", "label_smoothing"),
        (lambda x: 0 <= x <= 1, "from 0 to 1"),
    ),
    **dict.fromkeys(
        ("batch_size", "max_tokens", "update_freq", "max_source_positions", "max_target_positions"),
        (lambda x: x >= 1, "at least 1"),
    ),
    **dict.fromkeys(("lr", "warmup_updates"), (lambda x: 0 <= x < math.inf, "at least 0")),
}  # fmt: skip


def check_bound(shown: str, name: str, value) -> None:
    """Raise a ConfigurationError where a number is not what the setting `name` may be; `shown` is what errors call it.

    Settings without a bound and values that are no numbers pass.
    """
    holds, bound = BOUNDS.get(name, (None, None))
    if holds is not None and isinstance(value, (int, float)) and not holds(value):
        raise ConfigurationError(f"{shown} {value} must be {bound}")
