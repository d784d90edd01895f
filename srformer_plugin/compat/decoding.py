"""What goes wrong while fairseq decodes."""

import math

import torch
from fairseq import utils
from fairseq.modules import MultiheadAttention
from fairseq.ngram_repeat_block import NGramRepeatBlock
from fairseq.search import DiverseBeamSearch, Sampling
from fairseq.sequence_generator import SequenceGenerator

from ..errors import ConfigurationError
from .patching import wrap

LEAST_OF_EXP = -80  # the logarithm of a probability well within float32, which ends at -103


def attend_to_the_own_source():
    """Let every sentence of a training batch attend to its own source after a generator was built.

    Building a generator tells BART's cross-attention the beam size, once and for all. From then on
    ``modules/multihead_attention.py:585`` takes any batch for ``beam_size`` copies of each sentence, in training
    and validation too: with ``--eval-bleu`` every group of ``beam`` sentences is trained on the source of its
    first one, silently, or the batch fails with "shape ... is invalid" where the beam does not divide it. Copies
    exist only while decoding step by step, that is, with an incremental state. Not needed when
    a model's output stays the same after ``model.set_beam_size(2)``.
    """

    def make_wrapper(original):
        def forward(self, query, key, value, key_padding_mask=None, incremental_state=None, *args, **kwargs):
            if incremental_state is None and self.beam_size > 1:
                # a view with the same parameters: the beam size on the module is another thread's decoding's
                view = object.__new__(type(self))
                vars(view).update(vars(self), beam_size=1)
                self = view
            return original(self, query, key, value, key_padding_mask, incremental_state, *args, **kwargs)

        return forward

    wrap(MultiheadAttention, "forward", make_wrapper)


def block_repeated_ngrams():
    """Make ``--no-repeat-ngram-size`` block repeated n-grams without fairseq's CUDA extension.

    ``ngram_repeat_block.py:110`` takes a hypothesis' last n - 1 tokens from the end of a buffer that is as long as
    the longest hypothesis: until it is full these are padding, and nothing is blocked. The wheels have no
    extension, so that is the only path. With n = 1 it takes none at all. Then every word may come once; what a
    hypothesis begins with, </s> mostly, is no word of it, and it may end. Not needed when a hypothesis decoded with
    the option, 1 among its values, repeats no n-gram.
    """

    def make_wrapper(original):
        def forward(self, tokens, lprobs, bsz, beam_size, step):
            if self.no_repeat_ngram_size == 1:
                return lprobs.scatter_(1, tokens[:, 1 : step + 1], -math.inf)
            # the extension counts from `step` itself, in rows as long as the buffer
            written = tokens if self.use_extension else tokens[:, : step + 1]
            return original(self, written, lprobs, bsz, beam_size, step)

        return forward

    wrap(NGramRepeatBlock, "forward", make_wrapper)


def count_sentences_of_a_diverse_beam():
    """Make ``--diverse-beam-groups`` work for more than the first batch.

    ``sequence_generator.py:337`` gives the search the numbers of the sentences in their data set, where
    ``search.py:644`` looks for their rows in the batch: IndexError as soon as a number reaches the batch size, and
    before that the overlap of another sentence. Without numbers the generator counts the rows. Not needed when a batch
    with the numbers 10 and 11 is decoded.
    """

    def make_wrapper(original):
        def _generate(self, sample, *args, **kwargs):
            if isinstance(self.search, DiverseBeamSearch):
                sample = {name: value for name, value in sample.items() if name != "id"}
            return original(self, sample, *args, **kwargs)

        return _generate

    wrap(SequenceGenerator, "_generate", make_wrapper)


def name_lengths_that_exclude_each_other():
    """Name ``--min-len`` where an output of that length would be longer than the longest one.

    That depends on the source with ``--max-len-a``, and on the model's positions: "min_len cannot be larger than
    max_len, please adjust these!" (``sequence_generator.py:275``). Not needed when that error names a flag.
    """

    def make_wrapper(original):
        def _generate(self, sample, *args, **kwargs):
            check_lengths(self, sample)
            return original(self, sample, *args, **kwargs)

        return _generate

    wrap(SequenceGenerator, "_generate", make_wrapper)


def check_lengths(generator: SequenceGenerator, sample: dict) -> None:
    """Raise a ConfigurationError where a batch has no length between the shortest and the longest output."""
    tokens = sample["net_input"].get("src_tokens")
    if tokens is None:  # sources that are not tokens
        return
    if generator.match_source_len:
        longest = int((tokens.ne(generator.eos) & tokens.ne(generator.pad)).sum(dim=1).max())
        reason = "as long as the source"
    else:
        longest = min(int(generator.max_len_a * tokens.size(1) + generator.max_len_b), generator.max_len - 1)
        reason = f"by --max-len-a, --max-len-b and the {generator.max_len:,} positions that there are"
    if generator.min_len == 1 > longest:  # nobody has asked for it
        raise ConfigurationError(
            f"--max-len-a {generator.max_len_a:g} and --max-len-b {generator.max_len_b} leave no token for the output "
            f"of a source of {tokens.size(1):,} tokens: raise --max-len-b"
        )
    if generator.min_len > longest:
        raise ConfigurationError(
            f"--min-len {generator.min_len} is more than the longest output of a source of {tokens.size(1):,} tokens, "
            f"which has {longest:,}, {reason}: give at most that"
        )


def name_more_words_than_there_are():
    """Name ``--sampling-topk`` where the dictionary has fewer words.

    ``search.py:774``: "selected index k out of range". Not needed when that error names the flag.
    """

    def make_wrapper(original):
        def __init__(self, tgt_dict, sampling_topk=-1, *args, **kwargs):
            if sampling_topk > len(tgt_dict):
                raise ConfigurationError(
                    f"--sampling-topk {sampling_topk} is more than the dictionary's {len(tgt_dict):,} words: give at "
                    "most that, or leave it out"
                )
            original(self, tgt_dict, sampling_topk, *args, **kwargs)

        return __init__

    wrap(Sampling, "__init__", make_wrapper)


def sample_from_what_is_left():
    """Sample with a low ``--temperature`` where all words that may come have no probability left in float32.

    ``search.py:781`` samples by the probabilities of words. Where the likely ones may not come, as </s> before
    ``--min-len`` or all others at the longest output, those of the rest are 0 once their logarithms are below -103:
    "invalid multinomial distribution (sum of probabilities <= 0)". Not needed when such a step samples.
    """

    def make_wrapper(original):
        def step(self, step, lprobs, scores, *args, **kwargs):
            best = lprobs.amax(dim=-1, keepdim=True)  # (sentences, beam, 1)
            shift = torch.where((best < LEAST_OF_EXP) & (best > -math.inf), best, torch.zeros_like(best))
            found, words, beams = original(self, step, lprobs - shift, scores, *args, **kwargs)
            return found + shift.squeeze(-1).gather(1, beams), words, beams

        return step

    wrap(Sampling, "step", make_wrapper)


def replace_unknown_words_without_a_file():
    """Take ``--replace-unk`` without a file for what its help says: copy the source's word.

    Its value is then "@@ " (``dataclass/configs.py:781``), and ``utils.py:169`` opens a file of that name. Not needed
    when ``utils.load_align_dict("@@ ")`` returns.
    """

    def make_wrapper(original):
        def load_align_dict(replace_unk):
            return original("" if replace_unk == "@@ " else replace_unk)

        return load_align_dict

    wrap(utils, "load_align_dict", make_wrapper)
