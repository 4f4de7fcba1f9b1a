"""Compile the Triton kernels for Hopper, ahead of time and without a GPU, and say what they take.

    python benchmarks/compile_kernels.py [--json FILE] [--only TEXT]

For each variant in benchmarks/ahead/*.py: registers a thread and bytes spilt, as ptxas reports
them, shared memory a program, and whether the tensor cores' wgmma instructions are used. A figure
of the compiler's: nothing is run.
"""

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGET = GPUTarget("cuda", 90, 32)
FOLDER = Path(__file__).parent / "ahead"


class Report(NamedTuple):
    name: str
    registers: int
    spilt: int  # bytes, stores and loads
    shared: int  # bytes
    wgmma: bool


def variants(only: str = "") -> list[dict[str, Any]]:
    found = []
    for path in sorted(FOLDER.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"ahead_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found += [v | dict(name=f"{path.stem}: {v['name']}") for v in module.VARIANTS]
    return [variant for variant in found if only in variant["name"]]


def compile_variant(variant: dict[str, Any]) -> Report:
    names, constants = variant["kernel"].arg_names, variant["constexprs"]
    signature = {n: "constexpr" if n in constants else variant["signature"][n] for n in names}
    # What a launch finds out by itself: torch's allocations are aligned to 16 bytes.
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if "*" in signature[n]}
    attrs = aligned | variant.get("attrs", {})
    source = ASTSource(variant["kernel"], signature, constexprs=constants, attrs=attrs)
    compiled = triton.compile(source, target=TARGET, options=variant["options"])
    ptx = compiled.asm["ptx"]
    log = ptxas_log(ptx)
    return Report(
        variant["name"],
        int(re.findall(r"Used (\d+) registers", log)[0]),
        sum(map(int, re.findall(r"(\d+) bytes spill", log))),
        compiled.metadata.shared,
        "wgmma.mma_async" in ptx,
    )


def ptxas_log(ptx: str) -> str:
    """Of the newer of Triton's two assemblers, which is the one that it takes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [knobs.nvidia.ptxas_blackwell.path, "-v", "-arch=sm_90a", str(path)]
        done = subprocess.run(
            [*command, "-o", str(path.with_suffix(".o"))],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    return done.stderr + done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    parser.add_argument("--only", default="", help="variants whose name has this text")
    options = parser.parse_args()
    if knobs.runtime.interpret:
        sys.exit("TRITON_INTERPRET is set; a compiler is needed: unset it")
    print(f"{'':48} registers  spilt  shared  wgmma")
    reports = []
    for variant in variants(options.only):
        report = compile_variant(variant)
        wgmma = "yes" if report.wgmma else "no"
        size = f"{report.registers:9}  {report.spilt:5}  {report.shared:6}  {wgmma:>5}"
        print(f"{report.name:48} {size}", flush=True)
        reports.append(report._asdict())
    if options.json:
        options.json.write_text(json.dumps(dict(triton=triton.__version__, kernels=reports)) + "\n")


if __name__ == "__main__":
    main()
