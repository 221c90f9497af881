"""An MRC file (.mrc, .rec, .st, .ali) in, slices out."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.slices.array import array_source
from hpcseg.slices.extras import load_extra
from hpcseg.slices.raw import load_raw
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
        shape, stored = mrcfile.utils.data_shape_from_header(header), _stored(mrcfile, header)
        before = header.nbytes + int(header.nsymbt)
        # Which of x, y and z the sections, rows and columns are along.
        along = [int(axis) - 1 for axis in (header.maps, header.mapr, header.mapc)]
        if min(header.nx, header.ny, header.nz) < 1:
            raise ValueError(f"its header says {header.nx} x {header.ny} x {header.nz} pixels")
        if (missing := before + math.prod(shape) * stored.itemsize - path.stat().st_size) > 0:
            raise ValueError(f"it was cut short: {missing} bytes are missing")
        if missing and header.map.tobytes()[:3] != b"MAP":
            raise ValueError("it has no mark of one, nor the size that its header would say")
        said, sizes = sorted(along) == [0, 1, 2], (size.x, size.y, size.z)
        voxel = voxel_size([sizes[at] for at in (along if said else (2, 1, 0))], "angstrom")
        points_to = "".join("XYZ"[at] for at in reversed(along)) if said and how.pixels != "stored" else ""
    of = (path, stored, math.prod(shape[-2:]), before)
    return array_source(
        path, "mrc", how, shape, stored, load=load_raw, of=of, certain=True, voxel=voxel, points_to=points_to
    )


def _stored(mrcfile: Any, header: Any) -> np.dtype:
    """Bytes are signed: of files with IMOD's mark where a flag says so, of others unless the header has larger ones."""
    stored = mrcfile.utils.data_dtype_from_header(header)
    mark, flags = np.frombuffer(header.extra2.tobytes(), header.mode.dtype, 2, offset=40)
    larger = header.dmin >= 0 and header.dmax > np.iinfo("i1").max
    unsigned = not flags & 1 if mark == _IMOD else larger
    return np.dtype("u1") if unsigned and stored == np.int8 else stored
