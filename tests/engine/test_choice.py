"""Which stepper a network gets."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gesso.engine.choice import make_stepper
from gesso.engine.device import DeviceSteps
from gesso.engine.joined import JoinedSteps


@pytest.mark.parametrize(
    ("device", "triton", "kind"),
    [("cpu", True, JoinedSteps), ("cuda", False, JoinedSteps), ("cuda", True, DeviceSteps)],
)
def test_kernels_on_a_gpu_with_triton(
    device: str, triton: bool, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gesso.kernels.choice.has_triton", lambda: triton)
    monkeypatch.setattr(DeviceSteps, "__init__", lambda self, network, rows: None)
    network: Any = SimpleNamespace(device=torch.device(device))
    assert type(make_stepper(network, 1)) is kind
