"""Checkpoints that version 0.1.0 trained load and decode as they did then.

`checkpoints_of_0_1` holds one of each family, 250 updates on the suite's own sentences, its dictionaries, six sources
and the hypotheses (beam 4) that both generators of that version found. Their schedule is an int64 buffer.
"""

import json
from pathlib import Path

import pytest
import torch
from fairseq.checkpoint_utils import load_model_ensemble_and_task
from fairseq.sequence_generator import SequenceGenerator

import srformer_plugin  # noqa: F401 (registers the architectures)
from srformer_plugin.generation import FastSequenceGenerator

FOLDER = Path(__file__).parent / "checkpoints_of_0_1"
SEARCH = {"beam_size": 4, "max_len_b": 16, "len_penalty": 1.0, "no_repeat_ngram_size": 3}


def decode(family, generator_class):
    """Hypotheses of every source, the best first: [{"text", "score"}, ...]."""
    overrides = {"data": str(FOLDER)}
    (model,), _, task = load_model_ensemble_and_task([str(FOLDER / f"{family}.pt")], arg_overrides=overrides)
    model.eval()
    generator = generator_class([model], task.target_dictionary, **SEARCH)
    found = []
    for line in (FOLDER / "sources.txt").read_text(encoding="utf-8").split("\n")[:-1]:
        tokens = task.source_dictionary.encode_line(line, add_if_not_exist=False).long().unsqueeze(0)
        sample = {"net_input": {"src_tokens": tokens, "src_lengths": torch.tensor([tokens.size(1)])}}
        (hypotheses,) = generator.generate([model], sample)
        words = [task.target_dictionary.string(hypothesis["tokens"]) for hypothesis in hypotheses]
        found.append([{"text": t, "score": h["score"].item()} for t, h in zip(words, hypotheses)])
    return found


@pytest.mark.parametrize("generator_class", [SequenceGenerator, FastSequenceGenerator])
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_a_checkpoint_of_0_1_decodes_as_it_did_then(family, generator_class):
    expected = json.loads((FOLDER / "hypotheses.json").read_text(encoding="utf-8"))[family]
    found = decode(family, generator_class)
    assert [[h["text"] for h in beams] for beams in found] == [[h["text"] for h in beams] for beams in expected]
    for beams, recorded in zip(found, expected):
        assert [h["score"] for h in beams] == pytest.approx([h["score"] for h in recorded], abs=1e-4)
