"""What a checkpoint was trained with is the default wherever it is used, and what is cut is counted."""

import sys

import pytest
import torch
from conftest import USER_DIR
from fairseq import checkpoint_utils, options, tasks
from fairseq.tasks.translation import TranslationTask
from fairseq_cli import generate, interactive, train, validate
from fairseq_here import here
from stock_bart import stock

LANGUAGES = ["--source-lang", "source", "--target-lang", "target"]


@pytest.fixture(scope="module", params=["bart", "t5"])
def checkpoint(request, tiny_corpus, tmp_path_factory):
    """One update of a tiny SRformer whose sources may have 1,500 tokens."""
    folder = tmp_path_factory.mktemp(request.param)
    here(
        train, tiny_corpus.binarised, *LANGUAGES, "--user-dir", USER_DIR, "--arch", f"srformer_{request.param}_tiny",
        "--share-all-embeddings", "--optimizer", "adam", "--batch-size", 8, "--max-update", 1, "--save-dir", folder,
        "--no-epoch-checkpoints", "--cpu", "--num-workers", 0, "--max-source-positions", 1500, "--task",
        "summarization",
    )  # fmt: skip
    return folder / "checkpoint_last.pt"


@pytest.fixture
def long_source(tmp_path):
    """A file with one source of 1,200 words and one of 1,800, each with an end of sentence."""
    file = tmp_path / "input"
    file.write_text("the " * 1200 + "\n" + "the " * 1800 + "\n", encoding="utf-8")
    return file


def typed(corpus, checkpoint, file, *more):
    """fairseq-interactive on a file: what it logged, and the lengths of the sources that it read."""
    lengths, forward = [], TranslationTask.inference_step

    def inference_step(self, generator, models, sample, **kwargs):
        lengths.extend(sample["net_input"]["src_lengths"].tolist())
        return forward(self, generator, models, sample, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TranslationTask, "inference_step", inference_step)
        log = here(
            interactive, corpus.binarised, *LANGUAGES, "--user-dir", USER_DIR, "--path", checkpoint, "--cpu",
            "--input", file, "--beam", 1, "--max-len-b", 2, "--buffer-size", 2, "--batch-size", 1, *more,
        )  # fmt: skip
    return log, sorted(lengths)


@pytest.mark.parametrize("task", [["--task", "summarization"], ["--task", "translation", "--truncate-source"]])
def test_long_sources_are_read_as_far_as_the_model_was_trained(task, tiny_corpus, checkpoint, long_source):
    log, lengths = typed(tiny_corpus, checkpoint, long_source, *task)
    assert lengths == [1201, 1500]
    assert log.count("1 of 2 sources have more than 1,500 tokens and are cut") == 1


def test_a_limit_that_is_asked_for_is_kept(tiny_corpus, checkpoint, long_source):
    _, lengths = typed(tiny_corpus, checkpoint, long_source, "--task", "summarization", "--max-source-positions", 1024)
    assert lengths == [1024, 1024]


def test_a_limit_above_the_models_is_none(tiny_corpus, checkpoint, long_source):
    _, lengths = typed(tiny_corpus, checkpoint, long_source, "--task", "summarization", "--max-source-positions", 4000)
    assert lengths == [1201, 1500]


def test_stock_reads_less(tiny_corpus, checkpoint, long_source, monkeypatch):
    monkeypatch.setattr(TranslationTask, "build_model", stock(TranslationTask.build_model))
    _, lengths = typed(tiny_corpus, checkpoint, long_source, "--task", "summarization")
    assert lengths == [1024, 1024]


def load(corpus, paths, **options):
    cfg = tasks.TASK_DATACLASS_REGISTRY["summarization"](
        data=str(corpus.binarised), source_lang="source", target_lang="target", **options
    )
    cfg.dataset_impl, cfg.train_subset, cfg.required_seq_len_multiple = None, "train", 1
    task = tasks.TASK_REGISTRY["summarization"].setup_task(cfg)
    checkpoint_utils.load_model_ensemble(paths, task=task)
    return task


def test_an_ensemble_reads_what_its_shortest_reads(tiny_corpus, checkpoint, tmp_path):
    state = torch.load(checkpoint)
    state["cfg"]["model"].max_source_positions = 1200
    for name in ("encoder.embed_positions.weight",):  # BART's
        if name in state["model"]:
            state["model"][name] = state["model"][name][:1202]
    torch.save(state, tmp_path / "shorter.pt")
    paths = [str(checkpoint), str(tmp_path / "shorter.pt")]
    for order in (paths, paths[::-1]):
        assert load(tiny_corpus, order).cfg.max_source_positions == 1200


def test_a_data_set_says_once_how_many_are_cut(tiny_corpus, checkpoint, caplog):
    lengths = [len(line.split()) + 1 for line in tiny_corpus.lines("test", "source")]
    limit = sorted(lengths)[4]
    task = load(tiny_corpus, [str(checkpoint)], max_source_positions=limit)
    with caplog.at_level("INFO"):
        task.load_dataset("test")
    expected = f"{sum(n > limit for n in lengths)} of 11 sources of 'test' are longer than {limit} tokens"
    assert caplog.text.count(expected) == 1
    assert 0 < sum(n > limit for n in lengths) < 11
    task.cfg.max_source_positions = 1000
    caplog.clear()
    task.load_dataset("valid")
    assert "are cut" not in caplog.text


def test_generation_and_validation_take_it_too(tiny_corpus, checkpoint):
    seen = []

    def max_positions(self):
        seen.append(self.cfg.max_source_positions)
        return self.cfg.max_source_positions, self.cfg.max_target_positions

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TranslationTask, "max_positions", max_positions)
        here(
            generate, tiny_corpus.binarised, *LANGUAGES, "--user-dir", USER_DIR, "--path", checkpoint, "--cpu",
            "--gen-subset", "test1", "--beam", 1, "--max-len-b", 2, "--quiet",
        )  # fmt: skip
        assert set(seen) == {1500}
        seen.clear()
        here(
            validate, tiny_corpus.binarised, "--user-dir", USER_DIR, "--path", checkpoint, "--cpu", "--batch-size", 5,
            "--valid-subset", "test1", "--task", "summarization",
        )  # fmt: skip
        assert set(seen) == {1500}


def test_the_hub_takes_it_too(tiny_corpus, checkpoint):
    from srformer_plugin.models.srformer_bart import SRformerBARTModel
    from srformer_plugin.models.srformer_t5 import SRformerT5Model

    model = SRformerT5Model if "t5" in str(checkpoint.parent) else SRformerBARTModel
    hub = model.from_pretrained(checkpoint.parent, checkpoint.name, tiny_corpus.binarised)
    assert len(hub.encode("the " * 1800)) == 1500


@pytest.mark.parametrize(
    ("flags", "limit"),
    [([], 16384), (["--max-source-positions", "100"], 100), (["--max-source-positions=1024"], 1024)],
    ids=["nothing", "less", "the task's default"],
)
def test_leds_own_positions_are_the_default_of_a_training(tiny_corpus, tmp_path, flags, limit):
    here(
        train, tiny_corpus.binarised, *LANGUAGES, "--user-dir", USER_DIR, "--arch", "srformer_led_tiny", "--cpu",
        "--share-all-embeddings", "--optimizer", "adam", "--batch-size", 8, "--max-update", 1, "--save-dir", tmp_path,
        "--no-epoch-checkpoints", "--task", "summarization", *flags,
    )  # fmt: skip
    content = torch.load(tmp_path / "checkpoint_last.pt")
    cfg, table = content["cfg"], content["model"]["encoder.embed_positions.weight"]
    assert cfg["model"].max_source_positions == cfg["task"]["max_source_positions"] == limit
    assert len(table) == limit + 2
    assert load(tiny_corpus, [str(tmp_path / "checkpoint_last.pt")]).cfg.max_source_positions == limit


def test_no_flag_can_be_abbreviated():
    """Or one that is typed would count as left open."""
    for parser in (options.get_training_parser(), options.get_generation_parser(interactive=True)):
        with pytest.raises(SystemExit):
            parser.parse_args(["--update-fre", "7", "--buffer-siz", "7"])


def test_arguments_of_another_command_are_not_this_ones(tiny_corpus, checkpoint, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest", "--max-source-positions-of-another"])
    assert load(tiny_corpus, [str(checkpoint)]).cfg.max_source_positions == 1500
