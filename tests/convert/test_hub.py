"""`from_pretrained(...).sample(...)` on text."""

import copy
import io
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import sentencepiece
import torch
from conftest import sentence_pairs
from convert.parity import ends_like_fairseq
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.models.bart import BARTModel
from fairseq.sequence_generator import SequenceGenerator

from srformer_plugin.errors import ConfigurationError
from srformer_plugin.models.checkpoint_file import read_checkpoint, write_checkpoint
from srformer_plugin.models.hub import SRformerBARTHubInterface, SRformerHubInterface
from srformer_plugin.models.srformer_bart import SRformerBARTModel
from srformer_plugin.models.srformer_t5 import SRformerT5Model

# fairseq hands NumPy a tensor of lengths
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

TEXTS = [target for _, target in sentence_pairs(5, seed=3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small SRformer with random weights, its dictionaries and its SentencePiece model, as training leaves them."""
    folder = tmp_path_factory.mktemp("hub")
    model = io.BytesIO()
    lines = [text for pair in sentence_pairs(200, seed=1) for text in pair]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=120,
        minloglevel=2,
        num_threads=1,
    )
    (folder / "spm.model").write_bytes(model.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    dictionary = Dictionary()
    for number in range(3, len(pieces)):  # after <unk>, <s>, </s>
        dictionary.add_symbol(pieces.id_to_piece(number))
    for side in ("source", "target"):
        dictionary.save(str(folder / f"dict.{side}.txt"))

    sizes = {"dropout": 0.0, "expected_target_length": 12, "max_source_positions": 80, "max_target_positions": 40}
    write_checkpoint(folder / "empty.pt", "srformer_bart_tiny", sizes, {})
    content = torch.load(folder / "empty.pt", weights_only=True)
    args = content["cfg"]["model"]
    ARCH_CONFIG_REGISTRY["srformer_bart_tiny"](args)
    task = type("Task", (), {"source_dictionary": dictionary, "target_dictionary": dictionary, "datasets": {}})
    model = ARCH_MODEL_REGISTRY["srformer_bart_tiny"].build_model(args, task)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 2 * parameter.size(1) ** -0.5, generator=generator)
    write_checkpoint(folder / "checkpoint_best.pt", "srformer_bart_tiny", sizes, model.state_dict())
    return folder


@pytest.fixture
def hub(folder):
    return hub_of(folder, "checkpoint_best.pt")


def test_three_lines_are_enough(folder, tmp_path):
    """BPE files beside the dictionaries are found."""
    (folder / "spiece.model").write_bytes((folder / "spm.model").read_bytes())
    model = SRformerBARTModel.from_pretrained(str(folder), "checkpoint_best.pt")
    assert isinstance(model, SRformerBARTHubInterface)
    assert isinstance(model.sample(TEXTS[0], beam=4), str)
    (folder / "spiece.model").unlink()


def test_a_folder_that_is_not_there_is_named(folder, tmp_path):
    with pytest.raises(ConfigurationError, match=f"{tmp_path / 'none'} is no folder: name one with a checkpoint"):
        SRformerBARTModel.from_pretrained(tmp_path / "none")
    with pytest.raises(ConfigurationError, match="model.pt is no folder: name one with a checkpoint"):
        SRformerBARTModel.from_pretrained(folder / "model.pt")
    with pytest.raises(ConfigurationError, match="none is no folder: name one with dictionaries"):
        SRformerBARTModel.from_pretrained(folder, data_name_or_path=tmp_path / "none")


def test_text_becomes_the_tokens_of_training_and_text_again(hub, folder):
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    tokens = hub.encode(TEXTS[0])
    assert hub.task.source_dictionary.string(tokens).split() == pieces.encode(TEXTS[0], out_type=str)
    assert tokens[-1] == hub.task.source_dictionary.eos()
    assert hub.task.source_dictionary.bos() not in tokens  # fairseq-train adds none to a translation task's sources
    assert hub.decode(tokens) == TEXTS[0]
    first, both = hub.encode(TEXTS[0]), hub.encode(TEXTS[0], TEXTS[0])
    assert both.tolist() == first.tolist() * 2
    assert hub.decode(hub.encode(TEXTS[0], TEXTS[0], no_separator=False)) == [TEXTS[0]] * 2


def test_sample_answers_every_sentence_as_the_generator_does(hub):
    """Alone and in a batch with others, which pads it."""
    answers = hub.sample(TEXTS, beam=4, max_len_b=12, lenpen=0.7, min_len=3)
    assert len(set(answers)) > 1
    model, dictionary = copy.deepcopy(hub.models[0]), hub.task.target_dictionary
    generator = SequenceGenerator([model], dictionary, beam_size=4, max_len_b=12, len_penalty=0.7, min_len=3)
    for text, answer in zip(TEXTS, answers):
        source = hub.encode(text).unsqueeze(0)
        sample = {"net_input": {"src_tokens": source, "src_lengths": torch.tensor([source.size(1)])}}
        best = generator.generate([model], sample)[0][0]["tokens"]
        assert answer == hub.decode(best) == hub.sample(text, beam=4, max_len_b=12, lenpen=0.7, min_len=3)


def test_generation_arguments_count(hub):
    def lengths(**options):
        (hypotheses,) = hub.generate([hub.encode(TEXTS[0])], **options)
        return len(hypotheses), {len(hypothesis["tokens"]) for hypothesis in hypotheses}

    count, shortest = lengths(beam=3, max_len_b=5)
    assert count == 3
    assert max(shortest) <= 6  # with </s>
    assert min(lengths(beam=2, min_len=7, max_len_b=9)[1]) >= 8
    torch.manual_seed(1)
    drawn = {hub.sample(TEXTS[0], beam=1, sampling=True, max_len_b=9) for _ in range(4)}
    assert len(drawn) > 1


def attributes(model):
    return {
        (name, key): value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if not isinstance(value, (dict, torch.Tensor)) and key != "training"
    }


@torch.no_grad()
def test_nothing_is_left_behind_on_the_model(hub):
    model = hub.models[0]
    tokens = [hub.encode(text) for text in TEXTS[:4]]
    width = max(map(len, tokens))
    sources = torch.stack([torch.nn.functional.pad(t, (width - len(t), 0), value=1) for t in tokens])
    inputs = sources, torch.tensor([len(t) for t in tokens]), sources[:, -6:]
    before, logits = attributes(model), model(*inputs)[0]
    hub.sample(TEXTS, beam=4, max_len_b=6)
    assert attributes(model) == before
    assert torch.equal(model(*inputs)[0], logits)
    with pytest.raises(ConfigurationError, match="'min_len' makes the shortest output"):
        hub.sample(TEXTS, beam=4, max_len_b=6, min_len=9)
    assert attributes(model) == before


def test_nothing_is_left_behind_on_fairseqs_own_bart(converted_bart, tmp_path):
    """Whose cross-attention keeps the beam size."""
    _, options, state = read_checkpoint(converted_bart / "model.pt")
    options = {name: value for name, value in options.items() if name not in ("arch", "_name")}
    write_checkpoint(tmp_path / "model.pt", "bart_base", options, state)
    hub = SRformerBARTModel.from_pretrained(tmp_path, data_name_or_path=str(converted_bart))
    assert type(hub.models[0]) is BARTModel
    before = attributes(hub.models[0])
    hub.sample("the council opened", beam=4, max_len_b=6, unkpen=1e9)
    assert attributes(hub.models[0]) == before


def test_an_unknown_word_is_unk_and_leaves_the_dictionary_alone(hub):
    size = len(hub.task.source_dictionary)
    assert hub.task.source_dictionary.unk() in hub.encode("雨")
    assert len(hub.task.source_dictionary) == size


def test_a_source_that_is_too_long_is_truncated(hub):
    tokens = hub.encode(" ".join(TEXTS * 3))
    assert len(tokens) <= 80
    assert tokens[-1] == hub.task.source_dictionary.eos()
    assert isinstance(hub.sample(" ".join(TEXTS * 3), beam=2, max_len_b=5), str)


def test_the_interface_follows_its_device_and_precision(hub):
    hub = hub.to(torch.bfloat16)
    assert next(hub.models[0].parameters()).dtype == torch.bfloat16
    assert all(isinstance(answer, str) for answer in hub.sample(TEXTS[:2], beam=2, max_len_b=5))
    assert hub.device.type == "cpu"


def test_words_need_no_bpe(hub, folder):
    plain = SRformerBARTModel.from_pretrained(folder, "checkpoint_best.pt")
    text = hub.task.source_dictionary.string(hub.encode(TEXTS[0]))
    assert torch.equal(plain.encode(text), hub.encode(TEXTS[0]))
    assert plain.decode(plain.encode(text)) == text


def test_a_converted_bart_answers_as_transformers_does(transformers, bart, converted_bart):
    """From text to text. <s> begins source and answer, as forced_bos_token_id 0 has it; fairseq counts its probability,
    so scores are compared without a division by length."""
    theirs, longest = bart[1], 14
    tokenizer = transformers.BartTokenizer.from_pretrained(bart[0])
    texts = ["the council opened the bridge", " after the storm", "museum and concert of the harbour, naïve!"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    expected = theirs.generate(
        **batch, num_beams=4, early_stopping=True, length_penalty=0.0,
        forced_bos_token_id=0, forced_eos_token_id=None, min_length=5, max_length=longest + 2, suppress_tokens=[1, 3],
        do_sample=False, logits_processor=[ends_like_fairseq(longest, end=2)],
    )  # fmt: skip
    model = SRformerBARTModel.from_pretrained(converted_bart)
    options = {"lenpen": 0.0, "max_len_b": longest, "min_len": 4, "unkpen": 1e9}
    assert [model.encode(text).tolist() for text in texts] == [tokenizer(text)["input_ids"] for text in texts]
    found = model.generate([model.encode(text) for text in texts], beam=4, **options)
    assert [best[0]["tokens"].tolist() for best in found] == [
        [token for token in row[1:].tolist() if token != 1] for row in expected
    ]
    answers = tokenizer.batch_decode(expected, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert model.sample(texts, beam=4, **options) == answers


def test_a_converted_t5_answers_text(t5):
    """spiece.model is found beside the checkpoint."""
    model = SRformerT5Model.from_pretrained(t5[2])
    assert isinstance(model, SRformerHubInterface)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(t5[0] / "spiece.model"))
    # T5's ids plus one
    assert model.encode(TEXTS[0]).tolist() == [piece + 1 for piece in pieces.encode(TEXTS[0], add_eos=True)]
    assert model.decode(model.encode(TEXTS[0])) == TEXTS[0]
    before = attributes(model.models[0])
    answers = model.sample(TEXTS, beam=4, max_len_b=8)
    assert answers == [model.sample(text, beam=4, max_len_b=8) for text in TEXTS]
    assert attributes(model.models[0]) == before


def hub_of(folder, *names, **options):
    options = {"bpe": "sentencepiece", "sentencepiece_model": str(folder / "spm.model"), **options}
    return SRformerBARTModel.from_pretrained(folder, ":".join(names), str(folder), **options)


def test_an_ensemble_is_asked_as_a_whole(hub, folder):
    """fairseq's interface for BART takes the first model and says nothing."""
    alone = hub_of(folder, other_model(folder))
    both = hub_of(folder, "checkpoint_best.pt", "other.pt")
    assert [len(interface.models) for interface in (hub, alone, both)] == [1, 1, 2]
    scores = [interface.score(TEXTS[:2], TEXTS[1:3]) for interface in (hub, alone, both)]
    for first, second, ensemble in zip(*scores):
        # the probabilities' mean, token by token
        mean = torch.stack([first["positional_scores"], second["positional_scores"]]).exp().mean(0).log()
        torch.testing.assert_close(ensemble["positional_scores"], mean)
    assert isinstance(both.sample(TEXTS[0], beam=2, max_len_b=6), str)
    with pytest.raises(ConfigurationError, match="take one model, and this is 2"):
        both.extract_features(both.encode(TEXTS[0]))


def other_model(folder):
    """A second checkpoint with other weights, other.pt."""
    content = torch.load(folder / "checkpoint_best.pt", weights_only=True)
    generator = torch.Generator().manual_seed(2)
    for name, value in content["model"].items():
        if value.dim() == 2:
            content["model"][name] = torch.randn(value.shape, generator=generator) * 2 * value.size(1) ** -0.5
    torch.save(content, folder / "other.pt")
    return "other.pt"


def test_a_text_longer_than_a_batch_of_the_training(folder):
    """--max-tokens is of the training; whatever fits the model's positions is a source."""
    hub = hub_of(folder, "checkpoint_best.pt", max_tokens=20)
    long = " ".join(TEXTS)
    assert len(hub.encode(long)) > 20
    unlimited = hub_of(folder, "checkpoint_best.pt")
    options = {"beam": 2, "max_len_b": 6}
    assert hub.sample([*TEXTS, long], **options) == unlimited.sample([*TEXTS, long], **options)


def test_scores_are_those_of_the_search(hub):
    """Of hypotheses as they were found, whatever the batch; the mean log probability is a search's own score."""
    found = hub.generate([hub.encode(text) for text in TEXTS], beam=2, max_len_b=9, min_len=2)
    answers = [hub.decode(beams[0]["tokens"]) for beams in found]
    # pieces of a random model's words may be cut otherwise when they are encoded again
    encoded = [hub._tokens(text, hub.tgt_dict).tolist() for text in answers]
    chosen = [n for n, tokens in enumerate(encoded) if tokens == found[n][0]["tokens"].tolist()]
    assert chosen
    scored = hub.score([TEXTS[n] for n in chosen], [answers[n] for n in chosen])
    for n, score in zip(chosen, scored):
        torch.testing.assert_close(score["positional_scores"], found[n][0]["positional_scores"], rtol=0, atol=1e-4)
        assert float(score["score"]) == pytest.approx(float(found[n][0]["score"]), abs=1e-4)


def test_what_cannot_be_scored_is_said(hub):
    with pytest.raises(ConfigurationError, match="2 sources, but 1 targets"):
        hub.score(TEXTS[:2], TEXTS[:1])
    with pytest.raises(ConfigurationError, match="target 1 has .* more than --max-target-positions 40"):
        hub.score(TEXTS[:2], [TEXTS[0], " ".join(TEXTS * 3)])


def test_threads_share_a_model(hub):
    """Two of them decode, with different beams, and one scores: each gets what it gets alone."""
    jobs = [
        lambda: hub.sample(TEXTS, beam=4, max_len_b=9, min_len=4),
        lambda: hub.sample(TEXTS, beam=1, max_len_b=5),
        lambda: [h["positional_scores"].tolist() for h in hub.score(TEXTS[:4], TEXTS[1:])],
    ]
    alone = [job() for job in jobs]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda job: job(), jobs * 4))
    finally:
        sys.setswitchinterval(interval)
    for expected, got in zip(alone * 4, found):
        assert got == expected
    assert "reorder_encoder_out" not in vars(hub.models[0].encoder)  # with the last one


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment_schedul": "content"}, "there is no option 'segment_schedul'; did you mean segment_schedule?"),
        ({"dropout": 7.0}, "dropout 7.0 must be from 0 to 1"),
        ({"max_token": 100}, "there is no option 'max_token'; did you mean max_tokens?"),
        ({"segments_per_query": "3"}, "segments_per_query must be a whole number, got '3'"),
        ({"segment_size": float("nan")}, "segment_size must be a whole number, got nan"),
        ({"encoder_chunk": 7.5}, "encoder_chunk must be a whole number, got 7.5"),
        ({"kv_clamp": float("nan")}, "kv_clamp must be a number, got nan"),
        ({"memory_gate": "no"}, "memory_gate must be True or False, got 'no'"),
        ({"max_source_positions": "80"}, "max_source_positions must be a whole number, got '80'"),
    ],
)
def test_an_option_that_there_is_not_or_of_another_kind_is_named(folder, options, message):
    with pytest.raises(ConfigurationError, match=re.escape(f"from_pretrained: {message}")):
        SRformerBARTModel.from_pretrained(folder, "checkpoint_best.pt", **options)


def test_none_leaves_a_setting_as_the_checkpoint_has_it(folder):
    hub = SRformerBARTModel.from_pretrained(folder, "checkpoint_best.pt", segment_size=None, segment_schedule="content")
    assert hub.models[0].decoder.settings.segment_size == 16  # of the _content architectures


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_len": 9}, "generate has 'max_len', which fairseq-generate does not know; did you mean 'max_len_b'?"),
        ({"beam": 0}, "generate: 'beam' must be from 1 to 1,000, got 0"),
        ({"lenpen": float("nan")}, "generate: 'lenpen' must be from -10 to 10, got nan"),
        ({"beam": "4"}, "generate: 'beam' must be of type int"),
    ],
)
def test_a_search_that_cannot_be_is_refused_by_its_setting(hub, settings, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        hub.sample(TEXTS[0], **settings)


def test_what_is_no_text_is_named(hub):
    with pytest.raises(ConfigurationError, match="sample: text 1 is None, which is no str"):
        hub.sample([TEXTS[0], None])
    with pytest.raises(ConfigurationError, match="sample: a list of texts is needed, got None"):
        hub.sample(None)
    with pytest.raises(ConfigurationError, match="score, targets: text 0 is None"):
        hub.score(TEXTS[:1], [None])
    with pytest.raises(ConfigurationError, match="score: a list of texts is needed, got 'The"):
        hub.score("The mayor", ["The mayor"])
