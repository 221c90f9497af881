"""Pixels without a header in, slices out: as their .vol.info says, or the user."""

from __future__ import annotations

import contextlib
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from hpcseg.errors import ConfigError, DatasetError
from hpcseg.slices.array import array_source
from hpcseg.slices.source import Reading, Source, VoxelSize, size_in_words, voxel_size

_SUFFIXES = {".raw", ".vol", ".bin", ".dat"}
_ORDERS: dict[str, Literal["little", "big"]] = {"LOWBYTEFIRST": "little", "HIGHBYTEFIRST": "big"}


def is_raw(path: Path) -> bool:
    """By its name, since such a file has nothing else."""
    return path.suffix.lower() in _SUFFIXES


def without_header(path: Path, how: Reading) -> Reading:
    """The same where a file is as long as its pixels alone: raw labels of slices with a header may have none."""
    with contextlib.suppress(OSError, TypeError, ValueError, SyntaxError):  # which are told where it is opened
        if how.header and how.shape and os.path.getsize(path) == math.prod(how.shape) * np.dtype(how.dtype).itemsize:
            return replace(how, header=0)
    return how


def open_raw(path: Path, how: Reading) -> Source:
    """The slices of a file of bare pixels, (slices, height, width).

    Args:
        path: of the file; NAME.vol may have a NAME.vol.info of PyHST beside it.
        how: `shape`, `dtype`, `byteorder` and `header`; they go before what the .info says.

    Raises:
        ConfigError: nobody says its shape or type, or what is said is none.
        DatasetError: the file is longer or shorter than that.
    """
    orders: dict[str, Literal["little", "big"]] = {"<": "little", ">": "big"}
    order = orders.get((how.dtype or "")[:1])
    if order and how.byteorder not in (None, order):
        raise ConfigError(
            f"--dtype {how.dtype} says {order} and --byteorder {how.byteorder}. Give one of them; raw labels may have "
            "an order of their own in --label-dtype, as <u2 or >u2."
        )
    how, voxel = _with_info(path, how if order is None else replace(how, byteorder=order))
    if how.shape is None or how.dtype is None:
        raise ConfigError(
            f"{path} has no header that says its size. Say it: --shape SLICES,HEIGHT,WIDTH and --dtype uint16, or of "
            "labels --label-dtype uint8; with --byteorder big or --header BYTES where that is so."
        )
    try:
        stored = np.dtype(how.dtype).newbyteorder(">" if how.byteorder == "big" else "<")
    except (TypeError, ValueError, SyntaxError):
        raise ConfigError(f"--dtype is {how.dtype}, which is no type of numbers. Take one such as uint16.") from None
    if stored.kind not in "uif" or min(how.shape) < 1 or how.header < 0:
        raise ConfigError(f"{path} cannot be {how.shape} {how.dtype} behind {how.header} bytes. Take others.")
    wanted, there = how.header + math.prod(how.shape) * stored.itemsize, os.path.getsize(path)
    if wanted != there:
        raise DatasetError(
            f"{path} has {there} bytes, but {size_in_words(how.shape)} {stored.name} behind {how.header} bytes are "
            f"{wanted}. Is the shape slices, height, width? Is there a header?"
        )
    of = (path, stored, math.prod(how.shape[-2:]), how.header)
    return array_source(path, "raw", how, how.shape, stored, load=load_raw, of=of, certain=True, voxel=voxel)


def load_raw(path: Path, stored: np.dtype, pixels: int, header: int, first: int, last: int) -> np.ndarray:
    """The pixels of some slices that lie one behind the other."""
    start = header + first * pixels * stored.itemsize
    return np.fromfile(path, stored, (last - first) * pixels, offset=start)


def _with_info(path: Path, how: Reading) -> tuple[Reading, VoxelSize | None]:
    """What PyHST writes beside a .vol: NUM_X, NUM_Y, NUM_Z, voxelSize in micrometres, BYTEORDER; 32-bit floats."""
    info = path.with_name(f"{path.name}.info")
    if not info.is_file():
        return how, None
    said = dict(re.findall(r"^\s*(\w+)\s*=\s*(\S+)", info.read_text(errors="replace"), re.MULTILINE))
    try:
        shape = how.shape or (int(said["NUM_Z"]), int(said["NUM_Y"]), int(said["NUM_X"]))
    except (KeyError, ValueError):
        raise DatasetError(f"{info} does not say NUM_X, NUM_Y and NUM_Z. Say --shape and --dtype instead.") from None
    byteorder = how.byteorder or _ORDERS.get(said.get("BYTEORDER", "LOWBYTEFIRST").upper())
    if byteorder is None:
        raise DatasetError(f"{info} says BYTEORDER = {said['BYTEORDER']}. Say which it is: --byteorder little or big.")
    how = replace(how, shape=shape, dtype=how.dtype or "float32", byteorder=byteorder)
    return how, voxel_size([said.get("voxelSize")] * 3, "micrometer")


def write_raw(descriptor: int, first: int, index: int, pixels: np.ndarray) -> None:
    """Write one of the slices of an open file, which lie behind each other from a byte on, little-endian.

    Args:
        descriptor: of the file; several processes may each write slices of their own.
        first: byte at which slice 0 begins.
        index: of the slice, from 0.
        pixels: (H, W), of the size and the type of all.

    Raises:
        OSError: there is no room on the disk, or it fails.
    """
    stored = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<"))
    left, at = memoryview(stored.data).cast("B"), first + index * stored.nbytes
    while left:
        written = os.pwrite(descriptor, left, at)
        left, at = left[written:], at + written
