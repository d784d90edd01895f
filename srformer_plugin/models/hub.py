"""SRformers from Python, on text.

    model = SRformerBARTModel.from_pretrained("checkpoints", "checkpoint_best.pt", "data-bin", bpe="sentencepiece",
                                              sentencepiece_model="spm.model")
    print(model.sample(["An article ..."], beam=4, lenpen=2.0, max_len_b=140, min_len=55, no_repeat_ngram_size=3))
    print(model.score(["An article ..."], ["Its summary ..."])[0]["score"])

`SRformerT5Model.from_pretrained("t5-small")` does the same for T5; "a.pt:b.pt" in the place of one checkpoint is an
ensemble.

These are fairseq's own hub interfaces, mended where `_OnText` and the two interfaces say.
"""

import contextlib
import logging
import threading
import weakref
from collections.abc import Iterable

import torch
from fairseq import utils
from fairseq.data import data_utils
from fairseq.hub_utils import GeneratorHubInterface
from fairseq.models.bart.hub_interface import BARTHubInterface
from fairseq.sequence_scorer import SequenceScorer

from data_prep.text import LONE_SURROGATE, has_lone_surrogate

from ..compat.generation_settings import check_generation
from ..errors import ConfigurationError

logger = logging.getLogger(__name__)

# what `generate` takes beside the settings of a search
NO_SETTINGS = ("verbose", "skip_invalid_size_inputs", "inference_step_args", "prefix_allowed_tokens_fn")


def check_texts(what: str, texts) -> list[str]:
    """`texts`, the argument of `what`, as a list; a ConfigurationError where one is no str or no UTF-8."""
    texts = check_strings(what, texts)
    for number, text in enumerate(texts):
        if has_lone_surrogate(text):
            raise ConfigurationError(f"{what}: text {number}: {LONE_SURROGATE}")
    return texts


def check_strings(what: str, texts) -> list[str]:
    """`texts`, the argument of `what`, as a list; a ConfigurationError where it holds anything but str."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise ConfigurationError(f"{what}: a list of texts is needed, got {texts!r}")
    texts = list(texts)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ConfigurationError(f"{what}: text {number} is {text!r}, which is no str")
    return texts


class _OnText:
    """What both interfaces do otherwise than fairseq's; to be named before one of fairseq's.

    Sources that are too long are truncated. A source may be longer than a batch of the training (--max-tokens) was.
    A model is left as it was before.
    """

    def sample(self, sentences: "str | list[str]", *args, **kwargs):
        """As in fairseq: the best hypothesis of every sentence, as text; of one str, its.

        Raises:
            ConfigurationError: what is no text, or a setting as of `generate`.
        """
        single = isinstance(sentences, str)
        checked = check_texts("sample", [sentences] if single else sentences)
        sentences = checked[0] if single else checked
        return super().sample(sentences, *args, **kwargs)

    def generate(self, *args, **kwargs):
        """As in fairseq: hypotheses (a list of dicts, the best first) of every sentence.

        Raises:
            ConfigurationError: a setting of the search that there is not, or that cannot work.
        """
        search = {name: value for name, value in kwargs.items() if name not in NO_SETTINGS}
        if len(args) > 1:
            search["beam"] = args[1]
        check_generation(search, "generate", None)
        with nothing_left_behind(self.models):
            return self._generate(*args, **kwargs)

    def score(self, sources: list[str], targets: list[str]) -> list[dict]:
        """How likely the models find targets, as texts of their own: teacher forcing, several at once.

        Args:
            sources, targets: as many of each.
        Returns:
            For every target {"tokens": (T,), "positional_scores": (T,) log probabilities, "score": their mean, ...}, as
            `SequenceScorer` has them.
        Raises:
            ConfigurationError: another number of targets than of sources, or a target that is too long.
        """
        sources, targets = check_texts("score", sources), check_texts("score, targets", targets)
        if len(sources) != len(targets):
            raise ConfigurationError(f"score: {len(sources)} sources, but {len(targets)} targets")
        tokens = [self._tokens(text, self.task.target_dictionary) for text in targets]
        longest = self.max_positions[1] if isinstance(self.max_positions, (tuple, list)) else self.max_positions
        for number, target in enumerate(tokens):
            if len(target) > longest:
                raise ConfigurationError(
                    f"score: target {number} has {len(target)} tokens, more than --max-target-positions {longest} of "
                    "the model; cut it"
                )
        dictionary, found = self.task.target_dictionary, {}
        scorer, collate = SequenceScorer(dictionary), data_utils.collate_tokens
        for batch in self._build_batches([self.encode(text) for text in sources], False):
            chosen = [tokens[number] for number in batch["id"].tolist()]
            ends = dictionary.pad(), dictionary.eos()
            batch["target"] = collate(chosen, *ends)
            batch["net_input"]["prev_output_tokens"] = collate(chosen, *ends, move_eos_to_beginning=True)
            batch = utils.apply_to_sample(lambda tensor: tensor.to(self.device), batch)
            with torch.no_grad():
                scored = scorer.generate(self.models, batch)
            found.update(zip(batch["id"].tolist(), (hypotheses[0] for hypotheses in scored)))
        return [found[number] for number in range(len(sources))]

    def _build_batches(self, tokens, skip_invalid_size_inputs):
        limit, lengths = self.cfg.dataset.max_tokens, [len(sentence) for sentence in tokens]
        return self.task.get_batch_iterator(
            dataset=self.task.build_dataset_for_inference(tokens, torch.tensor(lengths)),
            max_tokens=None if limit is None else max([limit, *lengths]),
            max_sentences=self.cfg.dataset.batch_size,
            max_positions=self.max_positions,
            ignore_invalid_inputs=skip_invalid_size_inputs,
            disable_iterator_cache=True,
        ).next_epoch_itr(shuffle=False)


class SRformerHubInterface(_OnText, GeneratorHubInterface):
    """fairseq's interface for models of text to text (`sample`, `score`, `generate`, `encode`, `decode`)."""

    def __init__(self, cfg, task, models):
        super().__init__(cfg, task, models)
        self.eval()

    def encode(self, sentence: str) -> torch.LongTensor:
        """Token ids (N,) that end in </s>."""
        return _truncated(self._tokens(sentence, self.task.source_dictionary), self.max_positions)

    def _tokens(self, text, dictionary):
        return dictionary.encode_line(self.apply_bpe(self.tokenize(text)), add_if_not_exist=False).long()

    def _generate(self, *args, **kwargs):
        return GeneratorHubInterface.generate(self, *args, **kwargs)


class SRformerBARTHubInterface(_OnText, BARTHubInterface):
    """fairseq's interface for BART, also for models whose texts do not begin with <s>, and for ensembles.

    Words that a dictionary lacks are <unk>. `model` is the first of an ensemble.

    Args:
        prepend_bos: begin sources and hypotheses with <s>, as BART's own texts do; None: as the checkpoint says. That
            is no for what fairseq-train trained on a translation task, and yes for converted checkpoints.
    """

    def __init__(self, cfg, task, models, prepend_bos=None):
        GeneratorHubInterface.__init__(self, cfg, task, models)
        self.model = self.models[0]
        if self.bpe is None:
            self.bpe = _Words()
        self.prepend_bos = getattr(cfg.model, "prepend_bos", False) if prepend_bos is None else prepend_bos
        self.eval()

    def encode(self, sentence: str, *others: str, no_separator: bool = True) -> torch.LongTensor:
        """Token ids (N,), which begin with <s> if `prepend_bos` is set; every sentence ends in </s>.

        fairseq's own adds words that it does not know to the dictionary, past the end of the embedding.
        """
        tokens = self._tokens(sentence, self.task.source_dictionary, *others, no_separator=no_separator)
        return _truncated(tokens, self.max_positions)

    def _tokens(self, sentence, dictionary, *others, no_separator=True):
        end = "</s>" if no_separator else "</s> </s>"
        line = f" {end} ".join(self.bpe.encode(text) for text in (sentence, *others))
        line = f"<s> {line} </s>" if self.prepend_bos else f"{line} </s>"
        return dictionary.encode_line(line, append_eos=False, add_if_not_exist=False).long()

    def _generate(self, *args, **kwargs):
        if self.prepend_bos:
            return BARTHubInterface.generate(self, *args, **kwargs)
        return GeneratorHubInterface.generate(self, *args, **kwargs)

    def extract_features(self, tokens: torch.LongTensor, return_all_hiddens: bool = False):
        """As in fairseq, of one model."""
        if len(self.models) > 1:
            raise ConfigurationError(f"extract_features and predict take one model, and this is {len(self.models)}")
        return super().extract_features(tokens, return_all_hiddens)


class _Words:
    """The BPE of a dictionary of whole words, for an interface that always asks one."""

    @staticmethod
    def encode(text: str) -> str:
        return text

    decode = encode


def _truncated(tokens, max_positions):
    """`tokens` (N,) cut to what the encoder can take; the last one, </s>, stays."""
    longest = max_positions[0] if isinstance(max_positions, (tuple, list)) else max_positions
    if len(tokens) <= longest:
        return tokens
    logger.info(f"a source of {len(tokens)} tokens is truncated to {longest}")
    return torch.cat((tokens[: longest - 1], tokens[-1:]))


_lock = threading.Lock()
_users = weakref.WeakKeyDictionary()  # model -> how many threads generate with it


@contextlib.contextmanager
def nothing_left_behind(models):
    """Undo what fairseq's generator leaves on a model: the beam size, and an encoder that no longer reorders.

    With the last of several threads that generate with a model, since the others rely on it.
    """
    with _lock:
        for model in models:
            _users[model] = _users.get(model, 0) + 1
    try:
        yield
    finally:
        with _lock:
            for model in models:
                _users[model] -= 1
                if _users[model] == 0:
                    if hasattr(model, "set_beam_size"):
                        model.set_beam_size(1)
                    vars(model.encoder).pop("reorder_encoder_out", None)
