"""A network's passes as single calls into compiled C++ (kernels/cpu/network_pass.cpp).

On a CPU a small checkpoint spends more time between its matrix products than in them, and more in
products of this size than their arithmetic takes. Weights are packed once, as the products want
them; the columns that a canvas reads, once a canvas. All is computed in float32, but that the
products of a network in bfloat16 read bfloat16 where the CPU has instructions for that.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gesso.cache import CacheView, CacheWriter, KVCache
from gesso.kernels.cpu.library import (
    LayerColumns,
    LayerWeights,
    Matrix,
    NetworkWeights,
    Work,
    library,
    pack,
    products_of,
)
from gesso.model.layer import Layer
from gesso.quant import QuantExperts, QuantLinear

if TYPE_CHECKING:
    from gesso.model.network import Network


class Look(NamedTuple):
    """What a pass over canvases says: probabilities (B, L, V), entropy (B, L) in nats, argmax
    (B, L) and soft embedding (B, L, M), float32 and int64."""

    probabilities: Tensor
    entropy: Tensor
    argmax: Tensor
    soft: Tensor


class CompiledPasses:
    """Of a network on the CPU, whose weights must not change any more.

    Equal to the network's own passes up to rounding; a row's bits are what they are alone.
    """

    def __init__(self, network: Network) -> None:
        """Of a network in float32 or bfloat16. ValueError: `library` cannot be built."""
        assert network.device.type == "cpu"
        assert network.dtype != torch.float16, "the cache would keep less than passes tell apart"
        self._network, self.products = network, products_of(network.dtype)
        narrow = self.products == torch.bfloat16
        self._pass = library().gesso_pass_bfloat16 if narrow else library().gesso_pass
        self._kept: list[Tensor] = []
        text, soft = network.config.text, network.self_conditioning
        layers = [layer for layer in network.layers if isinstance(layer, Layer)]
        self._weights = NetworkWeights(
            layers=len(layers),
            hidden=text.hidden_size,
            vocabulary=text.vocab_size,
            experts=text.num_experts,
            chosen=text.top_k_experts,
            eps=text.rms_norm_eps,
            embed_scale=float(network.embed_scale),
            softcap=text.final_logit_softcapping,
            layer=(LayerWeights * len(layers))(*map(self._layer, layers)),
            embed=self._vector(network.embed.weight),
            final_norm=self._vector(network.norm.weight),
            soft_norm=self._vector(soft.pre_norm.weight),
            soft_gate=self._matrix(soft.mlp.gate),
            soft_up=self._matrix(soft.mlp.up),
            soft_down=self._matrix(soft.mlp.down),
            head=self._packed(network.embed.weight),
            embedding=self._packed(network.embed.weight.mT),
        )

    @property
    def bytes(self) -> int:
        """Of the packed weights; vectors may be the network's own."""
        own = {tensor.data_ptr() for tensor in self._network.state_dict().values()}
        copies = (tensor for tensor in self._kept if tensor.data_ptr() not in own)
        return sum(tensor.numel() * tensor.element_size() for tensor in copies)

    def look(
        self, tokens: Tensor, columns: PackedColumns, soft: Tensor | None, temperature: Tensor
    ) -> Look:
        """tokens (B, L), soft (B, L, M) or None for zero, temperature (B,): `denoise`, and what
        follows from its logits."""
        rows, length = tokens.shape
        text = self._network.config.text
        found = Look(
            probabilities=torch.empty(rows, length, text.vocab_size),
            entropy=torch.empty(rows, length),
            argmax=torch.empty(rows, length, dtype=torch.int64),
            soft=torch.empty(rows, length, text.hidden_size),
        )
        soft = None if soft is None else soft.float().contiguous()
        temperature = temperature.float().contiguous()
        self._run(
            tokens,
            columns,
            soft=None if soft is None else soft.data_ptr(),
            temperature=temperature.data_ptr(),
            probabilities=found.probabilities.data_ptr(),
            entropy=found.entropy.data_ptr(),
            argmax=found.argmax.data_ptr(),
            soft_out=found.soft.data_ptr(),
        )
        return found

    def encode(self, ids: Tensor, *, cache: KVCache, positions: Tensor) -> Tensor:
        """`Network.encode` of text without padding, into a cache of full width."""
        rows, count = ids.shape
        text = self._network.config.text
        columns = PackedColumns(self._network, cache, positions.expand(rows, -1))
        hidden = torch.empty(rows, count, text.hidden_size)
        self._run(ids, columns, window=text.sliding_window, hidden=hidden.data_ptr())
        writer, dtype = CacheWriter(cache, columns=count, mask=None), self._network.dtype
        for layer in range(text.num_layers):
            keys, values = (part.to(dtype) for part in columns.new(layer))
            writer.keep(layer, *writer.join(layer, keys, values))
        writer.close()
        return hidden.to(dtype)

    def _run(self, tokens: Tensor, columns: PackedColumns, **parts: Any) -> None:
        tokens = tokens.contiguous()
        rows, length = tokens.shape
        work = Work(
            rows=rows,
            length=length,
            threads=torch.get_num_threads(),
            halves=self._network.dtype == torch.bfloat16,
            tokens=tokens.data_ptr(),
            cos=columns.cos,
            sin=columns.sin,
            columns=columns.layers,
            **parts,
        )
        if not self._pass(ctypes.byref(self._weights), ctypes.byref(work)):
            raise IndexError("a token is outside the vocabulary")

    def _layer(self, layer: Layer) -> LayerWeights:
        attention, router = layer.attention, layer.router
        projections = [attention.q, attention.k]
        if attention.v is not None:
            projections.append(attention.v)
        gate_up, down = _expert_weights(layer.experts)
        gate, up = gate_up.chunk(2, dim=1)
        names = (
            "attention_norm", "post_attention_norm", "mlp_norm", "post_mlp_norm", "moe_norm",
            "post_moe_norm", "post_norm",
        )  # fmt: skip
        return LayerWeights(
            heads=attention.heads,
            kv_heads=attention.kv_heads,
            head_dim=attention.head_dim,
            full=attention.v is None,
            **{name: self._vector(getattr(layer, name).weight) for name in names},
            q_norm=self._vector(attention.q_norm.weight),
            k_norm=self._vector(attention.k_norm.weight),
            qkv=self._packed(torch.cat([_weight(part) for part in projections])),
            o=self._matrix(attention.o),
            gate=self._matrix(layer.mlp.gate),
            up=self._matrix(layer.mlp.up),
            down=self._matrix(layer.mlp.down),
            router_scale=self._vector(router.scale),
            expert_scale=self._vector(router.per_expert_scale),
            router=self._packed(router.proj.weight, torch.float32),
            expert_gate=self._packed(gate),
            expert_up=self._packed(up),
            expert_down=self._packed(down),
            scalar=(float(layer.denoise_scalar), float(layer.encode_scalar)),
        )

    def _matrix(self, module: nn.Module) -> Matrix:
        return self._packed(_weight(module))

    def _packed(self, weight: Tensor, dtype: torch.dtype | None = None) -> Matrix:
        """(N, depth), or those of all experts (E, N, depth); dtype: of what the product reads."""
        panels = pack(weight, dtype or self.products)
        count, lines, panel, group = panels.shape[-4:]
        return Matrix(self._pointer(panels), lines * group, count * panel)

    def _vector(self, weight: Tensor | None) -> int:
        assert weight is not None
        return self._pointer(weight.detach().float().contiguous())

    def _pointer(self, tensor: Tensor) -> int:
        """Of a tensor that lives as long as this."""
        self._kept.append(tensor)
        return tensor.data_ptr()


class PackedColumns:
    """A cache as the library reads it, with room for a pass's own columns at the end."""

    def __init__(
        self,
        network: Network,
        cache: KVCache,
        positions: Tensor,
        *,
        view: CacheView | None = None,
    ) -> None:
        """positions (B, n): of the pass's own tokens. view: what a canvas may see of the cache;
        None for new columns, whose passes see to their windows themselves."""
        text, length, panel = network.config.text, positions.shape[1], library().gesso_panel()
        turns = network.rotations(positions, torch.float32)
        self._angles = [
            [turns[full][part].contiguous() for full in (False, True)] for part in (0, 1)
        ]
        self.cos, self.sin = (
            (ctypes.c_void_p * 2)(*(angle.data_ptr() for angle in pair)) for pair in self._angles
        )
        self._length, self._parts = length, list[tuple[Tensor, Tensor, Tensor, int]]()
        biases: dict[bool, Tensor] = {}
        for index in range(text.num_layers):
            keys, values = (part.float() for part in _cached(network, cache, index))  # (B, K, S, D)
            cached, dim = keys.shape[2:]
            spare = length + -(cached + length) % panel
            if (full := text.is_full(index)) not in biases:
                padding = None if cache.mask is None else cache.mask[:, cache.length - cached :]
                seen = padding if view is None else view.mask(index)
                biases[full] = _bias(seen, len(positions), cached, length, spare)
            panels = F.pad(keys, (0, 0, 0, spare)).unflatten(2, (-1, panel)).mT.contiguous()
            values = F.pad(values, (0, -dim % panel, 0, spare)).contiguous()
            self._parts.append((panels, values, biases[full], cached))
        self.layers = (LayerColumns * text.num_layers)(
            *(
                LayerColumns(*(tensor.data_ptr() for tensor in tensors), cached)
                for *tensors, cached in self._parts
            )
        )

    def new(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values (B, K, n, D) that the last pass made of its own tokens."""
        panels, values, _, cached = self._parts[layer]
        own = slice(cached, cached + self._length)
        keys = panels.mT.flatten(2, 3)[:, :, own]
        return keys, values[:, :, own, : keys.shape[3]]


def _cached(network: Network, cache: KVCache, layer: int) -> tuple[Tensor, Tensor]:
    if cache.length:
        return cache.layer(layer)
    heads, dim = network.config.text.heads(layer)
    nothing = torch.empty(cache.batch_size, heads, 0, dim)
    return nothing, nothing


def _bias(seen: Tensor | None, rows: int, cached: int, length: int, spare: int) -> Tensor:
    """(rows, cached + spare): 0 for columns to see, -inf for others and for those that fill up."""
    bias = torch.zeros(rows, cached + spare)
    bias[:, cached + length :] = float("-inf")
    if seen is not None:
        bias[:, :cached].masked_fill_(~seen, float("-inf"))
    return bias


def _weight(module: nn.Module) -> Tensor:
    if isinstance(module, QuantLinear):
        return module.weight.wide(torch.float32)
    assert isinstance(module.weight, Tensor)
    return module.weight


def _expert_weights(module: nn.Module) -> tuple[Tensor, Tensor]:
    """gate and up (E, 2F, M), down (E, M, F)."""
    if isinstance(module, QuantExperts):
        return module.gate_up.wide(torch.float32), module.down.wide(torch.float32)
    assert isinstance(module.gate_up, Tensor)
    assert isinstance(module.down, Tensor)
    return module.gate_up, module.down
