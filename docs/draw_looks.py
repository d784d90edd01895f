"""Draw where every target position looks in the source, layer by layer: one row of pictures a checkpoint.

    python -m docs.draw_looks DATA_BIN clock=CHECKPOINT content=CHECKPOINT [--subset test] [--index 0] [--numbers]

DATA_BIN is what fairseq-preprocess wrote, and the example one of its pairs, whose target the models are given. A cell's
darkness is the weight that a position puts on a source segment, the mean of the heads; what a recurrent memory adds has
none. Models with full attention are shown by segments of their --segment-size.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from fairseq import checkpoint_utils
from matplotlib.ticker import MaxNLocator

import srformer_plugin  # noqa: F401 (registers the models)

matplotlib.set_loglevel("warning")  # importing fairseq sets the root logger to DEBUG


@torch.no_grad()
def looks(checkpoint: str, data: str, subset: str, index: int) -> tuple[list[torch.Tensor], list[str]]:
    """Weights of every layer on source segments, (T, m) each, and the target's tokens.

    Args:
        checkpoint: file of an SRformer.
        data: binarised data; `index` is that of a pair in its `subset`.
    """
    models, cfg, task = checkpoint_utils.load_model_ensemble_and_task([checkpoint], {"data": data})
    model = models[0].eval()
    task.load_dataset(subset)
    dataset = task.dataset(subset)
    if not 0 <= index < len(dataset):
        raise SystemExit(f"--index {index}: {data} has the pairs 0 to {len(dataset) - 1} in {subset}")
    batch = dataset.collater([dataset[index]])

    found = []

    def ask(module, arguments, options):
        return arguments, {**options, "need_weights": True, "need_head_weights": True}

    def keep(module, arguments, options, output):
        found.append(output[1][:, 0].mean(0))

    for layer in model.decoder.layers:
        layer.encoder_attn.register_forward_pre_hook(ask, with_kwargs=True)
        layer.encoder_attn.register_forward_hook(keep, with_kwargs=True)
    model(**batch["net_input"])
    source = batch["net_input"]["src_tokens"][0]
    real = source.ne(task.source_dictionary.pad())
    size = model.decoder.settings.segment_size
    weights = [sum_over_segments(layer[:, real], size) for layer in found]
    target = batch["target"][0]
    return weights, [task.target_dictionary[token] for token in target[target.ne(task.target_dictionary.pad())]]


def sum_over_segments(weights: torch.Tensor, size: int) -> torch.Tensor:
    """Sums over segments of `size` tokens: (T, N) -> (T, m)."""
    return torch.nn.functional.pad(weights, (0, -weights.size(1) % size)).unflatten(1, (-1, size)).sum(2)


def draw(rows: dict[str, list[torch.Tensor]], tokens: list[str], out: Path) -> None:
    """One row of pictures a checkpoint, one picture a layer."""
    layers = max(map(len, rows.values()))
    height = 0.11 * len(tokens) + 0.7
    figure, table = plt.subplots(
        len(rows), layers, figsize=(1.2 + 2.1 * layers, height * len(rows)), squeeze=False, layout="constrained"
    )
    for axes, (name, weights) in zip(table, rows.items()):
        for number, (one, layer) in enumerate(zip(axes, weights)):
            one.imshow(layer.float().numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
            one.set_title(f"{name}, layer {number}", fontsize=9)
            one.set_xlabel("source segment", fontsize=8)
            one.tick_params(labelsize=6)
            one.xaxis.set_major_locator(MaxNLocator(integer=True))
            one.set_yticks(range(len(tokens)), tokens if number == 0 else [""] * len(tokens), fontsize=5)
        for one in axes[len(weights) :]:
            one.axis("off")
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA_BIN", help="folder that fairseq-preprocess wrote")
    parser.add_argument("systems", metavar="NAME=CHECKPOINT", nargs="+", help="checkpoints and how to call them")
    parser.add_argument("--subset", default="test", help="of the data (default: %(default)s)")
    parser.add_argument("--index", type=int, default=0, help="of the pair in it (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs/looks.png"), help="default: %(default)s")
    parser.add_argument("--numbers", action="store_true", help="number the target's positions, and show no text")
    options = parser.parse_args(argv)
    rows, tokens = {}, []
    for system in options.systems:
        name, _, checkpoint = system.partition("=")
        if not checkpoint:
            parser.error(f"{system!r} is not NAME=CHECKPOINT")
        rows[name], tokens = looks(checkpoint, options.data, options.subset, options.index)
    draw(rows, [str(number) for number in range(len(tokens))] if options.numbers else tokens, options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
