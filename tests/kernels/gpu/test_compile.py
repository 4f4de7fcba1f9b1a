"""The script that compiles the kernels for a GPU that is not there, on one small variant."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_a_variant_compiles(tmp_path: Path) -> None:
    """In a process of its own: these tests' one may have Triton's interpreter, not its compiler."""
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(ROOT / "src")
    script, file = ROOT / "benchmarks" / "compile_kernels.py", tmp_path / "kernels.json"
    command = [sys.executable, str(script), "--json", str(file), "--only"]
    name = "linear: linear plain, 2112 inputs, 64 x 64"
    subprocess.run([*command, name], env=environment, check=True, capture_output=True)
    (report,) = json.loads(file.read_text())["kernels"]
    assert report["name"] == name
    assert report["wgmma"]
    assert report["spilt"] == 0
    assert 0 < report["registers"] <= 255
    assert 0 < report["shared"] <= 227 * 1024
