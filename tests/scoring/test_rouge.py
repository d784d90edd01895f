"""ROUGE equals rouge-score's, on real system outputs and on generated texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from srformer_plugin.scoring.files import read_lines
from srformer_plugin.scoring.rouge import ROUGE_TYPES, score_pair, score_texts, signature, tokens_by_sentence

# rouge-score 0.1.2 on 500 real outputs, stemmer on, newline after . ? !
PUBLISHED = {
    "bart.hypo": (44.1609, 20.6493, 30.4359, 41.0110),
    "semsim.hypo": (44.5970, 20.9952, 30.4436, 41.5357),
}
THEIRS = rouge_scorer.RougeScorer(list(ROUGE_TYPES), use_stemmer=True)


def one_sentence_a_line(text):
    for end in ".?!":
        text = text.replace(f"{end} ", f"{end}\n")
    return text


@pytest.mark.parametrize("mark", [" ", "\n", "<q>", " <q> "], ids=["none", "newline", "ours", "ours, spaced"])
@pytest.mark.parametrize("system", PUBLISHED)
def test_real_outputs_get_the_published_scores_whatever_marks_their_sentences(sample_file, system, mark):
    texts, references = (
        [one_sentence_a_line(line).replace("\n", mark) for line in read_lines(sample_file("rouge", name))]
        for name in (system, "cnndm.target")
    )
    means = 100 * score_texts(texts, references)[:, :, 2].mean(axis=0)
    assert means == pytest.approx(PUBLISHED[system], abs=1e-3)


# Few different words, so that texts share many; and characters that tokenizers and stemmers may trip over.
WORDS = ["the", "cat", "runs", "running", "agencies", "is", "a", "b", "c", "34", "U.S.", "it's", "İ", "née", "<unk>"]
text = st.lists(st.sampled_from([*WORDS, ".", "\n", "\n"]), max_size=40).map(" ".join)


@given(text.map(lambda t: t + "\n"), text.map(lambda t: t + "\n"))
def test_generated_texts_get_exactly_rouge_scores_numbers(hypothesis, reference):
    assert score_pair(hypothesis, reference) == THEIRS.score(reference, hypothesis)


@given(st.text(max_size=60).map(lambda t: t + "\n"), st.text(max_size=60).map(lambda t: t + "\n"))
def test_so_do_texts_of_any_characters(hypothesis, reference):
    hypothesis, reference = hypothesis.replace("<q>", ""), reference.replace("<q>", "")
    assert score_pair(hypothesis, reference) == THEIRS.score(reference, hypothesis)


def test_real_outputs_get_exactly_rouge_scores_numbers_text_by_text(sample_file):
    files = (sample_file("rouge", name) for name in ("bart.hypo", "cnndm.target"))
    texts, references = ([one_sentence_a_line(line) for line in read_lines(path)[:60]] for path in files)
    for hypothesis, reference in zip(texts, references):
        # a text of one sentence has no newline: rouge-score would not split it either
        assert score_pair(hypothesis + "\n", reference + "\n") == THEIRS.score(reference, hypothesis)


def test_lsum_compares_sentences_and_marks_are_no_words():
    scores = score_pair("It is safe.<q>It is slow.", "It is slow. It is safe.")
    assert scores["rougeLsum"].fmeasure == scores["rouge1"].fmeasure == 1
    assert scores["rougeL"].fmeasure < 1
    assert tokens_by_sentence("one <q> two<q>") == [["one"], ["two"]]


@pytest.mark.parametrize("pair", [("", "a b"), ("a b", ""), ("", ""), ("...", "a"), ("<q>", "<q>")])
def test_texts_without_words_score_0(pair):
    hypothesis, reference = pair
    assert [score.fmeasure for score in score_pair(hypothesis, reference).values()] == [0] * 4


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError):
        score_texts(["a", "b"], ["a"])


def test_the_signature_names_what_a_score_depends_on():
    assert signature().startswith("refs:1|")
    fields = dict(field.split(":", 1) for field in signature(1000, 7).split("|"))
    assert fields["rouge-score"] == "0.1.2"
    assert (fields["bs"], fields["seed"], fields["stemmer"], fields["score"]) == ("1000", "7", "porter", "mean-f1")
    assert {"split", "nltk", "srformer"} <= fields.keys()
