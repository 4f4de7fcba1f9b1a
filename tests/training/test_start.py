"""What a recipe may ask of its base, and what of it a run changes before the first step."""

from dataclasses import replace
from pathlib import Path

import pytest

from gesso.checkpoint import convert_checkpoint, resolve
from gesso.model.quantize import is_quantized
from gesso.training.start import skeleton, start
from recipes import lora, tiny


def test_a_base_in_few_bits(tmp_path: Path) -> None:
    convert_checkpoint(resolve("tiny"), tmp_path / "few", quantize="fp8")
    config = replace(lora.recipe(), base=str(tmp_path / "few"))
    network = start(config)
    assert is_quantized(network)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.endswith(("_a", "_b")) for name in trained)
    with pytest.raises(ValueError, match=r"in few bits, which are not trained; set lora"):
        start(replace(config, lora=None))
    with pytest.raises(ValueError, match="in few bits already"):
        start(replace(config, quantize="nvfp4"))


def test_a_base_on_shorter_canvases() -> None:
    """The checkpoint of the run says what it has learned."""
    config = replace(
        tiny.recipe(), base="tiny", model=replace(tiny.model_config(), canvas_length=16)
    )
    assert start(config).config.canvas_length == skeleton(config).config.canvas_length == 16


@pytest.mark.parametrize("other", [
    dict(text=replace(tiny.model_config().text, hidden_size=64)),
    dict(vision=None),
    dict(eos_token_ids=(7,)),
], ids=lambda other: next(iter(other)))  # fmt: skip
def test_a_base_of_another_shape(other: dict) -> None:
    config = replace(tiny.recipe(), base="tiny", model=replace(tiny.model_config(), **other))
    with pytest.raises(ValueError, match=rf"that the recipe's model says \({next(iter(other))}\)"):
        start(config)
