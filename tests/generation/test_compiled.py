"""Compiled steps against the definition, on small random networks."""

import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from gesso.diffusion.loop import Reader, read
from gesso.generation.compiled import compiled_reader
from gesso.generation.denoiser import NetworkDenoiser
from gesso.generation.model import DiffusionGemma, load
from gesso.model.network import Network

VOCAB, L = 96, 5
needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("g++", "clang++", "c++")),
    reason="compiling needs a C++ compiler",
)


def denoiser(network: Network, *, columns: int, rows: int = 1) -> NetworkDenoiser:
    cache = network.new_cache(batch_size=rows)
    ids = torch.arange(rows * columns).view(rows, columns) % VOCAB
    network.encode(ids, cache=cache)
    return NetworkDenoiser(network, cache, torch.arange(columns, columns + L).expand(rows, L))


def looks(network: Network) -> Iterator[tuple[NetworkDenoiser, Tensor, Tensor | None, float]]:
    """Below, at and above the window of 6; with and without soft embedding; two temperatures."""
    generator = torch.Generator().manual_seed(3)
    for columns in (2, 5, 6, 7, 19):
        tokens = torch.randint(VOCAB, (1, L), generator=generator)
        seen = denoiser(network, columns=columns)
        yield seen, tokens, None, 0.8
        yield seen, tokens, read(seen, tokens, None, 0.8).soft, 0.45


@needs_compiler
@torch.inference_mode()
def test_one_graph_for_all_lengths_and_one_for_each_network(
    dg: DiffusionGemma, make_network: Callable[..., Network]
) -> None:
    """And the answers of the definition. One test, for a graph takes half a minute."""
    networks = [dg.network, make_network(vision=False, seed=1)]
    readers: list[Reader] = [compiled_reader(network) for network in networks]
    for network, reader in zip(networks, readers, strict=True):
        reader(*next(looks(network)))
        with torch.compiler.set_stance("fail_on_recompile"):
            found = [reader(*look) for look in looks(network)]
        for look, got in zip(looks(network), found, strict=True):
            want = read(*look)
            torch.testing.assert_close(got.belief.probabilities, want.belief.probabilities)
            torch.testing.assert_close(got.belief.entropy, want.belief.entropy, atol=1e-5, rtol=0)
            assert torch.equal(got.belief.argmax, want.belief.argmax)
            torch.testing.assert_close(got.soft, want.soft, atol=1e-5, rtol=1e-5)
    # The second network's graph did not take the first one's place.
    fast = DiffusionGemma(dg.network, dg.processor, dg.generation, reader=readers[0])
    with torch.compiler.set_stance("fail_on_recompile"):
        for seed, prompt in enumerate(("A short one.", "One that is longer than the window is.")):
            keys = dict(seed=seed, max_new_tokens=12)
            want, got = dg.generate(prompt, **keys), fast.generate(prompt, **keys)
            assert (got.token_ids, got.stats.steps) == (want.token_ids, want.stats.steps)


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "/no/such/compiler"))
    with pytest.raises(ValueError, match=r"no C\+\+ compiler was found; install one"):
        load("tiny", device="cpu", compile=True)


def test_only_on_a_cpu() -> None:
    with pytest.raises(ValueError, match="only for the CPU so far, and the device is meta"):
        load("tiny", device="meta", compile=True)
