"""`--criterion fused_label_smoothed_cross_entropy`: fairseq's loss without the logits of a whole batch.

fairseq's `label_smoothed_cross_entropy` holds the logits of every target token, their log-softmax in float32 and as
much again for gradients: 1.2 GB for 2,048 target tokens and BART's vocabulary (`benchmarks.vocabulary_loss`).
"""

import contextlib

import torch
from fairseq.criterions import label_smoothed_cross_entropy as stock
from fairseq.criterions import register_criterion
from torch import nn

from ..errors import ConfigurationError
from .linear_cross_entropy import linear_cross_entropy

NAME = "fused_label_smoothed_cross_entropy"
INSTEAD = "use --criterion label_smoothed_cross_entropy"


def output_projection(model) -> nn.Linear:
    """The layer of fairseq's `model`, wrapped or not, that makes logits of its decoder's features.

    Raises:
        ConfigurationError: it has none that is a plain linear layer without a bias.
    """
    decoder = getattr(model, "decoder", None)
    if getattr(decoder, "adaptive_softmax", None) is not None:
        raise ConfigurationError(
            f"--criterion {NAME} does not go with --adaptive-softmax-cutoff: leave that out, or {INSTEAD}"
        )
    projection = getattr(decoder, "output_projection", None)
    # exactly this class: any other may compute something else
    if type(projection) is not nn.Linear or projection.bias is not None:
        raise ConfigurationError(
            f"--criterion {NAME} needs a decoder whose output_projection is a linear layer without a bias, and this"
            f" model's is {projection!r}: {INSTEAD}"
        )
    return projection


@contextlib.contextmanager
def _instead(projection, function):
    """`projection` computes `function` of its input. A module's own `forward` comes before its class's."""
    projection.forward = function
    try:
        yield
    finally:
        del projection.forward


def _is_same(output, loss):
    """Whether a decoder's output is the loss, or a view of it: nothing was computed from it."""
    return isinstance(output, torch.Tensor) and output.shape == loss.shape and output.data_ptr() == loss.data_ptr()


# Named as fairseq's class, by which a checkpoint says what it was trained with: the loss is the same, so a training may
# go on with either.
@register_criterion(NAME, dataclass=stock.LabelSmoothedCrossEntropyCriterionConfig)
class LabelSmoothedCrossEntropyCriterion(stock.LabelSmoothedCrossEntropyCriterion):
    """fairseq's label-smoothed cross-entropy, its options and what it logs, by `linear_cross_entropy`.

    The model is called as by fairseq's criterion, and in it the output projection gives the loss in place of the
    logits. So whatever a decoder does before it is done (T5's scaling), and all that has gradients is used within the
    model's forward pass, as data-parallel wrappers need it.
    """

    def forward(self, model, sample, reduce=True):
        """Loss, sample size and what is logged, of a batch of fairseq's.

        Raises:
            ConfigurationError: the model does not make its output by one plain linear layer.
        """
        projection = output_projection(model)
        target = model.get_targets(sample, None)[:, self.ignore_prefix_size :].flatten()
        found, outputs = [], []

        def project(features):
            losses = linear_cross_entropy(
                features[:, self.ignore_prefix_size :].flatten(0, 1),
                projection.weight,
                target,
                smoothing=self.eps,
                ignore_index=self.padding_idx,
                reduce=reduce,
            )
            found.append(losses)
            return losses.loss

        hook = model.decoder.register_forward_hook(lambda decoder, inputs, output: outputs.append(output[0]))
        try:
            with _instead(projection, project):
                loss = model(**sample["net_input"])[0]
        finally:
            hook.remove()
        if not (len(found) == len(outputs) == 1 and _is_same(outputs[0], found[0].loss)):
            raise ConfigurationError(
                f"--criterion {NAME}: this model's decoder, {type(model.decoder).__name__}, does not return what its"
                f" output_projection makes of one batch: {INSTEAD}"
            )
        losses = found[0]
        logging_output = {
            "loss": loss.data,
            "nll_loss": losses.nll_loss,
            "ntokens": sample["ntokens"],
            "nsentences": sample["target"].size(0),
            "sample_size": sample["target"].size(0) if self.sentence_avg else sample["ntokens"],
        }
        if self.report_accuracy:
            # tensors, for which nobody waits; fairseq's are numbers
            logging_output["n_correct"] = losses.correct.sum()
            logging_output["total"] = target.ne(self.padding_idx).sum()
        return loss, logging_output["sample_size"], logging_output
