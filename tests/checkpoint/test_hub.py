"""Finding a checkpoint. No test reaches for the network."""

import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from huggingface_hub.utils import filter_repo_objects

import gesso
from gesso.checkpoint import resolve


class Response:
    """As much of an HTTP answer as the hub's errors look at."""

    status_code = 404
    headers: ClassVar[dict[str, str]] = {}
    request = None


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A hub that has one model; returns what it was asked, and raises what it is told to."""
    asked: dict[str, Any] = {}

    def snapshot_download(repository: str, **keys: Any) -> str:
        asked.update(keys, repository=repository)
        if "raises" in asked:
            raise asked["raises"]
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def test_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(tmp_path) == tmp_path
    assert resolve(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    assert resolve("~/models") == tmp_path / "models"


def test_a_folder_that_looks_like_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: dict[str, Any]
) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("owner/name") == Path("owner/name")
    assert not hub


def test_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: dict[str, Any]) -> None:
    """Also one whose path looks like a hub id."""
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "model.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    for source in ("owner/model.safetensors", tmp_path / "owner" / "model.safetensors"):
        with pytest.raises(ValueError, match=r"model\.safetensors: is a file; give its folder"):
            resolve(source)
    assert not hub


def test_the_embedded_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies in the working directory."""
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    embedded = Path(gesso.__file__).parent / "assets" / "tiny"
    assert embedded.is_dir()
    assert resolve("tiny") == embedded
    for name in ("sudoku9", "infill"):
        assert resolve(name) == embedded.parent / name
    assert resolve("./tiny") == Path("tiny")


def test_a_hub_id(hub: dict[str, Any], tmp_path: Path) -> None:
    assert resolve("owner/some-model_2.b") == tmp_path / "snapshot"
    assert hub.pop("repository") == "owner/some-model_2.b"
    assert hub["revision"] is None
    resolve("owner/name", revision="v2")
    assert hub["revision"] == "v2"


def test_what_is_downloaded(hub: dict[str, Any]) -> None:
    """By the hub's own filter: no pickle, and nothing that lies in a folder."""
    about = ["config.json", "chat_template.jinja"]
    weights = ["model.safetensors", "model-00001-of-00002.safetensors"]
    others = ["original/consolidated.safetensors", "onnx/config.json", "model.pt", "README.md"]
    for wanted, keys in ((about + weights, {}), (about, {"weights": False})):
        resolve("owner/name", **keys)
        patterns = {name: hub[name] for name in ("allow_patterns", "ignore_patterns")}
        assert list(filter_repo_objects(about + weights + others, **patterns)) == wanted


@pytest.mark.parametrize("source", ["nowhere", "./owner/name", "a/b/c", "/owner/name", "", "a b/c"])
def test_neither_a_folder_nor_a_hub_id(source: str, hub: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no such folder, and not a hub id either; give"):
        resolve(source)
    assert not hub


def test_a_path_is_never_a_hub_id(hub: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        resolve(Path("owner/name"))
    assert not hub


@pytest.mark.parametrize("source", ["tiny", "."])
def test_a_folder_has_no_revision(source: str) -> None:
    with pytest.raises(ValueError, match="revision 'v2' is for hub ids"):
        resolve(source, revision="v2")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.RepositoryNotFoundError("404", response=Response()), "the hub has no such model"),
        (errors.GatedRepoError("403", response=Response()), "wants its terms accepted"),
        (errors.RevisionNotFoundError("404", response=Response()), "has no revision 'v2'"),
        (errors.HFValidationError("two dots"), "not a hub id .two dots"),
        (errors.LocalEntryNotFoundError("no line\nmore"), r"cannot be reached \(.*no line\)"),
        (OSError("disk full"), r"the download failed \(OSError: disk full\); try again"),
    ],
)
def test_what_can_go_wrong(hub: dict[str, Any], error: Exception, message: str) -> None:
    hub["raises"] = error
    with pytest.raises(ValueError, match=rf"^owner/name: .*{message}") as raised:
        resolve("owner/name", revision="v2")
    assert "\n" not in str(raised.value)


def test_offline_and_not_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The library itself, which reads HF_HUB_OFFLINE when it is imported."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="nor in the local cache, and HF_HUB_OFFLINE is set"):
        resolve("owner/name")


def test_the_hub_is_imported_only_when_needed() -> None:
    code = (
        "import sys; from gesso.checkpoint import resolve; resolve('.'); "
        "print('huggingface_hub' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"False\n"
