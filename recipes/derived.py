"""What follows from the options of a recipe: files, and the flags of the tools that depend on several of them."""

import json
import os
import subprocess
from pathlib import Path

from recipes.options import STAGES, RefusedOptions, split_words

ATTENTION = (
    "cross-attention", "segment-size", "segments-per-query", "head-stride", "encoder-attention", "encoder-chunk",
    "encoder-context",
)  # fmt: skip
INHERITED = ("bpe", "gpt2-files", "spiece", "dict", "splits", "max-source", "max-target", "sentence-marks")
PUBLISHED = {  # architecture -> folder of its published weights, in --pretrained
    **dict.fromkeys(("srformer_bart", "srformer_bart_base", "srformer_bart_content"), "bart.base"),
    **dict.fromkeys(("srformer_bart_large", "srformer_bart_content_large"), "bart.large"),
    **dict.fromkeys(("srformer_t5", "srformer_t5_small", "srformer_t5_content"), "t5-small"),
    **dict.fromkeys(("srformer_t5_base", "srformer_t5_content_base"), "t5-base"),
    **dict.fromkeys(("srformer_t5_large", "srformer_t5_content_large"), "t5-large"),
}
UPDATES = "{updates}"  # counted when the data are there


def derive(name, values, given):
    """Fill in, in ``values``, what was not given; returns more variables: texts, and lists for the arrays of flags.

    Raises:
        RefusedOptions: options that cannot go together.
    """
    _inherit(values, given)
    name, reader = _names(name, values)
    _files(name, values)
    if values["cpu"]:
        values["precision"] = "fp32"
    splits = split_words("splits", values["splits"])
    if not splits:
        raise RefusedOptions("--splits names none")
    if values["only"]:
        values["from"] = values["to"] = values["only"]
    elif values["data-from"] and "from" not in given:
        values["from"] = "train"
    first, last = STAGES.index(values["from"]), STAGES.index(values["to"])
    if first > last:
        raise RefusedOptions(f"--from {values['from']} comes after --to {values['to']}")
    data = values["data-from"] or values["out"]
    _documents_at_once(values)
    per_gpu, passes = _share_batch(values)
    _find_node(values)
    scratch, gpt2 = values["init"] == "scratch", values["bpe"] == "gpt2"
    raw = Path(values["raw"])
    return {
        "name": name,
        "selected": list(STAGES[first : last + 1]),
        "data": data,
        "splits": splits,
        "evaluated": splits[-1],
        "raw-has-files": "1" if "raw" in given and raw.is_dir() and any(raw.iterdir()) else "",
        "published": _published(values),
        "reader": reader,
        "subwords": _subwords(values),
        "dictionary": _dictionary(values),
        "t5-dictionary": "1" if _makes_t5_dictionary(values) else "",
        "prefixes": [word for split in splits for word in (f"--{split}pref", f"{values['out']}/encoded/{split}")],
        "trainer": _trainer(values),
        "share": _share(values, per_gpu, passes),
        "attention": _given_flags(values, *ATTENTION),
        "start": [] if scratch else ["--finetune-from-model", values["init"]],
        "updates": values["max-update"] or UPDATES,
        "length": f"{values['max-update']} updates" if values["max-update"] else f"{values['epochs']} epochs",
        "training-machine": _flags(values["precision"] != "fp32" and values["precision"], values["cpu"] and "cpu"),
        "decoding-machine": _flags(values["precision"] == "fp16" and "fp16", values["cpu"] and "cpu"),
        "validation-text": _bpe_args(values) if gpt2 else ["--eval-rouge-remove-bpe", "sentencepiece"],
        "decoding-text": _bpe_flags(values) if gpt2 else ["--remove-bpe", "sentencepiece"],
        **{option: split_words(option, text) for option, text in values.items() if option.endswith("-args")},
    }


def _flags(*names):
    return [f"--{name}" for name in names if name]


def _given_flags(values, *names):
    return [word for name in names if values[name] for word in (f"--{name}", values[name])]


def _inherit(values, given):
    """The settings that the data of --data-from were made with."""
    if not values["data-from"]:
        return
    file = Path(values["data-from"]) / "settings.json"
    if not file.exists():
        return
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise RefusedOptions(f"--data-from: {file} is not what a recipe writes ({error})") from error
    for name in INHERITED:
        value = settings.get(name, "")
        if name not in given:
            values[name] = value or ("" if name in settings else values[name])
        elif name == "bpe" and values["bpe"] != value:
            raise RefusedOptions(f"--bpe {values['bpe']}, but the data of --data-from are in {value}")


def _names(name, values):
    """``(name of the experiment, flags of the reader)``."""
    if name == "arxiv":
        return values["dataset"], []
    if name != "custom":
        return name, []
    fields = _given_flags(values, "source-field", "target-field", "id-field")
    if fields and not (values["source-field"] and values["target-field"]):
        raise RefusedOptions("give --source-field and --target-field together")
    values["format"] = "fields" if fields else values["format"] or "lines"
    return values["name"], fields


def _files(name, values):
    def default(option, value):
        values[option] = values[option] or value

    here, pretrained, bart = os.environ.get("CALLED_FROM", os.getcwd()), values["pretrained"], values["model"] == "bart"
    default("out", f"{here}/experiments/{name}-{values['model']}")
    default("raw", f"{here}/raw/{name}")
    default("workers", str(len(os.sched_getaffinity(0))))
    default("arch", "srformer_bart_base" if bart else "srformer_t5_small")
    default("bpe", "gpt2" if bart else "sentencepiece")
    arch = values["arch"]
    if arch in PUBLISHED:
        default("init", f"{pretrained}/{PUBLISHED[arch]}/model.pt")
    elif not values["init"]:
        raise RefusedOptions(
            f"--arch {arch}: no published weights are known; name some with --init FILE, or say --init scratch"
        )
    default("gpt2-files", f"{pretrained}/gpt2_bpe")
    if values["init"] != "scratch":
        beside = Path(values["init"]).parent
        by_side = (beside / "dict.source.txt").is_file() or str(beside).startswith(f"{pretrained}/t5-")
        default("dict", f"{beside}/dict.source.txt" if by_side else f"{beside}/dict.txt")
        if values["bpe"] != "gpt2":
            default("spiece", f"{beside}/spiece.model")
    elif values["bpe"] == "gpt2":
        default("dict", f"{values['gpt2-files']}/dict.txt")


def _published(values):
    """What `recipes.fetch published` is to bring into --pretrained."""
    found, pretrained = [], values["pretrained"]
    if values["bpe"] == "gpt2" and values["gpt2-files"] == f"{pretrained}/gpt2_bpe":
        found.append("gpt2_bpe")
    for folder in dict.fromkeys(PUBLISHED.values()):
        if values["init"] == f"{pretrained}/{folder}/model.pt":
            found.append(folder)
    return found


def _subwords(values):
    """Flags of data_prep.encode."""
    if values["bpe"] == "gpt2":
        flags = ["--gpt2-files", values["gpt2-files"]]
    elif values["spiece"]:
        flags = ["--model", values["spiece"]]
    else:
        flags = ["--vocabulary", values["vocabulary"]]
    return flags if values["sentence-marks"] else [*flags, "--leave-out-separator"]


def _makes_t5_dictionary(values):
    return not values["dict"] and values["spiece"] and values["model"] == "t5"


def _dictionary(values):
    """Flags of fairseq-preprocess."""
    path = f"{values['out']}/data/t5.dict.txt" if _makes_t5_dictionary(values) else values["dict"]
    return ["--joined-dictionary", *(["--srcdict", path] if path else [])]


def _bpe_files(values):
    return f"{values['gpt2-files']}/encoder.json", f"{values['gpt2-files']}/vocab.bpe"


def _bpe_flags(values):
    encoder, merges = _bpe_files(values)
    return ["--bpe", "gpt2", "--gpt2-encoder-json", encoder, "--gpt2-vocab-bpe", merges]


def _bpe_args(values):
    encoder, merges = _bpe_files(values)
    files = json.dumps({"gpt2_encoder_json": encoder, "gpt2_vocab_bpe": merges}, ensure_ascii=False)
    return ["--eval-rouge-bpe", "gpt2", "--eval-rouge-bpe-args", files]


def _documents_at_once(values):
    """As many tokens of sources as the defaults are for, whose sources have 1,024."""
    for option, most in (("gpu-batch-size", 16), ("generate-batch-size", 32)):
        values[option] = values[option] or str(max(1, most * 1024 // max(1024, int(values["max-source"]))))


def _share_batch(values):
    """``(documents a GPU takes at once, passes)``: an update takes --batch-size documents, however many GPUs."""
    batch, most, world = int(values["batch-size"]), int(values["gpu-batch-size"]), _world(values)
    if batch % world:
        raise RefusedOptions(f"--batch-size {batch} cannot be shared by {world} GPUs: choose a multiple of {world}")
    passes = -(-batch // world // most)
    while batch % (world * passes):
        passes += 1
    return batch // world // passes, passes


def _world(values):
    return int(values["gpus"]) * int(values["nodes"])


def _share(values, per_gpu, passes):
    """How a process takes its part of an update."""
    # with one process fairseq would take every GPU it sees
    alone = ["--distributed-world-size", "1"] if _world(values) == 1 else []
    return ["--batch-size", str(per_gpu), "--update-freq", str(passes), *alone]


def _trainer(values):
    """The program that trains: fairseq-train, or what starts one process a GPU."""
    if _world(values) == 1:
        return ["fairseq-train"]
    words = ["torchrun", "--nproc-per-node", values["gpus"]]
    if int(values["nodes"]) > 1:
        host, _, port = values["master"].rpartition(":")
        words += ["--nnodes", values["nodes"], "--node-rank", values["node-rank"]]
        words += ["--master-addr", host, "--master-port", port]
    else:
        words += ["--standalone"]
    return [*words, "-m", "srformer_plugin.tools.distributed_train"]


def _find_node(values):
    """Which of the nodes this is, and where the first one listens."""
    slurm, nodes = os.environ, int(values["nodes"])
    tasks = slurm.get("SLURM_STEP_NUM_TASKS") or slurm.get("SLURM_NTASKS") or "1"
    if nodes == 1:
        # every task would train a model of its own in the same folder
        if slurm.get("SLURM_STEP_ID") and tasks != "1":
            raise RefusedOptions(f"srun has started this {tasks} times: say --nodes {tasks}, with one task a node")
        values["node-rank"] = "0"
        return
    values["node-rank"] = values["node-rank"] or slurm.get("SLURM_NODEID", "")
    if not values["node-rank"]:
        raise RefusedOptions(f"--nodes {nodes}: say which one this is with --node-rank (0 to {nodes - 1})")
    if int(values["node-rank"]) >= nodes:
        raise RefusedOptions(f"--node-rank {values['node-rank']}: there are {nodes} nodes, from 0")
    if not values["master"] and slurm.get("SLURM_JOB_NODELIST"):
        command = ["scontrol", "show", "hostnames", slurm["SLURM_JOB_NODELIST"]]
        try:
            hosts = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        except (OSError, subprocess.CalledProcessError) as error:
            raise RefusedOptions(f"the first host of the job is not known ({error}): say --master HOST:PORT") from error
        values["master"] = f"{hosts[0]}:{20000 + int(slurm['SLURM_JOB_ID']) % 20000}"
    if not values["master"].rpartition(":")[2].isdigit():
        raise RefusedOptions(f"--nodes {nodes}: say where node 0 listens with --master HOST:PORT")
