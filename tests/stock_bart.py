"""Stock BART, tiny: what the tests of the mends train and decode with."""

import helpers
from conftest import USER_DIR
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

TINY_BART = [
    "--arch", "bart_base", "--share-all-embeddings", "--encoder-layers", "1", "--decoder-layers", "1",
    "--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "32", "--encoder-attention-heads", "2",
    "--decoder-embed-dim", "16", "--decoder-ffn-embed-dim", "32", "--decoder-attention-heads", "2",
]  # fmt: skip


def train_arguments(corpus, save_dir, *more):
    """Arguments of a two-update training run of a tiny stock BART."""
    own = [*TINY_BART, "--criterion", "label_smoothed_cross_entropy", "--max-update", "2"]
    return helpers.train_arguments(corpus, save_dir, *own, *more)


def generate_arguments(corpus, checkpoint):
    return [
        corpus.binarised, "--source-lang", "source", "--target-lang", "target", "--path", checkpoint,
        "--beam", "2", "--max-len-b", "5", "--cpu", "--user-dir", USER_DIR,
    ]  # fmt: skip


def stock(function):
    """fairseq's own version of a mended function."""
    return function.srformer_original


def full_configuration(corpus, *more):
    """The namespace and the omegaconf configuration of a training run."""
    parser = options.get_training_parser()
    namespace = options.parse_args_and_arch(parser, train_arguments(corpus, "unused", *more))
    return namespace, convert_namespace_to_omegaconf(namespace)
