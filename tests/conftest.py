"""What tests of several folders share: the recorded reference, and small random networks."""

import os

# torch asks at import: sums in one order on every machine. With wider vectors a recorded tensor
# that is 1.6e-5 off double precision itself is 1.2e-5 away from ours (docs/numerics.md).
os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")

from collections.abc import Callable, Iterator
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch

from gesso.config import ModelConfig
from gesso.generation.model import DiffusionGemma
from gesso.generation_config import GenerationConfig
from gesso.model.network import Network
from gesso.processor import Processor
from tests.triton_interpreter import hasten, mend

# Test processes share the cores, and so do what they start: threads that wait for one another would
# spend the time spinning.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
# Triton decides at import whether it interprets its kernels, so this comes before any of them.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

REFERENCE = Path(__file__).parent / "fixtures" / "reference"
TINY = Path(str(resources.files("gesso") / "assets" / "tiny"))

TEXT = dict(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    num_global_key_value_heads=1,
    global_head_dim=16,
    num_experts=6,
    top_k_experts=2,
    moe_intermediate_size=16,
    layer_types=["sliding_attention", "full_attention", "full_attention"],
    sliding_window=6,
    max_position_embeddings=512,
    rope_parameters=dict(
        sliding_attention=dict(rope_type="default", rope_theta=1e4),
        full_attention=dict(rope_type="proportional", rope_theta=1e6, partial_rotary_factor=0.25),
    ),
)
VISION = dict(
    model_type="gemma4_vision",
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=12,
    patch_size=4,
    pooling_kernel_size=2,
    position_embedding_size=32,
    rope_parameters=dict(rope_type="default", rope_theta=100.0),
    standardize=True,
)


@pytest.fixture(scope="session")
def reference() -> Path:
    """A tiny random checkpoint with inputs and outputs that transformers recorded for it."""
    return REFERENCE


@pytest.fixture
def raw_config() -> Callable[..., dict[str, Any]]:
    """Makes the object of a small config.json; keywords replace keys of its text part."""

    def make(*, vision: bool = True, **text: Any) -> dict[str, Any]:
        return dict(
            model_type="diffusion_gemma",
            dtype="float32",
            canvas_length=5,
            image_token_id=90,
            boi_token_id=91,
            eoi_token_id=92,
            eos_token_id=[1, 3],
            text_config=deepcopy(TEXT) | text,
            vision_config=deepcopy(VISION) if vision else None,
        )

    return make


@pytest.fixture
def make_network(raw_config: Callable[..., dict[str, Any]]) -> Callable[..., Network]:
    """Makes a small network in which every tensor is random, norms and scalars too."""

    def make(*, seed: int = 0, **keys: Any) -> Network:
        network = Network(ModelConfig.parse(raw_config(**keys))).eval().requires_grad_(False)
        randomise(network, seed)
        return network

    return make


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where Triton's kernels run: a GPU, or without one the CPU, interpreted."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    mend()
    hasten()
    return torch.device("cpu")


@pytest.fixture(scope="session")
def processor() -> Processor:
    return Processor.load(TINY)


@pytest.fixture
def dg(make_network: Callable[..., Network], processor: Processor) -> DiffusionGemma:
    """Canvas of 5, window of 6, context of 512, a layer of each kind. It writes
    nonsense, but by all the rules."""
    generation = GenerationConfig(max_denoising_steps=3, eos_token_ids=(1, 16))
    kinds = ["sliding_attention", "full_attention"]
    network = make_network(vocab_size=2560, vision=False, num_hidden_layers=2, layer_types=kinds)
    return DiffusionGemma(network, processor, generation)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """torch.empty gives NaN."""
    # Only warned about: on a GPU some references have no deterministic way.
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        assert torch.empty(64).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def randomise(network: Network, seed: int) -> None:
    """So small that rounding does not grow from layer to layer, so uneven that nothing is neutral:
    a factor that is forgotten, or taken from the wrong mode, shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        mean, deviation = 0.0, 0.15
        if "norm" in name or name.endswith("per_expert_scale"):
            mean, deviation = 0.8, 0.2
        elif name.endswith("_scalar"):
            mean, deviation = 0.7, 0.15
        elif name.endswith(("router.scale", "std_scale")):
            mean, deviation = 2.0, 0.5
        tensor.copy_(mean + deviation * torch.randn(tensor.shape, generator=generator))
