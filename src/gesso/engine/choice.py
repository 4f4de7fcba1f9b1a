"""Which stepper a network gets."""

from __future__ import annotations

from gesso.engine.joined import JoinedSteps
from gesso.engine.stepper import Stepper
from gesso.kernels import choice
from gesso.model.network import Network


def make_stepper(network: Network, rows: int) -> Stepper:
    """For so many rows at most: by kernels where they run, else by the network's own passes."""
    if not choice.has_kernels(network.device):
        return JoinedSteps(network)
    from gesso.engine.device import DeviceSteps  # triton is imported where it is of use

    return DeviceSteps(network, rows=rows)
