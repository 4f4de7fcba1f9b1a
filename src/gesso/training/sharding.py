"""Weights spread over processes: FSDP2 for what all use, expert parallelism for the experts.

Every element of a weight lives on one process: cut along its first dimension, over the processes
that hold the same experts and, for the experts, over those that hold different ones before that.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from gesso.kernels.experts import combine, group_by_expert
from gesso.model.lora import LoraExperts
from gesso.model.moe import Exchange, Experts
from gesso.model.network import Network
from gesso.training.processes import Processes


class Sharding:
    """How a network's parameters lie on the processes; with one process, they lie as they are."""

    def __init__(self, network: Network, processes: Processes, *, expert_parallel: int = 1) -> None:
        """Shards in place. expert_parallel: over how many processes the experts are spread.

        ValueError when that divides neither the processes nor the experts.
        """
        self._processes = processes
        self._experts = expert_parallel
        self._expert_names: set[str] = set()
        self._shapes = {name: p.shape for name, p in network.named_parameters()}
        if processes.size == expert_parallel == 1:
            return
        _check(network, processes, expert_parallel)
        device = network.device.type
        everyone = init_device_mesh(device, (processes.size,))
        grid = init_device_mesh(
            device,
            (processes.size // expert_parallel, expert_parallel),
            mesh_dim_names=("copies", "experts"),
        )
        self._grid = grid
        if expert_parallel > 1:
            self._spread_experts(network)
        # Keys and values leave a layer as views, which nobody changes in place.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        options: dict[str, Any] = dict(mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32))
        for layer in network.layers:
            assert isinstance(layer.experts, nn.Module)
            alone: set[nn.Parameter] = set()
            if expert_parallel > 1:
                if grid["copies"].size() > 1:
                    fully_shard(layer.experts, mesh=grid["copies"], **options)
                else:
                    alone = set(layer.experts.parameters())
            fully_shard(layer, mesh=everyone, ignored_params=alone, **options)
        fully_shard(
            network,
            mesh=everyone,
            ignored_params={p for n, p in network.named_parameters() if n in self._expert_names},
            **options,
        )
        register_fsdp_forward_method(network, "encode")

    def _spread_experts(self, network: Network) -> None:
        """Leave each process its own experts, and let them exchange the tokens."""
        axis = self._grid["experts"]
        exchange = _exchange(axis.get_group(), size=self._experts)
        for name, module in network.named_modules():
            if isinstance(module, Experts):
                module.exchange = exchange
            elif not isinstance(module, LoraExperts):
                continue
            for leaf, parameter in list(module.named_parameters(recurse=False)):
                own = parameter.detach().chunk(self._experts)[axis.get_local_rank()].clone()
                setattr(module, leaf, nn.Parameter(own, requires_grad=parameter.requires_grad))
                self._expert_names.add(f"{name}.{leaf}")

    def local(self, parameter: Tensor) -> Tensor:
        """The piece of a parameter or its gradient that lives here, for reading and writing."""
        return parameter.to_local() if isinstance(parameter, DTensor) else parameter

    def gradient(self, name: str, parameter: Tensor) -> Tensor | None:
        """This piece's gradient of the mean over all processes, in float32."""
        if parameter.grad is None:
            return None
        gradient = self.local(parameter.grad).float()
        # Tokens of all processes came to the experts, and each process took the mean of its own.
        return gradient / self._experts if name in self._expert_names else gradient

    def shape(self, name: str) -> torch.Size:
        """Of the whole parameter."""
        return self._shapes[name]

    def cut(self, name: str, whole: Tensor) -> Tensor:
        """The piece of a whole tensor of a parameter's shape that lives here."""
        if self._processes.size == 1:
            return whole
        if name not in self._expert_names:
            return _piece(whole, self._processes.rank, self._processes.size)
        copy, own = self._grid.get_coordinate() or (0, 0)
        return _piece(whole.chunk(self._experts)[own], copy, self._grid["copies"].size())

    def gather(self, name: str, piece: Tensor) -> Tensor:
        """The whole tensor of which every process has a piece, on the CPU."""
        if self._processes.size == 1:
            return piece
        rows, shape = self._shapes[name][0], self._shapes[name]
        if name not in self._expert_names:
            return _join(piece, None, rows=rows, size=self._processes.size).view(shape).cpu()
        copies, experts = self._grid["copies"], self._grid["experts"]
        rows //= self._experts
        own = _join(piece, copies.get_group(), rows=rows, size=copies.size())
        return _join(own, experts.get_group(), rows=rows * self._experts, size=self._experts).cpu()

    def state_dict(self, network: Network) -> Mapping[str, Tensor]:
        """The network's whole parameters and buffers."""
        names = dict(network.named_parameters())
        return {
            name: self.gather(name, self.local(tensor)) if name in names else tensor
            for name, tensor in network.state_dict().items()
        }

    def norm(self, pieces: list[Tensor]) -> float:
        """Of the whole of which these are the pieces."""
        squares = torch.stack([piece.square().sum() for piece in pieces]).sum()
        return float(self._processes.sum(squares.cpu()).sqrt())


def _check(network: Network, processes: Processes, expert_parallel: int) -> None:
    count = network.config.text.num_experts
    if processes.size % expert_parallel or count % expert_parallel:
        raise ValueError(
            f"expert_parallel: got {expert_parallel} with {processes.size} processes and {count} "
            "experts; give a number that divides both"
        )


def _piece(whole: Tensor, place: int, size: int) -> Tensor:
    """As FSDP2 cuts: pieces of the same length, but for the last ones, which may be empty."""
    length = -(-len(whole) // size)
    return whole[place * length : (place + 1) * length]


def _join(piece: Tensor, group: dist.ProcessGroup | None, *, rows: int, size: int) -> Tensor:
    length = -(-rows // size)
    padded = piece.new_zeros(length, *piece.shape[1:])
    padded[: len(piece)] = piece
    joined = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(joined, padded, group=group)
    return torch.cat(joined)[:rows]


def _exchange(group: dist.ProcessGroup, *, size: int) -> Exchange:
    """What sends each token to the processes of its experts, and brings back what they say."""

    def exchange(
        x: Tensor,
        index: Tensor,
        weight: Tensor,
        run: Callable[[Tensor, Tensor], Tensor],
        count: int,
    ) -> Tensor:
        """As `experts`; run(rows (N, M), expert (N,)) -> (N, M) with the experts that live here."""
        order, counts = group_by_expert(index, count * size)
        sent = counts.view(size, count)  # rows for each process and expert of it
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=group)
        out, back = received.sum(1).tolist(), sent.sum(1).tolist()
        rows = _all_to_all(x[order // index.shape[1]], out, back, group)
        own = torch.arange(count, device=x.device).repeat(size)
        y = run(rows, own.repeat_interleave(received.flatten()))
        return combine(_all_to_all(y, back, out, group), order, weight)

    return exchange


def _all_to_all(x: Tensor, out: list[int], into: list[int], group: dist.ProcessGroup) -> Tensor:
    return _AllToAll.apply(x, out, into, group)


class _AllToAll(torch.autograd.Function):
    """Rows to other processes; gradients go the way back."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, out: list[int], into: list[int], group: dist.ProcessGroup
    ) -> Tensor:
        ctx.splits, ctx.group = (out, into), group
        result = x.new_empty(sum(out), *x.shape[1:])
        dist.all_to_all_single(result, x.contiguous(), out, into, group=group)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        out, into = ctx.splits
        return _AllToAll.apply(grad, into, out, ctx.group), None, None, None
