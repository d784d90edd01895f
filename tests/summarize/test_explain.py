"""Where a summary comes from: the weights, the page, and what a browser makes of it."""

import html.parser
import io
import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from summarize.conftest import TEXTS, words

from srformer_plugin import summarize
from srformer_plugin.errors import ConfigurationError
from srformer_plugin.summarize import cli
from srformer_plugin.summarize.explain import Explanation, Part, cross_attention, explain
from srformer_plugin.summarize.page import page
from srformer_plugin.summarize.summary import Summary

LONG = words(150, seed=50)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def t5_model(converted_t5):
    return summarize.load(converted_t5, prefix="report , ", max_len=12, min_len=4, beam=2)


@pytest.fixture(scope="module")
def converted_t5(save_t5, tmp_path_factory):
    from srformer_plugin.convert.cli import hf_to_fairseq

    folder = tmp_path_factory.mktemp("t5")
    save_t5(folder / "hf")
    hf_to_fairseq(folder / "hf", folder / "fairseq")
    return folder / "fairseq"


def weights_of_layers(network, states, ids, start):
    """Layer by layer, by fairseq's own way to ask for one layer's weights."""
    previous = torch.tensor([[start, *ids.tolist()[:-1]]])
    found = []
    for layer in range(len(network.decoder.layers)):
        with torch.inference_mode():
            extra = network.decoder.extract_features(previous, states, None, alignment_layer=layer)[1]
        found.append(extra["attn"][0][0])
    return torch.stack(found)


def test_a_text_of_which_the_subwords_leave_nothing_is_empty(t5_model):
    """SentencePiece has no piece for a zero-width space."""
    message = "it is empty: the model's subwords leave nothing of its characters"
    good, nothing = t5_model.summarize_texts(["the bridge", "\u200b \ufeff"])
    assert (good.error, nothing.error) == (None, message)
    with pytest.raises(ConfigurationError, match=message):
        explain(t5_model, "\u200b")


@pytest.mark.parametrize("text", [TEXTS[2], LONG], ids=["short", "long"])
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_the_weights_are_the_mean_over_layers_of_what_each_position_attends_to(family, text, model, request):
    model = model if family == "bart" else request.getfixturevalue("t5_model")
    stream = model.open_stream()
    stream.append(text)
    summary, network, states = stream.read()
    weights = cross_attention(network, states, summary.ids, model.tokenizer.end)
    assert weights.shape == (len(summary.ids), summary.source_tokens)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(weights)))
    expected = weights_of_layers(network, states, summary.ids, model.tokenizer.end)
    torch.testing.assert_close(weights, expected.mean(dim=0))
    assert not torch.allclose(weights, expected[0], atol=1e-3)
    assert not any(layer.encoder_attn._forward_hooks for layer in network.decoder.layers)


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_shares_are_those_of_the_words_of_a_segment(family, model, request):
    model = model if family == "bart" else request.getfixturevalue("t5_model")
    text = f"  {TEXTS[0]}\n\n{TEXTS[3]} "
    found = explain(model, text)
    assert found.summary.text == model.summarize(text)
    assert "".join(text[start:end] for start, end in found.segments) == text
    ids = model.tokenizer.encode(text)
    with torch.inference_mode():
        states = model.network.encoder(torch.tensor([ids]))
    weights = cross_attention(model.network, states, found.summary.ids, model.tokenizer.end)
    # where every word's tokens are, and which segment has the word
    position, shares = len(model.tokenizer.start), {}
    starts = [start for start, _ in found.segments]
    for number, match in enumerate(re.finditer(r"\S+", text)):
        tokens = len(model.tokenizer.of_word(match.group(), first=number == 0))
        segment = sum(start <= match.start() for start in starts) - 1
        assert segment == position // 16 - len(model.tokenizer.start) // 16
        shares[segment] = shares.get(segment, 0) + weights[:, position : position + tokens].sum(dim=1)
        position += tokens
    assert position == len(ids) - 1
    whole = torch.stack([shares[number] for number in sorted(shares)], dim=1)
    assert found.elsewhere == pytest.approx(1 - float(whole.sum() / len(whole)), abs=1e-5)
    # all tokens together are the sentences together
    assert len(found.sentences) == 1
    (sentence,) = found.sentences
    expected = whole.sum(dim=0) / whole.sum()
    for number, share in sentence.read:
        assert share == pytest.approx(float(expected[number]), abs=0.02)
    for part in (*found.words, sentence):
        assert [share for _, share in part.read] == sorted((share for _, share in part.read), reverse=True)
        assert sum(share for _, share in part.read) <= 1 + 1e-5


def test_words_have_the_weights_of_their_own_tokens(t5_model):
    found = explain(t5_model, "the city council opened a new bridge . " * 20)
    text = found.summary.text
    assert [text[word.start : word.end] for word in found.words] == text.split()
    assert len({tuple(word.read) for word in found.words}) > 1


def test_what_was_not_read_is_said(converted_bart):
    model = summarize.load(converted_bart, truncate=True, max_len=20, min_len=2)
    found = explain(model, LONG)
    assert found.unread is not None
    assert found.segments[found.unread][0] > 0
    read = LONG[: found.segments[found.unread][0]]
    assert abs(len(model.tokenizer.encode(read)) - model.source_positions) <= 16
    assert {number for part in found.sentences for number, _ in part.read} <= set(range(found.unread))
    assert page(found, "x").count('class="segment unread"') == len(found.segments) - found.unread
    assert explain(model, TEXTS[0]).unread is None


NASTY = "a <script>alert(1)</script> & \"b\" {{data}} '</script>' <!-- é"


@pytest.fixture
def nasty():
    """An explanation whose texts are markup."""
    middle = NASTY.index("&")
    segments = [(0, middle), (middle, len(NASTY))]
    words = [Part(m.start(), m.end(), [(1, 0.75), (0, 0.25)]) for m in re.finditer(r"\S+", NASTY)]
    summary = Summary(NASTY, torch.tensor([2]), 12)
    return Explanation(NASTY, summary, segments, None, words, [Part(0, len(NASTY), [(0, 1.0)])], 0.125)


class Reader(html.parser.HTMLParser):
    """The text in elements of a class or id, and what a page would fetch."""

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.fetched, self.scripts = [], {}, [], 0

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.fetched += [given[name] for name in ("src", "href", "action", "background") if name in given]
        self.scripts += tag == "script"
        if tag not in ("meta", "br", "link"):
            self.open.append((tag, given.get("id"), given.get("class")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, name, kind in self.open:
            for key in filter(None, (name, kind)):
                self.texts[key] = self.texts.get(key, "") + data


def read_page(text):
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    return reader


def test_texts_are_text_on_the_page_and_nothing_is_fetched(nasty):
    text = page(nasty, "<b>name</b>")
    reader = read_page(text)
    assert reader.texts["document"] == NASTY
    assert reader.texts["summary"].split() == ["1", *NASTY.split()]
    assert reader.scripts == 2 and reader.fetched == []
    assert "<b>" not in text.replace("</b>", "") or "&lt;b&gt;name" in text
    assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "") and "url(" not in text
    assert json.loads(reader.texts["data"])["words"][0] == [[1, 750], [0, 250]]
    assert "13%" in text or "12%" in text


def test_the_command_writes_a_page_of_one_document(model, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cli, "load", lambda *args, **how: model)
    (tmp_path / "a.txt").write_text(LONG)
    arguments = ["--model", "m", "--explain", str(tmp_path / "page.html")]
    assert cli.main([*arguments, str(tmp_path / "a.txt")]) == 0
    out = capsys.readouterr().out
    assert out == model.summarize(LONG) + "\n"
    reader = read_page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert reader.texts["document"] == LONG
    assert reader.texts["h1" if "h1" in reader.texts else "left"]
    for files, named in ((["a", "b"], "--explain"), ([str(tmp_path / "none" / "a")], "none")):
        monkeypatch.setattr(cli, "load", lambda *args, **how: pytest.fail("loaded"))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
        assert cli.main([*arguments, *files]) == 2
        assert named in capsys.readouterr().err
    assert cli.main(["--model", "m", "--explain", str(tmp_path / "none" / "p.html"), "a"]) == 2
    assert "--explain" in capsys.readouterr().err


CLICK = """
<script>
const first = document.querySelector('.pick[data-kind=words]');
first.click();
const lit = [...document.querySelectorAll('.lit')].map(one => [one.id, one.title, one.classList.contains('first')]);
document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}));
const left = document.querySelectorAll('.lit').length;
first.focus();
document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowUp', bubbles: true}));
const whole = document.activeElement.className;
document.activeElement.click();
const pressed = document.querySelectorAll('[aria-pressed=true]').length;
const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.title = JSON.stringify({lit, left, whole, pressed, wide, errors: window.errors || 0});
</script>
</body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("size", ["1280,800", "360,740"], ids=["desktop", "phone"])
def test_a_browser_marks_what_a_word_read_by_mouse_and_by_keyboard(nasty, size, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page(nasty, "name").replace("</body>", CLICK), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={size}"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.S)
    assert title, done.stderr
    found = json.loads(title.group(1).replace("&quot;", '"').replace("&amp;", "&"))
    assert found["lit"] == [["s0", "25.0%", False], ["s1", "75.0%", True]]
    assert found["left"] == 0
    assert found["whole"] == "pick whole" and found["pressed"] == 1
    assert found["wide"] <= 0
