"""The `summarization` task: fairseq's translation task with long sources cut and ROUGE during training."""

import logging
from argparse import Namespace
from dataclasses import dataclass, field
from typing import Optional

import numpy as np
import torch
from fairseq import utils
from fairseq.data import BaseWrapperDataset, encoders
from fairseq.logging import metrics
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from ..compat.generation_settings import check_generation, json_object
from ..errors import ConfigurationError
from ..generation import FastSequenceGenerator
from ..scoring.rouge import ROUGE_TYPES, score_texts
from ..scoring.unseen import unseen_warning

logger = logging.getLogger(__name__)

PRINTED = 3  # sentences shown by --eval-rouge-print-samples


@dataclass
class SummarizationConfig(TranslationConfig):
    # fairseq's flag of a boolean that is on by default would switch it off
    no_truncate_source: bool = field(
        default=False,
        metadata={
            "help": "do not cut sources to --max-source-positions (training leaves longer ones out). Without this flag "
            "they are cut, whether or not --truncate-source is given"
        },
    )
    fast_generate: bool = field(
        default=False,
        metadata={
            "help": "beam search in tensors of fixed shapes, on a GPU as CUDA graphs: the hypotheses of fairseq's own, "
            "several times as fast; for one SRformer, without prefixes, sampling or constraints"
        },
    )
    eval_rouge: bool = field(default=False, metadata={"help": "ROUGE on validation sentences"})
    eval_rouge_args: str = field(
        default="{}", metadata={"help": 'generation settings, such as \'{"beam": 4, "lenpen": 2}\', as JSON'}
    )
    eval_rouge_samples: int = field(
        default=1000,
        metadata={"help": "decode this many sentences of a validation set, at equal distances in it; 0: all"},
    )
    eval_rouge_detok: str = field(
        default="space", metadata={"help": "detokenizer before scoring, such as moses (see fairseq.data.encoders)"}
    )
    eval_rouge_detok_args: str = field(default="{}", metadata={"help": "settings of the detokenizer, as JSON"})
    eval_rouge_remove_bpe: Optional[str] = field(  # noqa: UP045 (fairseq's parser needs Optional)
        default=None,
        metadata={
            "help": "remove BPE before scoring, as --remove-bpe of fairseq-generate (sentencepiece, '@@ ', ...)",
            "argparse_const": "@@ ",
        },
    )
    eval_rouge_bpe: Optional[str] = field(  # noqa: UP045
        default=None, metadata={"help": "decode this BPE before scoring, as --bpe of fairseq-generate (gpt2, ...)"}
    )
    eval_rouge_bpe_args: str = field(
        default="{}", metadata={"help": 'its settings, such as \'{"gpt2_encoder_json": "encoder.json", ...}\', as JSON'}
    )
    eval_rouge_print_samples: bool = field(
        default=False, metadata={"help": f"log {PRINTED} of the hypotheses, always of the same sentences"}
    )


class ChosenFirst(BaseWrapperDataset):
    """A validation set of which some sentences are to be decoded.

    These come first, sorted by length among themselves, so that they fill their batches: decoding a batch of one takes
    nearly as long as one of sixteen. Batches get the boolean tensors `decode` and `show`, [sentences].
    """

    def __init__(self, dataset, samples):
        super().__init__(dataset)
        count = min(samples or len(dataset), len(dataset))
        self.chosen = np.arange(count) * len(dataset) // max(count, 1)

    def ordered_indices(self):
        indices = super().ordered_indices()
        decode = np.isin(indices, self.chosen)
        return np.concatenate((indices[decode], indices[~decode]))

    def collater(self, samples):
        batch = super().collater(samples)
        if batch:
            batch["decode"] = torch.from_numpy(np.isin(batch["id"].numpy(), self.chosen))
            batch["show"] = torch.from_numpy(np.isin(batch["id"].numpy(), self.chosen[:PRINTED]))
        return batch


@register_task("summarization", dataclass=SummarizationConfig)
class SummarizationTask(TranslationTask):
    """Documents to summaries.

    Sources longer than `--max-source-positions`, or than the model's, are cut, their end of sentence kept. With
    `--eval-rouge` the validation statistics have rouge1, rouge2, rougeL and rougeLsum (mean F1 in percent), to choose a
    checkpoint by: `--best-checkpoint-metric rouge1 --maximize-best-checkpoint-metric`.
    """

    def __init__(self, cfg: SummarizationConfig, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        cfg.truncate_source = not cfg.no_truncate_source
        self.generator = self.detokenizer = self.bpe = None
        self._warned_of_unseen_texts = False

    def build_model(self, cfg, from_checkpoint=False):
        """As fairseq's, with a generator for `--eval-rouge`.

        Raises:
            ConfigurationError: settings of `--eval-rouge` that cannot work.
        """
        model = super().build_model(cfg, from_checkpoint)
        if self.cfg.eval_rouge:
            if self.cfg.eval_rouge_samples < 0:
                raise ConfigurationError(f"--eval-rouge-samples {self.cfg.eval_rouge_samples} is negative")
            settings = check_generation(self.cfg.eval_rouge_args, "--eval-rouge-args")
            self.detokenizer = encoders.build_tokenizer(
                Namespace(tokenizer=self.cfg.eval_rouge_detok, **self._json("eval_rouge_detok_args"))
            )
            self.bpe = encoders.build_bpe(Namespace(bpe=self.cfg.eval_rouge_bpe, **self._json("eval_rouge_bpe_args")))
            self.generator = self.build_generator([model], Namespace(**settings))
        return model

    def build_generator(self, models, args, seq_gen_cls=None, **kwargs):
        """As fairseq's, with `--fast-generate` a `FastSequenceGenerator`."""
        scores_only = getattr(args, "score_reference", False) or getattr(args, "print_alignment", False)
        if self.cfg.fast_generate and seq_gen_cls is None and not scores_only:
            seq_gen_cls = FastSequenceGenerator
        return super().build_generator(models, args, seq_gen_cls, **kwargs)

    def train_step(self, *args, **kwargs):
        if isinstance(self.generator, FastSequenceGenerator):
            self.generator.release()  # the memory of the last validation
        return super().train_step(*args, **kwargs)

    def _json(self, name):
        return json_object(getattr(self.cfg, name), "--" + name.replace("_", "-"))

    def load_dataset(self, split, epoch=1, combine=False, **kwargs):
        super().load_dataset(split, epoch, combine, **kwargs)
        if self.cfg.eval_rouge and split != self.cfg.train_subset:
            self.datasets[split] = ChosenFirst(self.datasets[split], self.cfg.eval_rouge_samples)

    def valid_step(self, sample, model, criterion):
        loss, sample_size, logging_output = super().valid_step(sample, model, criterion)
        if self.cfg.eval_rouge:
            f1 = self._rouge(sample, model)
            # Sums, which add up over batches and workers; every batch has them, since fairseq adds by position.
            logging_output["_rouge_texts"] = len(f1)
            for name, total in zip(ROUGE_TYPES, f1.sum(axis=0).tolist()):
                logging_output[f"_{name}"] = total
        return loss, sample_size, logging_output

    def reduce_metrics(self, logging_outputs, criterion):
        super().reduce_metrics(logging_outputs, criterion)
        texts = float(sum(log.get("_rouge_texts", 0) for log in logging_outputs))
        if texts > 0:
            for name in ROUGE_TYPES:
                total = float(sum(log.get(f"_{name}", 0) for log in logging_outputs))
                metrics.log_scalar(name, total / texts, weight=texts, round=2)

    def _rouge(self, sample, model):
        """F1 in percent of the chosen sentences of a batch, [sentences, types]."""
        rows = sample["decode"].nonzero().flatten() if "decode" in sample else []
        if len(rows) == 0:
            return np.zeros((0, len(ROUGE_TYPES)))
        net_input = {name: value.index_select(0, rows) for name, value in sample["net_input"].items()}
        chosen = {"id": sample["id"].index_select(0, rows), "net_input": net_input}
        with torch.no_grad():
            found = self.inference_step(self.generator, [model], chosen)
        # Words that ROUGE's tokenizer keeps apart: an unknown word is no match for another.
        hypotheses = [self._text(best[0]["tokens"], "<unknowninhypothesis>") for best in found]
        targets = sample["target"].index_select(0, rows)
        references = [self._text(utils.strip_pad(t, self.tgt_dict.pad()), "<unknowninreference>") for t in targets]
        if self.cfg.eval_rouge_print_samples:
            numbers, shown = chosen["id"].tolist(), sample["show"].index_select(0, rows).tolist()
            for number, show, hypothesis, reference in zip(numbers, shown, hypotheses, references):
                if show:
                    logger.info(f"example hypothesis {number}: {hypothesis}")
                    logger.info(f"example reference {number}: {reference}")
        warning = None if self._warned_of_unseen_texts else unseen_warning(hypotheses, references)
        if warning:
            self._warned_of_unseen_texts = True
            logger.warning(f"--eval-rouge, first batch with such texts: {warning}")
        return 100 * score_texts(hypotheses, references)[:, :, 2]

    def _text(self, tokens, unknown):
        text = self.tgt_dict.string(tokens.int().cpu(), self.cfg.eval_rouge_remove_bpe, unk_string="<unk>")
        if self.bpe is not None:
            text = self.bpe.decode(text)  # GPT-2's knows "<unk>" and no other name
        text = text.replace("<unk>", unknown)
        return text if self.detokenizer is None else self.detokenizer.decode(text)
