"""The options of the recipes: one table with every default, and how a command line is read by it."""

import argparse
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import UserError
from recipes.bounds import AT_LEAST_1, BOUNDS, FINITE

STAGES = ("download", "prepare", "encode", "binarise", "train", "generate", "score")
NUMBER, REAL, FILE, FOLDER, TEXT, SWITCH = "N", "X", "FILE", "FOLDER", "TEXT", ""
DATA = "encode binarise train generate"


@dataclass(frozen=True)
class Option:
    """An option of the recipes."""

    name: str
    kind: str | tuple  # what may be given: one of the words above, or a tuple of choices
    default: str
    help: str
    stages: str = ""  # whose settings it belongs to; of an option without, no result depends on it
    derived: str = ""  # the default in words, where it follows from other options


def _more(stage, tool, example=""):
    return Option(f"{stage}-args", TEXT, "", f"of {tool}{example}", stage)


# Sections of options, in the order of --help.
TABLE = {
    "Stages": [
        Option("from", STAGES, "download", "the first stage to run"),
        Option("to", STAGES, "score", "the last stage to run"),
        Option("only", STAGES, "", "run this stage alone"),
        Option("dry-run", SWITCH, "", "print every command and do nothing"),
        Option("changed", ("stop", "redo", "keep"), "stop",
               "a finished stage with other settings: stop and say so, redo it, or keep its folder and go on in it"),
    ],
    "Folders and files": [
        Option("out", FOLDER, "", "the experiment: all that is made", " ".join(STAGES), "experiments/NAME-MODEL"),
        Option("raw", FOLDER, "", "the raw files; if it is named and not empty, nothing is downloaded into it",
               "prepare", "raw/NAME"),
        Option("data-from", FOLDER, "",
               "another experiment, whose corpus, encoded and data are used instead of making them again",
               "train generate score"),
        Option("pretrained", FOLDER, "pretrained", "where published weights are kept", DATA),
        Option("init", FILE, "", 'a fairseq checkpoint to start from, or "scratch"', "train",
               "the published weights of --arch, in --pretrained"),
        Option("dict", FILE, "", "its dictionary", "binarise", "dict.txt or dict.source.txt beside --init"),
        Option("gpt2-files", FOLDER, "", "encoder.json and vocab.bpe of GPT-2's BPE, and dict.txt",
               "encode train generate", "PRETRAINED/gpt2_bpe"),
        Option("spiece", FILE, "", "a SentencePiece model", "encode binarise",
               "beside --init, or trained on the training split"),
    ],
    "Data": [
        Option("splits", TEXT, "train valid test", "the splits there are; the last one is scored",
               f"prepare {DATA} score"),
        Option("bpe", ("gpt2", "sentencepiece"), "", "how texts become subwords", DATA,
               "gpt2 for bart, sentencepiece for t5"),
        Option("vocabulary", NUMBER, "32000", "subwords of a SentencePiece model that is trained here", "encode"),
        Option("max-source", NUMBER, "1024", "tokens of a source, the end of sentence included; longer ones are cut",
               DATA),
        Option("max-target", NUMBER, "128", "tokens of a target in training and validation; references are never cut",
               "encode binarise train"),
        Option("sentence-marks", SWITCH, "",
               "train on the mark <q> between sentences of targets, which is left out otherwise",
               "encode binarise train"),
    ],
    "Model": [
        Option("model", ("bart", "t5"), "bart", "the family", DATA),
        Option("arch", TEXT, "", "fairseq's architecture", "train generate", "srformer_bart_base or srformer_t5_small"),
        Option("cross-attention", TEXT, "", "of the decoder (of the architecture: srformer)", "train"),
        Option("segment-size", NUMBER, "", "source tokens per segment (of the architecture: 64)", "train"),
        Option("segments-per-query", NUMBER, "",
               "of an srformer_*_content: segments that a query chooses (of the architecture: 8)", "train"),
        Option("head-stride", NUMBER, "",
               "with --cross-attention hepos: a head reads every so many-th token (of the architecture: 4)", "train"),
        Option("encoder-attention", TEXT, "", "of the encoder: full, or chunked for long sources (docs/long.md)",
               "train"),
        Option("encoder-chunk", NUMBER, "", "with chunked: tokens of a chunk (of the architecture: 768)", "train"),
        Option("encoder-context", NUMBER, "", "with chunked: tokens on either side of it (of the architecture: 128)",
               "train"),
    ],
    "Training": [
        Option("batch-size", NUMBER, "16", "documents an update takes in, on all GPUs together", "train"),
        Option("gpu-batch-size", NUMBER, "",
               "documents one GPU takes at once; an update has as many passes as that needs", "train",
               "16, with sources above 1024 tokens as many as have no more"),
        Option("epochs", NUMBER, "10", "how long", "train"),
        Option("max-update", NUMBER, "", "updates, instead of --epochs", "train"),
        Option("lr", REAL, "5e-5",
               "highest learning rate of Adam, reached after the warm-up, then falling in a line to 0", "train"),
        Option("warmup-updates", NUMBER, "500", "updates until --lr is reached", "train"),
        Option("dropout", REAL, "0.1", "of layers and of attention weights", "train"),
        Option("label-smoothing", REAL, "0.1", "weight of a uniform distribution over words in the loss", "train"),
        Option("clip-norm", REAL, "0.1", "largest norm of the gradients", "train"),
        Option("precision", ("bf16", "fp16", "fp32"), "bf16",
               "of training on a GPU (fp16: generation as well); fp32 with --cpu", "train generate"),
        Option("validate-every", NUMBER, "2000",
               "updates between validations with ROUGE, each followed by a checkpoint", "train"),
        Option("seed", NUMBER, "1", "of weights, order of batches and dropout", "train generate"),
    ],
    "Decoding": [
        Option("checkpoint", ("best", "last"), "best",
               "best: by ROUGE-1 of 1,000 validation documents, decoded greedily", "generate"),
        Option("beam", NUMBER, "4", "hypotheses at a time", "generate"),
        Option("lenpen", REAL, "1",
               "a score is divided by the length to this power; above 1 favours long ones", "generate"),
        Option("min-len", NUMBER, "1", "tokens", "generate"),
        Option("max-len", NUMBER, "128", "tokens", "generate"),
        Option("no-repeat", NUMBER, "3", "no n-gram of this length twice; 0: any", "generate"),
        Option("generate-batch-size", NUMBER, "", "documents at once", "generate",
               "32, with sources above 1024 tokens as many as have no more"),
    ],
    "Machine": [
        Option("gpus", NUMBER, "1",
               "GPUs of each node (CUDA_VISIBLE_DEVICES says which), or processes with --cpu", "train"),
        Option("nodes", NUMBER, "1", "machines; the recipe runs on each (see docs/recipes.md)", "train"),
        Option("node-rank", NUMBER, "", "number of this machine, from 0 (in SLURM: SLURM_NODEID)"),
        Option("master", TEXT, "", "HOST:PORT of node 0 (in SLURM: the first host of the job)"),
        Option("cpu", SWITCH, "", "train and decode on the processor", "train generate"),
        Option("workers", NUMBER, "", "processes that prepare data", "", "one a core"),
    ],
    "More flags of the tools, put last, so that they win (quotes within as in a shell)": [
        _more("prepare", "python -m data_prep.prepare", ', such as "--max-malformed 0.05"'),
        _more("encode", "python -m data_prep.encode"),
        _more("binarise", "fairseq-preprocess"),
        _more("train", "fairseq-train", ''', such as "--memory-gate --adam-betas '(0.9, 0.98)'"'''),
        _more("generate", "fairseq-generate"),
        _more("score", "srformer-score"),
    ],
}  # fmt: skip

# Of one recipe alone.
OWN = {
    "arxiv": [Option("dataset", ("arxiv", "pubmed"), "arxiv", "which of the two", "prepare")],
    "custom": [
        Option("format", TEXT, "", "of data_prep.prepare (fields with --source-field, else lines)", "prepare"),
        Option("name", TEXT, "custom", "of the experiment", "prepare"),
        Option("source-field", TEXT, "", "field with the document", "prepare"),
        Option("target-field", TEXT, "", "field with the summary", "prepare"),
        Option("id-field", TEXT, "", "field with an identifier", "prepare"),
    ],
}
PART_OF_A_RUN = {"from", "to", "only", "dry-run", "changed", "node-rank", "master"}  # no part of the command to repeat


class RefusedOptions(UserError):
    """The command line cannot work. The message is one line and names the option and its value."""


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise RefusedOptions(f'{message.removeprefix("argument ")} ("bash {self.prog} --help" lists what there is)')


def option_list(name):
    """Every option of recipe ``name``."""
    return [*OWN.get(name, []), *(option for section in TABLE.values() for option in section)]


def _number(text):
    if not re.fullmatch(r"[0-9]+", text):
        raise argparse.ArgumentTypeError(f"{text}: a whole number is needed")
    return text


def _real(text):
    if not re.fullmatch(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f"{text}: a number is needed")
    return text


def _bounded(option):
    """The type of a number's option for argparse, which keeps the text."""
    plain = TYPES[option.kind]
    holds, bound = BOUNDS.get(option.name, AT_LEAST_1 if option.kind == NUMBER else FINITE)

    def read(text):
        if not holds(float(plain(text))):
            raise argparse.ArgumentTypeError(f"{text}: must be {bound}")
        return text

    return read


def _path(text):
    if not text:
        raise argparse.ArgumentTypeError("the name of a folder is needed")
    return os.path.realpath(os.path.join(os.environ.get("CALLED_FROM", "."), text))


def _file(text):
    if text == "scratch":
        return text
    if not Path(_path(text)).is_file():
        raise argparse.ArgumentTypeError(f"{text}: there is no such file")
    return _path(text)


TYPES = {NUMBER: _number, REAL: _real, FILE: _file, FOLDER: _path, TEXT: str}


def build_parser(program, name, title, defaults):
    """The parser of a recipe. ``defaults`` are the recipe's own: ``{option: value}``."""
    parser = _Parser(
        prog=program,
        usage=f"bash {program} [options]",
        description=title,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Stages: {' '.join(STAGES)}",
    )
    for heading, options in {"This recipe": OWN.get(name, []), **TABLE}.items():
        group = parser.add_argument_group(heading)
        for option in options:
            default = defaults.get(option.name, option.default)
            shown = default or option.derived
            text = (option.help + (f" (default: {shown})" if shown else "")).replace("%", "%%")
            how = {"dest": option.name, "help": text}
            if option.kind == SWITCH:
                how |= {"action": "store_const", "const": "1"}
            else:
                choices = option.kind if isinstance(option.kind, tuple) else None
                number = option.kind in (NUMBER, REAL)
                how |= {"choices": choices, "type": _bounded(option) if number else TYPES.get(option.kind, str)}
                how["metavar"] = option.kind if choices is None else "|".join(choices) if len(choices) < 5 else "STAGE"
            group.add_argument(f"--{option.name}", **how)
    return parser


def parse(program, name, title, defaults, arguments):
    """``(values, given)``: option -> text, "" for what is not set; and the names on the command line, in its order.

    Raises:
        RefusedOptions: an option or a value is wrong.
    """
    parser = build_parser(program, name, title, defaults)
    with_value = {f"--{option.name}" for option in option_list(name) if option.kind != SWITCH}
    words, given, left = [], [], iter(arguments)
    for word in left:
        given.append(word.partition("=")[0].removeprefix("--"))
        if word in with_value and (value := next(left, None)) is not None:
            word = f"{word}={value}"  # argparse would take a value that begins with a hyphen for an option
        words.append(word)
    found = vars(parser.parse_args(words))
    values = {option.name: found[option.name] for option in option_list(name)}
    for option in option_list(name):
        if values[option.name] is None:
            values[option.name] = defaults.get(option.name, option.default)
    values["pretrained"] = _path(values["pretrained"])
    return values, list(dict.fromkeys(given))


def split_words(name, text):
    """The words of option ``name``, quotes as in a shell, nothing else expanded; an empty word stays one."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise RefusedOptions(f"--{name} {text}: a quote is not closed") from error


def command_to_repeat(script, values, given, name):
    """The command that repeats this run, of what was given, but for what only chooses the part to run."""
    switches = {option.name for option in option_list(name) if option.kind == SWITCH}
    words = ["bash", script]
    for option in given:
        if option not in PART_OF_A_RUN:
            words += [f"--{option}"] if option in switches else [f"--{option}", values[option]]
    return words


def settings_of(name, values):
    """``{stage: {option: text}}``: the settings that each stage uses."""
    found = {stage: {} for stage in STAGES}
    for option in option_list(name):
        for stage in option.stages.split():
            found[stage][option.name] = values[option.name]
    return found
