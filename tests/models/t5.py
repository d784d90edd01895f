"""Kinds of tiny T5s, batches of targets for them, and what is asked of them."""

import torch
from fairseq.sequence_generator import SequenceGenerator

PAD, EOS = 1, 2  # fairseq's
VERSIONS = {
    "v1.0": {"feed_forward": "relu", "untied_output": False},
    "v1.1": {"feed_forward": "gated-gelu", "untied_output": True},
}
KINDS = ["srformer", "segmented", "full"]
LENGTHS = [23, 5, 14, 9]


def targets(lengths, left_pad=False, seed=5):
    """prev_output_tokens (B, T) as fairseq makes them: each row starts with </s>."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in enumerate(lengths):
        words = torch.randint(4, 24, (length,), generator=generator)
        words[0] = EOS
        start = max(lengths) - length if left_pad else 0
        tokens[row, start : start + length] = words
    return tokens


def logits(model, sample, previous):
    return model(**sample["net_input"], prev_output_tokens=previous)[0]


def generate(model, sample, beam, **options):
    """Hypotheses of fairseq's own generator, of at most 14 words unless told otherwise."""
    generator = SequenceGenerator([model], model.decoder.dictionary, beam_size=beam, **{"max_len_b": 14, **options})
    return generator.generate([model], sample)
