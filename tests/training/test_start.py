"""A base that is in few bits on disk: an adapter is trained on it, and it itself is not."""

from dataclasses import replace
from pathlib import Path

import pytest

from gesso.checkpoint import convert_checkpoint, resolve
from gesso.model.quantize import is_quantized
from gesso.training.start import start
from recipes import lora


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
