"""Where a checkpoint lies: an embedded one, a folder, or a repository of the Hugging Face hub."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path

# Those that come with the package, by name.
EMBEDDED = ("tiny", "sudoku9", "infill")

# What a checkpoint is made of. Repositories may also hold pickles, which are never wanted, and in
# folders the same weights in another layout; a pattern's star matches slashes too.
_WEIGHTS, _ABOUT = ["*.safetensors"], ["*.json", "*.jinja"]
_FOLDERS = ["*/*"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve(source: str | Path, *, revision: str | None = None, weights: bool = True) -> Path:
    """The folder of a checkpoint, downloaded when it must be.

    source: "tiny", "sudoku9" or "infill" for those that come with the package, whatever lies in
    the working directory (a folder of that name is "./tiny"); a folder; or a hub id, "owner/name".
    revision: a branch, tag or commit of the hub. weights: False fetches only what describes
    them. HF_HUB_OFFLINE=1 uses the local cache alone.
    ValueError when there is no such checkpoint or it cannot be fetched.
    """
    if not isinstance(source, str | Path):
        raise ValueError(
            f"got {source!r:.80}; the name of a checkpoint is expected: a folder, a hub id, or an "
            f"embedded one: {', '.join(EMBEDDED)}"
        )
    if source in EMBEDDED:
        _refuse_revision(source, revision)
        return Path(str(files("gesso"))) / "assets" / str(source)
    folder = Path(os.path.expanduser(source))  # which leaves a user that is not known as he is
    # An empty name is no folder, not the working directory; one that is too long is none either.
    if source and os.path.isdir(folder):
        _refuse_revision(source, revision)
        return folder
    if os.path.isfile(folder):
        raise ValueError(f"{source}: is a file; give its folder")
    if isinstance(source, Path) or not _HUB_ID.fullmatch(source):
        raise ValueError(
            f"{source}: no such folder, and not a hub id either; give a checkpoint's folder, "
            f"owner/name, or an embedded one: {', '.join(EMBEDDED)}"
        )
    return _download(source, revision, _WEIGHTS + _ABOUT if weights else _ABOUT)


def _refuse_revision(source: str | Path, revision: str | None) -> None:
    if revision is not None:
        raise ValueError(f"{source}: revision {revision!r} is for hub ids, and this is a folder")


def _download(repository: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=patterns, ignore_patterns=_FOLDERS
            )
        )
    except GatedRepoError:  # a kind of RepositoryNotFoundError, and another remedy
        why = "the hub wants its terms accepted on the model's page, and a login (hf auth login)"
    except RepositoryNotFoundError:
        why = "no such folder, and the hub has no such model, or shows it only after a login"
    except RevisionNotFoundError:
        why = f"the hub's model has no revision {revision!r}; see its list of branches and tags"
    except HFValidationError as error:
        why = f"not a hub id ({error})"
    except LocalEntryNotFoundError as error:
        why = (
            "no such folder, nor in the local cache, and HF_HUB_OFFLINE is set; unset it, or give "
            "a folder"
            if constants.HF_HUB_OFFLINE
            else "no such folder, nor in the local cache, and the hub cannot be reached "
            f"({_reason(error)})"
        )
    except OSError as error:  # the hub's own errors, a full disk, a broken connection
        why = f"the download failed ({_reason(error)}); try again, or give a folder"
    raise ValueError(f"{repository}: {why}")


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[0] if str(cause) else ''}"
