"""A network's layers by kernels, and by them a canvas's pass over slots instead of a cache.

The same weights and the same mathematics; fewer launches, and no operator that waits for the
device. Weights in few bits are read as they are stored.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gesso.engine.slots import Slots
from gesso.kernels.gpu.canvas_attention import canvas_attention
from gesso.kernels.gpu.experts import experts
from gesso.kernels.gpu.geglu import geglu
from gesso.kernels.gpu.linear import linear
from gesso.kernels.gpu.norm import enter_feed_forward, leave_feed_forward, rms_norm
from gesso.kernels.gpu.rope import turn_heads
from gesso.kernels.gpu.router import route
from gesso.kernels.rope import Rotation
from gesso.model.attention import Attend, Attended, Attention
from gesso.model.layer import Layer
from gesso.model.mlp import MLP
from gesso.model.moe import Experts
from gesso.model.network import Network
from gesso.quant import QuantExperts, QuantLinear

_Stack = dict[str, Tensor] | Tensor


class KernelRunner:
    def __init__(self, network: Network) -> None:
        self._network = network
        self._eps = network.config.text.rms_norm_eps

    def denoise_hidden(self, tokens: Tensor, soft: Tensor, slots: Slots) -> Tensor:
        """`Network.denoise_hidden`: tokens (B, L) int64, soft (B, L, M), for the first B slots ->
        (B * L, M) hidden states after the last norm."""
        network, (rows, length) = self._network, tokens.shape
        positions = slots.full[:rows, None] + torch.arange(length, device=tokens.device)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Attended:
            kept, columns = slots.layer(layer, rows), slots.lengths(layer, rows)
            return Attended(canvas_attention(query, *kept, key, value, length=columns), key, value)

        x = self.condition(network.embed_tokens(tokens), soft)
        hidden = self.stack(x, positions, attend, scalar=_denoise_scalar)
        return hidden.flatten(0, 1)

    def stack(
        self,
        x: Tensor,
        positions: Tensor,
        attend: Attend,
        *,
        scalar: Callable[[Layer], Tensor],
        keep: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """As `gesso.model.runner.Runner` says."""
        network, shape = self._network, x.shape
        turns = network.rotations(positions, network.dtype)
        x = x.flatten(0, 1)  # (T, M)
        layers = [layer for layer in network.layers if isinstance(layer, Layer)]
        norms = [self._weight(layer.attention_norm) for layer in layers[1:]]
        norms.append(self._weight(network.norm))
        normed = self._norm(x, layers[0].attention_norm)
        for index, (layer, next_norm) in enumerate(zip(layers, norms, strict=True)):
            turn = turns[network.config.text.is_full(index)]
            seen = self._attend(layer.attention, normed.view(shape), turn, attend)
            x, normed = self._feed_forward(layer, x, seen.out, next_norm, scalar(layer))
            if keep is not None:
                keep(index, seen.keys, seen.values)
        return normed.view(shape)

    def condition(self, x: Tensor, soft: Tensor | None) -> Tensor:
        """As `gesso.model.runner.Runner` says."""
        part, shape = self._network.self_conditioning, x.shape
        x = x.view(-1, shape[-1])
        if soft is not None:
            x = x + self._mlp(part.mlp, self._norm(soft.view(x.shape), part.pre_norm))
        return self._norm(x, part.post_norm).view(shape)

    def _attend(self, attention: Attention, x: Tensor, turn: Rotation, attend: Attend) -> Attended:
        """x (B, n, M) -> out (T, M), and what was looked at."""

        def heads(module: nn.Module, count: int) -> Tensor:
            return _product(module, x).unflatten(-1, (count, attention.head_dim))

        value = None if attention.v is None else heads(attention.v, attention.kv_heads)
        turned = turn_heads(
            heads(attention.q, attention.heads),
            heads(attention.k, attention.kv_heads),
            value,
            q_weight=self._weight(attention.q_norm),
            k_weight=self._weight(attention.k_norm),
            turn=turn,
            eps=self._eps,
        )
        seen = attend(attention.layer, turned.query, turned.keys, turned.values)
        return seen._replace(out=_product(attention.o, seen.out.flatten(0, 1)))

    def _feed_forward(
        self, layer: Layer, x: Tensor, attended: Tensor, next_norm: Tensor, scalar: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x (T, M) and what attention adds -> x after the layer, and the next norm of it."""
        inputs = enter_feed_forward(
            x,
            attended,
            post_attention=self._weight(layer.post_attention_norm),
            mlp=self._weight(layer.mlp_norm),
            moe=self._weight(layer.moe_norm),
            router=layer.router.scale,
            eps=self._eps,
        )
        router = layer.router
        routing = route(inputs.router, router.proj.weight, router.per_expert_scale, k=router.k)
        sparse = experts(inputs.sparse, routing.expert, routing.weight, *_stacks(layer.experts))
        out = leave_feed_forward(
            inputs.x,
            self._mlp(layer.mlp, inputs.dense),
            sparse,
            post_mlp=self._weight(layer.post_mlp_norm),
            post_moe=self._weight(layer.post_moe_norm),
            post=self._weight(layer.post_norm),
            scalar=scalar,
            next_norm=next_norm,
            eps=self._eps,
        )
        assert out.normed is not None
        return out.x, out.normed

    def _mlp(self, mlp: MLP, x: Tensor) -> Tensor:
        return _product(mlp.down, geglu(_product(mlp.gate, x), _product(mlp.up, x)))

    def _norm(self, x: Tensor, norm: nn.Module) -> Tensor:
        weight = norm.weight
        assert weight is None or isinstance(weight, Tensor)
        return rms_norm(x, weight, self._eps)

    def _weight(self, norm: nn.Module) -> Tensor:
        assert isinstance(norm.weight, Tensor)
        return norm.weight


def _denoise_scalar(layer: Layer) -> Tensor:
    return layer.denoise_scalar


def _product(module: nn.Module, x: Tensor) -> Tensor:
    """Weights in full width go to the vendor's library, which is hard to beat there."""
    if isinstance(module, QuantLinear):
        return linear(x, module.weight.tensors)
    assert isinstance(module, nn.Linear)
    return F.linear(x, module.weight)


def _stacks(module: nn.Module) -> tuple[_Stack, _Stack]:
    if isinstance(module, QuantExperts):
        return module.gate_up.tensors, module.down.tensors
    assert isinstance(module, Experts)
    return module.gate_up.detach(), module.down.detach()
