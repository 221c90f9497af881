"""Pixels without a header in, slices out: as their .vol.info says, or the user."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcseg.errors import ConfigError, DatasetError
from hpcseg.slices.source import Reading, Source, VoxelSize, stack_facts, voxel_size

SUFFIXES = {".raw", ".vol", ".bin", ".dat"}


@dataclass(frozen=True)
class _Slices:
    path: Path
    header: int
    shape: tuple[int, int]
    stored: np.dtype

    def __call__(self, index: int) -> np.ndarray:
        pixels = math.prod(self.shape)
        first = self.header + index * pixels * self.stored.itemsize
        read = np.fromfile(self.path, self.stored, pixels, offset=first).reshape(self.shape)
        return read.astype(self.stored.newbyteorder("="), copy=False)


def open_raw(path: Path, how: Reading) -> Source:
    """The slices of a file of bare pixels, (slices, height, width).

    Args:
        path: of the file; NAME.vol may have a NAME.vol.info of PyHST beside it.
        how: `shape`, `dtype`, `byteorder` and `header`; they go before what the .info says.

    Raises:
        ConfigError: nobody says its shape or type, or what is said is none.
        DatasetError: the file is longer or shorter than that.
    """
    how, voxel = _with_info(path, how)
    if how.shape is None or how.dtype is None:
        raise ConfigError(
            f"{path} has no header that says its size. Say it: --shape SLICES,HEIGHT,WIDTH --dtype uint16, with "
            "--byteorder big or --header BYTES where that is so."
        )
    try:
        stored = np.dtype(how.dtype).newbyteorder(">" if how.byteorder == "big" else "<")
    except TypeError:
        raise ConfigError(f"--dtype is {how.dtype}, which is no type of numbers. Take one such as uint16.") from None
    if stored.kind not in "uif" or min(how.shape) < 1 or how.header < 0:
        raise ConfigError(f"{path} cannot be {how.shape} {how.dtype} behind {how.header} bytes. Take others.")
    wanted, there = how.header + math.prod(how.shape) * stored.itemsize, os.path.getsize(path)
    if wanted != there:
        said = f"{how.header} bytes and " if how.header else ""
        raise DatasetError(
            f"{path} has {there} bytes, but {said}{' x '.join(map(str, how.shape))} {stored.name} are {wanted}. "
            "Is the shape slices, height, width? Is there a header?"
        )
    names, numbers = stack_facts(path.name, how.shape[0], how.first)
    return Source(
        path=path,
        form="raw",
        names=names,
        numbers=numbers,
        shapes=(how.shape[1:],) * len(names),
        dtypes=(stored.newbyteorder("="),) * len(names),
        decode=_Slices(path, how.header, how.shape[1:], stored),
        files=(path,),
        voxel=voxel,
    )


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
    size = said.get("voxelSize")
    return (
        dataclasses.replace(
            how,
            shape=shape,
            dtype=how.dtype or "float32",
            byteorder=how.byteorder or ("big" if said.get("BYTEORDER") == "HIGHBYTEFIRST" else "little"),
        ),
        voxel_size((size, size, size), "micrometer"),
    )
