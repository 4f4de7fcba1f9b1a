"""The formats against their laws, and against the library that defines the published layouts."""

import itertools

import pytest
import torch
from compressed_tensors.compressors.nvfp4.base import NVFP4PackedCompressor
from compressed_tensors.compressors.nvfp4.helpers import pack_fp4_to_uint8
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from compressed_tensors.quantization.utils.fp4_utils import cast_to_fp4

from gesso.quant import FP8, INT4, NVFP4, Format
from gesso.quant.formats import E2M1, _e2m1, _e2m1_codes, _pack, _unpack

FORMATS: dict[str, Format] = {"fp8": FP8(), "nvfp4": NVFP4(), "int4": INT4()}


def weights(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Rows of very different sizes, some values far out."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(shape, generator=generator)
    spread = torch.exp(2 * torch.randn(*shape[:-1], 1, generator=generator))
    return (normal * spread * normal.square()).to(dtype)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(5, 128), (3, 7, 64), (2, 3, 4, 384)])
def test_what_is_stored_stands_for_the_weight(name: str, shape: tuple[int, ...]) -> None:
    form, weight = FORMATS[name], weights(*shape)
    stored = form.quantize(weight)
    back = form.dequantize(stored, torch.float32)
    assert back.shape == weight.shape
    error, wide = (back - weight.float()).abs(), weight.float().abs()
    if name == "fp8":
        largest = wide.amax(-1, keepdim=True)
        assert (error <= torch.maximum(wide * 2**-4, largest * 2**-9 / 448 * 1.01)).all()
        return
    group = 16 if name == "nvfp4" else shape[-1] // stored["scale"].shape[-1]
    largest = wide.unflatten(-1, (-1, group)).amax(-1)
    step = largest / (6 if name == "nvfp4" else 7)
    # Half of the widest gap between two values (4 and 6 in e2m1) and the rounding of the scale,
    # which moves the largest value most; in int4 a fifth of the largest may be cut off instead.
    most = 1 * step + largest * 2**-4 if name == "nvfp4" else 0.2 * largest + largest * 2**-7
    whole = largest.amax((-2, -1), keepdim=True) / (6 * 448)
    lost = 6 * whole * 2**-9 if name == "nvfp4" else torch.zeros(())
    assert (error.unflatten(-1, (-1, group)).amax(-1) <= most * 1.01 + lost).all()


@pytest.mark.parametrize(("name", "most"), [("fp8", 0.98), ("nvfp4", 0.8), ("int4", 0.8)])
def test_scales_leave_little(monkeypatch: pytest.MonkeyPatch, name: str, most: float) -> None:
    """No group more than the usual scale does, and together much less."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 2816, generator=generator)

    def lost() -> torch.Tensor:
        stored = FORMATS[name].quantize(weight)
        error = FORMATS[name].dequantize(stored, torch.float32) - weight
        group = dict(fp8=2816, nvfp4=16, int4=128)[name]
        return error.square().unflatten(-1, (-1, group)).sum(-1)

    ours = lost()
    for factors in ("_FP8", "_NVFP4", "_INT4"):
        monkeypatch.setattr(f"gesso.quant.formats.{factors}", (1.0,))
    usual = lost()
    assert (ours <= usual * (1 + 1e-5)).all()
    assert ours.sum() < most * usual.sum()


@pytest.mark.parametrize(("name", "most"), [("fp8", 0.15), ("nvfp4", 0.15), ("int4", 0.15)])
@pytest.mark.parametrize("inputs", [128, 320])
def test_outputs_change_less_where_inputs_are_known(name: str, most: float, inputs: int) -> None:
    """Of inputs near 24 directions; more columns than a block has, too."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 24, generator=generator) @ torch.randn(24, inputs, generator=generator)
    x += 0.1 * torch.randn(x.shape, generator=generator)
    weight, form = torch.randn(48, inputs, generator=generator), FORMATS[name]

    def lost(moment: torch.Tensor | None) -> float:
        error = form.dequantize(form.quantize(weight, moment), torch.float32) - weight
        return float((x @ error.T).square().sum())

    assert lost(x.T @ x) < most * lost(None)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("moment", [torch.eye(128), torch.zeros(128, 128)], ids=["even", "none"])
def test_inputs_that_say_nothing(name: str, moment: torch.Tensor) -> None:
    form, weight = FORMATS[name], weights(6, 128)
    plain, stored = form.quantize(weight), form.quantize(weight, moment)
    assert all(torch.equal(stored[part], plain[part]) for part in plain)


@pytest.mark.parametrize("name", FORMATS)
def test_quantizing_again_changes_nothing(name: str) -> None:
    form = FORMATS[name]
    once = form.dequantize(form.quantize(weights(6, 128)), torch.float32)
    again = form.dequantize(form.quantize(once), torch.float32)
    torch.testing.assert_close(again, once, rtol=2**-7 if name == "int4" else 2**-4, atol=0)


@pytest.mark.parametrize("name", FORMATS)
def test_zeros_stay_zeros(name: str) -> None:
    weight = weights(2, 4, 64)
    weight[0] = 0
    weight[1, 2] = 0
    weight[1, 3, :16] *= 1e-9
    back = FORMATS[name].dequantize(FORMATS[name].quantize(weight), torch.bfloat16)
    assert back.isfinite().all()
    assert not back[0].any()
    assert not back[1, 2].any()


@pytest.mark.parametrize("name", FORMATS)
def test_matrices_of_a_stack_know_nothing_of_each_other(name: str) -> None:
    form, weight = FORMATS[name], weights(3, 4, 128)
    stack = form.quantize(weight)
    for place in range(3):
        for part, tensor in form.quantize(weight[place]).items():
            assert torch.equal(stack[part][place].float(), tensor.float())


def test_bits() -> None:
    """Of a weight, scales included: what the memory plans count on."""
    weight = weights(64, 128 * 16)
    bits = {
        name: sum(8 * t.numel() * t.element_size() for t in form.quantize(weight).values())
        / weight.numel()
        for name, form in FORMATS.items()
    }
    assert bits["fp8"] == pytest.approx(8, abs=0.01)
    assert bits["nvfp4"] == pytest.approx(4.5, abs=0.001)
    assert bits["int4"] == pytest.approx(4.125, abs=0.001)


def test_groups_that_do_not_fit() -> None:
    for form in (NVFP4(), INT4()):
        with pytest.raises(ValueError, match="40 inputs does not fall into groups of 16"):
            form.quantize(torch.ones(2, 40))


def test_e2m1_rounds_and_packs_as_the_library_does() -> None:
    """All ties, both signs, and what lies beyond the largest."""
    ties = [(a + b) / 2 for a, b in itertools.pairwise(E2M1)]
    values = torch.tensor([*E2M1, *ties, 0.2, 0.3, 5.1, 7.0, 2.6, 1.24, 3.49, 0.76, 1.76])
    values = torch.cat((values, -values))[None]
    codes = _e2m1_codes(_e2m1(values))
    # The library takes -0 as 0 on its way; values compare equal.
    expected = _unpack(pack_fp4_to_uint8(cast_to_fp4(values.clone())))
    table = torch.tensor([*E2M1, *(-v for v in E2M1)])
    assert torch.equal(table[codes.int()], table[expected.int()])
    assert torch.equal(_unpack(_pack(codes)), codes)


def test_the_library_reads_our_nvfp4() -> None:
    weight = weights(8, 64)
    stored = NVFP4().quantize(weight)
    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(
            num_bits=4, type="float", strategy="tensor_group", group_size=16, symmetric=True
        ),
    )
    theirs = NVFP4PackedCompressor.decompress(
        dict(
            weight_packed=stored["packed"],
            weight_scale=stored["scale"],
            weight_global_scale=(1 / stored["whole"]).flatten(),
        ),
        scheme,
    )["weight"]
    ours = NVFP4().dequantize(stored, torch.float32)
    torch.testing.assert_close(theirs.float(), ours, rtol=2**-7, atol=0)  # theirs is bf16


def test_fp8_is_the_library_s() -> None:
    weight = weights(8, 64, dtype=torch.float32)
    stored = FP8().quantize(weight)
    args = QuantizationArgs(num_bits=8, type="float", strategy="channel", symmetric=True)
    scale, zero = stored["scale"].float(), torch.zeros_like(stored["scale"].float())
    codes = quantize(weight, scale, zero, args, dtype=torch.float8_e4m3fn)
    assert torch.equal(codes.float(), stored["weight"].float())
    theirs = dequantize(codes, scale, zero, args)
    torch.testing.assert_close(theirs.float(), FP8().dequantize(stored, torch.float32))
