"""An MRC file (.mrc, .rec, .st, .ali) in, slices out."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.slices.array import array_source, slab, slice_axes
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
        # Permissive: older programs leave the mark or the stamp of the byte order empty.
        with mrcfile.open(path, mode="r", header_only=True, permissive=True) as mrc:
            header, size = mrc.header, mrc.voxel_size
            pixels = int(header.nx) * int(header.ny) * int(header.nz)
            wanted = header.nbytes + int(header.nsymbt) + pixels * mrcfile.utils.dtype_from_mode(header.mode).itemsize
            # Which of x, y and z the sections, rows and columns are along.
            along = [int(axis) - 1 for axis in (header.maps, header.mapr, header.mapc)]
        if min(header.nx, header.ny, header.nz) < 1:
            raise ValueError(f"its header says {header.nx} x {header.ny} x {header.nz} pixels")
        if (missing := wanted - path.stat().st_size) > 0:
            raise ValueError(f"it was cut short: {missing} bytes are missing")
        if missing and header.map.tobytes()[:3] != b"MAP":
            raise ValueError("it has no mark of one, nor the size that its header would say")
        said, sizes = sorted(along) == [0, 1, 2], (size.x, size.y, size.z)
        voxel = voxel_size([sizes[at] for at in (along if said else (2, 1, 0))], "angstrom")
        points_to = "".join("XYZ"[at] for at in reversed(along)) if said and how.pixels != "stored" else ""
        with mrcfile.mmap(path, mode="r", permissive=True) as mrc:
            shape, dtype = mrc.data.shape, _data(mrc).dtype
    return array_source(
        path, "mrc", how, shape, dtype, load=_load, of=(path,), certain=True, voxel=voxel, points_to=points_to
    )


def _load(path: Path, first: int, last: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as of bytes behind the pixels
        opened = load_extra("mrcfile", "mrc", path).mmap(path, mode="r", permissive=True)
    with opened as mrc:
        pixels = _data(mrc)
        return slab(pixels, slice_axes(pixels.shape, certain=True) or (), first, last).copy()


def _data(mrc: Any) -> np.ndarray:
    """Bytes are signed: of files with IMOD's mark where a flag says so, of others unless the header has larger ones."""
    mark, flags = np.frombuffer(mrc.header.extra2.tobytes(), mrc.header.mode.dtype, 2, offset=40)
    larger = mrc.header.dmin >= 0 and mrc.header.dmax > np.iinfo("i1").max
    unsigned = not flags & 1 if mark == _IMOD else larger
    return np.asarray(mrc.data.view("u1") if unsigned and mrc.data.dtype == np.int8 else mrc.data)
