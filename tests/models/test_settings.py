"""The settings of a model."""

import pytest

from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.errors import ConfigurationError
from srformer_plugin.optim.memory_parameters import is_of_memory


@pytest.mark.parametrize("arch", ["srformer_bart_tiny", "srformer_t5_tiny"])
def test_settings_are_checked_once_a_model_and_shared_by_its_layers(arch, build_model, monkeypatch):
    checked = []
    check = SegmentSettings.check
    monkeypatch.setattr(SegmentSettings, "check", lambda self: checked.append(self) or check(self))
    decoder = build_model(arch, decoder_layers=3).decoder
    assert len(checked) == 1
    assert len(decoder.layers) == 3 and all(layer.settings is decoder.settings for layer in decoder.layers)


def test_a_model_of_settings_that_cannot_work_is_not_built(build_model):
    with pytest.raises(ConfigurationError, match="--raf-leak must be in"):
        build_model(raf_leak=1.5)


@pytest.mark.parametrize("arch", ["srformer_bart_tiny", "srformer_t5_tiny", "srformer_led_tiny"])
def test_a_memorys_own_parameters_are_marked_and_stay_so_in_half_precision(arch, build_model):
    model = build_model(arch, cross_attention="srformer", memory_gate=True).bfloat16()
    marked = {name for name, p in model.named_parameters() if is_of_memory(p)}
    assert marked == {name for name, _ in model.named_parameters() if ".memory." in name} != set()
