"""Errors of a recipe that would show only after hours, found before anything is done."""

import shutil
import sys
from pathlib import Path

from recipes.derived import PUBLISHED
from recipes.options import RefusedOptions

PROGRAMS = ("fairseq-train", "fairseq-preprocess", "fairseq-generate", "srformer-score")  # that stages run by name
BART_POSITIONS = 1024  # of the published models; a learned table can be made longer and not shorter


def check(values, variables):
    """Raises RefusedOptions for what cannot work."""
    selected = variables["selected"]
    folder = Path(sys.executable).parent
    missing = [name for name in PROGRAMS if shutil.which(name, path=str(folder)) is None]
    if missing:
        raise RefusedOptions(
            f'{folder} has no {missing[0]}: ". .venv/bin/activate", or point PYTHON at an interpreter that has it'
        )
    if values["data-from"]:
        if "binarise" in selected:
            raise RefusedOptions("--data-from: its data are ready; begin with --from train")
        if not values["dry-run"] and not (Path(values["data-from"]) / ".stages/binarise.json").is_file():
            raise RefusedOptions(f"--data-from {values['data-from']} has no finished data")
    if values["model"] not in values["arch"]:
        raise RefusedOptions(f"--arch {values['arch']} is no --model {values['model']}")
    if int(values["min-len"]) > int(values["max-len"]):
        raise RefusedOptions(f"--min-len {values['min-len']} is above --max-len {values['max-len']}")
    _positions(values, selected)
    if values["dry-run"]:
        return
    _files(values, selected, variables["published"])
    _gpus(values, selected)


def _positions(values, selected):
    if "train" not in selected or values["model"] != "bart" or int(values["max-source"]) >= BART_POSITIONS:
        return
    if values["encoder-attention"] == "chunked":  # whose positions are those of a chunk
        return
    folder = PUBLISHED.get(values["arch"])
    if folder and values["init"] == f"{values['pretrained']}/{folder}/model.pt":
        raise RefusedOptions(
            f"--max-source {values['max-source']}: the published BART has {BART_POSITIONS} source positions, and they "
            f"cannot become fewer: say --max-source {BART_POSITIONS}, or --init scratch"
        )


def _files(values, selected, published):
    """Files that a stage reads and that no stage before it makes or fetches."""
    downloads = "download" in selected
    if "prepare" in selected and not downloads and not Path(values["raw"]).is_dir():
        raise RefusedOptions(f"--raw {values['raw']}: there is no such folder")

    def need(option, stage, path, *, fetched, remedy):
        if stage in selected and not Path(path).is_file() and not (downloads and fetched):
            raise RefusedOptions(f"--{option} {path} is missing: {remedy}")

    fetched_weights = any(Path(values["init"]).parent.name == name for name in published)
    if values["init"] != "scratch":
        need(
            "init",
            "train",
            values["init"],
            fetched=fetched_weights,
            remedy="run the download stage, or name a checkpoint, or say --init scratch",
        )
    if values["dict"]:
        beside = str(Path(values["dict"]).parent)
        fetched = any(beside.endswith(f"/{name}") for name in published)
        need("dict", "binarise", values["dict"], fetched=fetched, remedy="name the dictionary of --init")
    if values["bpe"] == "gpt2":
        for name in ("encoder.json", "vocab.bpe"):
            path = f"{values['gpt2-files']}/{name}"
            for stage in ("encode", "train", "generate"):
                need("gpt2-files", stage, path, fetched="gpt2_bpe" in published, remedy="run the download stage")
    elif values["spiece"]:
        need("spiece", "encode", values["spiece"], fetched=fetched_weights, remedy="name a SentencePiece model")


def _gpus(values, selected):
    if values["cpu"] or not {"train", "generate"} & set(selected):
        return
    import torch

    found = torch.cuda.device_count()
    if found == 0:
        raise RefusedOptions("PyTorch sees no GPU: run this where there is one, or say --cpu (slow)")
    if found < int(values["gpus"]):
        raise RefusedOptions(f"--gpus {values['gpus']}, but PyTorch sees {found}")
