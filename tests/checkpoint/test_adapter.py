"""Adapters as files: PEFT with transformers reads ours, we read PEFT's, and nothing else passes."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gesso.checkpoint import (
    convert_checkpoint,
    load_network,
    merge_adapter,
    read_adapter,
    read_config,
    save_adapter,
)
from gesso.checkpoint.read import chosen_dtype
from gesso.model.lora import TARGETS, LoraConfig, add_adapter
from gesso.model.network import Network
from gesso.model.quantize import SCHEMES, quantize_network

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

CONFIG = LoraConfig(rank=4, alpha=6.0)
PROMPT = torch.tensor([[2, 5, 6, 9, 30, 31, 8, 7, 6, 5, 12]])
CANVAS = torch.tensor([[40, 41, 3, 17, 9, 60, 61, 8]])
FILE = "adapter_model.safetensors"


def factors_of(network: Network, config: LoraConfig, seed: int = 3) -> dict[str, Tensor]:
    """Give the network a random adapter; its factors by name."""
    add_adapter(network, config)
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
            found[name] = parameter.detach()
    return found


def write(folder: Path, reference: Path, config: LoraConfig = CONFIG) -> Network:
    """An adapter's folder; returns the network that has it unmerged."""
    network = load_network(reference, dtype=torch.float32)
    save_adapter(factors_of(network, config), folder, config=config, base=str(reference))
    return network


@torch.no_grad()
def ours(network: Network) -> tuple[Tensor, Tensor]:
    cache = network.new_cache(batch_size=1)
    hidden = network.encode(PROMPT, cache=cache)
    first = network.denoise(CANVAS, cache=cache)
    return hidden, network.denoise(CANVAS, cache=cache, soft=network.soft_embed(first))


@torch.no_grad()
def theirs(model: Any) -> tuple[Tensor, Tensor]:
    """The same of the other implementation, whose `model` may be wrapped by PEFT."""
    body = model.get_base_model() if hasattr(model, "get_base_model") else model
    cache = transformers.DynamicCache(config=body.config.get_text_config(decoder=True))
    encoder = body.model.encoder(input_ids=PROMPT, past_key_values=cache)

    def denoise(previous: Tensor | None) -> Tensor:
        return body(
            decoder_input_ids=CANVAS,
            past_key_values=cache,
            decoder_position_ids=torch.arange(11, 19)[None],
            self_conditioning_logits=previous,
        ).logits

    return encoder.last_hidden_state, denoise(denoise(None))


def oracle(reference: Path) -> Any:
    return transformers.DiffusionGemmaForBlockDiffusion.from_pretrained(
        reference, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()


@pytest.mark.parametrize("targets", [tuple(TARGETS), ("attention", "mlp"), ("experts",)])
def test_peft_reads_ours(reference: Path, tmp_path: Path, targets: tuple[str, ...]) -> None:
    config = LoraConfig(rank=4, alpha=6.0, targets=targets)
    network = write(tmp_path / "adapter", reference, config)
    plain = theirs(oracle(reference))
    model = peft.PeftModel.from_pretrained(oracle(reference), tmp_path / "adapter")
    for own, other, base in zip(ours(network), theirs(model), plain, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=3e-5)
        assert float((own - base).abs().max()) > 1e-2


@pytest.mark.parametrize("rslora", [False, True])
def test_we_read_peft_s(reference: Path, tmp_path: Path, rslora: bool) -> None:
    write(tmp_path / "ours", reference)
    pattern = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["target_modules"]
    config = peft.LoraConfig(
        r=4, lora_alpha=6, use_rslora=rslora, target_modules=pattern,
        target_parameters=["experts.gate_up_proj", "experts.down_proj"],
    )  # fmt: skip
    model = peft.get_peft_model(oracle(reference), config)
    generator = torch.Generator().manual_seed(5)
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if ".decoder." in name and "lora_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
            twin = parameters.get(name.replace(".decoder.", ".encoder.language_model."))
            if twin is not None:
                twin.data = parameter.data.clone()
    model.save_pretrained(tmp_path / "theirs")
    network = load_network(reference, dtype=torch.float32)
    plain = ours(network)
    merge_adapter(network, tmp_path / "theirs")
    for own, other, base in zip(ours(network), theirs(model.eval()), plain, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=3e-5)
        assert float((own - base).abs().max()) > 1e-2


def test_merged_is_unmerged_and_the_change_comes_once(reference: Path, tmp_path: Path) -> None:
    """Both copies in the file are one change of the one weight that they share."""
    network = write(tmp_path / "adapter", reference).double()
    merged = load_network(reference, dtype=torch.float32).double()
    before = {name: tensor.clone() for name, tensor in merged.state_dict().items()}
    merge_adapter(merged, tmp_path / "adapter")
    for one, other in zip(ours(network), ours(merged), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    name = "layers.0.attention.q.weight"
    change = merged.state_dict()[name] - before[name]
    factors = dict(network.named_parameters())
    expected = 1.5 * factors[name + "_b"] @ factors[name + "_a"]
    torch.testing.assert_close(change, expected.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scheme", [None, "fp8"])
def test_merged_while_reading_and_on_disk(
    reference: Path, tmp_path: Path, scheme: str | None
) -> None:
    """Bit for bit what is merged into a network, and rounded after that."""
    write(tmp_path / "adapter", reference)
    form = None if scheme is None else SCHEMES[scheme]
    adapter = read_adapter(tmp_path / "adapter", read_config(reference))
    for dtype in (torch.float32, torch.bfloat16):
        network = load_network(reference, dtype=dtype)
        merge_adapter(network, tmp_path / "adapter")
        if form is not None:
            quantize_network(network, form)
        found = [load_network(reference, dtype=dtype, adapter=adapter, quantize=form)]
        if dtype == chosen_dtype(reference, read_config(reference), None):
            out = tmp_path / "converted"
            convert_checkpoint(reference, out, adapter=tmp_path / "adapter", quantize=scheme)
            found.append(load_network(out, dtype=dtype))
        for other in found:
            own = other.state_dict()
            assert own.keys() == network.state_dict().keys()
            for name, tensor in network.state_dict().items():
                assert torch.equal(own[name].float(), tensor.float()), name
    assert (tmp_path / "converted").exists()


def test_the_same_adapter_gives_the_same_bytes(reference: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, reference)
    write(tmp_path / "one", reference)
    assert (tmp_path / "one" / FILE).read_bytes() == (tmp_path / "two" / FILE).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.parametrize("moves", [0, 1])
def test_a_crash_while_replacing(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    """The folder is refused then, and the new adapter lies whole in it and in one within."""
    write(tmp_path / "adapter", reference, LoraConfig(rank=2))
    write(tmp_path / "new", reference)
    done, move = [], os.replace

    def crash(source: Path, target: Path) -> None:
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(target)
        move(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "adapter", reference)
    with pytest.raises(ValueError, match=r"no adapter_config\.json"):
        merge_adapter(load_network(reference), tmp_path / "adapter")
    (partial,) = (tmp_path / "adapter").glob(".partial-*")
    for path in partial.iterdir():
        move(path, tmp_path / "adapter" / path.name)
    for path in (tmp_path / "new").iterdir():
        assert (tmp_path / "adapter" / path.name).read_bytes() == path.read_bytes()


def change_config(folder: Path, **keys: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


def change_tensors(change: Callable[[dict[str, Tensor]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / FILE)
        change(tensors)
        save_file(tensors, folder / FILE)

    return apply


Q = "base_model.model.model.decoder.layers.0.self_attn.q_proj.lora_A.weight"
ENCODER_Q = Q.replace("decoder", "encoder.language_model")


def drop_encoder(tensors: dict[str, Tensor]) -> None:
    for name in list(tensors):
        if ".encoder." in name:
            del tensors[name]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "adapter_config.json").unlink(), r"no adapter_config\.json; an adapter is"),
        (lambda f: (f / FILE).unlink(), r"no adapter_model\.safetensors; pickled adapters"),
        (lambda f: (f / FILE).write_bytes(b"{}"), "damaged"),
        (lambda f: change_config(f, peft_type="LOHA"), "peft_type is 'LOHA'; only LORA is read"),
        (lambda f: change_config(f, use_dora=True), "use_dora is True; only plain LoRA"),
        (lambda f: change_config(f, bias="all"), "bias is 'all'"),
        (
            lambda f: change_config(f, init_lora_weights="pissa"),
            "init_lora_weights is 'pissa'.*path_initial_model_for_weight_conversion",
        ),
        (lambda f: change_config(f, init_lora_weights="loftq"), "init_lora_weights is 'loftq'"),
        (lambda f: change_config(f, alora_invocation_tokens=[5]), "alora_invocation_tokens is"),
        (lambda f: change_config(f, use_qalora=True), "use_qalora is True; only plain"),
        (lambda f: change_config(f, use_bdlora={"nblocks": 2}), "use_bdlora is"),
        (lambda f: change_config(f, arrow_config={"top_k": 1}), "arrow_config is"),
        (lambda f: change_config(f, kasa_config={"beta": 1}), "kasa_config is"),
        (lambda f: change_config(f, r=8), r"q_proj.lora_A.* expected \[8, 64\]; the adapter is of"),
        (
            lambda f: change_config(f, lora_alpha="x"),
            "config.json: lora_alpha: got 'x'; expected a number",
        ),
        (lambda f: change_config(f, r=0), "config.json: r: got 0; expected at least 1"),
        (change_tensors(drop_encoder), "no base_model.model.model.encoder.* has to change both"),
        (change_tensors(lambda t: t[ENCODER_Q].mul_(2)), "q_proj.*is not equal to.*train it with"),
        (change_tensors(lambda t: t.pop(Q)), "no base_model.*q_proj.lora_A.weight; encoder"),
        (change_tensors(lambda t: t.update(x=t[Q].clone())), "1 unknown tensor.*x"),
        (change_tensors(lambda t: t.update({Q: t[Q].int()})), "q_proj.* is in I32; read are F64"),
        (change_tensors(lambda t: t[Q].fill_(float("nan"))), "holds NaN.*the adapter is damaged"),
        (
            change_tensors(lambda t: t.update({k: t[k][:, :9].clone() for k in (Q, ENCODER_Q)})),
            r"has shape \[4, 9\], expected \[4, 64\]",
        ),
    ],
)
def test_what_is_refused(
    spoil: Callable[[Path], object], message: str, reference: Path, tmp_path: Path
) -> None:
    write(tmp_path / "adapter", reference)
    spoil(tmp_path / "adapter")
    network = load_network(reference, dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        merge_adapter(network, tmp_path / "adapter")
    assert all(torch.equal(tensor, before[n]) for n, tensor in network.state_dict().items())


@pytest.mark.parametrize("init", [None, True, False, "gaussian", "eva", "orthogonal"])
def test_how_the_factors_began_does_not_matter(
    reference: Path, tmp_path: Path, init: str | bool | None
) -> None:
    write(tmp_path / "adapter", reference)
    merged = load_network(reference, dtype=torch.float32)
    merge_adapter(merged, tmp_path / "adapter")
    change_config(tmp_path / "adapter", init_lora_weights=init)
    found = load_network(reference, dtype=torch.float32)
    merge_adapter(found, tmp_path / "adapter")
    assert all(torch.equal(t, found.state_dict()[n]) for n, t in merged.state_dict().items())


def test_an_adapter_that_diverged_is_not_saved(reference: Path, tmp_path: Path) -> None:
    network = load_network(reference, dtype=torch.float32)
    factors = factors_of(network, CONFIG)
    write(tmp_path / "adapter", reference)
    before = (tmp_path / "adapter" / FILE).read_bytes()
    factors["layers.0.attention.q.weight_a"][0, 0] = float("inf")
    with pytest.raises(ValueError, match="such an adapter is not saved"):
        save_adapter(factors, tmp_path / "adapter", config=CONFIG, base="x")
    assert (tmp_path / "adapter" / FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
