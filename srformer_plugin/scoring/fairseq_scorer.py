"""`--scoring rouge` for fairseq's tools."""

import logging
import re
from dataclasses import dataclass, field

from fairseq.dataclass import FairseqDataclass
from fairseq.scoring import BaseScorer, register_scorer

from .evaluate import LABELS
from .rouge import ROUGE_TYPES, score_texts, signature
from .statistics import SAMPLES, SEED, bootstrap_means, interval
from .unseen import unseen_warning

logger = logging.getLogger(__name__)

# What fairseq writes for an unknown word of a reference, maybe spaced out by a detokenizer. ROUGE's tokenizer keeps the
# "unk" of it, and of a hypothesis's "<unk>": an unknown word would match any other.
_UNKNOWN_IN_REFERENCE = re.compile(r"<\s*<\s*unk\s*>\s*>")


@dataclass
class RougeConfig(FairseqDataclass):
    rouge_bootstrap_samples: int = field(default=SAMPLES, metadata={"help": "resamplings behind the 95% interval"})
    rouge_seed: int = field(default=SEED, metadata={"help": "seed of the resamplings"})


@register_scorer("rouge", dataclass=RougeConfig)
class RougeScorer(BaseScorer):
    """ROUGE-1/2/L/Lsum of the texts it is given: mean F1 in percent."""

    _warned = False  # once, however often the score is asked for

    def add_string(self, ref, pred):
        super().add_string(_UNKNOWN_IN_REFERENCE.sub("unknownwordofthereference", ref), pred)

    def _f1(self):
        """[texts, types], in percent."""
        warning = None if self._warned else unseen_warning(self.pred, self.ref)
        if warning:
            logger.warning(warning)
            self._warned = True
        return 100 * score_texts(self.pred, self.ref)[:, :, 2]

    def scores(self) -> dict[str, float]:
        """Mean F1 by type; 0 without texts."""
        means = self._f1().mean(axis=0).tolist() if self.ref else [0.0] * len(ROUGE_TYPES)
        return dict(zip(ROUGE_TYPES, means))

    def score(self) -> float:
        """ROUGE-1."""
        return self.scores()["rouge1"]

    def result_string(self) -> str:
        """The four scores with their intervals, and the signature."""
        if not self.ref:
            return "ROUGE: no texts"
        f1, samples, seed = self._f1(), self.cfg.rouge_bootstrap_samples, self.cfg.rouge_seed
        ends = interval(bootstrap_means(f1, samples, seed)).T
        parts = [
            f"{LABELS[name]} = {mean:.2f} ({low:.2f} to {high:.2f})"
            for name, mean, (low, high) in zip(ROUGE_TYPES, f1.mean(axis=0), ends)
        ]
        return f"{', '.join(parts)} [{signature(samples, seed)}]"
