"""Checkpoints in few bits: written for the library that defines the layout, read as they are, and
refused where they say what is not known here."""

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.entrypoints.convert.converters.ct_dequantizer import (
    CompressedTensorsDequantizer,
)
from compressed_tensors.entrypoints.convert.converters.modelopt_nvfp4 import ModelOptNvfp4Converter
from safetensors.torch import load_file, save_file
from torch import Tensor

import gesso
from gesso.checkpoint import convert_checkpoint, load_network, read_config, save_checkpoint
from gesso.checkpoint.names import published_modules, published_name
from gesso.checkpoint.packed import fill_in
from gesso.checkpoint.read import checked
from gesso.kernels.gpu.unpack import as_matrix
from gesso.model.network import Network
from gesso.model.quantize import SCHEMES, is_quantized, quantize_network
from gesso.quant import FP8, NVFP4, QuantExperts, QuantLinear

EXPERT = "model.decoder.layers.1.experts.2"
QUERY = "model.decoder.layers.0.self_attn.q_proj"


@pytest.fixture
def source(make_network: Callable[..., Network], tmp_path: Path) -> Path:
    """In bfloat16; with 48 inputs to the experts' down, so that groups of int4 differ in size."""
    network = make_network(hidden_size=64, moe_intermediate_size=48)
    save_checkpoint(network, tmp_path / "source", generation=None, dtype=torch.bfloat16)
    return tmp_path / "source"


def converted(source: Path, name: str, **options: Any) -> Path:
    folder = source.with_name(name)
    convert_checkpoint(source, folder, quantize=name, **options)
    return folder


def tensors(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def same(network: Network, other: Network) -> bool:
    mine, yours = network.state_dict(), other.state_dict()
    return mine.keys() == yours.keys() and all(
        mine[k].dtype == yours[k].dtype
        and mine[k].shape == yours[k].shape
        and torch.equal(mine[k].view(torch.uint8), yours[k].view(torch.uint8))
        for k in mine
    )


def test_rounding_goes_by_each_matrix_s_inputs(source: Path) -> None:
    """What an expert read changes that expert's weights alone."""
    config = read_config(source).text
    inner, experts = config.moe_intermediate_size, config.num_experts
    x = torch.randn(99, 4, generator=torch.Generator().manual_seed(0)) @ torch.ones(4, inner).tril()
    asked: list[str] = []

    def moments() -> dict[str, Tensor]:
        asked.append("")
        down = torch.zeros(experts, inner, inner)
        down[2] = x.T @ x
        return {"layers.1.experts.down": down}

    plain = tensors(converted(source, "int4"))
    folder = source.with_name("known")
    convert_checkpoint(source, folder, quantize="int4", moments=moments)
    known = tensors(folder)
    changed = {name for name, tensor in known.items() if not torch.equal(tensor, plain[name])}
    assert changed == {f"{EXPERT}.down_proj.weight_packed"}
    assert len(asked) == 1
    with pytest.raises(ValueError, match="int3"):
        convert_checkpoint(source, source.with_name("no"), quantize="int3", moments=moments)
    assert len(asked) == 1


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_converted_loads_as_what_is_quantized_at_load(
    source: Path, name: str, dtype: torch.dtype
) -> None:
    """Bit by bit, and in shards as in one file; and as a wide network that is quantized then."""
    network = load_network(source, dtype=dtype)
    quantize_network(network, SCHEMES[name])
    assert same(load_network(source, dtype=dtype, quantize=SCHEMES[name]), network)
    assert same(load_network(converted(source, name), dtype=dtype), network)
    folder = converted(source, name, max_shard_bytes=20_000)
    assert len(list(folder.glob("*.safetensors"))) > 3
    loaded = load_network(folder, dtype=dtype)
    assert same(loaded, network)
    assert {type(m) for m in loaded.modules()} >= {QuantLinear, QuantExperts}


@pytest.mark.parametrize("name", SCHEMES)
def test_the_library_makes_the_weights_wide_that_we_do(source: Path, name: str) -> None:
    """By the file's own description, with nothing left over, and in the source's names and shapes
    once the experts are stacked again."""
    folder = converted(source, name)
    library = CompressedTensorsDequantizer(folder)
    theirs = library.validate(tensors(folder))
    network, wide = load_network(folder), tensors(source)
    for native, tensor in Network(read_config(source)).state_dict().items():
        published = published_name(native)
        if published in theirs:
            found = theirs[published]
        else:
            found = torch.stack(
                [
                    torch.cat([theirs.pop(f"{module}.weight") for module in modules])
                    for modules in published_modules(native, experts=len(tensor))
                ]
            )
        if published in theirs and torch.equal(found, wide[published]):
            continue
        ours = network.get_submodule(native).wide(torch.bfloat16)
        # NVFP4 is made wide there in bfloat16: the scale is rounded, divided and rounded again.
        nvfp4 = name == "nvfp4" and ".experts." in native
        torch.testing.assert_close(found, ours, rtol=2**-6 if nvfp4 else 0, atol=0)


def test_what_stays_wide(source: Path) -> None:
    """Embedding, routers, norms, scalars and images, byte by byte."""
    stored, wide = tensors(converted(source, "nvfp4")), tensors(source)
    left = stored.keys() & {n for n in stored if stored[n].dtype == torch.bfloat16}
    left = {name for name in left if not name.endswith("weight_scale")}
    assert all(torch.equal(stored[name], wide[name]) for name in left)
    gone = {name for name in wide if name not in left}
    assert gone == {n for n in wide if "vision" not in n and "_proj" in n} - {
        "model.encoder.embed_vision.embedding_projection.weight"
    }


def test_a_copy_is_a_copy(source: Path) -> None:
    copy = source.with_name("copy")
    convert_checkpoint(source, copy, max_shard_bytes=20_000)
    assert not is_quantized(load_network(copy))
    assert same(load_network(copy), load_network(source))


def to_modelopt(folder: Path, *, apart: bool = False) -> dict[str, Tensor]:
    """An NVFP4 folder made into what ModelOpt writes; apart: gate and up with scales of their own.

    Returns the wide experts.
    """
    stored, wide = tensors(folder), {}
    for name in [n for n in stored if n.endswith("weight_packed")]:
        module = name.removesuffix(".weight_packed")
        whole = 1 / stored.pop(f"{module}.weight_global_scale")
        if apart and module.endswith("up_proj"):
            whole = 1.37 * whole
        stored[f"{module}.weight_scale_2"] = whole[0].clone()
        stored[f"{module}.weight"] = stored.pop(name)
        stored[f"{module}.input_scale"] = torch.tensor(0.25)
        parts = dict(
            packed=stored[f"{module}.weight"], scale=stored[f"{module}.weight_scale"], whole=whole
        )
        wide[module] = NVFP4().dequantize(parts, torch.float32)
    save_file(stored, folder / "model.safetensors")
    configure(folder, dict(quant_method="modelopt", quant_algo="NVFP4", group_size=16))
    return wide


def configure(folder: Path, quantization: dict[str, Any] | None) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config))


def only_experts(folder: Path, source: Path) -> None:
    """As ModelOpt leaves the rest: wide."""
    stored, wide = tensors(folder), tensors(source)
    for name in [n for n in stored if n in wide]:
        stored[name] = wide[name]
        stored.pop(f"{name}_scale", None)
    save_file(stored, folder / "model.safetensors")


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("where", ["config.json", "hf_quant_config.json"])
def test_modelopt(source: Path, apart: bool, where: str) -> None:
    folder = converted(source, "nvfp4")
    only_experts(folder, source)
    wide = to_modelopt(folder, apart=apart)
    if where != "config.json":
        configure(folder, None)
        about = dict(quant_algo="NVFP4", group_size=16, kv_cache_quant_algo="FP8")
        (folder / where).write_text(json.dumps(dict(quantization=about)))
    network = load_network(folder)
    assert isinstance(network.layers[0].attention.q, torch.nn.Linear)
    experts = network.layers[1].experts
    assert isinstance(experts, QuantExperts)
    assert experts.gate_up.whole.shape == ((6, 96, 1) if apart else (6, 1, 1))
    assert experts.down.whole.shape == (6, 1, 1)
    gate_up = experts.gate_up.wide(torch.float32)
    for expert in range(6):
        path = f"model.decoder.layers.1.experts.{expert}"
        assert torch.equal(gate_up[expert, :48], wide[f"{path}.gate_proj"])
        assert torch.equal(gate_up[expert, 48:], wide[f"{path}.up_proj"])
        down = experts.down.wide(torch.float32)[expert]
        assert torch.equal(down, wide[f"{path}.down_proj"])


def test_modelopt_as_the_library_translates_it(source: Path) -> None:
    """The same network from ModelOpt's file and from what compressed-tensors makes of it."""
    folder = converted(source, "nvfp4")
    only_experts(folder, source)
    there = json.loads((folder / "config.json").read_text())["quantization_config"]
    to_modelopt(folder)
    ours = load_network(folder)
    translator = ModelOptNvfp4Converter(targets=[r"re:.*experts\.\d+.*"])
    save_file(translator.process(tensors(folder)), folder / "model.safetensors")
    configure(folder, there)
    assert same(load_network(folder), ours)


def test_the_published_fp8_and_its_tied_copies(source: Path) -> None:
    """Targets by class, names of what is left out, self-conditioning wide, twins under the
    encoder's names."""
    folder = converted(source, "fp8")
    stored, wide = tensors(folder), tensors(source)
    for name in [n for n in stored if "self_conditioning" in n]:
        stored[name] = wide.get(name, stored[name])
        if name.endswith("weight_scale"):
            del stored[name]
    twins = {
        name.replace("model.decoder.", "model.encoder.language_model."): tensor.clone()
        for name, tensor in stored.items()
        if "_proj" in name and "self_conditioning" not in name
    }
    save_file(stored | twins, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    group = config["config_groups"]["group_0"] | {"targets": ["Linear"]}
    configure(folder, config | {"config_groups": {"group_0": group}, "ignore": ["lm_head"]})
    network = load_network(folder)
    assert isinstance(network.self_conditioning.mlp.gate, torch.nn.Linear)
    assert isinstance(network.layers[2].mlp.gate, QuantLinear)
    form = network.layers[2].experts.down.form
    assert form == FP8()


def regrouped(source: Path, size: int, *, by_channel: bool = False) -> dict[str, Tensor]:
    """Makes a folder "int4" of the source whose gate and up have groups of that size, as others
    write it, and gives their weights made wide, by module."""
    folder = converted(source, "int4")
    stored, wide = tensors(folder), tensors(source)
    expected = {}
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    for name in [n for n in stored if n.endswith("gate_proj.weight_packed") and ".experts." in n]:
        for part in ("gate_proj", "up_proj"):
            module = name.replace("gate_proj.weight_packed", part)
            expert, layer = int(module.split(".")[-2]), ".".join(module.split(".")[:-2])
            rows = slice(0, 48) if part == "gate_proj" else slice(48, 96)
            grouped = wide[f"{layer}.gate_up_proj"][expert, rows].unflatten(-1, (-1, size))
            # By the definition: a scale a group, -8 to 7.
            scale = (grouped.abs().amax(-1) / 7).bfloat16()
            values = (grouped.float() / scale[..., None].float()).round().clamp(-8, 7)
            codes = (values.flatten(-2) + 8).byte()
            stored[f"{module}.weight_packed"] = (codes[:, ::2] | codes[:, 1::2] << 4).view(
                torch.int32
            )
            stored[f"{module}.weight_scale"] = scale
            expected[module] = (values * scale[..., None].float()).flatten(-2)
    for group in config["config_groups"].values():
        if group["format"] == "pack-quantized" and "gate" in group["targets"][0]:
            kind = dict(strategy="channel", group_size=None) if by_channel else {}
            group["weights"] |= dict(group_size=size) | kind
    save_file(stored, folder / "model.safetensors")
    configure(folder, config)
    return expected


@pytest.mark.parametrize(
    ("inputs", "size", "held"), [(64, 64, 64), (64, 32, 32), (256, 256, 128), (192, 192, 64)]
)
def test_groups_of_any_size(
    make_network: Callable[..., Network], tmp_path: Path, inputs: int, size: int, held: int
) -> None:
    """int4 with a scale a channel or a group; in memory, in groups that kernels take."""
    network = make_network(
        hidden_size=inputs, moe_intermediate_size=48, vision=False, num_hidden_layers=1,
        layer_types=["full_attention"],
    )  # fmt: skip
    save_checkpoint(network, tmp_path / "wide", generation=None, dtype=torch.bfloat16)
    expected = regrouped(tmp_path / "wide", size, by_channel=size == inputs)
    experts = load_network(tmp_path / "int4").layers[0].experts
    assert experts.gate_up.scale.shape == (6, 96, inputs // held)
    assert as_matrix(experts.gate_up.tensors, torch.bfloat16).group == held
    wide = experts.gate_up.wide(torch.float32)
    for expert in range(6):
        path = f"model.decoder.layers.0.experts.{expert}"
        parts = [expected[f"{path}.{part}"] for part in ("gate_proj", "up_proj")]
        assert torch.equal(wide[expert], torch.cat(parts))


def test_groups_that_kernels_do_not_take(source: Path) -> None:
    regrouped(source, 8)
    with pytest.raises(
        ValueError, match=r"experts\.0\.gate_proj: has 8 scales for 64 inputs; groups"
    ):
        load_network(source.with_name("int4"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{QUERY}.weight_scale"), rf"1 missing tensor \({QUERY}.weight_scale\)"),
        (
            lambda t: t.pop(f"{EXPERT}.up_proj.weight_global_scale"),
            rf"1 missing tensor \({EXPERT}.up_proj.weight_global_scale\)",
        ),
        (
            lambda t: t.update({f"{QUERY}.weight_zero_point": torch.zeros(2)}),
            rf"1 unknown tensor \({QUERY}.weight_zero_point\)",
        ),
        (
            lambda t: t.update({f"{QUERY}.weight_scale": torch.ones(1, dtype=torch.bfloat16)}),
            rf"{QUERY}.weight_scale has shape \[1\], expected \[32, 1\]",
        ),
        (
            lambda t: t.update({f"{EXPERT}.up_proj.weight_packed": torch.zeros(2, 2).byte()}),
            rf"{EXPERT}.up_proj.weight_packed has shape \[2, 2\], expected \[48, 32\]",
        ),
        (
            lambda t: t.update({f"{QUERY}.weight_scale": torch.ones(32, 1)}),
            rf"{QUERY}.weight_scale is in F32; its layout has it in BF16",
        ),
        (
            lambda t: t.update({"model.decoder.norm.weight": torch.ones(64).byte()}),
            r"decoder.norm.weight is in U8; this tensor is read in F64, F32",
        ),
        (
            lambda t: t[f"{EXPERT}.up_proj.weight_global_scale"].zero_(),
            rf"{EXPERT}.up_proj.weight_global_scale: holds NaN or infinite",
        ),
        (
            lambda t: t[f"{QUERY}.weight"].view(torch.uint8)[0, :1].fill_(0x7F),
            rf"{QUERY}.weight: holds NaN",
        ),
        (
            lambda t: [
                t.update({n: torch.zeros(1)})
                for n in t
                if n.endswith("down_proj.weight_packed") and "layers.1" in n
            ],
            r"only some of .*gate_proj, .*down_proj are in few bits",
        ),
    ],
)
def test_unfit_tensors(source: Path, change: Callable[..., Any], message: str) -> None:
    folder = converted(source, "nvfp4")
    stored = tensors(folder)
    change(stored)
    save_file(stored, folder / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load_network(folder)


FINE = dict(num_bits=8, type="float", strategy="channel", symmetric=True)


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        (None, r"in F8_E4M3, U8: a quantized checkpoint \(no quantization_config"),
        (dict(quant_method="awq"), "quant_method is 'awq'; read are 'compressed-tensors' and"),
        (dict(quant_method="modelopt", quant_algo="FP8"), "quant_algo is 'FP8'; read is 'NVFP4'"),
        (
            dict(quant_method="modelopt", quant_algo="NVFP4", group_size=32),
            "group_size is 32; NVFP4 has 16",
        ),
        ("fp8", "config.json: quantization_config: expected an object, got 'fp8'"),
        (dict(quant_method="compressed-tensors"), "config_groups: got None"),
        (
            dict(
                quant_method="compressed-tensors",
                config_groups=dict(group_0=dict(weights=FINE | dict(strategy="tensor"))),
            ),
            r"group_0: weights are num_bits 8, type float, strategy tensor.*read are fp8 \(num",
        ),
        (
            dict(
                quant_method="compressed-tensors",
                config_groups=dict(group_0=dict(weights=FINE)),
                transform_config=dict(config_groups=dict(u=1)),
            ),
            "transform_config: got .* only plain weights are read",
        ),
        (
            dict(quant_method="compressed-tensors", config_groups=dict(FP8=["Linear"])),
            r"FP8: weights are \['Linear'\]",
        ),
        (
            dict(quant_method="compressed-tensors", config_groups=dict(g=dict(weights=[8]))),
            r"g: weights are \[8\]; read are",
        ),
        (
            dict(quant_method="compressed-tensors", config_groups=dict(g=1), sparsity_config="x"),
            "sparsity_config: got 'x'; only plain weights are read",
        ),
        (
            dict(quant_method="compressed-tensors", config_groups=dict(g=dict(weights=FINE))),
            r"missing tensor.*unknown tensors \(model.decoder.layers.0.experts.0.down_proj",
        ),
    ],
)
def test_unfit_descriptions(source: Path, quantization: Any, message: str) -> None:
    folder = converted(source, "nvfp4")
    configure(folder, quantization)
    with pytest.raises(ValueError, match=message):
        load_network(folder)


def test_an_unfit_description_in_a_file_of_its_own(source: Path) -> None:
    (source / "hf_quant_config.json").write_text('{"quantization": ["NVFP4"]}')
    with pytest.raises(
        ValueError, match=r"hf_quant_config\.json: quantization: expected an object"
    ):
        load_network(source)


def test_what_is_not_converted(source: Path, make_network: Callable[..., Network]) -> None:
    done = converted(source, "fp8")
    out = source.with_name("out")
    with pytest.raises(ValueError, match="in few bits already"):
        convert_checkpoint(done, out, quantize="nvfp4")
    with pytest.raises(ValueError, match="is the checkpoint to be converted"):
        convert_checkpoint(source, source, quantize="nvfp4")
    with pytest.raises(ValueError, match="quantize: got 'int3'; expected one of fp8, nvfp4, int4"):
        convert_checkpoint(source, out, quantize="int3")
    odd = source.with_name("odd")
    save_checkpoint(make_network(moe_intermediate_size=24), odd, generation=None)
    with pytest.raises(ValueError, match="24 inputs does not fall into groups of 16"):
        convert_checkpoint(odd, out, quantize="nvfp4")
    stored = tensors(source)
    stored["model.decoder.layers.1.experts.down_proj"][3, 5] = torch.nan
    save_file(stored, source / "model.safetensors")
    with pytest.raises(ValueError, match=r"experts.down_proj: holds NaN"):
        convert_checkpoint(source, out, quantize="nvfp4")
    assert {path.name for path in source.parent.iterdir()} == {"source", "fp8", "odd"}


def test_what_is_not_quantized_at_load(
    source: Path, make_network: Callable[..., Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen before a weight is read."""
    done, odd = converted(source, "fp8"), source.with_name("odd")
    save_checkpoint(make_network(moe_intermediate_size=24), odd, generation=None)
    monkeypatch.setattr("gesso.checkpoint.read.open_weights", None)
    with pytest.raises(ValueError, match="in few bits already"):
        load_network(done, quantize=SCHEMES["nvfp4"])
    with pytest.raises(ValueError, match="24 inputs does not fall into groups of 16"):
        load_network(odd, quantize=SCHEMES["nvfp4"])


def test_a_network_in_few_bits_is_not_saved(source: Path) -> None:
    network = load_network(converted(source, "fp8"))
    with pytest.raises(ValueError, match="in few bits is not saved"):
        save_checkpoint(network, source.with_name("again"), generation=None)
    with pytest.raises(ValueError, match="in few bits already"):
        quantize_network(network, SCHEMES["fp8"])


def test_tiny_answers_from_disk_as_when_quantized_at_load(tmp_path: Path) -> None:
    convert_checkpoint(gesso.checkpoint.resolve("tiny"), tmp_path / "tiny", quantize="nvfp4")
    prompt = "Extract: Dentist for Maya with Dr. Chen on Tuesday at 3pm."
    ours, theirs = (
        model.generate(prompt, seed=1, max_denoising_steps=6)
        for model in (gesso.load(tmp_path / "tiny"), gesso.load("tiny", quantize="nvfp4"))
    )
    assert ours.token_ids == theirs.token_ids
    assert ours.stats.steps == theirs.stats.steps
    for refused in (dict(quantize="fp8"), dict(adapter=tmp_path)):
        with pytest.raises(ValueError, match=r"are in few bits on disk; leave it out"):
            gesso.load(tmp_path / "tiny", **refused)


@pytest.fixture
def only_new() -> Iterator[None]:
    """What is alive now is left out of what the collector lists."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def held() -> int:
    """Bytes of all tensors that the collector lists, each storage once."""
    found = {}
    for thing in gc.get_objects():
        if type(thing) in (Tensor, torch.nn.Parameter) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


@pytest.mark.usefixtures("only_new")
def test_converting_holds_one_file_and_one_matrix(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two matrices, what the next file will hold; and no stack of experts is read whole."""
    read, most, limit = [], [], 30_000

    def check(file: Path, name: str, raw: Tensor, *given: Any) -> Tensor:
        read.append(raw.numel())
        return checked(file, name, raw, *given)

    monkeypatch.setattr("gesso.checkpoint.read.checked", check)
    matrix = 2 * 48 * 64
    converted(
        source,
        "nvfp4",
        max_shard_bytes=limit,
        on_piece=lambda done, total: most.append(held()),
    )
    # Embedding (96, 64) and an expert's gate and up (96, 64) are the largest.
    assert max(read) == matrix
    assert limit / 2 < max(most) <= limit
    assert sum(tensor.nbytes for tensor in tensors(source).values()) > 5 * limit


@pytest.mark.usefixtures("only_new")
def test_loading_holds_the_model_in_few_bits_and_one_tensor(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, most = converted(source, "nvfp4"), []

    def fill(*arguments: Any, **options: Any) -> None:
        fill_in(*arguments, **options)
        most.append(held())

    monkeypatch.setattr("gesso.checkpoint.read.fill_in", fill)
    network = load_network(folder)
    stored = {name: tensor.nbytes for name, tensor in network.state_dict().items()}
    # The embedding is the largest tensor, and gate and up have a `whole` a row while they load.
    rows = 3 * 6 * (96 + 64) * 4
    assert sum(stored.values()) / 2 < max(most)
    assert max(most) <= sum(stored.values()) + stored["embed.weight"] + rows
    assert sum(tensor.nbytes for tensor in tensors(source).values()) > 2 * max(most)
