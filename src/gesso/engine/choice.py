"""Which stepper a network gets."""

from __future__ import annotations

from gesso.engine.joined import JoinedSteps
from gesso.engine.stepper import Stepper
from gesso.kernels import choice
from gesso.model.network import Network


def make_stepper(network: Network, rows: int) -> Stepper:
    """For so many rows at most: by kernels on a GPU with Triton, elsewhere by the network's own
    passes."""
    if network.device.type != "cuda" or not choice.has_triton():
        return JoinedSteps(network)
    from gesso.engine.device import DeviceSteps  # triton is imported where it is of use

    return DeviceSteps(network, rows=rows)
