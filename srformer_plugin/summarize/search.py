"""The search for a summary: sources, or what an encoder made of them, to the best hypotheses."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..generation import FastSequenceGenerator
from ..models.hub import nothing_left_behind
from .decoding import Decoding


class _Generator(FastSequenceGenerator):
    """Its search, from encoder states that are there already if `states` is not None."""

    states: "dict | None" = None

    def encode(self, source):
        return super().encode(source) if self.states is None else padded(self.states, source.size(1))


@torch.inference_mode()
def search(hub, network, tokens: Tensor, settings: Decoding, states: "dict | None" = None) -> list[Tensor]:
    """The best hypothesis of every source, (T,) with </s>.

    Args:
        hub: interface, whose `prepend_bos` says whether hypotheses begin with <s>.
        network: the model.
        tokens: (B, N) sources, padded on the right.
        settings: of the search.
        states: the encoder's output for `tokens`, if it is known.
    Raises:
        UserError: no hypothesis of a sentence could end.
    """
    dictionary = hub.task.target_dictionary
    with nothing_left_behind([network]):
        generator = _Generator(
            [network],
            dictionary,
            beam_size=settings.beam,
            max_len_a=0,
            max_len_b=settings.max_len,
            min_len=settings.min_len,
            len_penalty=settings.lenpen,
            no_repeat_ngram_size=settings.no_repeat_ngram_size,
        )
        if states is not None:
            generator.states = states
            generator.model.forward_encoder = lambda net_input: [states]  # for what the fast search leaves to fairseq's
        first = None
        if getattr(hub, "prepend_bos", False):
            first = tokens.new_full((tokens.size(0), 1), dictionary.bos())
        sample = {"net_input": {"src_tokens": tokens, "src_lengths": tokens.ne(dictionary.pad()).sum(dim=1)}}
        return [hypotheses[0]["tokens"] for hypotheses in generator.generate([network], sample, prefix_tokens=first)]


def padded(states: dict, length: int) -> dict:
    """An encoder's output with its sources padded on the right to `length`."""
    (out,), (mask,) = states["encoder_out"], states["encoder_padding_mask"]
    more = length - out.size(0)
    if more == 0:
        return states
    out = F.pad(out, (0, 0, 0, 0, 0, more))
    return {**states, "encoder_out": [out], "encoder_padding_mask": [F.pad(mask, (0, more), value=True)]}
