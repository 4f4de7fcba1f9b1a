"""Whatever is wrong with a request is said before any work starts: what, what was got, the mend."""

import math
import threading

import pytest
import torch

from gesso.diffusion.stopping import NeverEarly, StableAndConfident
from gesso.generation.model import DiffusionGemma
from gesso.generation.request import Parameters, make_request
from gesso.generation_config import GenerationConfig

CONTEXT, L, VOCAB = 512, 5, 2560  # of the small network


@pytest.fixture(autouse=True)
def no_forward(dg: DiffusionGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that must not run."""

    def fail(*_args, **_keys):
        raise AssertionError("a forward ran")

    for name in ("encode", "denoise", "denoise_hidden", "new_cache"):
        monkeypatch.setattr(dg.network, name, fail)


BAD = [
    ("entropy_bound", 0, "above 0"),
    ("entropy_bound", -0.1, "above 0"),
    ("entropy_bound", math.nan, "above 0"),
    ("entropy_bound", math.inf, "finite"),
    ("entropy_bound", -math.inf, "above 0"),
    ("entropy_bound", "0.1", "number"),
    ("entropy_bound", True, "number"),
    ("seed", 1.0, "whole number"),
    ("seed", True, "whole number"),
    ("seed", None, "whole number"),
    ("seed", -1, "between 0 and 18446744073709551615"),
    ("seed", 2**64, "between 0 and 18446744073709551615"),
    ("seed", "7", "whole number"),
    ("max_new_tokens", 0, "at least 1"),
    ("max_new_tokens", -1, "at least 1"),
    ("max_new_tokens", 1.5, "whole number"),
    ("max_new_tokens", True, "whole number"),
    ("canvas_length", 0, "at least 1"),
    ("canvas_length", 2.0, "whole number"),
    ("canvas_length", L + 1, "learned canvases of 5"),
    ("max_denoising_steps", 0, "between 1 and 4096"),
    ("max_denoising_steps", 2.0, "whole number"),
    ("max_denoising_steps", 10**20, "between 1 and 4096"),
    ("stability", -1, "at least 0"),
    ("stability", 1.0, "whole number"),
    ("confidence", math.nan, "at least 0"),
    ("temperature_start", 0, "above 0"),
    ("temperature_start", math.nan, "above 0"),
    ("temperature_end", -0.5, "at least 0"),
    ("temperature_end", math.inf, "finite"),
    ("time_budget", 0, "above 0"),
    ("time_budget", -1.0, "above 0"),
    ("time_budget", math.nan, "above 0"),
    ("stop", "", "not empty"),
    ("stop", ["a", ""], "not empty"),
    ("stop", [3], "string"),
    ("stop", 3, "string"),
    ("stop", None, "string"),
    ("stop", [None], "string"),
    ("stop", b"ab", "string"),
    ("stop", (s for s in "ab"), "string"),  # would be empty at its second reading
    ("adaptive_stop", "no", "True or False"),
    ("verify", 1, "True or False"),
    ("adaptive_stop", None, "True or False"),
    ("ignore_stop_tokens", 0, "True or False"),
]


@pytest.mark.parametrize(("name", "value", "mend"), BAD, ids=lambda v: str(v)[:20])
def test_bad_parameters(dg: DiffusionGemma, name: str, value: object, mend: str) -> None:
    for call in (dg.generate, dg.stream, lambda p, **keys: dg.generate_batch([p, p], **keys)):
        if name == "seed" and value is None and call not in (dg.generate, dg.stream):
            continue  # None there is "not given"
        with pytest.raises(ValueError, match=f"^{name}: ") as error:
            call("hello", **{name: value})
        assert mend in str(error.value)
        if not hasattr(value, "__next__"):
            assert f"got {value!r}" in str(error.value)


@pytest.mark.parametrize("prompt", ["", "   ", "\n", [], None, 5, [{}], ["text"], {"role": "user"}])
@pytest.mark.parametrize("raw", [False, True])
def test_bad_prompts(dg: DiffusionGemma, prompt: object, raw: bool) -> None:
    if raw and isinstance(prompt, str) and prompt:
        return  # taken as it stands
    for call in (dg.generate, dg.stream, lambda p, **keys: dg.generate_batch(["good", p], **keys)):
        with pytest.raises(ValueError, match=r"empty|messages|raw=True"):
            call(prompt, raw=raw)


@pytest.mark.parametrize("name", ["raw", "thinking", "adaptive_stop"])
@pytest.mark.parametrize("value", ["false", 0, None])
def test_yes_or_no(dg: DiffusionGemma, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name}: got {value!r}; True or False is expected"):
        dg.generate("hello", **{name: value})


def test_cancelled_is_an_event_and_not_its_class(dg: DiffusionGemma) -> None:
    with pytest.raises(ValueError, match="cancelled: got"):
        dg.stream("hello", cancelled=threading.Event)


def test_unknown_names(dg: DiffusionGemma) -> None:
    with pytest.raises(ValueError, match="unknown parameter 'max_tokens'; known are adaptive_stop"):
        dg.generate("hello", max_tokens=3)
    with pytest.raises(ValueError, match="unknown parameter 'cancelled'"):
        dg.generate_batch(["hello"], cancelled=None)
    with pytest.raises(ValueError, match="mode: got 'fast'; expected 'diffusion' or 'auto"):
        dg.stream("hello", mode="fast")


@pytest.mark.parametrize("prompts", [[], (), "hello", {"role": "user", "content": "x"}])
def test_a_batch_is_a_list_of_prompts(dg: DiffusionGemma, prompts: object) -> None:
    with pytest.raises(ValueError, match=r"prompts: got .*list of at least one prompt"):
        dg.generate_batch(prompts)


@pytest.mark.parametrize("seeds", [[], [1], [1, 2, 3], 5, "12", torch.tensor(1)])
def test_one_seed_a_prompt(dg: DiffusionGemma, seeds: object) -> None:
    with pytest.raises(ValueError, match="seeds: got"):
        dg.generate_batch(["a", "b"], seeds=seeds)


def test_bad_seeds_in_a_batch(dg: DiffusionGemma) -> None:
    for bad in (2**64, -1, 0.5, "1", None, torch.tensor(1.0), torch.tensor([1, 2])):
        with pytest.raises(ValueError, match="seed: got"):
            dg.generate_batch(["a", "b"], seeds=[1, bad])
    with pytest.raises(ValueError, match="seed and seeds"):
        dg.generate_batch(["a", "b"], seeds=[1, 2], seed=3)


def request(dg: DiffusionGemma, ids: list[int], **keys):
    return make_request(ids, Parameters(**keys), model=dg.network.config, defaults=dg.generation)


@pytest.mark.parametrize("bad", [-1, VOCAB, 262_143])
def test_ids_outside_the_vocabulary(dg: DiffusionGemma, bad: int) -> None:
    with pytest.raises(ValueError, match=rf"token id {bad}, outside the vocabulary of {VOCAB}"):
        request(dg, [2, bad, 3])
    request(dg, [0, VOCAB - 1])


def test_what_fits_the_context(dg: DiffusionGemma) -> None:
    """A canvas is always whole, so there must be room for a whole one."""
    with pytest.raises(ValueError, match="prompt is empty"):
        request(dg, [])
    for length in (CONTEXT - L + 1, CONTEXT, 10_000):
        with pytest.raises(ValueError, match=f"prompt has {length} tokens.*context of {CONTEXT}"):
            request(dg, [2] * length)
    assert request(dg, [2] * (CONTEXT - L)).config.max_new_tokens == L
    assert request(dg, [2] * (CONTEXT - 2 * L - 1)).config.max_new_tokens == 2 * L
    assert request(dg, [2] * 3).config.max_new_tokens == 256  # the default, where it fits


def test_what_was_asked_for_is_not_cut_in_silence(dg: DiffusionGemma) -> None:
    ids = [2] * (CONTEXT - 2 * L - 1)
    assert request(dg, ids, max_new_tokens=2 * L).config.max_new_tokens == 2 * L
    with pytest.raises(ValueError, match=rf"max_new_tokens: got {2 * L + 1}.*room for {2 * L}"):
        request(dg, ids, max_new_tokens=2 * L + 1)


# What good parameters become.


def test_given_parameters_go_over_the_checkpoints(dg: DiffusionGemma) -> None:
    dg.generation = GenerationConfig(
        max_new_tokens=9, max_denoising_steps=7, entropy_bound=0.2, temperature_start=0.9,
        temperature_end=0.3, stability_threshold=2, confidence_threshold=0.01, eos_token_ids=(1, 4),
    )  # fmt: skip
    kept = request(dg, [2])
    assert kept.config == dg.generation
    policy = kept.policy
    assert (policy.steps, policy.accept.bound) == (7, 0.2)
    assert (policy.temperature.start, policy.temperature.end) == (0.9, 0.3)
    assert policy.stop == StableAndConfident(stability=2, confidence=0.01)
    assert kept.stop_ids == {1, 4}
    given = request(
        dg, [2], max_new_tokens=3, max_denoising_steps=4, entropy_bound=0.5, temperature_start=1.0,
        temperature_end=2.0, stability=0, confidence=0.7, ignore_stop_tokens=True,
    )  # fmt: skip
    policy = given.policy
    assert (given.config.max_new_tokens, policy.steps, policy.accept.bound) == (3, 4, 0.5)
    assert (policy.temperature.start, policy.temperature.end) == (1.0, 2.0)
    assert policy.stop == StableAndConfident(stability=0, confidence=0.7)
    assert given.stop_ids == frozenset()


def test_the_adaptive_stop_is_off_when_asked_or_when_the_checkpoint_has_none(dg) -> None:
    assert request(dg, [2], adaptive_stop=False).policy.stop == NeverEarly()
    dg.generation = GenerationConfig(confidence_threshold=None)
    assert request(dg, [2]).policy.stop == NeverEarly()
    dg.generation = GenerationConfig(stability_threshold=None)
    assert request(dg, [2]).policy.stop == NeverEarly()
    assert request(dg, [2], stability=0).policy.stop == StableAndConfident(
        stability=0, confidence=0.005
    )


def test_one_stop_string_is_a_list_of_one() -> None:
    assert Parameters(stop="ab").stop == ("ab",)
    assert Parameters(stop=["ab", "c"]).stop == ("ab", "c")


def test_more_drafts_than_a_canvas_has_are_not_waited_for(dg) -> None:
    """Nor is there memory for them."""
    keys = dict(max_denoising_steps=4, confidence=0.5)
    assert request(dg, [2], stability=4, **keys).policy.stop == NeverEarly()
    assert request(dg, [2], stability=10**20, **keys).policy.stop == NeverEarly()
    assert request(dg, [2], stability=3, **keys).policy.stop == StableAndConfident(
        stability=3, confidence=0.5
    )


def test_numbers_of_other_libraries(dg: DiffusionGemma) -> None:
    """Are numbers; kept as Python's, which JSON has room for."""
    parameters = Parameters(seed=torch.tensor(3), max_new_tokens=torch.tensor(2))
    assert (type(parameters.seed), parameters) == (int, Parameters(seed=3, max_new_tokens=2))
    with pytest.raises(ValueError, match=r"cancelled: got True; a threading\.Event is expected"):
        dg.stream("hello", cancelled=True)
