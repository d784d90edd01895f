"""What the host reads from the device in a training step, and when: the decoder would wait for all of the encoder."""

import pytest
import torch

from srformer_plugin.models.segmented_decoder import TargetPadding

READS = {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero"}


@pytest.mark.parametrize("arch", ["srformer_bart_tiny", "srformer_t5_tiny"])
@pytest.mark.parametrize("lengths", [[7, 3], [5, 5]])
def test_nothing_is_read_between_encoder_and_loss(build_model, make_sample, monkeypatch, arch, lengths):
    """On a GPU; how the kernels of a processor choose their way is another matter."""
    model = build_model(arch, cross_attention="full").train()
    sample = make_sample(lengths)
    targets = make_sample(lengths, left_pad=False)["net_input"]["src_tokens"]
    encoder_out = model.encoder(**sample["net_input"])
    with model.decoder.padding_known(targets), torch.profiler.profile() as profile:
        # its `tolist` leaves no trace in a profile of the processor
        monkeypatch.setattr(TargetPadding, "read", lambda padding: pytest.fail("read again"))
        model.decoder(targets, encoder_out=encoder_out)
    assert not READS & {event.name for event in profile.events()}


@pytest.mark.parametrize("lengths", [[7, 3], [5, 5]])
@pytest.mark.parametrize("training", [True, False])
def test_the_encoder_reads_before_its_first_layer_and_not_behind(build_model, make_sample, lengths, training):
    """fairseq asks before every layer whether there is padding, which waits for the layer before."""
    encoder = build_model("srformer_bart_tiny", encoder_layers=3).train(training).encoder
    first = encoder.layers[0].forward

    def begin(*args, **kwargs):
        profile.start()
        return first(*args, **kwargs)

    encoder.layers[0].forward, profile = begin, torch.profiler.profile()
    encoder(**make_sample(lengths)["net_input"])
    profile.stop()
    assert not READS & {event.name for event in profile.events()}


@pytest.mark.parametrize("left_pad", [False, True])
def test_what_is_known_is_what_would_be_read(build_model, make_sample, left_pad):
    model = build_model("srformer_bart_tiny").train()
    sample = make_sample([7, 3])
    targets = make_sample([6, 4], left_pad=left_pad)["net_input"]["src_tokens"]
    through_model = model(**sample["net_input"], prev_output_tokens=targets)[0]
    decoded = model.decoder(targets, encoder_out=model.encoder(**sample["net_input"]))[0]
    assert torch.equal(through_model, decoded)
    other = targets.flip(1)
    with model.decoder.padding_known(targets):
        assert model.decoder.target_padding(targets) == (True, left_pad)
        assert model.decoder.target_padding(other) == (True, not left_pad)  # of other targets nothing is known
    assert model.decoder._known == (None, None)
