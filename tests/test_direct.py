"""Writes past the page cache: the bytes that arrive, and what happens where there is no such way."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from pathlib import Path

import numpy as np
import pytest

from hpcseg.direct import PAGE_BYTES, DirectFile, page_aligned

_PAGES = 520  # more than one piece of those that go through the cache


@pytest.fixture
def pixels():
    pixels = page_aligned((_PAGES, PAGE_BYTES // 2), np.dtype("u2"))
    pixels[:] = np.random.default_rng(0).integers(0, 65_536, pixels.shape, dtype=np.uint16)
    return pixels


@pytest.fixture
def calls(monkeypatch):
    """Per call of pwrite whether it was direct; the device of the file seems to be this machine's."""
    seen, pwrite = [], os.pwrite

    def spy(file, data, offset):
        seen.append(bool(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT))
        return pwrite(file, data, offset)

    monkeypatch.setattr(os, "pwrite", spy)
    monkeypatch.setattr(os, "major", lambda device: 259)
    return seen


def _write(path: Path, *pieces: tuple[np.ndarray | memoryview, int]) -> bytes:
    path.write_bytes(b"")
    with contextlib.closing(DirectFile(path)) as file:
        for data, offset in pieces:
            file.write(memoryview(data).cast("B"), offset)
    return path.read_bytes()


def test_memory_begins_with_a_page_and_holds_zeros():
    memory = page_aligned((3, 5), np.dtype("<f4"))
    assert memory.ctypes.data % PAGE_BYTES == 0
    assert memory.tobytes() == bytes(60)


def test_whole_pages_go_past_the_cache_in_one_call_each(tmp_path, pixels, calls):
    written = _write(tmp_path / "file", (pixels, 2 * pixels.nbytes), (pixels, PAGE_BYTES))
    assert written[PAGE_BYTES : PAGE_BYTES + pixels.nbytes] == pixels.tobytes()
    assert written[2 * pixels.nbytes :] == pixels.tobytes()
    assert calls == [True, True]


@pytest.mark.parametrize(("first", "size"), [(512, 2 * PAGE_BYTES), (0, 2 * PAGE_BYTES - 512)])
def test_what_shares_a_page_with_something_else_goes_through_the_cache(tmp_path, pixels, calls, first, size):
    # A disk would take these multiples of 512 bytes directly, and the cache would then bring back its old page.
    data = pixels.reshape(-1).view("u1")[:size]
    assert _write(tmp_path / "file", (data, first))[first:] == data.tobytes()
    assert not any(calls)


def test_a_file_that_is_on_no_device_of_this_machine_is_written_through_the_cache(tmp_path, pixels, calls, monkeypatch):
    monkeypatch.setattr(os, "major", lambda device: 0)
    assert _write(tmp_path / "file", (pixels, 0)) == pixels.tobytes()
    assert calls == [False] * -(-pixels.nbytes // 2**20)


def test_a_file_system_that_takes_the_flag_and_no_direct_write(tmp_path, pixels, calls, monkeypatch):
    spy = os.pwrite

    def refuse(file, data, offset):
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return spy(file, data, offset)

    monkeypatch.setattr(os, "pwrite", refuse)
    assert _write(tmp_path / "file", (pixels, 0), (pixels, pixels.nbytes)) == 2 * pixels.tobytes()
    assert not any(calls)


def test_a_file_system_that_does_not_take_the_flag(tmp_path, pixels, calls, monkeypatch):
    control = fcntl.fcntl

    def refuse(file, command, flags=0):
        if command == fcntl.F_SETFL and flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return control(file, command, flags)

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert _write(tmp_path / "file", (pixels, 0)) == pixels.tobytes()
    assert not any(calls)


def test_a_write_that_was_cut_short_is_gone_on_with(tmp_path, pixels, calls, monkeypatch):
    spy = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: spy(file, data[:512] if not calls else data, offset))
    assert _write(tmp_path / "file", (pixels, 0)) == pixels.tobytes()
    assert calls[0]  # and what is left begins within a page
    assert not any(calls[2:])


def test_without_sync_file_range_the_flush_does_it_all(tmp_path, pixels, monkeypatch):
    monkeypatch.setattr(os, "major", lambda device: 0)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # macOS
    assert _write(tmp_path / "file", (pixels, 0)) == pixels.tobytes()


def test_a_full_disk_is_the_callers_to_tell(tmp_path, pixels, monkeypatch):
    def full(file, data, offset):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        _write(tmp_path / "file", (pixels, 0))
