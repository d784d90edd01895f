"""What the tests of every family share: batches for both systems, and their searches brought together."""

import torch
from fairseq import checkpoint_utils
from fairseq.sequence_generator import SequenceGenerator


def load(folder, **options):
    """(model, task) of a converted folder; options override those of the checkpoint."""
    models, _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(folder / "model.pt")], arg_overrides={"data": str(folder), **options}
    )
    return models[0].eval(), task


def sentences(rows, lengths, seed):
    """Random sentences of fairseq's ids below `rows` that end in </s>; lengths count it."""
    generator = torch.Generator().manual_seed(seed)
    return [[*torch.randint(4, rows, (length - 1,), generator=generator).tolist(), 2] for length in lengths]


def padded(rows, left):
    """(B, N) int64 ids, padded with 1 on one side."""
    width = max(map(len, rows))
    pads = [[1] * (width - len(row)) for row in rows]
    return torch.tensor([pad + row if left else row + pad for row, pad in zip(rows, pads)])


def same_id(ids):
    """BART's ids are the same in both systems."""
    return ids


def nothing_more(ids):
    """What a model of Hugging Face's is given beside ids and padding."""
    return {}


@torch.no_grad()
def logits_of_both(
    theirs, ours, rows, their_id=same_id, more=nothing_more, lengths=(13, 5, 8), left=True, sources=None
):
    """Logits (T, V) of the same padded batch in Hugging Face's model (padded right) and fairseq's.

    Args:
        their_id: Hugging Face's ids of fairseq's.
        more: function of the padded ids that returns Hugging Face's other arguments.
        lengths: of the three sources.
        sources: three of them in the place of random ones, as fairseq's ids.
        left: whether fairseq's sources are padded on the left.
    """
    sources = sources or sentences(rows, lengths, seed=2)
    targets = sentences(rows, [7, 9, 4], seed=3)
    right, previous = padded(sources, left=False), padded([[2, *target[:-1]] for target in targets], left=False)
    real = previous.ne(1)
    start = torch.full((3, 1), theirs.config.decoder_start_token_id)
    expected = theirs(
        input_ids=their_id(right),
        attention_mask=right.ne(1).long(),
        decoder_input_ids=torch.cat((start, their_id(previous[:, 1:])), dim=1),
        **more(right),
    ).logits
    actual = ours(padded(sources, left), torch.tensor([len(source) for source in sources]), previous)[0]
    expected = expected[:, :, their_id(torch.arange(rows))]  # in fairseq's order
    return expected[real], actual[real]


def ends_like_fairseq(longest, end):
    """A logits processor: the last word of the longest hypotheses is </s> (`end`), and its probability counts."""

    def process(input_ids, scores):
        if input_ids.size(1) < longest + 1:
            return scores
        return torch.full_like(scores, -torch.inf).index_copy(1, torch.tensor([end]), scores[:, [end]])

    return process


def found_by_both(
    theirs, folder, penalty, shortest, ngram, longest=14, their_id=same_id, more=nothing_more, change=same_id
):
    """The best hypotheses, as fairseq's ids, for 20 sources and 4 beams: (Hugging Face's, fairseq's).

    `change` is a function of a source, which returns another one. The two search alike, but count differently:

    * Hugging Face's min_length and max_length count the start token, and max_length the </s> as well; fairseq's count
      neither. So min_len n is min_length n + 1, and max_len n is max_length n + 2.
    * fairseq stops at `beam` finished hypotheses; Hugging Face does so with early_stopping=True only.
    * fairseq ends the longest hypotheses with </s> and counts its probability; Hugging Face ends them with
      forced_eos_token_id only, and then without: equal but for the word before it. Here a processor does as fairseq.
    * fairseq never chooses <pad>; Hugging Face has to be told.
    * Among the words that may not be repeated, both count the start token, which is </s> for fairseq always.
    Both divide a score by (tokens with </s>, without the start) ** penalty.
    """
    ours, task = load(folder)
    rows = theirs.config.vocab_size
    sources = [change(source) for source in sentences(rows, lengths=[3 + n for n in range(20)], seed=4)]
    right = padded(sources, left=False)
    pad, end = (int(their_id(torch.tensor(number))) for number in (1, 2))
    expected = theirs.generate(
        their_id(right), attention_mask=right.ne(1).long(), num_beams=4, length_penalty=penalty, early_stopping=True,
        min_length=shortest + 1, max_length=longest + 2, no_repeat_ngram_size=ngram, suppress_tokens=[pad],
        do_sample=False, forced_eos_token_id=None, logits_processor=[ends_like_fairseq(longest, end)],
        **more(right),
    )  # fmt: skip
    our_id = their_id(torch.arange(rows)).argsort()
    expected = [[token for token in our_id[row[1:]].tolist() if token != 1] for row in expected]
    generator = SequenceGenerator(
        [ours],
        task.target_dictionary,
        beam_size=4,
        max_len_b=longest,
        min_len=shortest,
        len_penalty=penalty,
        no_repeat_ngram_size=ngram,
    )
    lengths = torch.tensor([len(source) for source in sources])
    found = generator.generate(
        [ours], {"net_input": {"src_tokens": padded(sources, left=True), "src_lengths": lengths}}
    )
    return expected, [best[0]["tokens"].tolist() for best in found]
