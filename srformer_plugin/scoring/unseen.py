"""Texts that ROUGE cannot see: its words are runs of a-z and 0-9, which Chinese, Hindi or Russian hardly have."""

from data_prep.text import without_marks

from .rouge import rouge_words


def is_unseen(text: str) -> bool:
    """Whether a text has letters or digits, and ROUGE's words hold less than half of them."""
    text = without_marks(text)
    characters = sum(map(str.isalnum, text))
    return 2 * sum(map(len, rouge_words(text))) < characters


def unseen_warning(hypotheses, references) -> str | None:
    """One sentence that says how many texts ROUGE cannot see and what to use instead; None where it sees all."""
    counts = {"references": sum(map(is_unseen, references)), "hypotheses": sum(map(is_unseen, hypotheses))}
    if not any(counts.values()):
        return None
    totals = {"references": len(references), "hypotheses": len(hypotheses)}
    what = " and ".join(f"{count:,} of {totals[side]:,} {side}" for side, count in counts.items() if count)
    return (
        f"ROUGE cannot see {what}: its words are of a-z and 0-9 only, so that equal texts in another script score 0. "
        "Use chrF (srformer-score --also chrf) or BLEU with a tokenizer of the language (--also bleu-zh, bleu-char, "
        "bleu-intl; sacrebleu has more)"
    )
