"""`srformer-convert change-attention`, and `from_pretrained` with other settings: the same weights, read otherwise."""

import io
import pickle
import re
from argparse import Namespace

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from models.conftest import StubTask, build_model, make_sample

from srformer_plugin import summarize
from srformer_plugin.convert import cli
from srformer_plugin.errors import ConfigurationError
from srformer_plugin.models.checkpoint_file import load, write_checkpoint
from srformer_plugin.models.encoders.chunked import ANY_LENGTH
from srformer_plugin.models.schedule_record import decode_schedule
from srformer_plugin.models.srformer_bart import SRformerBARTModel
from srformer_plugin.models.srformer_t5 import SRformerT5Model

# fairseq hands NumPy a tensor of lengths
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

SIZES = {
    "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 48, "encoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_embed_dim": 32, "decoder_ffn_embed_dim": 48, "decoder_layers": 2, "decoder_attention_heads": 2,
    "decoder_input_dim": 32, "decoder_output_dim": 32, "dropout": 0.0, "max_source_positions": 64,
    "max_target_positions": 64,
}  # fmt: skip
CONTENT = ("--segment-schedule", "content")
LENGTHS = [12, 40, 7]  # the second has more segments than are chosen


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints of a stock BART, a clock's SRformer-BART and a T5 with full attention, and their dictionaries."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for side in ("source", "target"):
        StubTask().source_dictionary.save(str(folder / f"dict.{side}.txt"))
    kinds = {"bart": ("bart_base", {}), "t5": ("srformer_t5_tiny", {"cross_attention": "full"})}
    kinds["clock"] = ("srformer_bart_tiny", {"expected_target_length": 9})
    for name, (arch, options) in kinds.items():
        options = {**SIZES, **options}
        write_checkpoint(folder / f"{name}.pt", arch, options, build_model(arch, **options).state_dict())
    # as fairseq wrote them before it had a configuration: what people have of bart.large.cnn
    content = torch.load(folder / "bart.pt", weights_only=False)
    args, kept = content["cfg"]["model"], ("model", "optimizer_history", "extra_state", "last_optimizer_state")
    torch.save({"args": args, **{name: content[name] for name in kept}}, folder / "old.pt")
    return folder


def restored(path):
    """The model of a checkpoint file, as fairseq-generate loads it."""
    content = load(path)
    args = content["cfg"]["model"]
    ARCH_CONFIG_REGISTRY[args.arch](args)
    model = ARCH_MODEL_REGISTRY[args.arch].build_model(args, StubTask())
    model.load_state_dict(content["model"], strict=True, model_cfg=args)
    return model.eval()


@torch.no_grad()
def logits(model):
    sample = make_sample(LENGTHS)["net_input"]
    previous = torch.randint(4, 20, (len(LENGTHS), 9), generator=torch.Generator().manual_seed(1))
    return model(**sample, prev_output_tokens=previous)[0]


def change(*arguments):
    return cli.main(["change-attention", *map(str, arguments)])


@pytest.mark.parametrize("name", ["bart", "old", "t5"])
def test_where_all_segments_are_chosen_nothing_changes(folder, tmp_path, name):
    out = tmp_path / "new" / "content.pt"
    assert not change(folder / f"{name}.pt", out, *CONTENT, "--segment-size", 4, "--segments-per-query", 3)
    before, after = logits(restored(folder / f"{name}.pt")), logits(restored(out))
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]], rtol=0, atol=1e-4)
    assert not torch.allclose(after[1], before[1], atol=1e-2)
    record = decode_schedule(load(out)["model"]["decoder.segment_schedule"])
    assert record == {
        "segment_size": 4,
        "segment_schedule": "content",
        "expected_target_length": None,
        "segments_per_query": 3,
        "segment_score": "mean",
    }


def test_what_is_left_open_is_that_of_the_content_architectures(folder, tmp_path):
    change(folder / "clock.pt", tmp_path / "content.pt", *CONTENT, "--cross-attention", "pooled")
    settings = restored(tmp_path / "content.pt").decoder.settings
    assert (settings.cross_attention, settings.segment_size, settings.segments_per_query) == ("pooled", 16, 8)
    change(tmp_path / "content.pt", tmp_path / "four.pt", "--segments-per-query", 4, "--segment-size", 8)
    change(tmp_path / "four.pt", tmp_path / "again.pt", "--cross-attention", "segmented")
    settings = restored(tmp_path / "again.pt").decoder.settings
    assert (settings.cross_attention, settings.segment_size, settings.segments_per_query) == ("segmented", 8, 4)


def test_a_memory_stays_with_its_kind_and_leaves_with_another(folder, tmp_path):
    change(folder / "clock.pt", tmp_path / "memory.pt", *CONTENT, "--cross-attention", "srformer")
    before, after = load(folder / "clock.pt")["model"], load(tmp_path / "memory.pt")["model"]
    name = "decoder.layers.1.encoder_attn.memory.proj.weight"
    assert torch.equal(before[name], after[name])
    assert restored(tmp_path / "memory.pt").decoder.settings.expected_target_length == 9
    change(folder / "clock.pt", tmp_path / "without.pt", "--cross-attention", "previous")
    assert not any("memory" in key for key in load(tmp_path / "without.pt")["model"])
    change(folder / "clock.pt", tmp_path / "full.pt", "--cross-attention", "full")
    assert logits(restored(tmp_path / "full.pt")).isfinite().all()


@pytest.mark.parametrize("name", ["bart", "t5", "clock"])
def test_heads_get_strides_and_lose_them(folder, tmp_path, name):
    kind = ["--cross-attention", "hepos"] if name == "clock" else []  # what has no segments needs no other word
    assert not change(folder / f"{name}.pt", tmp_path / "hepos.pt", *kind, "--head-stride", 2)
    model = restored(tmp_path / "hepos.pt")
    assert (model.decoder.settings.cross_attention, model.decoder.settings.head_stride) == ("hepos", 2)
    assert not any("memory" in key for key in model.state_dict())
    change(tmp_path / "hepos.pt", tmp_path / "one.pt", "--head-stride", 1)
    change(tmp_path / "hepos.pt", tmp_path / "full.pt", "--cross-attention", "full")
    all_read = [logits(restored(tmp_path / f"{one}.pt")) for one in ("one", "full")]
    torch.testing.assert_close(*all_read, rtol=0, atol=1e-4)
    assert not torch.allclose(logits(model), all_read[0], atol=1e-2)
    change(tmp_path / "hepos.pt", tmp_path / "content.pt", *CONTENT)
    settings = restored(tmp_path / "content.pt").decoder.settings
    assert (settings.cross_attention, settings.segment_size, settings.by_content) == ("segmented", 16, True)


@pytest.mark.parametrize(("name", "model"), [("bart", SRformerBARTModel), ("t5", SRformerT5Model)])
def test_from_pretrained_takes_the_same_settings(folder, tmp_path, name, model):
    changes = {"segment_schedule": "content", "segment_size": 4, "segments_per_query": 2}
    change(folder / f"{name}.pt", tmp_path / "content.pt", *CONTENT, "--segment-size", 4, "--segments-per-query", 2)
    hub = model.from_pretrained(folder, f"{name}.pt", **changes)
    torch.testing.assert_close(logits(hub.models[0]), logits(restored(tmp_path / "content.pt")))
    if name == "bart":
        assert hub.prepend_bos  # as fairseq's own interface for a stock BART does
    assert hub.sample(["w1 w2 w3 w4 w5"], beam=2, max_len_b=5)


def test_training_starts_from_it(folder, tmp_path):
    """Like from a converted checkpoint: without the state of an optimizer."""
    change(folder / "clock.pt", tmp_path / "content.pt", *CONTENT, "--cross-attention", "segmented")
    content = checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "content.pt"))
    assert content["last_optimizer_state"] is None
    assert content["extra_state"]["train_iterator"]["epoch"] == 1
    assert content["cfg"]["task"]["_name"] == "translation"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("bart", [], "nothing is to be changed"),
        ("bart", ["--cross-attention", "srformer"], "--expected-target-length is needed"),
        ("clock", [*CONTENT, "--cross-attention", "previous"], "--cross-attention previous"),
        ("clock", ["--segments-per-query", 0], "--segments-per-query must be at least 1"),
        ("bart", ["--head-stride", 4], "--head-stride 4 does not divide --decoder-attention-heads 2"),
        ("bart", ["--max-source-positions", 0], "--max-source-positions must be at least 1, got 0"),
        ("dict.source", ["--segment-size", 4], "is no fairseq checkpoint: it is a file of another kind"),
        ("transformer", ["--segment-size", 4], "'transformer': attention can be changed in bart, srformer_bart"),
    ],
)
def test_what_cannot_be_is_refused_by_name(folder, tmp_path, capsys, name, arguments, message):
    source = folder / f"{name}.txt" if name == "dict.source" else folder / f"{name}.pt"
    if name == "transformer":
        source = tmp_path / "transformer.pt"
        write_checkpoint(source, "transformer", {}, {})
    assert change(source, tmp_path / "out.pt", *arguments)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.pt").exists()


def test_no_file_is_replaced_unasked_and_the_checkpoint_never(folder, tmp_path, capsys):
    (tmp_path / "there.pt").write_text("x")
    arguments = CONTENT
    assert change(folder / "bart.pt", tmp_path / "there.pt", *arguments)
    assert change(folder / "bart.pt", folder / "bart.pt", *arguments, "--force")
    assert change(folder / "bart.pt", tmp_path, *arguments)
    errors = capsys.readouterr().err
    assert "--force replaces it" in errors and "is the checkpoint itself" in errors and "is a folder" in errors
    assert (tmp_path / "there.pt").read_text() == "x"
    assert not change(folder / "bart.pt", tmp_path / "there.pt", *arguments, "--force")
    assert load(tmp_path / "there.pt")


CHUNKS = ("--encoder-attention", "chunked", "--encoder-context", 2)


@pytest.mark.parametrize("name", ["bart", "old", "t5", "clock"])
def test_an_encoder_for_any_length_takes_weights_and_cross_attention_as_they_are(folder, tmp_path, name):
    change(folder / f"{name}.pt", tmp_path / "chunked.pt", *CHUNKS, "--encoder-chunk", 60)
    changed = restored(tmp_path / "chunked.pt")
    assert torch.equal(logits(changed), logits(restored(folder / f"{name}.pt")))  # sources of one row
    before, content = load(folder / f"{name}.pt"), load(tmp_path / "chunked.pt")
    assert {key: value.tolist() for key, value in content["model"].items()} == {
        key: value.tolist() for key, value in before["model"].items()
    }
    assert content["cfg"]["model"].max_source_positions == content["cfg"]["task"].max_source_positions == ANY_LENGTH
    assert changed.max_positions() == (ANY_LENGTH, 64)
    with torch.no_grad():
        assert changed.encoder(make_sample([200])["net_input"]["src_tokens"])["encoder_out"][0].isfinite().all()


def test_the_way_back_has_the_checkpoints_positions(folder, tmp_path):
    change(folder / "bart.pt", tmp_path / "chunked.pt", *CHUNKS)
    settings = load(tmp_path / "chunked.pt")["cfg"]["model"]
    assert (settings.encoder_chunk, settings.encoder_positions) == (60, 64)  # what the checkpoint has
    change(tmp_path / "chunked.pt", tmp_path / "wider.pt", "--encoder-context", 4)
    assert load(tmp_path / "wider.pt")["cfg"]["model"].encoder_chunk == 56
    change(tmp_path / "wider.pt", tmp_path / "full.pt", "--encoder-attention", "full")
    stored = load(tmp_path / "full.pt")["cfg"]
    assert stored["model"].max_source_positions == stored["task"].max_source_positions == 64
    assert torch.equal(logits(restored(tmp_path / "full.pt")), logits(restored(folder / "bart.pt")))


@pytest.mark.parametrize(("name", "model"), [("bart", SRformerBARTModel), ("t5", SRformerT5Model)])
def test_from_pretrained_reads_any_length(folder, tmp_path, name, model):
    changes = {"encoder_attention": "chunked", "encoder_context": 2, "encoder_chunk": 12}
    text = " ".join(f"w{number % 20}" for number in range(300))
    length = 302 if name == "bart" else 301  # <s> and </s>, or </s>
    hub = model.from_pretrained(folder, f"{name}.pt", **changes)
    assert len(hub.encode(text)) == length
    assert hub.sample([text, "w1 w2"], beam=2, max_len_b=5)
    change(folder / f"{name}.pt", tmp_path / "chunked.pt", *CHUNKS, "--encoder-chunk", 12)
    hub = model.from_pretrained(tmp_path, "chunked.pt", folder)
    assert len(hub.encode(text)) == length
    # a limit that is asked for is kept
    hub = model.from_pretrained(folder, f"{name}.pt", max_source_positions=100, **changes)
    assert len(hub.encode(text)) == 100
    assert hub.sample([text], beam=2, max_len_b=5)


def test_hugging_face_has_no_chunks(folder, tmp_path, capsys):
    change(folder / "bart.pt", tmp_path / "chunked.pt", *CHUNKS)
    assert cli.main(["fairseq-to-hf", str(tmp_path / "chunked.pt"), str(tmp_path / "hf")])
    assert "--encoder-attention chunked, which Hugging Face" in capsys.readouterr().err
    assert not (tmp_path / "hf").exists()


def test_windows_need_as_many_positions_as_a_source_has(folder, tmp_path):
    window = ("--encoder-attention", "window", "--encoder-window", 100)
    change(folder / "bart.pt", tmp_path / "window.pt", *window, "--max-source-positions", 200)
    changed = restored(tmp_path / "window.pt")
    torch.testing.assert_close(logits(changed), logits(restored(folder / "bart.pt")), rtol=0, atol=1e-4)
    assert changed.max_positions() == (200, 64)
    assert load(tmp_path / "window.pt")["cfg"]["task"].max_source_positions == 200
    hub = SRformerBARTModel.from_pretrained(tmp_path, "window.pt", folder)
    assert len(hub.encode("w1 " * 300)) == 200
    # back, without the global tokens' projections of a model that was saved
    content = load(tmp_path / "window.pt")
    torch.save({**content, "model": changed.state_dict()}, tmp_path / "saved.pt")
    change(tmp_path / "saved.pt", tmp_path / "full.pt", "--encoder-attention", "full")
    assert torch.equal(logits(restored(tmp_path / "full.pt")), logits(restored(folder / "bart.pt")))


def _of_torch(content):
    written = io.BytesIO()
    torch.save(content, written)
    return written.getvalue()


@pytest.mark.parametrize(("count", "all_of_it"), [(100_000, True), (4, True), (3, False)])
def test_so_many_segments_that_all_are_chosen_are_one_line(folder, tmp_path, caplog, count, all_of_it):
    change(folder / "bart.pt", tmp_path / "content.pt", *CONTENT, "--segments-per-query", count)
    line = f"--segments-per-query {count} of --segment-size 16 are all of a source, which has at most 64 tokens"
    assert caplog.text.count(line) == all_of_it
    SRformerBARTModel.from_pretrained(tmp_path, "content.pt", folder)
    assert caplog.text.count(line) == 2 * all_of_it


OTHERS = {
    "one byte": (b"x", "it is a file of another kind"),
    "text": (b"# A title\n\nMore.\n" * 99, "it is a file of another kind"),
    "sentencepiece.model": (b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02", "it is a file of another kind"),
    "pickle": (pickle.dumps({"model": 1}), "it is a file of another kind"),
    "nothing": (b"", "it is empty, or its end is missing"),
    "half": (_of_torch({"model": torch.zeros(999)})[:2000], "it is damaged or cut off"),
    "20 kB of 40": (_of_torch({"model": torch.zeros(9999)})[:20_000], "it is damaged or cut off"),
    "dictionary": (_of_torch({"weight": 1}), "it holds no model with its options"),
    "options alone": (
        _of_torch({"cfg": None, "args": Namespace(arch="srformer_bart")}),
        "it holds no model with its options",
    ),
    "list": (_of_torch([1]), "it holds no model with its options"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_that_is_no_checkpoint_is_called_that_by_everyone_who_reads_one(folder, tmp_path, capsys, name):
    content, reason = OTHERS[name]
    file = tmp_path / "file.pt"
    file.write_bytes(content)
    message = f"{file} is no fairseq checkpoint: {reason}"
    assert change(file, tmp_path / "out.pt", *CONTENT) == 2
    assert message in capsys.readouterr().err
    readers = [
        lambda: SRformerBARTModel.from_pretrained(tmp_path, "file.pt", folder),
        lambda: SRformerBARTModel.from_pretrained(tmp_path, "file.pt", folder, segment_schedule="content"),
        lambda: summarize.load(file, data=folder),
        lambda: checkpoint_utils.load_model_ensemble_and_task([str(file)]),  # of fairseq's commands
    ]
    for read in readers:
        with pytest.raises(ConfigurationError, match=re.escape(message)):
            read()
