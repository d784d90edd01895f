"""The search's settings: where they come from, and which cannot work."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srformer_plugin.errors import ConfigurationError
from srformer_plugin.summarize.decoding import Decoding, of_huggingface

CNN = {"num_beams": 4, "length_penalty": 2.0, "max_length": 142, "min_length": 56, "no_repeat_ngram_size": 3}


@pytest.fixture
def read(tmp_path):
    """Function (content of config.json, of generation_config.json or None) -> (settings, prefix)."""

    def read(config, generation=None):
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        if generation is not None:
            (tmp_path / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
        return of_huggingface(tmp_path)

    return read


def test_lengths_are_counted_as_fairseq_counts_them(read):
    """facebook/bart-large-cnn's are those of fairseq's recipe: --min-len 55 --max-len-b 140."""
    assert read(CNN) == (Decoding(beam=4, lenpen=2.0, min_len=55, max_len=140, no_repeat_ngram_size=3), "")
    settings, _ = read({"min_new_tokens": 55, "max_new_tokens": 141})
    assert (settings.min_len, settings.max_len) == (55, 140)


def test_the_task_comes_before_generation_and_that_before_the_configuration(read):
    of_task = {"summarization": {"num_beams": 5, "prefix": "summarize: "}, "translation_en_to_de": {"prefix": "t"}}
    generation = {"num_beams": 6, "length_penalty": 0.5}
    config = {**CNN, "num_beams": 7, "length_penalty": 3.0}
    settings, prefix = read({**config, "task_specific_params": of_task}, generation)
    assert (settings.beam, settings.lenpen, settings.no_repeat_ngram_size, prefix) == (5, 0.5, 3, "summarize: ")
    settings, prefix = read({**config, "task_specific_params": None, "prefix": None}, generation)
    assert (settings.beam, prefix) == (6, "")
    assert read({**config, "prefix": "note: "})[1] == "note: "


def test_a_folder_that_says_nothing_has_the_defaults_and_one_that_says_something_huggingfaces(read):
    assert read({"task_specific_params": {"summarization": {"prefix": "x"}}}) == (Decoding(), "x")
    assert read({"num_beams": 2})[0] == Decoding(beam=2, lenpen=1.0, min_len=0, max_len=140, no_repeat_ngram_size=0)


@pytest.mark.parametrize("value", ["4", 1.5, True, [4], float("inf"), float("nan")])
def test_a_setting_that_is_no_number_is_named(read, value):
    with pytest.raises(ConfigurationError, match="num_beams of"):
        read({"num_beams": value})


@given(
    st.sampled_from([8, 64, 1024]),
    st.fixed_dictionaries(
        {}, optional={"min_len": st.integers(0, 2000) | st.none(), "max_len": st.integers(1, 2000) | st.none()}
    ),
)
def test_a_length_that_was_not_asked_for_gives_way(limit, changes):
    least, most = changes.get("min_len"), changes.get("max_len")
    possible = (most or 1) < limit and (least or 0) <= (most or limit - 1)
    if not possible:
        with pytest.raises(ConfigurationError, match="--m(in|ax)-len"):
            Decoding().changed(limit, changes)
        return
    found = Decoding().changed(limit, changes)
    assert found.min_len == (min(55, found.max_len) if least is None else least)
    assert found.max_len == (min(max(140, least or 0), limit - 1) if most is None else most)


@pytest.mark.parametrize(
    "name, value",
    [
        *[("beam", 0), ("beam", 257), ("min_len", -1), ("no_repeat_ngram_size", -1), ("beams", 3)],
        *[("lenpen", value) for value in (float("nan"), float("-inf"), 10.5, -1e308)],
    ],
)
def test_a_value_that_cannot_work_is_named(name, value):
    with pytest.raises(ConfigurationError, match=name if name == "beams" else f"--{name.replace('_', '-')}"):
        Decoding().changed(64, {name: value})


@pytest.mark.parametrize("name", ["beam", "min_len", "max_len", "no_repeat_ngram_size", "lenpen"])
@pytest.mark.parametrize("value", ["4", True, [4], 2.5])
def test_a_value_of_another_kind_is_named(name, value):
    if (name, value) == ("lenpen", 2.5):
        assert Decoding().changed(100, {name: value}).lenpen == value
        return
    with pytest.raises(ConfigurationError, match=f"--{name.replace('_', '-')} must be a .*number, got"):
        Decoding().changed(100, {name: value})


@pytest.mark.parametrize("params", ["x", ["x"], {"summarization": "x"}, {"summarization": ["x"]}])
def test_settings_of_the_task_that_are_no_object_are_named(read, params):
    with pytest.raises(ConfigurationError, match="task_specific_params"):
        read({"task_specific_params": params})
