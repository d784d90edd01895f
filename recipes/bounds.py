"""What the numbers among a recipe's options must be: (test, in words). Others are at least 1, or finite."""

import math

AT_LEAST_1 = (lambda x: x >= 1, "at least 1")
FINITE = (math.isfinite, "finite")
NOT_NEGATIVE = (lambda x: x >= 0, "at least 0")
ABOVE_0 = (lambda x: 0 < x < math.inf, "above 0")
SHARE = (lambda x: 0 <= x < 1, "at least 0 and below 1")
TWO_TOKENS = (lambda x: x >= 2, "at least 2, a piece and the end of sentence")
BOUNDS = {
    **dict.fromkeys(
        (
            "encoder-context",
            "warmup-updates",
            "validate-every",
            "seed",
            "min-len",
            "no-repeat",
            "node-rank",
            "clip-norm",
        ),
        NOT_NEGATIVE,
    ),
    **dict.fromkeys(("max-source", "max-target"), TWO_TOKENS),
    **dict.fromkeys(("dropout", "label-smoothing"), SHARE),
    "lr": ABOVE_0,
    "vocabulary": (lambda x: x >= 4, "at least 4, and as many as the text has different characters"),
    "gpus": (lambda x: x >= 1, "at least 1; without a GPU say --cpu"),
}
