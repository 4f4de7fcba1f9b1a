"""Imports point down: the contracts of pyproject.toml, by import-linter."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_imports_point_down() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_what_is_forbidden_is_forbidden_to_all_but_one() -> None:
    """To a package that is new, too."""
    source = ROOT / "src" / "gesso"
    found = [*source.glob("[!_]*.py"), *(path.parent for path in source.glob("*/__init__.py"))]
    modules = {f"gesso.{path.stem}" for path in found}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for contract in settings["tool"]["importlinter"]["contracts"]:
        if contract["type"] == "forbidden":
            assert len(modules - set(contract["source_modules"])) == 1, contract["name"]
