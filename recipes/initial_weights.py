"""Write a checkpoint of untrained weights that are scaled to the width of a small model.

    python -m recipes.initial_weights OUT.pt DATA --user-dir ... --arch ... (the arguments of fairseq-train)

BART draws all its weights with a standard deviation of 0.02, which suits its 768 or more dimensions. In a model of 128
dimensions the branches beside the residual path then start so weak, and the embeddings so close to each other, that
hundreds of updates pass before the decoder looks at its source at all. Here a matrix gets 1 / sqrt(inputs) and an
embedding 1 / sqrt(dimensions). Learned positions start as sines and cosines of that size: to find the token before
another one, which copying needs, a head would otherwise have to learn every position's neighbour by heart, in far fewer
dimensions than there are positions. T5 has scales of its own that suit any width, and positions that are relative: its
weights are drawn as T5 draws them. ``fairseq-train --finetune-from-model OUT.pt`` starts from the result.
"""

import logging
import math
import sys
from pathlib import Path

from fairseq import checkpoint_utils, options, tasks, utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.modules import LearnedPositionalEmbedding, SinusoidalPositionalEmbedding
from torch import nn

from data_prep.errors import UserError, command
from srformer_plugin.models.checkpoint_file import as_before_training

logger = logging.getLogger(__name__)


def draw(model):
    """Draw the weights of ``model`` anew, in place: as it draws them itself if it can, else scaled to its width."""
    if hasattr(model, "draw_initial_weights"):
        model.draw_initial_weights()
    else:
        scale_to_width(model)


def scale_to_width(model):
    """Draw the weights of linear maps and embeddings of ``model`` anew, in place; biases and norms stay."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
    # after the linear maps: the output projection shares the embedding's weight
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1 / math.sqrt(module.embedding_dim))
            if module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])
        if isinstance(module, LearnedPositionalEmbedding):
            waves = SinusoidalPositionalEmbedding.get_embedding(*module.weight.shape, module.padding_idx)
            module.weight.data.copy_(waves * math.sqrt(2 / module.embedding_dim))


@command
def main(argv=None):
    """Command line: the checkpoint to write, then the arguments of fairseq-train."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if {"-h", "--help"} & set(arguments[:1]):
        print(__doc__.strip())
        return
    if len(arguments) < 2 or arguments[0].startswith("-"):
        raise UserError("name the checkpoint to write, then the arguments of fairseq-train: OUT.pt DATA --arch ...")
    out, *arguments = arguments
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, arguments)
    cfg = convert_namespace_to_omegaconf(args)
    model = tasks.setup_task(cfg.task).build_model(cfg.model)
    # seeded here, so that models that differ in parameters of other kinds start from the same weights
    utils.set_torch_seed(cfg.common.seed)
    draw(model)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    checkpoint_utils.torch_persistent_save(as_before_training(cfg, model.state_dict()), out)
    logger.info("%s: %d parameters", out, sum(p.numel() for p in model.parameters()))


if __name__ == "__main__":
    sys.exit(main())
