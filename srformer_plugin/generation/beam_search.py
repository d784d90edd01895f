"""The beam search of fairseq's `SequenceGenerator` in tensors of fixed shapes.

The same hypotheses are kept, finished and scored at every step. What fairseq does in Python, per hypothesis and with
the values in hand, is done here by masks: finished hypotheses are written to a table, and a sentence that has all of
them goes on without effect until the search ends.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from data_prep.errors import UserError


@dataclass(frozen=True)
class SearchSettings:
    """What `SequenceGenerator` was built with, under its names."""

    beam_size: int
    vocab_size: int
    pad: int
    unk: int
    eos: int
    min_len: int = 1
    len_penalty: float = 1.0
    unk_penalty: float = 0.0
    temperature: float = 1.0
    normalize_scores: bool = True
    no_repeat_ngram_size: int = 0
    suppressed: tuple[int, ...] = ()


class BeamSearch:
    """The state of a search over B sentences, and its step.

    Args:
        settings: of the generator.
        batch_size: B.
        length: T, positions of the longest hypothesis, its end of sentence included.
        device: where the state lives.

    Attributes (x = beam_size):
        position: (1,) int64, of the last token; hypotheses have `position` tokens after the first.
        tokens: (B, x, T + 1) int64, with the beginning of sentence.
        ancestors: (B, x, T) int64, which hypothesis wrote each position of a hypothesis; -1: none did yet.
        finished_count: (B,) int64.
    """

    def __init__(self, settings: SearchSettings, batch_size: int, length: int, device):
        self.settings = settings
        beam = settings.beam_size

        def table(*shape, dtype=torch.int64):
            return torch.zeros(batch_size, *shape, dtype=dtype, device=device)

        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.last_position = torch.zeros(1, dtype=torch.int64, device=device)
        self.tokens = table(beam, length + 1)
        self.cumulative = table(beam, dtype=torch.float32)
        self.scores = table(beam, length, dtype=torch.float32)  # cumulative, of every position
        self.ancestors = table(beam, length)
        self.finished_count = table()
        # one row more than can be finished: what comes too late is written there
        self.finished_tokens = table(beam + 1, length)
        self.finished_scores = table(beam + 1, length, dtype=torch.float32)
        self.finished_length = table(beam + 1)
        self.penalty = torch.zeros(settings.vocab_size, device=device)  # of words, whatever the step
        self.penalty[settings.unk] = -settings.unk_penalty
        self.penalty[[settings.pad, *settings.suppressed]] = -math.inf
        self.first_penalty = torch.zeros_like(self.penalty)  # the same, at position 0 only
        self.not_eos = torch.arange(settings.vocab_size, device=device) != settings.eos
        self.hypothesis = torch.arange(beam, device=device)

    def start(self, bos: int, max_len: int, first: int | None = None) -> None:
        """Begin a search for hypotheses of at most `max_len` tokens, the end of sentence not counted.

        Args:
            bos: what the decoder starts from, which is no part of a hypothesis.
            first: the first token of every hypothesis; None: any.
        """
        self.first_penalty.fill_(0 if first is None else -math.inf)
        if first is not None:
            self.first_penalty[first] = 0
        self.position.zero_()
        self.last_position.fill_(max_len)
        self.tokens.fill_(self.settings.pad)
        self.tokens[:, :, 0] = bos
        # the hypotheses are equal at first: only one of them may be continued
        self.cumulative.fill_(-math.inf)
        self.cumulative[:, 0] = 0
        self.scores.zero_()
        self.ancestors.fill_(-1)
        self.ancestors[:, :, 0] = self.hypothesis
        self.finished_count.zero_()

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the state, for `restore`."""
        return {name: value.clone() for name, value in vars(self).items() if isinstance(value, Tensor)}

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Go back to a `snapshot`, in place."""
        for name, value in snapshot.items():
            getattr(self, name).copy_(value)

    def last_tokens(self) -> Tensor:
        """(B, x) int64, what the decoder is asked to continue."""
        return self.tokens.index_select(2, self.position).squeeze(2)

    def advance(self, logits: Tensor) -> None:
        """Take one step; `logits` (B, x, V) are those of the next token. No host synchronisation."""
        settings, beam = self.settings, self.settings.beam_size
        log_probs = torch.log_softmax(logits / settings.temperature, dim=-1, dtype=torch.float32)
        if settings.no_repeat_ngram_size > 0:
            log_probs = self._block_repeated(log_probs)
        penalty = self.penalty.masked_fill(self.not_eos & (self.position >= self.last_position), -math.inf)
        penalty = penalty.masked_fill(~self.not_eos & (self.position < settings.min_len), -math.inf)
        penalty = torch.where(self.position == 0, penalty + self.first_penalty, penalty)
        log_probs = torch.where(log_probs.isnan(), -math.inf, log_probs + penalty)
        totals = log_probs + self.cumulative.unsqueeze(2)

        # the best of each hypothesis hold the best of all
        best, words = totals.topk(2 * beam, dim=2)
        best, index = best.flatten(1).topk(2 * beam, dim=1)  # (B, 2x)
        words = words.flatten(1).gather(1, index)
        parents = index // (2 * beam)

        ends = words.eq(settings.eos) & best.ne(-math.inf)
        self._finish(best[:, :beam], parents[:, :beam], ends[:, :beam])
        # the first x that do not end; their order is kept
        rank = torch.arange(2 * beam, device=words.device)
        chosen = (rank + ends * (2 * beam)).topk(beam, dim=1, largest=False, sorted=True).indices
        self._continue(best.gather(1, chosen), parents.gather(1, chosen), words.gather(1, chosen))

    def _block_repeated(self, log_probs):
        """-inf for words that would complete an n-gram which the hypothesis holds already."""
        size, tokens, position = self.settings.no_repeat_ngram_size, self.tokens, self.position
        starts = tokens.size(2) - size + 1
        if starts < 1:
            return log_probs
        start = torch.arange(starts, device=tokens.device)
        last = start + size - 1
        same = (last >= 1) & (last <= position)  # complete n-grams, and the first token is no word
        for offset in range(size - 1):
            wanted = tokens.index_select(2, (position - size + 2 + offset).clamp(min=0))
            same = same & (tokens[:, :, offset : offset + starts] == wanted)
        # what is not repeated names the padding, which is never chosen
        words = tokens[:, :, size - 1 :].masked_fill(~same, self.settings.pad)
        return log_probs.scatter(2, words, -math.inf)

    def _finish(self, totals, parents, ends):
        """Write hypotheses that end here, in the order of their scores, until a sentence has x of them."""
        beam = self.settings.beam_size
        slot = self.finished_count.unsqueeze(1) + ends.cumsum(1) - 1
        slot = torch.where(ends & (slot < beam), slot, beam)
        wide = slot.unsqueeze(2).expand(-1, -1, self.scores.size(2))
        at_end = torch.arange(self.scores.size(2), device=slot.device) == self.position
        tokens = _of_parents(self.tokens[:, :, 1:], parents).masked_fill(at_end, self.settings.eos)
        scores = torch.where(at_end, totals.unsqueeze(2), _of_parents(self.scores, parents))
        self.finished_tokens.scatter_(1, wide, tokens)
        self.finished_scores.scatter_(1, wide, scores)
        self.finished_length.scatter_(1, slot, (self.position + 1).expand_as(slot))
        self.finished_count.copy_((self.finished_count + ends.sum(1)).clamp(max=beam))

    def _continue(self, totals, parents, words):
        """Make `words` (B, x), the continuations of hypotheses `parents`, the hypotheses."""
        tokens = _of_parents(self.tokens, parents)
        tokens.index_copy_(2, self.position + 1, words.unsqueeze(2))
        self.tokens.copy_(tokens)
        scores = _of_parents(self.scores, parents)
        scores.index_copy_(2, self.position, totals.unsqueeze(2))
        self.scores.copy_(scores)
        self.cumulative.copy_(totals)
        ancestors = _of_parents(self.ancestors, parents)
        # past the end of the table at the last position, whose step has no successor
        following = (self.position + 1).clamp(max=ancestors.size(2) - 1)
        ancestors.index_copy_(2, following, self.hypothesis.expand(len(ancestors), -1).unsqueeze(2).contiguous())
        self.ancestors.copy_(ancestors)
        self.position += 1

    def hypotheses(self, rows: int) -> list[list[dict]]:
        """The finished hypotheses of the first `rows` sentences as `SequenceGenerator` returns them, the best first.

        Raises:
            UserError: a sentence without any, where `SequenceGenerator` ends in an assertion.
        """
        settings = self.settings
        counts, lengths = self.finished_count.tolist(), self.finished_length.tolist()
        if 0 in counts[:rows]:
            raise UserError(
                f"no hypothesis of a sentence could end: the model's scores are not numbers, or --min-len "
                f"{settings.min_len} asks for more words than --no-repeat-ngram-size "
                f"{settings.no_repeat_ngram_size} leaves"
            )
        # the next search writes into the tables
        all_tokens, all_scores = self.finished_tokens[:rows].clone(), self.finished_scores[:rows].clone()
        results = []
        for row in range(rows):
            found = []
            for slot in range(counts[row]):
                length = lengths[row][slot]
                cumulative = all_scores[row, slot, :length]
                total = cumulative[-1] / length**settings.len_penalty if settings.normalize_scores else cumulative[-1]
                found.append(
                    {
                        "tokens": all_tokens[row, slot, :length],
                        "score": total,
                        "attention": torch.empty(0),
                        "alignment": torch.empty(0),
                        "positional_scores": cumulative.diff(prepend=cumulative.new_zeros(1)),
                    }
                )
            order = torch.tensor([float(hypothesis["score"]) for hypothesis in found]).sort(descending=True).indices
            results.append([found[number] for number in order])
        return results


def _of_parents(table: Tensor, parents: Tensor) -> Tensor:
    """Rows of `table` (B, x, E) by hypothesis, `parents` (B, y) -> (B, y, E)."""
    return table.gather(1, parents.unsqueeze(2).expand(-1, -1, table.size(2)))
