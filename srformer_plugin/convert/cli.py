"""``srformer-convert``: checkpoints from Hugging Face to fairseq and back, and to another attention."""

import argparse
import json
import shutil
from pathlib import Path

from fairseq.dataclass.utils import gen_parser_from_dataclass

from data_prep.errors import command
from data_prep.whole import new_folder, whole_file

from ..attention.settings import SegmentSettings
from ..compat.checkpoints import save
from ..errors import ConfigurationError
from ..models.change_attention import change_attention
from ..models.checkpoint_file import CHECKPOINT, dtype_name, load, read_checkpoint, write_checkpoint
from ..models.encoders.settings import EncoderSettings
from ..models.segmented_model import say_if_all_is_chosen
from . import bart, led, rename, t5
from .weights import PICKLE, SAFETENSORS, Weights, read_json, write_weights

TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
)
FAIRSEQ_FILES = {CHECKPOINT, "dict.source.txt", "dict.target.txt", "encoder.json", "vocab.bpe", *TOKENIZER_FILES}
HUGGINGFACE_FILES = {"config.json", "generation_config.json", SAFETENSORS, PICKLE, *TOKENIZER_FILES}
# Modules of one family of models each, with the same functions
FAMILIES = (bart, led, t5)

DESCRIPTION = """\
Convert BART, LED and T5 checkpoints between Hugging Face and fairseq. Every weight is accounted for and copied bit for
bit; a model that the other side cannot have is refused. Nothing from the input is executed. And change what the decoder
of a checkpoint attends to, or how its encoder reads the source.
"""
EPILOG = """\
examples:
  hf download facebook/bart-base --local-dir bart-base-hf
  srformer-convert hf-to-fairseq bart-base-hf bart-base
  srformer-convert fairseq-to-hf checkpoints/checkpoint_best.pt my-bart-hf --tokenizer bart-base-hf
  srformer-convert change-attention bart-base/model.pt bart-base/content.pt --segment-schedule content
  srformer-convert change-attention bart-base/content.pt bart-base/long.pt --encoder-attention chunked
"""


def _silent(line):
    """Report nothing."""


def hf_to_fairseq(source: Path, out: Path, force: bool = False, report=_silent, global_token: str | None = None):
    """Convert a Hugging Face folder to `out`/model.pt with dictionaries.

    Args:
        source: folder with config.json, weights and tokenizer files.
        out: folder to write.
        force: replace `out` if it is a folder of converted files.
        report: called with a line for every tensor.
        global_token: as of `led.global_symbol`.

    Raises:
        ConfigurationError: something that cannot be converted, by name.
    """
    config = read_json(source / "config.json")
    family = _family(config.get("model_type"), "model_type", "MODEL_TYPES", source / "config.json")
    generation = source / "generation_config.json"
    options = family.fairseq_options(config, read_json(generation) if generation.is_file() else {})
    if family is led:
        options["encoder_global_symbol"] = led.global_symbol(source, global_token)
    elif global_token is not None:
        raise ConfigurationError(f"--global-token {global_token!r} is for LED, and {source} holds no LED")
    rows = config.get("vocab_size")
    if not isinstance(rows, int):
        raise ConfigurationError(f"{source / 'config.json'} has no vocab_size")
    _check_separate(source, out)
    fairseq_rows, write_dictionaries = family.dictionary_writer(source, rows)
    weights = Weights(source)
    with new_folder(out, FAIRSEQ_FILES | HUGGINGFACE_FILES if force else None) as folder:
        state = rename.to_fairseq(weights, family.names(options, rows, weights, fairseq_rows), report)
        write_checkpoint(folder / CHECKPOINT, family.ARCHITECTURE, options, state)
        _copy_tokenizer(source, folder)
        write_dictionaries(folder)


def fairseq_to_hf(source: Path, out: Path, tokenizer: Path | None = None, force: bool = False, report=_silent):
    """Convert a fairseq checkpoint with full cross-attention to a Hugging Face folder.

    Args:
        source: checkpoint file.
        out: folder to write.
        tokenizer: folder with tokenizer files to copy (default: that of `source`).
        force, report: as in `hf_to_fairseq`.

    Raises:
        ConfigurationError: something that cannot be converted, by name.
    """
    _check_separate(source, out)
    model, options, state = read_checkpoint(source)
    family = _family(model, "model", "MODELS", source)
    _check_full_attention(options, state)
    embedding = state.get("encoder.embed_tokens.weight")
    if embedding is None:
        raise ConfigurationError("weight encoder.embed_tokens.weight is missing")
    config, generation = family.huggingface_config(options, embedding.size(0))
    config = {**config, "is_encoder_decoder": True, "torch_dtype": dtype_name(embedding)}
    generation = {**generation, "_from_model_config": True}
    with new_folder(out, FAIRSEQ_FILES | HUGGINGFACE_FILES if force else None) as folder:
        write_weights(folder, rename.to_huggingface(state, family.names(options, embedding.size(0)), report))
        for name, content in (("config.json", config), ("generation_config.json", generation)):
            (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        _copy_tokenizer(tokenizer or source.parent, folder)


def change_attention_of_file(
    source: Path, out: Path, changes: dict, force: bool = False, source_limit: int | None = None
):
    """Write a checkpoint with the weights of another one and other settings of its attention.

    Args:
        source: checkpoint file of fairseq.
        out: file to write.
        changes, source_limit: as of `change_attention.change_attention`.
        force: replace `out` if it is there.

    Raises:
        ConfigurationError: something that cannot be done, by name.
    """
    if not changes and source_limit is None:
        raise ConfigurationError("nothing is to be changed: give --segment-schedule, --encoder-attention or another")
    if out.is_dir():
        raise ConfigurationError(f"{out} is a folder: give the name of the file to write")
    if out.exists() and (out.samefile(source) or not force):
        reason = "is the checkpoint itself" if out.samefile(source) else "exists; --force replaces it"
        raise ConfigurationError(f"{out} {reason}")
    content = change_attention(load(source), changes, str(source), source_limit)
    changed = content["cfg"]["model"]
    say_if_all_is_chosen(SegmentSettings.from_namespace(changed), changed.max_source_positions)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out, "wb") as file:
        save(content, file)


def _family(name, what, attribute, where):
    for family in FAMILIES:
        if name in getattr(family, attribute):
            return family
    known = [kind for family in FAMILIES for kind in getattr(family, attribute)]
    raise ConfigurationError(f"{where} has {what} {name!r}, but only {', '.join(known)} can be converted")


def _check_full_attention(options, state):
    """Refuse a model whose cross-attention Hugging Face does not have."""
    kind = options.get("cross_attention", "full")
    if kind != "full" or any(".encoder_attn.memory." in name or name.endswith("segment_schedule") for name in state):
        raise ConfigurationError(
            f"the checkpoint has --cross-attention {kind}: Hugging Face's models attend to the whole source and would "
            "compute something else from these weights. Only --cross-attention full can be converted"
        )
    encoder = options.get("encoder_attention") or "full"
    if encoder != "full":
        raise ConfigurationError(
            f"the checkpoint has --encoder-attention {encoder}, which Hugging Face's model of this kind does not have; "
            "`srformer-convert change-attention --encoder-attention full` makes the same weights one that can be "
            "converted"
        )


def _check_separate(source: Path, out: Path):
    """Refuse to write where the input is."""
    inside, outside = source.resolve(), out.resolve()
    if inside == outside or outside in inside.parents:
        raise ConfigurationError(f"{out} holds the input {source}")


def _copy_tokenizer(source: Path, folder: Path):
    if not source.is_dir():
        raise ConfigurationError(f"{source} is no folder")
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="srformer-convert",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True)
    here = commands.add_parser("hf-to-fairseq", help="a Hugging Face folder to model.pt and dictionaries")
    here.add_argument("source", metavar="HF_DIR", type=Path, help="config.json, weights and tokenizer files")
    here.add_argument(
        "out", metavar="OUT_DIR", type=Path, help="folder to write: model.pt, dict.{source,target}.txt, BPE files"
    )
    here.add_argument(
        "--global-token",
        metavar="TOKEN",
        help="of LED: a token of the tokenizer that is global wherever it stands in a source, as the first token of "
        f"every source is (default: {led.GLOBAL_TOKEN}, PRIMERA's, where the tokenizer has it; '': none)",
    )
    back = commands.add_parser("fairseq-to-hf", help="a checkpoint with full cross-attention to a Hugging Face folder")
    back.add_argument("source", metavar="CHECKPOINT", type=Path, help="checkpoint file of fairseq")
    back.add_argument("out", metavar="OUT_DIR", type=Path, help="folder to write: config.json, model.safetensors")
    back.add_argument(
        "--tokenizer", metavar="DIR", type=Path, help="copy tokenizer files from here (default: beside CHECKPOINT)"
    )
    for one in (here, back):
        one.add_argument("--force", action="store_true", help="replace OUT_DIR if it holds a converted model")
        one.add_argument("--verbose", action="store_true", help="print what every weight became")
    change = commands.add_parser(
        "change-attention",
        help="a BART, LED or T5 checkpoint of fairseq, stock or an SRformer's, to one with another attention",
        description="The same weights with another cross-attention, or another encoder: what is not named stays as it "
        "is. Full cross-attention becomes segmented (no memory) where flags of the cross-attention are given, but not "
        "--cross-attention, since a memory has to be trained; with "
        "--segment-schedule content, 8 segments of 16 tokens are chosen where no other numbers are given.",
    )
    change.add_argument("source", metavar="CHECKPOINT", type=Path, help="checkpoint file of fairseq")
    change.add_argument("out", metavar="OUT", type=Path, help="checkpoint file to write")
    change.add_argument("--force", action="store_true", help="replace OUT")
    change.add_argument(
        "--max-source-positions",
        type=int,
        metavar="N",
        help="tokens of a source that are read (default: as many as "
        "before, and all with --encoder-attention chunked); learned positions of the other encoders are repeated to N",
    )
    for title, settings in (("cross-attention", SegmentSettings()), ("encoder", EncoderSettings())):
        group = change.add_argument_group(title, argument_default=argparse.SUPPRESS)
        gen_parser_from_dataclass(group, settings, delete_default=True)
    return top


@command
def main(argv=None):
    """Run the command line; returns the exit status."""
    args = vars(parser().parse_args(argv))
    name, source, out, force = (args.pop(key) for key in ("command", "source", "out", "force"))
    if name == "change-attention":
        change_attention_of_file(source, out, args, force, args.pop("max_source_positions"))
    else:
        report = print if args.pop("verbose") else _silent
        convert = {"hf-to-fairseq": hf_to_fairseq, "fairseq-to-hf": fairseq_to_hf}[name]
        convert(source, out, **args, force=force, report=report)
    print(f"wrote {out}")
