"""Files that are written aside, and what killed processes leave of them."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from hpcseg.files import aside, left_of, remove_left, write_bytes


@pytest.fixture
def left(tmp_path) -> Path:
    """What a killed process has left beside tmp_path/a[1].h5, a moment ago."""
    path = tmp_path / ".a[1].h5.12345678.tmp"
    path.touch()
    return path


def without_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_what_is_written_stays_and_what_nobody_writes_goes(left, tmp_path):
    path = tmp_path / "a[1].h5"
    with aside(path) as temporary:
        remove_left(left_of(path))
        assert list(left_of(path)) == [temporary]
        temporary.write_bytes(b"whole")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a[1].h5", b"whole")]


@pytest.mark.parametrize("kind", ["link", "folder", "other name"])
def test_what_aside_does_not_make_is_not_removed(tmp_path, kind):
    path = tmp_path / (".a.1234567g.tmp" if kind == "other name" else ".a.12345678.tmp")
    if kind == "link":
        path.symlink_to(tmp_path / "missing")
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
    remove_left(tmp_path.glob(".*"))
    assert path.is_symlink() or path.exists()
    assert len(list(tmp_path.iterdir())) == 1


def test_without_locks_what_is_written_is_known_by_its_age(left, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "fcntl", without_locks)
    remove_left([left])
    assert left.exists()
    os.utime(left, (0, 0))
    remove_left([left])
    write_bytes(tmp_path / "a[1].h5", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a[1].h5"]


def test_a_file_that_another_process_removes_before_its_lock_is_made_again(tmp_path, monkeypatch):
    lock, removed = fcntl.fcntl, []

    def late(file, *operation):
        if not removed:
            removed.extend(left_of(tmp_path / "a"))
            removed[0].unlink()
        lock(file, *operation)

    monkeypatch.setattr(fcntl, "fcntl", late)
    with aside(tmp_path / "a") as temporary:
        temporary.write_bytes(b"whole")
        # Where the removed one went on to be written, the next command would take it for left.
        remove_left(left_of(tmp_path / "a"))
    assert removed and [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"whole")]
