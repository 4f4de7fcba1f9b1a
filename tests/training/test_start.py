"""What a recipe may ask of its base, and what of it a run changes before the first step."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gesso.checkpoint import convert_checkpoint, load_network, read_config, resolve
from gesso.model.quantize import is_quantized
from gesso.processor import Processor
from gesso.training.config import OptimizerConfig
from gesso.training.start import check_tokenizer, fingerprint, sample, shape_of, skeleton, start
from recipes import lora, tiny

SHAPE = read_config(resolve("tiny"))


def test_a_base_in_few_bits(tmp_path: Path) -> None:
    convert_checkpoint(resolve("tiny"), tmp_path / "few", quantize="fp8")
    config = replace(lora.recipe(), base=str(tmp_path / "few"))
    network = start(config).network
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
    config = replace(tiny.recipe(), base="tiny", model=replace(SHAPE, canvas_length=16))
    assert start(config).network.config.canvas_length == 16
    assert skeleton(config).config.canvas_length == 16


@pytest.mark.parametrize("other", [
    dict(text=replace(SHAPE.text, hidden_size=64)),
    dict(vision=None),
    dict(eos_token_ids=(7,)),
], ids=lambda other: next(iter(other)))  # fmt: skip
def test_a_base_of_another_shape(other: dict) -> None:
    config = replace(tiny.recipe(), base="tiny", model=replace(SHAPE, **other))
    with pytest.raises(ValueError, match=rf"that the recipe's model says \({next(iter(other))}\)"):
        start(config)


def test_a_base_is_known_by_what_it_holds() -> None:
    """In whatever dtype and form; another one of the same shape is another."""
    config = lora.recipe()
    one = start(config).base
    assert one is not None
    held = load_network(resolve("tiny"), dtype=torch.float32).state_dict()
    assert one == fingerprint({name: sample(tensor) for name, tensor in held.items()})
    assert one == start(replace(config, dtype="bfloat16", quantize="nvfp4")).base
    assert one != start(replace(config, base="infill")).base
    assert start(replace(config, base=None, lora=None, model=shape_of(config))).base is None


def test_every_tensor_of_a_base_counts() -> None:
    network = load_network(resolve("tiny"), dtype=torch.float32)
    tensors = network.state_dict()

    def known() -> str:
        return fingerprint({name: sample(tensor) for name, tensor in tensors.items()})

    seen = {known()}
    for tensor in tensors.values():
        tensor += 1
        seen.add(known())
    assert len(seen) == 1 + len(tensors)


def test_a_tokenizer_of_something_else() -> None:
    config = lora.recipe()
    own, other = (Processor.load(resolve(name)) for name in ("tiny", "infill"))
    shape = shape_of(config)
    check_tokenizer(config, own, shape)
    with pytest.raises(ValueError, match="has ids up to 3,071, and the network 2,560"):
        check_tokenizer(config, other, shape)
    large = replace(shape, text=replace(shape.text, vocab_size=4096))
    with pytest.raises(ValueError, match=r"infill has other tokens than the base .*tiny; give"):
        check_tokenizer(replace(config, processor="infill"), other, large)


@pytest.mark.parametrize(("keys", "said"), [
    (dict(clip=0.0), "clip: got 0.0; expected a number above 0"),
    (dict(lr="1e-3"), "lr: got '1e-3'; expected a number"),
    (dict(ema_decay=1.0), "ema_decay: got 1.0; expected 0 or more, below 1"),
    (dict(warmup_steps=-1), "warmup_steps: got -1"),
    (dict(betas=(0.9, 2.0)), r"betas\[1\]: got 2.0"),
])  # fmt: skip
def test_what_an_optimizer_cannot_be(keys: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        OptimizerConfig(**keys)


def test_a_seed_that_noise_cannot_be_drawn_from() -> None:
    with pytest.raises(ValueError, match="seed: got 9000000000000; expected between 0 and"):
        replace(lora.recipe(), seed=9 * 10**12)
