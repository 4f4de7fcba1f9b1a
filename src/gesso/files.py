"""Files that are there whole or not at all."""

from __future__ import annotations

import importlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`, of the same suffix, to write to; it takes the path's
    place at the end, and is gone when writing fails."""
    temporary = path.with_name(f"{path.stem}.tmp-{uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_in(
    folder: Path, *, entries: Sequence[str], outdated: Sequence[str] = ()
) -> Iterator[Path]:
    """Gives an empty folder to write to; its files take their places in `folder` at the end, and it
    is gone when writing fails.

    All is first flushed to the disk, and may be read by whom new files may be (safetensors writes
    for the owner alone). A target that does not exist is then made by one rename of a
    folder beside it. One that exists keeps the files that are not ours (a tokenizer, logs), so it
    is not swapped as a whole: the `entries`, without which no reader takes it, are removed, the new
    files move up one by one out of a folder within it (it may be a disk of its own), and the
    entries come last. At every moment the target is thus either whole or refused, never a mixture
    of two; and while it is refused, the new one lies within it.

    outdated: patterns of files to remove that were not written anew. ValueError, before anything
    is written, when the target is a file, or a folder that cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file; give the name of a folder")
    folder = folder.resolve()
    make_folder(folder.parent)
    partial = (folder if folder.exists() else folder.parent) / f".partial-{uuid4().hex[:8]}"
    make_folder(partial)
    try:
        yield partial
        mode = _mode_of_new_files(partial)
        for path in partial.iterdir():
            _flush(path)
            path.chmod(mode)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    # From here on the partial folder is whole; should a move fail, it stays.
    if not folder.exists():
        partial.rename(folder)
        return
    for entry in entries:
        (folder / entry).unlink(missing_ok=True)
    new = sorted((path.name for path in partial.iterdir()), key=lambda name: name in entries)
    for pattern in outdated:
        for path in folder.glob(pattern):
            if path.name not in new:
                path.unlink()
    for name in new:
        os.replace(partial / name, folder / name)
    partial.rmdir()


def remove_leftovers(folder: Path) -> None:
    """What `replacing` and `replacing_in` left in the folder when the process was killed. For who
    knows that nobody is writing there, and that nothing is lost with it: a folder that was about to
    take its target's place may be the only whole one."""
    for path in folder.glob(".partial-*"):
        shutil.rmtree(path)
    for path in folder.glob("*.tmp-????????*"):
        path.unlink()


def make_folder(folder: Path) -> None:
    """With those above it, where it is not there. ValueError: it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{folder}: cannot be made ({error.strerror}: {error.filename}); choose another folder"
        ) from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """For one process at a time, where the system knows such locks. ValueError: another has it."""
    try:
        fcntl = importlib.import_module("fcntl")
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder}: another process is at work in it; let it end, or choose another folder"
            ) from None
        yield
    finally:
        os.close(handle)


def _mode_of_new_files(folder: Path) -> int:
    """What the umask leaves: it cannot be asked for without being set."""
    new = folder / f".mode-{uuid4().hex[:8]}"
    new.touch()
    mode = stat.S_IMODE(new.stat().st_mode)
    new.unlink()
    return mode


def _flush(path: Path) -> None:
    """To the disk itself: a rename must not become visible before what it names."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
