"""`Network.denoise_hidden` by kernels, over slots instead of a cache.

The same weights and the same mathematics; fewer launches, no mask, nothing concatenated, and no
operator that waits for the device. Weights in few bits are read as they are stored.
"""

from __future__ import annotations

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
from gesso.model.attention import Attention
from gesso.model.layer import Layer
from gesso.model.mlp import MLP
from gesso.model.moe import Experts
from gesso.model.network import Network
from gesso.quant import QuantExperts, QuantLinear

_Stack = dict[str, Tensor] | Tensor


class CanvasPass:
    def __init__(self, network: Network) -> None:
        self._network = network
        self._eps = network.config.text.rms_norm_eps

    def __call__(self, tokens: Tensor, soft: Tensor, slots: Slots) -> Tensor:
        """tokens (B, L) int64, soft (B, L, M), for the first B slots -> (B * L, M) hidden states
        after the last norm."""
        network, (rows, length) = self._network, tokens.shape
        positions = slots.full[:rows, None] + torch.arange(length, device=tokens.device)
        turns = network.rotations(positions, network.dtype)
        x = self._condition(network.embed_tokens(tokens.flatten()), soft.flatten(0, 1))  # (T, M)
        layers = [layer for layer in network.layers if isinstance(layer, Layer)]
        norms = [self._weight(layer.attention_norm) for layer in layers[1:]]
        norms.append(self._weight(network.norm))
        normed = self._norm(x, layers[0].attention_norm)
        for index, (layer, next_norm) in enumerate(zip(layers, norms, strict=True)):
            turn = turns[network.config.text.is_full(index)]
            attended = self._attend(layer.attention, normed.view(rows, length, -1), turn, slots)
            x, normed = self._feed_forward(layer, x, attended, next_norm)
        return normed

    def _condition(self, x: Tensor, soft: Tensor) -> Tensor:
        part = self._network.self_conditioning
        x = x + self._mlp(part.mlp, self._norm(soft, part.pre_norm))
        return self._norm(x, part.post_norm)

    def _attend(self, attention: Attention, x: Tensor, turn: Rotation, slots: Slots) -> Tensor:
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
        out = canvas_attention(
            turned.query,
            *slots.layer(attention.layer, len(x)),
            turned.keys,
            turned.values,
            length=slots.lengths(attention.layer, len(x)),
        )
        return _product(attention.o, out.flatten(0, 1))

    def _feed_forward(
        self, layer: Layer, x: Tensor, attended: Tensor, next_norm: Tensor
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
            scalar=layer.denoise_scalar,
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
