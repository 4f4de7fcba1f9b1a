"""`import gesso` costs next to nothing, and what is optional is not imported on the way."""

import json
import subprocess
import sys

import pytest

import gesso

OPTIONAL = {
    "fastapi", "PIL", "transformers", "triton", "rich", "tyro", "matplotlib", "faker",
}  # fmt: skip

# Both are timed in one process, torch first: what gesso adds is then free of torch's own swings.
PROBE = """
import json, sys, time
import torch
before = set(sys.modules)
cpu, wall = time.process_time(), time.perf_counter()
import gesso
seconds = min(time.process_time() - cpu, time.perf_counter() - wall)
{more}
print(json.dumps([seconds, sorted(set(sys.modules) - before)]))
"""


def probe(more: str) -> tuple[float, set[str]]:
    command = [sys.executable, "-c", PROBE.format(more=more)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, modules = json.loads(done.stdout.splitlines()[-1])
    return seconds, set(modules)


@pytest.mark.parametrize("more", ["", "gesso.load"])
def test_optional_packages_are_left_alone(more: str) -> None:
    _, modules = probe(more)
    assert not {module.partition(".")[0] for module in modules} & OPTIONAL
    if not more:
        ours = {module for module in modules if module.startswith("gesso")}
        assert ours == {"gesso"}


def test_every_name_is_there() -> None:
    assert {"Engine", "Parameters", "Result", "ToolCall", "load"} <= set(gesso.__all__)
    for name in gesso.__all__:
        assert getattr(gesso, name).__name__ == name


def test_loading_imports_no_compiler() -> None:
    """torch's takes as long as torch itself, and drawing weights on the meta device imports it."""
    _, modules = probe("gesso.load('tiny')")
    assert "torch._dynamo" not in modules
    assert "gesso.model.network" in modules


def test_import_takes_no_time() -> None:
    """Added to torch's own; the minimum of several runs, for the machine may be busy."""
    for _ in range(5):
        seconds, _ = probe("")
        if seconds < 0.3:
            return
    pytest.fail(f"import gesso took {seconds:.2f} s in each of five runs")
