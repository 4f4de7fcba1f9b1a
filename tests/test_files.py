"""A file is replaced whole, or stays as it was."""

from pathlib import Path

import pytest

from gesso.files import locked, replacing, replacing_in


def test_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert (temporary.suffix, path.read_text()) == (".json", "old")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_share_a_half(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with replacing(path) as one, replacing(path) as other:
        one.write_text("one")
        other.write_text("oth")
        assert one.read_text() == "one"


def test_a_link_is_written_where_it_points(tmp_path: Path) -> None:
    """Through a folder within it: what it points to may be another disk."""
    there, link = tmp_path / "there", tmp_path / "link"
    there.mkdir()
    (there / "ours").write_text("old")
    link.symlink_to(there)
    with replacing_in(link, entries=["ours"]) as partial:
        assert partial.parent == there
        (partial / "ours").write_text("new")
    assert [p.name for p in there.iterdir()] == ["ours"]
    assert (link / "ours").read_text() == "new"


def test_a_folder_is_one_writers_at_a_time(tmp_path: Path) -> None:
    other = locked(tmp_path)
    with locked(tmp_path), pytest.raises(ValueError, match="another process is at work in it"):
        other.__enter__()
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
