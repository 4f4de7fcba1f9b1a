"""A checkpoint written anew, in few bits or as it is, without a network in between.

Every matrix is read, checked, quantized and written by itself, an expert at a time. What is held
at once is one file's worth of what is written, and the matrix in work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from gesso.checkpoint.adapter import Adapter, read_adapter
from gesso.checkpoint.layouts import CT_FP8, CT_INT4, CT_NVFP4, Layout
from gesso.checkpoint.names import published_modules, published_name
from gesso.checkpoint.read import (
    GENERATION_FILE,
    OWN_FILE,
    chosen_dtype,
    merged,
    read_config,
    read_generation_config,
    take_stock,
)
from gesso.checkpoint.schemes import KEY, quantization_config
from gesso.checkpoint.shards import Stored, open_weights, read_matrix
from gesso.checkpoint.write import PROCESSOR_FILE, Piece, write_checkpoint
from gesso.model.moe import Experts
from gesso.model.network import Network, parameter_count
from gesso.model.quantize import SCHEMES, Scheme, quantizable
from gesso.quant import FP8, INT4, NVFP4, Format

# Of each weight's inputs, by native name: one for all matrices of a stack, or one each.
Moments = Callable[[], Mapping[str, Tensor]]
_LAYOUTS: Mapping[type[Format], Layout] = {FP8: CT_FP8, NVFP4: CT_NVFP4, INT4: CT_INT4}


def convert_checkpoint(
    source: Path,
    folder: Path,
    *,
    adapter: Path | None = None,
    quantize: str | None = None,
    moments: Moments | None = None,
    max_shard_bytes: int = 1000**3,
    on_piece: Callable[[int, int], None] | None = None,
) -> None:
    """Write the checkpoint of folder `source` into `folder`, in compressed-tensors' layout.

    adapter: the folder of a LoRA adapter for it, merged into the weights. quantize: "fp8", "nvfp4"
    or "int4". Both as in `gesso.load`, which gives the same network bit for bit; with neither it
    copies, in files of the size asked for. moments: called once, when all that can be checked is,
    for what rounding goes by instead of the weights alone (`generation.calibrate.second_moments`).
    Tensors that stay wide are in the dtype that the source's config.json names. Tokenizer, chat
    template and generation_config.json go along. on_piece is told how many of how many matrices are
    done. ValueError, and no folder, for what `load_network` would refuse, for a source in few bits,
    and for weights that do not fall into the format's groups.
    """
    if quantize is not None and quantize not in SCHEMES:
        raise ValueError(f"quantize: got {quantize!r}; expected one of {', '.join(SCHEMES)}")
    if folder.resolve() == source.resolve():
        raise ValueError(f"{folder}: is the checkpoint to be converted; name another folder")
    config = read_config(source)
    dtype = chosen_dtype(source, config, None)
    with torch.device("meta"):
        network = Network(config)
    parameters = parameter_count(network)
    contents = take_stock(source, network)
    if contents.packed:
        raise ValueError(f"{source}: is in few bits already; convert the one in bfloat16")
    layouts = {} if quantize is None else _layouts(network, SCHEMES[quantize])
    change = None if adapter is None else read_adapter(adapter, config)
    pieces = list(_pieces(network, contents.stored, layouts, cache(moments or dict), change, dtype))
    raw = replace(config, dtype=str(dtype).removeprefix("torch.")).to_json()
    if layouts:
        raw[KEY] = quantization_config(
            (module, layout)
            for weight, layout in layouts.items()
            for module in published_modules(weight, experts=1)[0]
        )
    has_defaults = any((source / name).is_file() for name in (GENERATION_FILE, OWN_FILE))
    write_checkpoint(
        pieces,
        folder,
        config=raw,
        generation=read_generation_config(source) if has_defaults else None,
        parameters=parameters,
        processor=source if (source / PROCESSOR_FILE).is_file() else None,
        max_shard_bytes=max_shard_bytes,
        on_piece=on_piece,
    )


def _layouts(network: Network, scheme: Scheme) -> dict[str, Layout]:
    """Of every weight, by native name, that the scheme puts into few bits."""
    found: dict[str, Layout] = {}
    for name, module in quantizable(network).items():
        form = scheme.experts if isinstance(module, Experts) else scheme.linear
        for leaf, weight in module.named_parameters(recurse=False):
            groups = form.quantize(weight[..., :1, :])["scale"].shape[-1]
            layout = _LAYOUTS[type(form)].fitted(inputs=weight.shape[-1], groups=groups)
            found[f"{name}.{leaf}"] = layout
    return found


def _pieces(
    network: Network,
    stored: Mapping[str, Stored],
    layouts: Mapping[str, Layout],
    moments: Moments,
    adapter: Adapter | None,
    dtype: torch.dtype,
) -> Iterator[Piece]:
    for name, tensor in network.state_dict().items():
        published = published_name(name)
        file = stored[published].file
        reading = partial(merged, adapter, name, file, published, dtype=dtype)
        if name in layouts:
            yield from _packed(name, tensor, file, layouts[name], moments, reading)
        else:
            size = tensor.numel() * dtype.itemsize
            yield Piece({published: size}, _wide(published, file, reading))


def _wide(
    published: str, file: Path, reading: Callable[..., Tensor]
) -> Callable[[], Mapping[str, Tensor]]:
    return lambda: {published: reading(_read(file, published))}


def _read(file: Path, name: str) -> Tensor:
    with open_weights(file) as weights:
        tensor: Tensor = weights.get_tensor(name)
    return tensor


def _packed(
    name: str,
    weight: Tensor,
    file: Path,
    layout: Layout,
    moments: Moments,
    reading: Callable[..., Tensor],
) -> Iterator[Piece]:
    """One piece a matrix. weight: on the meta device."""
    published, stacked = published_name(name), weight.dim() == 3
    matrices = published_modules(name, experts=len(weight))
    # All matrices of a stack are of one size.
    like = _split(layout, weight[0] if stacked else weight, len(matrices[0]), None)
    for number, modules in enumerate(matrices):

        def make(number: int = number, modules: tuple[str, ...] = modules) -> dict[str, Tensor]:
            if stacked:
                matrix = reading(read_matrix(file, published, number), number)
            else:
                matrix = reading(_read(file, published))
            moment = moments().get(name)
            if moment is not None and moment.dim() == 3:
                moment = moment[number]
            return _named(modules, _split(layout, matrix, len(modules), moment))

        sizes = {n: t.numel() * t.element_size() for n, t in _named(modules, like).items()}
        yield Piece(sizes, make)


def _split(
    layout: Layout, matrix: Tensor, count: int, moment: Tensor | None
) -> list[dict[str, Tensor]]:
    """What is stored of a matrix (out, in), for each of the `count` modules that its rows are."""
    stored = layout.form.quantize(matrix, moment)
    size = len(matrix) // count

    def rows(tensor: Tensor, place: int) -> Tensor:
        # What has one row stands for all of them.
        return tensor if len(tensor) == 1 else tensor[place * size : (place + 1) * size]

    return [
        layout.write({name: rows(tensor, place).clone() for name, tensor in stored.items()})
        for place in range(count)
    ]


def _named(modules: tuple[str, ...], split: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        f"{module}.{suffix}": tensor
        for module, tensors in zip(modules, split, strict=True)
        for suffix, tensor in tensors.items()
    }
