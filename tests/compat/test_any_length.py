"""Sources longer than a checkpoint's positions, through every command, where the encoder reads any length."""

import pytest
from conftest import USER_DIR, make_corpus
from fairseq.tasks.translation import TranslationTask
from fairseq_cli import generate, interactive, train, validate
from fairseq_here import here

LANGUAGES = ["--source-lang", "source", "--target-lang", "target"]
WORDS = [70, 1100, 90, 1300]  # more than fairseq's default of 1,024, too
CHUNKS = ["--encoder-attention", "chunked", "--encoder-chunk", 60, "--encoder-context", 2, "--encoder-positions", 64]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    pairs = [(" ".join(f"w{(n * n + k) % 30}" for n in range(count)), f"w{k} w3 w4") for k, count in enumerate(WORDS)]
    sizes = {"train": 4, "valid": 4, "test": 4}
    return make_corpus(tmp_path_factory.mktemp("long"), sizes, pairs * 3)


def training(corpus, folder, family, *more):
    return here(
        train, corpus.binarised, *LANGUAGES, "--user-dir", USER_DIR, "--arch", f"srformer_{family}_tiny",
        "--share-all-embeddings", "--optimizer", "adam", "--batch-size", 2, "--save-dir", folder, "--cpu",
        "--num-workers", 0, "--task", "summarization", "--cross-attention", "segmented", "--segment-schedule",
        "content", "--segments-per-query", 2, *CHUNKS, *more,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["bart", "t5"])
def checkpoint(request, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    training(corpus, folder, request.param, "--max-epoch", 1)
    # resumed, where activations are computed again
    log = training(corpus, folder, request.param, "--max-epoch", 2, "--checkpoint-activations")
    assert "checkpoint_last.pt (epoch 2 @ 2 updates)" in log
    assert "are cut" not in log
    return folder / "checkpoint_last.pt"


@pytest.fixture
def lengths(monkeypatch):
    """Of the sources that are decoded or validated."""
    seen = []

    def noting(original):
        def step(self, *arguments, **more):
            sample = next(x for x in arguments if isinstance(x, dict))
            seen.extend(sample["net_input"]["src_lengths"].tolist())
            return original(self, *arguments, **more)

        return step

    for name in ("inference_step", "valid_step"):
        monkeypatch.setattr(TranslationTask, name, noting(getattr(TranslationTask, name)))
    return seen


def hypotheses(log):
    return sorted(line for line in log.splitlines() if line.startswith(("H-", "P-")))


def test_generation_validation_and_typed_sources_are_whole(corpus, checkpoint, lengths, capsys, tmp_path):
    options = ["--user-dir", USER_DIR, "--path", checkpoint, "--cpu", "--batch-size", 3]
    decoding = [*LANGUAGES, *options, "--beam", 2, "--max-len-b", 5]
    expected = [count + 1 for count in sorted(WORDS)]
    found = []
    for task in (["--task", "translation"], ["--task", "summarization", "--fast-generate"]):
        capsys.readouterr()
        here(generate, corpus.binarised, *decoding, *task)
        found.append(hypotheses(capsys.readouterr().out))
        assert sorted(lengths) == expected
        lengths.clear()
    assert len(found[0]) == 8
    assert [line.split("\t")[-1] for line in found[0][:4]] == [line.split("\t")[-1] for line in found[1][:4]]
    here(validate, corpus.binarised, *options, "--task", "summarization")
    assert sorted(lengths) == expected
    lengths.clear()
    (tmp_path / "input").write_text(corpus.raw.joinpath("test.source").read_text())
    here(interactive, corpus.binarised, *decoding, "--task", "translation", "--truncate-source", "--input",
         tmp_path / "input", "--buffer-size", 4)  # fmt: skip
    assert sorted(lengths) == expected


def test_a_limit_that_is_asked_for_is_kept(corpus, checkpoint, lengths):
    here(
        generate, corpus.binarised, *LANGUAGES, "--user-dir", USER_DIR, "--path", checkpoint, "--cpu", "--beam", 1,
        "--max-len-b", 2, "--task", "summarization", "--max-source-positions", 1200, "--batch-size", 3,
    )  # fmt: skip
    assert sorted(lengths) == [71, 91, 1101, 1200]


@pytest.mark.parametrize("limit", [100, 1024])  # fairseq's default is a limit too where it is asked for
def test_what_training_was_limited_to_is_the_default_and_no_limit(corpus, tmp_path, lengths, limit):
    log = training(corpus, tmp_path, "bart", "--max-epoch", 1, "--max-source-positions", limit, "--disable-validation")
    assert f"2 of 4 sources of 'train' are longer than {limit:,} tokens (--max-source-positions) and are cut" in log
    for more, longest in (([], limit), (["--max-source-positions", 2000], 1301)):
        here(
            generate, corpus.binarised, *LANGUAGES, "--user-dir", USER_DIR, "--path", tmp_path / "checkpoint_last.pt",
            "--cpu", "--beam", 1, "--max-len-b", 2, "--task", "summarization", "--batch-size", 4, *more,
        )  # fmt: skip
        assert max(lengths) == longest
        lengths.clear()
