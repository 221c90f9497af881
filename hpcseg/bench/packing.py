"""How fast slices go into a packed file, against decoding alone and writing alone."""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from hpcseg.bench.contender import compare
from hpcseg.bench.measure import Piece, rate
from hpcseg.data.pack import pack, processes_for
from hpcseg.data.pairs import drop_pair, find_pairs
from hpcseg.data.processes import in_processes
from hpcseg.data.sample import write_sample
from hpcseg.errors import HpcsegError
from hpcseg.slices.opening import open_source

OURS, DECODE, WRITE = "pack", "decode", "write"
COMPRESSIONS = {"none": None, "PackBits": "packbits", "deflate": "zlib", "JPEG XL": "jpegxl"}
"""How stacks may be compressed: as they leave a detector, as the paper's slices are, as most programs do it, and as it
is done where room is short. What decoding costs spans two orders of magnitude."""
_HERE = "hpcseg.bench.packing"
_PATCH, _PATCHES = 256, 4
_BLOCK_BYTES = 2**20
_SECONDS_BETWEEN_LOOKS = 0.02


def measure_packing(
    folder: Path,
    *,
    compression: str,
    slices: int,
    size: int,
    seconds: float,
    rounds: int,
    others: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Bytes of decoded pixels per second of `OURS`, `DECODE`, `WRITE` and others, which take turns.

    `DECODE` reads all slices and labels with as many processes as pack does and drops them; `WRITE` brings as many
    bytes to the disk as the packed file has. pack reads and writes, so it cannot exceed the slower of the two.

    Args:
        folder: gets two stacks of 3 bytes per pixel in all, and the packed files.
        compression: of the stacks, a key of `COMPRESSIONS`.
        slices: of the stacks.
        size: height and width in pixels, a multiple of 256.
        seconds: of a piece; packing everything once, if that takes longer.
        rounds: pieces of each.
        others: further contenders by name, each the "module:name" of a function like `pack_piece`.

    Raises:
        HpcsegError: the folder's file system refuses, or packing fails.
    """
    _write_stacks(folder, compression=compression, slices=slices, size=size)
    memory = _peak_memory(folder)
    builds = {name: f"{_HERE}:{name}_piece" for name in (OURS, DECODE, WRITE)} | dict(others or {})
    work = {"folder": str(folder), "source_bytes": slices * size**2 * 3}
    rates = compare(builds, work, seconds=seconds, rounds=rounds)
    return {
        "slices": slices,
        "size": size,
        "file_bytes": (folder / "packed.h5").stat().st_size,
        "bytes_per_second": {name: rates.median(name) for name in rates.rounds},
        "slower": min((DECODE, WRITE), key=rates.median),
        "against": {name: rates.ratio(OURS, name) for name in rates.rounds if name != OURS},
        "peak_memory_mib": memory,
    }


@contextlib.contextmanager
def pack_piece(folder: str, source_bytes: int) -> Iterator[Piece]:
    """All of `hpcseg pack` but its start."""
    images, labels = _stacks(Path(folder))
    packed = Path(folder) / "packed.h5"
    yield lambda times: rate(
        times * source_bytes, lambda: _repeat(times, lambda: pack(images, labels, packed, command="bench"))
    )


@contextlib.contextmanager
def decode_piece(folder: str, source_bytes: int) -> Iterator[Piece]:
    """Read every slice and label, by as many processes as pack takes."""

    def work() -> None:
        pairs = find_pairs(*_stacks(Path(folder)))
        decode = functools.partial(drop_pair, pairs)
        collections.deque(in_processes(decode, range(len(pairs)), processes=processes_for(pairs)), maxlen=0)

    yield lambda times: rate(times * source_bytes, lambda: _repeat(times, work))


@contextlib.contextmanager
def write_piece(folder: str, source_bytes: int) -> Iterator[Piece]:
    """Bring as many bytes to the disk as the packed file has."""
    path = Path(folder) / "written"
    file_bytes = (Path(folder) / "packed.h5").stat().st_size
    # Not zeros, which some disks do not write at all.
    block = os.urandom(_BLOCK_BYTES)

    def work() -> None:
        with path.open("wb", buffering=0) as file:
            for _ in range(file_bytes // len(block)):
                file.write(block)
            file.write(block[: file_bytes % len(block)])
            os.fsync(file.fileno())
        path.unlink()

    yield lambda times: rate(times * source_bytes, lambda: _repeat(times, work))


def _repeat(times: int, work: Callable[[], object]) -> None:
    for _ in range(times):
        work()


def _stacks(folder: Path) -> tuple[Path, Path]:
    return folder / "images.tif", folder / "labels.tif"


def _write_stacks(folder: Path, *, compression: str, slices: int, size: int) -> None:
    """Two stacks of a synthetic sample whose slices all differ: uint16 grey values, uint8 labels."""
    write_sample(folder, slices=_PATCHES, size=_PATCH, seed=0)
    for path, name in zip(_stacks(folder), ("data", "labels"), strict=True):
        source = open_source(folder / name)
        patches = [np.tile(source.read(index), (size // _PATCH, size // _PATCH)) for index in range(len(source))]
        with tifffile.TiffWriter(path, bigtiff=True) as stack:
            for index in range(slices):
                stack.write(
                    np.roll(patches[index % _PATCHES], index, axis=1),
                    photometric="minisblack",
                    compression=COMPRESSIONS[compression],
                    contiguous=False,
                    metadata=None,
                )


def _peak_memory(folder: Path) -> int:
    """Memory of `hpcseg pack` on the stacks, MiB: the largest resident sets of processes that were there together."""
    images, labels = _stacks(folder)
    command = [sys.executable, "-m", "hpcseg", "pack", "--images", str(images), "--labels", str(labels)]
    with tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(
            [*command, "--output", str(folder / "packed.h5"), "--force"], stdout=subprocess.DEVNULL, stderr=stderr
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, sum(_peaks(process.pid)))
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        if process.returncode:
            stderr.seek(0)
            raise HpcsegError(f"`hpcseg pack` failed in the bench: {stderr.read().strip()}")
    return round(peak / 2**10)


def _peaks(parent: int) -> list[int]:
    """Largest resident set so far of a process and of each of its children, KiB; without what ends meanwhile."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for process in (str(parent), *children):
            status = Path(f"/proc/{process}/status").read_text()
            if peak := re.search(r"VmHWM:\s+(\d+) kB", status):
                found.append(int(peak[1]))
    return found
