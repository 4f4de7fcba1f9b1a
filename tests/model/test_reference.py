"""Parity with what transformers recorded, tensor by tensor, in float32."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gesso.cache import KVCache
from gesso.checkpoint import load_network
from gesso.model.network import Network

# Two float32 computations in a different order of sums: transformers' own two attention paths
# differ by 4.5e-6 on this checkpoint.
TOLERANCE = 1e-5

FOLDER = Path(__file__).parents[1] / "fixtures" / "reference"
RECORDED = load_file(FOLDER / "reference.safetensors")
CASES = [
    name
    for name, case in json.loads((FOLDER / "reference.json").read_text())["cases"].items()
    if not case.get("generation")
]


@pytest.fixture(scope="module", params=["config.json", "config_real_style.json"])
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Network:
    """The recorded checkpoint, described in either spelling of config.json."""
    folder = tmp_path_factory.mktemp("reference")
    shutil.copyfile(FOLDER / "model.safetensors", folder / "model.safetensors")
    shutil.copyfile(FOLDER / request.param, folder / "config.json")
    return load_network(folder).eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def as_at_inference() -> Iterator[None]:
    """Without gradients, as answers are made: norms and experts have a path of their own there."""
    with torch.no_grad():
        yield


class Case:
    """The tensors of one case; remembers which were read."""

    def __init__(self, name: str) -> None:
        self.tensors = {
            key.removeprefix(f"{name}/"): value
            for key, value in RECORDED.items()
            if key.startswith(f"{name}/")
        }
        self.unread = set(self.tensors)

    def __getitem__(self, name: str) -> Tensor:
        self.unread.discard(name)
        return self.tensors[name]

    def agrees(self, name: str, ours: Tensor, *, real: Tensor | None = None) -> None:
        """real: where a column is not padding; padding is any number, but a number."""
        theirs = self[name]
        assert ours.shape == theirs.shape, name
        assert ours.isfinite().all(), name
        difference = (ours - theirs).abs()
        if real is not None:
            difference = difference * real
        assert difference.max() <= TOLERANCE, f"{name}: {difference.max():.2e}"

    def agrees_cache(self, tag: str, cache: KVCache) -> None:
        for index in range(cache.config.num_layers):
            keys, values = cache.layer(index)
            kept = keys.shape[2]
            real = None if cache.mask is None else cache.mask[:, None, -kept:, None]
            self.agrees(f"{tag}.k{index}", keys, real=real)
            self.agrees(f"{tag}.v{index}", values, real=real)


@pytest.mark.parametrize("name", CASES)
def test_every_recorded_tensor(network: Network, name: str) -> None:
    case = Case(name)
    images = soft_tokens(network, case) if "pixel_values" in case.tensors else None
    ids, mask = case["input_ids"], case["attention_mask"].bool()

    cache = network.new_cache(batch_size=len(ids))
    hidden = network.encode(ids, cache=cache, mask=mask, images=images)
    case.agrees("encoder_hidden", hidden, real=mask[..., None])
    case.agrees_cache("prefill", cache)

    soft = network.soft_embed(case["sc_logits"])
    case.agrees("logits_step0", network.denoise(case["canvas"], cache=cache))
    case.agrees("logits_step1", network.denoise(case["canvas1"], cache=cache, soft=soft))

    hidden = network.encode(case["block"], cache=cache)
    case.agrees("encoder_hidden_block", hidden)
    case.agrees_cache("commit", cache)
    case.agrees("logits_next", network.denoise(case["canvas"], cache=cache, soft=soft))
    assert not case.unread


def soft_tokens(network: Network, case: Case) -> Tensor:
    """The tower one image at a time, without the padding that the recorded batch has."""
    assert network.vision is not None
    assert network.projector is not None
    pooled = []
    for pixels, positions in zip(case["pixel_values"], case["image_position_ids"], strict=True):
        real = positions[:, 0] >= 0
        pooled.append(network.vision(pixels[real], positions[real]))
    case.agrees("vision_last_hidden", torch.cat(pooled))
    images = network.projector(torch.cat(pooled))
    case.agrees("image_features", images)
    # Where the images stand is not handed in here: it follows from the ids.
    is_image = case["input_ids"] == network.config.image_token_id
    assert torch.equal(is_image.long(), case["mm_token_type_ids"])
    return images
