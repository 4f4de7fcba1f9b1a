"""Float32 masters behind a network that computes in another dtype, their moments and average.

With several processes each has the masters of its own pieces; what is saved is whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from gesso.model.network import Network
from gesso.training.config import OptimizerConfig
from gesso.training.muon import Muon
from gesso.training.processes import Processes
from gesso.training.sharding import Sharding

# Lookups and choices, whose rows are not the rows of a linear map: Muon leaves them to AdamW.
_NOT_LINEAR = ("embed", "router", "position")
# What the optimizers remember of a parameter.
_MOMENTS: dict[type[Optimizer], set[str]] = {
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
    Muon: {"momentum"},
}


class MasterWeights:
    """AdamW or Muon on float32 copies of the network's parameters, and their exponential average.

    The network's own parameters are the working copy: `step` takes their gradients, updates the
    masters and rounds them back. Parameters that require no gradient are none of its business.
    """

    def __init__(
        self,
        network: Network,
        config: OptimizerConfig,
        *,
        total_steps: int,
        sharding: Sharding | None = None,
    ) -> None:
        self.config = config
        self.total_steps = total_steps
        self._sharding = sharding or Sharding(network, Processes())
        trained = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
        self._names, working = zip(*trained, strict=True)
        self._working = list(working)
        self._masters = [self._sharding.local(p.detach()).float().clone() for p in self._working]
        self._average = [m.clone() for m in self._masters]
        self._optimizers = _optimizers(dict(zip(self._names, self._masters, strict=True)), config)
        self._owner = {
            parameter: optimizer
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }

    def collect(self) -> None:
        """Take over the working copy's gradients; those of several parts are added in float32."""
        for name, master, working in zip(self._names, self._masters, self._working, strict=True):
            gradient = self._sharding.gradient(name, working)
            if gradient is not None:
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                working.grad = None

    def step(self, step: int) -> float:
        """One update from the gradients collected; returns their norm before clipping.

        Parameters without a gradient (an image encoder that saw no image) stay as they are.
        """
        self.collect()
        norm = self._sharding.norm([m.grad for m in self._masters if m.grad is not None])
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"the gradient's norm is {norm} at step {step}; a lower "
                "learning rate or a longer warm-up is the usual mend"
            )
        torch.nn.utils.clip_grads_with_norm_(self._masters, self.config.clip, torch.tensor(norm))
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self.config, step, self.total_steps)
            optimizer.step()
            optimizer.zero_grad()
        self._round_back()
        if self.config.ema_decay:
            # The ramp keeps the average from remembering the random start.
            decay = min(self.config.ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self._average, self._masters, 1 - decay)
        return norm

    def averaged(self) -> dict[str, Tensor]:
        """The weights to ship: the average, or the masters when averaging is off."""
        weights = self._average if self.config.ema_decay else self._masters
        return {
            name: self._sharding.gather(name, weight)
            for name, weight in zip(self._names, weights, strict=True)
        }

    def state(self) -> dict[str, Tensor]:
        """All tensors of the optimisation, whole and flat, for a safetensors file."""
        tensors: dict[str, Tensor] = {}
        for name, master, average in zip(self._names, self._masters, self._average, strict=True):
            kept = {"master": master, "average": average}
            kept |= self._owner[master].state.get(master, {})
            for key, value in kept.items():
                # A count of steps is a scalar, and the same everywhere.
                whole = self._sharding.gather(name, value) if value.dim() else value
                tensors[f"{key}.{name}"] = whole
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave. ValueError when the parameters are not the same ones."""
        saved: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            kind, _, name = key.partition(".")
            saved.setdefault(name, {})[kind] = tensor
        for name, master in zip(self._names, self._masters, strict=True):
            kept = saved.get(name, {})
            moments = kept.keys() - {"master", "average"}
            fits = "master" in kept and kept["master"].shape == self._sharding.shape(name)
            if not fits or (moments and moments != _MOMENTS[type(self._owner[master])]):
                raise ValueError(_unlike(name))
        if more := sorted(saved.keys() - set(self._names)):
            raise ValueError(_unlike(more[0]))
        for name, master, average in zip(self._names, self._masters, self._average, strict=True):
            kept = {}
            for kind, tensor in saved[name].items():
                piece = self._sharding.cut(name, tensor) if tensor.dim() else tensor
                kept[kind] = piece.to(master.device, copy=True)
            master.copy_(kept.pop("master"))
            average.copy_(kept.pop("average"))
            if kept:
                self._owner[master].state[master] = kept
        self._round_back()

    @torch.no_grad()
    def _round_back(self) -> None:
        working = [self._sharding.local(parameter) for parameter in self._working]
        torch._foreach_copy_(working, self._masters)


def _unlike(name: str) -> str:
    return (
        f"the saved training state does not fit this recipe at {name!r}; "
        "resume with the recipe that wrote it, or choose another folder"
    )


def _optimizers(masters: Mapping[str, Tensor], config: OptimizerConfig) -> list[Optimizer]:
    """AdamW, and Muon for the linear maps when the recipe asks for it.

    Weights of two dimensions or more are decayed; norms and scales are not.
    """
    by_muon = names_by_muon(masters, config)
    rest = [m for name, m in masters.items() if name not in by_muon]
    groups = [
        {"params": [m for m in rest if m.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [m for m in rest if m.dim() < 2], "weight_decay": 0.0},
    ]
    optimizers: list[Optimizer] = [
        torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
    ]
    if by_muon:
        optimizers.append(
            Muon(
                [masters[name] for name in masters if name in by_muon],
                lr=config.lr,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
            )
        )
    return optimizers


def names_by_muon(trained: Mapping[str, Tensor], config: OptimizerConfig) -> set[str]:
    """Of the parameters by name, those that Muon has; AdamW has the others."""
    if config.method != "muon":
        return set()
    return {
        name
        for name, tensor in trained.items()
        if tensor.dim() > 1 and not any(word in name for word in _NOT_LINEAR)
    }


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Linear to the peak over the warm-up, then a cosine to the final share."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    share = config.final_lr_share
    return config.lr * (share + (1 - share) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
