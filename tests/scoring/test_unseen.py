"""Texts that ROUGE cannot see get one warning, which says what to use instead."""

import logging
from types import SimpleNamespace

import pytest

from srformer_plugin.scoring import cli
from srformer_plugin.scoring.fairseq_scorer import RougeConfig, RougeScorer
from srformer_plugin.scoring.rouge import score_texts
from srformer_plugin.scoring.unseen import is_unseen, unseen_warning

UNSEEN = {
    "Chinese": "市议会开放了一座新桥。 <q> 大家很高兴。",
    "Hindi": "नगर परिषद ने एक नया पुल खोला",
    "Russian": "Город открыл новый мост",
    "Russian with a year": "В 2024 году открыли мост",
}
SEEN = ["The city opened a bridge.", "Der Bürgermeister eröffnete die Brücke", "été 2024", "", "...", "<q>"]


@pytest.mark.parametrize("text", UNSEEN.values(), ids=UNSEEN)
def test_texts_in_other_scripts_are_not_seen(text):
    assert is_unseen(text)


@pytest.mark.parametrize("text", SEEN)
def test_latin_and_empty_texts_are(text):
    assert not is_unseen(text)
    assert unseen_warning([text], [text]) is None


def test_equal_texts_that_are_not_seen_score_0_which_is_why():
    assert score_texts([UNSEEN["Chinese"]], [UNSEEN["Chinese"]]).max() == 0


def test_the_warning_counts_both_sides_and_names_other_scores():
    text = UNSEEN["Hindi"]
    warning = unseen_warning([text, "a", text], [text, "b", "c"])
    assert warning.startswith("ROUGE cannot see 1 of 3 references and 2 of 3 hypotheses: ")
    assert "--also chrf" in warning and "bleu-zh" in warning
    assert unseen_warning(["a"], [text]).startswith("ROUGE cannot see 1 of 1 references: ")


@pytest.fixture
def chinese(tmp_path):
    (tmp_path / "text").write_text(f"{UNSEEN['Chinese']}\nA bridge.\n", encoding="utf-8")
    return str(tmp_path / "text")


def test_srformer_score_warns_once_beside_its_output(chinese, capsys):
    assert cli.main([chinese, chinese, "--also", "chrf,bleu-zh,bleu-char,bleu-intl", "--system", "other", chinese]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("warning: ROUGE cannot see 1 of 2 references and 2 of 4 hypotheses")
    assert err.count("\n") == 1
    assert "warning" not in out
    assert "tok:zh" in out and "tok:char" in out and "tok:intl" in out
    assert "| 100.00 | 100.00  | 100.00    | 100.00    |" in out


def test_srformer_score_is_silent_where_rouge_sees_all(tmp_path, capsys):
    (tmp_path / "text").write_text("A bridge.\n")
    assert cli.main([str(tmp_path / "text")] * 2) == 0
    assert capsys.readouterr().err == ""


def test_the_scorer_of_fairseq_warns_once(caplog):
    scorer = RougeScorer(RougeConfig())
    with caplog.at_level(logging.WARNING):
        scorer.add_string(UNSEEN["Russian"], UNSEEN["Russian"])
        scorer.score()
        scorer.result_string()
    assert [record.getMessage()[:16] for record in caplog.records] == ["ROUGE cannot see"]


def test_eval_rouge_warns_once(caplog, monkeypatch):
    import torch

    from srformer_plugin.tasks.summarization import SummarizationTask

    task = SimpleNamespace(
        cfg=SimpleNamespace(eval_rouge_print_samples=False),
        tgt_dict=SimpleNamespace(pad=lambda: 1),
        generator=None,
        inference_step=lambda *_: [[{"tokens": torch.tensor([5])}]],
        _text=lambda tokens, unknown: UNSEEN["Chinese"],
        _warned_of_unseen_texts=False,
    )
    one = torch.tensor([[5, 2]])
    sample = {"decode": torch.tensor([True]), "id": torch.tensor([0]), "net_input": {}, "target": one}
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            SummarizationTask._rouge(task, sample, None)
    assert len(caplog.records) == 1
    assert "ROUGE cannot see 1 of 1 references" in caplog.text
