"""The summarization task: long sources are cut, and ROUGE of the validation set is measured while training."""

import json
import re
from pathlib import Path

import pytest
import torch
import warm
from conftest import USER_DIR, run_side_by_side
from fairseq import tasks
from fairseq.dataclass.configs import GenerationConfig
from fairseq_cli import generate as fairseq_generate
from fairseq_cli import train as fairseq_train
from fairseq_cli import validate as fairseq_validate
from fairseq_here import here
from helpers import free_port, train_arguments

from srformer_plugin.errors import ConfigurationError
from srformer_plugin.generation import FastSequenceGenerator
from srformer_plugin.scoring.fairseq_scorer import RougeConfig, RougeScorer
from srformer_plugin.scoring.files import read_hypotheses
from srformer_plugin.scoring.rouge import ROUGE_TYPES, score_texts

GENERATION = {"beam": 3, "max_len_b": 14, "no_repeat_ngram_size": 3}
EVAL_ROUGE = ["--eval-rouge", "--eval-rouge-args", json.dumps(GENERATION)]
BEST = ["--best-checkpoint-metric", "rouge1", "--maximize-best-checkpoint-metric"]


def summarization_arguments(corpus, save_dir, *more):
    own = ["--task", "summarization", "--lr", "1e-2", "--dropout", "0.1", "--log-format", "json"]
    return train_arguments(corpus, save_dir, *own, *more)


def stats(log, kind):
    """What a training logged as JSON, a dictionary for each time."""
    return [json.loads(line) for line in re.findall(rf"^(?:.*\| )?{kind} \| (\{{.*\}})$", log, flags=re.MULTILINE)]


class Tensorboard:
    """Stands for TensorBoard's writer: `written` holds (folder, name, value, update)."""

    written = []

    def __init__(self, folder):
        self.folder = Path(folder).name

    def add_scalar(self, name, value, update):
        self.written.append((self.folder, name, value, update))

    def add_text(self, name, text):
        pass

    def flush(self):
        pass

    def close(self):
        pass


@pytest.fixture(scope="session")
def trained(tiny_corpus, tmp_path_factory):
    """A training of 30 updates in 6 epochs, validated with ROUGE after each: its folder and log."""
    folder = tmp_path_factory.mktemp("summarization")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fairseq.logging.progress_bar.SummaryWriter", Tensorboard)
        log = here(
            fairseq_train,
            *summarization_arguments(tiny_corpus, folder, "--max-update", 30, *EVAL_ROUGE, *BEST),
            "--eval-rouge-print-samples",
            "--tensorboard-logdir",
            folder / "tb",
        )
    return folder, log


def test_training_logs_rouge_and_keeps_the_checkpoint_that_is_best_by_it(trained):
    folder, log = trained
    valid = stats(log, "valid")
    values = [float(entry["valid_rouge1"]) for entry in valid]
    assert len(values) == 6
    assert values[-1] > 15  # it learns something
    assert all(0 <= float(entry[f"valid_{name}"]) <= 100 for entry in valid for name in ROUGE_TYPES)
    assert float(valid[-1]["valid_best_rouge1"]) == max(values)
    best = torch.load(folder / "checkpoint_best.pt", weights_only=True)
    assert best["extra_state"]["val_loss"] == best["extra_state"]["best"] == max(values)
    # of equally good checkpoints, the latest
    assert best["optimizer_history"][-1]["num_updates"] == 5 * max(
        n for n, v in enumerate(values, 1) if v == max(values)
    )


def test_tensorboard_gets_the_scores(trained):
    logged = [float(entry["valid_rouge1"]) for entry in stats(trained[1], "valid")]
    written = [
        (value, update) for folder, name, value, update in Tensorboard.written if (folder, name) == ("valid", "rouge1")
    ]
    assert written == list(zip(logged, range(5, 31, 5)))


def test_the_log_shows_the_same_hypotheses_at_every_validation(trained):
    shown = re.findall(r"example hypothesis (\d+): ", trained[1])
    assert len(shown) == 6 * 3
    assert len(set(shown)) == 3
    assert len(re.findall(r"example reference \d+: \S", trained[1])) == 6 * 3


def test_validation_takes_the_task_of_the_checkpoint_where_none_is_named(trained, tiny_corpus):
    logs = [
        here(
            fairseq_validate, tiny_corpus.binarised, "--user-dir", USER_DIR, "--cpu", "--log-format", "json",
            "--path", trained[0] / "checkpoint_last.pt", "--valid-subset", "valid", "--batch-size", 4, *task,
        )
        for task in ([], ["--task", "summarization"])
    ]  # fmt: skip
    found, expected = (stats(log, "valid")[-1] for log in logs)
    assert found == expected
    assert "valid_rouge1" in found


def test_validation_and_generation_give_the_score_of_training(trained, tiny_corpus, tmp_path):
    """Three tools, one number: also other batches, other padding and no flag of the model."""
    folder, log = trained
    expected = [float(stats(log, "valid")[-1][f"valid_{name}"]) for name in ROUGE_TYPES]
    data = [tiny_corpus.binarised, "--user-dir", USER_DIR, "--task", "summarization", "--cpu"]
    data += ["--path", folder / "checkpoint_last.pt"]

    log = here(fairseq_validate, *data, "--valid-subset", "valid", "--batch-size", 4, "--log-format", "json")
    assert [float(stats(log, "valid")[-1][f"valid_{name}"]) for name in ROUGE_TYPES] == pytest.approx(
        expected, abs=0.01
    )

    flags = [f"--{name.replace('_', '-')}={value}" for name, value in GENERATION.items()]
    here(
        fairseq_generate, *data, "--gen-subset", "valid", "--batch-size", 5, *flags, "--scoring", "rouge",
        "--results-path", tmp_path,
    )  # fmt: skip
    path = tmp_path / "generate-valid.txt"
    printed = path.read_text()
    numbers = [
        re.search(rf"{label} = ([0-9.]+) \(", printed) for label in ("ROUGE-1", "ROUGE-2", "ROUGE-L", "ROUGE-Lsum")
    ]
    assert [float(number.group(1)) for number in numbers] == pytest.approx(expected, abs=0.01)
    assert "stemmer:porter" in printed

    references = tiny_corpus.lines("valid", "target")
    again = 100 * score_texts(read_hypotheses(path, len(references)), references)[:, :, 2].mean(axis=0)
    assert again == pytest.approx(expected, abs=0.01)


def test_fast_generation_is_chosen_by_a_flag_and_finds_the_same(trained, tiny_corpus, tmp_path, monkeypatch):
    searched = []
    find = FastSequenceGenerator._find
    monkeypatch.setattr(FastSequenceGenerator, "_find", lambda *args: searched.append(1) or find(*args))
    data = [tiny_corpus.binarised, "--user-dir", USER_DIR, "--task", "summarization", "--cpu"]
    data += ["--path", trained[0] / "checkpoint_last.pt", "--batch-size", 5, "--beam", 3, "--no-repeat-ngram-size", 3]
    texts = []
    for flags in ([], ["--fast-generate"]):
        here(fairseq_generate, *data, *flags, "--results-path", tmp_path / str(len(flags)))
        lines = (tmp_path / str(len(flags)) / "generate-test.txt").read_text().splitlines()
        texts.append([line.split("\t")[::2] for line in lines if line.startswith(("H-", "D-"))])
    assert len(searched) == 3
    assert texts[0] == texts[1]
    assert len(texts[0]) == 22


@pytest.mark.parametrize("flag", [["--print-alignment", "soft"], ["--score-reference"]], ids=lambda flag: flag[0])
def test_fast_generation_leaves_other_tools_alone(trained, tiny_corpus, tmp_path, flag):
    data = [tiny_corpus.binarised, "--user-dir", USER_DIR, "--task", "summarization", "--cpu", "--fast-generate"]
    here(
        fairseq_generate,
        *data,
        "--path",
        trained[0] / "checkpoint_last.pt",
        *flag,
        "--results-path",
        tmp_path,
    )
    assert (tmp_path / "generate-test.txt").read_text().count("\nH-") == 11


def test_fast_generation_measures_the_same_while_training(trained, tiny_corpus, tmp_path):
    flags = ["--max-update", 10, *EVAL_ROUGE, "--fast-generate", *BEST]
    arguments = summarization_arguments(tiny_corpus, tmp_path, *flags)
    fast, stock = stats(here(fairseq_train, *arguments), "valid"), stats(trained[1], "valid")[:2]
    for name in ("valid_loss", *(f"valid_{rouge}" for rouge in ROUGE_TYPES)):
        assert [entry[name] for entry in fast] == [entry[name] for entry in stock]


STOCK_BART = ["--arch", "bart_base", "--encoder-layers", "1", "--decoder-layers", "1"]
for side in ("encoder", "decoder"):
    STOCK_BART += [f"--{side}-embed-dim", "32", f"--{side}-ffn-embed-dim", "64", f"--{side}-attention-heads", "2"]


@pytest.mark.parametrize("model", [[], STOCK_BART], ids=["srformer", "bart"])
def test_measuring_rouge_does_not_change_the_training(tiny_corpus, tmp_path, model):
    logs = [
        here(
            fairseq_train,
            *summarization_arguments(tiny_corpus, tmp_path / name, *model, "--max-update", 4),
            "--validate-interval-updates",
            2,
            "--no-save",
            *flags,
        )
        for name, flags in (("with", EVAL_ROUGE), ("without", []))
    ]
    with_rouge, without = ([entry["loss"] for entry in stats(log, "train_inner")] for log in logs)
    assert len(without) == 4
    assert with_rouge == without
    with_rouge, without = ([float(entry["valid_loss"]) for entry in stats(log, "valid")] for log in logs)
    assert with_rouge == pytest.approx(without, abs=2e-3)  # other batches, rounded sums


def build_task(corpus, **options):
    cfg = tasks.TASK_DATACLASS_REGISTRY["summarization"](
        data=str(corpus.binarised), source_lang="source", target_lang="target", **options
    )
    cfg.dataset_impl, cfg.train_subset, cfg.required_seq_len_multiple = None, "train", 1
    return tasks.TASK_REGISTRY["summarization"].setup_task(cfg)


@pytest.mark.parametrize("flags", [{}, {"truncate_source": True}])
def test_long_sources_are_cut_and_keep_their_end(tiny_corpus, flags):
    task = build_task(tiny_corpus, max_source_positions=6, **flags)
    task.load_dataset("valid")
    cut = task.dataset("valid")
    assert max(cut.src_sizes) == 6
    assert all(cut[index]["source"][-1] == task.source_dictionary.eos() for index in range(len(cut)))
    tokens = task.source_dictionary.encode_line("a b c d e f g h", add_if_not_exist=False).long()
    typed = task.build_dataset_for_inference([tokens, tokens[-3:]], [9, 3])
    assert [len(typed[index]["source"]) for index in range(2)] == [6, 3]
    assert typed[0]["source"][-1] == task.source_dictionary.eos()


def test_sources_are_left_alone_on_request(tiny_corpus):
    task = build_task(tiny_corpus, max_source_positions=6, no_truncate_source=True)
    task.load_dataset("valid")
    assert max(task.dataset("valid").src_sizes) > 6
    tokens = task.source_dictionary.encode_line("a b c d e f g h", add_if_not_exist=False).long()
    assert len(task.build_dataset_for_inference([tokens], [9])[0]["source"]) == 9


@pytest.mark.parametrize(("samples", "chosen"), [(3, {0, 3, 6}), (0, set(range(9))), (50, set(range(9)))])
def test_the_chosen_sentences_are_spread_over_the_set_and_fill_the_first_batches(tiny_corpus, samples, chosen):
    task = build_task(tiny_corpus, eval_rouge=True, eval_rouge_samples=samples)
    task.load_dataset("valid")
    batches = list(task.get_batch_iterator(task.dataset("valid"), max_sentences=3).next_epoch_itr(shuffle=False))
    assert sum(len(batch["id"]) for batch in batches) == 9
    assert {int(i) for batch in batches for i in batch["id"][batch["decode"]]} == chosen
    # in a training that is the same whatever the batch size and the number of processes
    full = [bool(batch["decode"].all()) for batch in batches]
    assert full == sorted(full, reverse=True)
    assert sum(full) == len(chosen) // 3
    task.load_dataset("train")
    assert "decode" not in task.dataset("train").collater([task.dataset("train")[0]])


class OnlyUnknown:
    """A BPE that, like GPT-2's, refuses any other name of an unknown word than the usual one."""

    @staticmethod
    def decode(text):
        return " ".join("the" if code == "the" else {"<unk>": code}[code] for code in text.split())


@pytest.mark.parametrize("bpe", [None, OnlyUnknown], ids=["words", "BPE"])
def test_an_unknown_word_matches_no_other(tiny_corpus, monkeypatch, bpe):
    task = build_task(tiny_corpus, eval_rouge=True)
    task.bpe = bpe
    words, unknown = task.target_dictionary, task.target_dictionary.unk()
    known = words.index("the")
    for word, score in ((known, 100), (unknown, 0)):
        tokens = torch.tensor([word, words.eos()])
        sample = {"id": torch.tensor([0]), "net_input": {}, "target": tokens[None], "decode": torch.tensor([True])}
        monkeypatch.setattr(task, "inference_step", lambda *_, tokens=tokens: [[{"tokens": tokens}]])
        assert task._rouge(sample, model=None)[0, 0] == score
        scorer = RougeScorer(RougeConfig())
        scorer.add_string(words.string(tokens, escape_unk=True), words.string(tokens))
        assert scorer.score() == score


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--eval-rouge-args", "{beam: 4}"], "--eval-rouge-args '{beam: 4}' is not JSON"),
        (["--eval-rouge-args", "[4]"], "is not a JSON object"),
        (["--eval-rouge-args", '{"max_len": 4}'], "--eval-rouge-args has 'max_len'"),
        (["--eval-rouge-samples", "-1"], "--eval-rouge-samples -1 is negative"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_training(tiny_corpus, tmp_path, flags, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        here(fairseq_train, *summarization_arguments(tiny_corpus, tmp_path, "--max-update", 1), "--eval-rouge", *flags)


def test_generation_cuts_sources_to_what_the_checkpoint_takes_without_a_flag(tiny_corpus, tmp_path):
    here(fairseq_train, *summarization_arguments(tiny_corpus, tmp_path, "--max-update", 1, "--max-source-positions", 8))
    here(
        fairseq_generate, tiny_corpus.binarised, "--user-dir", USER_DIR, "--task", "summarization", "--cpu",
        "--path", tmp_path / "checkpoint_last.pt", "--max-len-b", 3, "--beam", 1, "--results-path", tmp_path,
    )  # fmt: skip
    assert len(read_hypotheses(tmp_path / "generate-test.txt", 11)) == 11


@pytest.mark.slow
def test_two_processes_measure_what_one_does(trained, tiny_corpus, tmp_path):
    """9 sentences in batches of 2: the two have different numbers of them, and one gets a dummy batch."""
    folder, log = trained
    port = free_port()
    arguments = summarization_arguments(
        tiny_corpus, tmp_path, "--restore-file", folder / "checkpoint_last.pt", "--max-update", 31, "--lr", "0",
        "--reset-optimizer", "--batch-size", 2, *EVAL_ROUGE, "--eval-rouge-samples", 0, *BEST, "--no-save",
        "--reset-lr-scheduler", "--reset-dataloader", "--reset-meters",
    )  # fmt: skip
    texts = run_side_by_side(*(
        [
            warm.programs() / "python", "-m", "fairseq_cli.train", *arguments, "--distributed-world-size", "2",
            "--distributed-rank", str(rank), "--distributed-no-spawn",
            "--distributed-init-method", f"tcp://127.0.0.1:{port}", "--distributed-backend", "gloo",
            "--ddp-backend", "legacy_ddp",
        ]
        for rank in range(2)
    ))  # fmt: skip
    measured = stats("".join(texts), "valid")[0]
    expected = stats(log, "valid")[-1]
    for name in ROUGE_TYPES:
        assert float(measured[f"valid_{name}"]) == pytest.approx(float(expected[f"valid_{name}"]), abs=0.02)


def test_the_generation_settings_of_the_tests_exist():
    assert GENERATION.keys() <= GenerationConfig.__dataclass_fields__.keys()
