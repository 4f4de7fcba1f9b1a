"""A small random network with the tiny tokenizer: it writes nonsense, but by all the rules."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from gesso.config import GenerationConfig
from gesso.generation.model import DiffusionGemma
from gesso.model.network import Network
from gesso.processor import Processor

TINY = Path(str(resources.files("gesso") / "assets" / "tiny"))


@pytest.fixture(scope="session")
def processor() -> Processor:
    return Processor.load(TINY)


@pytest.fixture
def dg(make_network: Callable[..., Network], processor: Processor) -> DiffusionGemma:
    """Canvas of 5, window of 6, context of 512."""
    generation = GenerationConfig(max_denoising_steps=3, eos_token_ids=(1, 16))
    return DiffusionGemma(make_network(vocab_size=2560, vision=False), processor, generation)
