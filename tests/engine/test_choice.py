"""Which stepper a network gets."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gesso.engine.choice import make_stepper
from gesso.engine.device import DeviceSteps
from gesso.engine.joined import JoinedSteps

H100, RTX_4090 = 232_448, 101_376


@pytest.mark.parametrize(
    ("device", "triton", "shared", "kind"),
    [
        ("cpu", True, 0, JoinedSteps),
        ("cuda", False, H100, JoinedSteps),
        ("cuda", True, H100, DeviceSteps),
        ("cuda", True, RTX_4090, JoinedSteps),
    ],
)
def test_kernels_on_a_gpu_that_they_fit_with_triton(
    device: str, triton: bool, shared: int, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gesso.kernels.choice._has_triton", lambda: triton)
    monkeypatch.setattr("gesso.kernels.choice._shared_memory", lambda device: shared)
    monkeypatch.setattr(DeviceSteps, "__init__", lambda self, network, rows: None)
    network: Any = SimpleNamespace(device=torch.device(device))
    assert type(make_stepper(network, 1)) is kind
