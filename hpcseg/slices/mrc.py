"""An MRC file (.mrc, .rec, .st, .ali) in, slices out."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.slices.array import array_source, slab
from hpcseg.slices.extras import load_extra
from hpcseg.slices.source import Reading, Source, refusing, voxel_size

_SUFFIXES = {".mrc", ".mrcs", ".rec", ".st", ".ali", ".map"}
_IMOD = 1146047817


def is_mrc(path: Path) -> bool:
    """Whether a file has the name or the mark of one."""
    with path.open("rb") as file:
        return path.suffix.lower() in _SUFFIXES or file.read(212)[208:212] in (b"MAP ", b"MAP\0")


def open_mrc(path: Path, how: Reading) -> Source:
    """The slices of an image or a volume.

    Raises:
        DatasetError: it is damaged, cut short, or a stack of volumes.
        ConfigError: mrcfile is not installed.
    """
    mrcfile = load_extra("mrcfile", "mrc", path)
    with refusing(f"{path} is no MRC file that can be read"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mrcfile.mmap(path, mode="r") as mrc:
            shape, dtype, size = mrc.data.shape, _data(mrc).dtype, mrc.voxel_size
            voxel = voxel_size((size.z, size.y, size.x), "angstrom")
    return array_source(path, "mrc", how, shape, dtype, load=_load, of=(path,), voxel=voxel)


def _load(path: Path, first: int, last: int) -> np.ndarray:
    with load_extra("mrcfile", "mrc", path).mmap(path, mode="r") as mrc:
        return slab(_data(mrc), first, last).copy()


def _data(mrc: Any) -> np.ndarray:
    """Bytes are signed, but of files with IMOD's mark only where a flag says so."""
    mark, flags = np.frombuffer(mrc.header.extra2.tobytes(), mrc.header.mode.dtype, 2, offset=40)
    unsigned = mrc.data.dtype == np.int8 and mark == _IMOD and not flags & 1
    return np.asarray(mrc.data.view("u1") if unsigned else mrc.data)
