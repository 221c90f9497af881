"""An MRC file (.mrc, .rec, .st, .ali) in, slices out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.errors import DatasetError
from hpcseg.slices.extras import load_extra
from hpcseg.slices.source import Reading, Source, first_line, stack_facts, voxel_size

SUFFIXES = {".mrc", ".mrcs", ".rec", ".st", ".ali", ".map"}
_IMOD = 1146047817


@dataclass(frozen=True)
class _Slices:
    path: Path

    def __call__(self, index: int) -> np.ndarray:
        mrcfile = load_extra("mrcfile", "mrc", self.path)
        with mrcfile.mmap(self.path, mode="r") as mrc:
            pixels = mrc.data if mrc.data.ndim == 2 else mrc.data[index]
            return np.array(pixels.view(_dtype(mrc)), dtype=_dtype(mrc).newbyteorder("="))


def is_mrc(path: Path) -> bool:
    """Whether a file has the mark of one."""
    with path.open("rb") as file:
        return file.read(212)[208:212] in (b"MAP ", b"MAP\0")


def open_mrc(path: Path, how: Reading) -> Source:
    """The slices of an image or a volume.

    Raises:
        DatasetError: it is damaged, cut short, or a stack of volumes.
        ConfigError: mrcfile is not installed.
    """
    mrcfile = load_extra("mrcfile", "mrc", path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with mrcfile.mmap(path, mode="r") as mrc:
                shape, dtype, size = mrc.data.shape, _dtype(mrc).newbyteorder("="), mrc.voxel_size
                voxel = voxel_size((size.z, size.y, size.x), "angstrom")
    except Exception as error:  # mrcfile raises ValueError, and numpy others, for damaged files
        raise DatasetError(f"{path} is no MRC file that can be read ({first_line(error)}).") from None
    if len(shape) not in (2, 3) or dtype.kind not in "uif":
        raise DatasetError(f"{path} is {shape} {dtype}, which are no slices of grey values.")
    names, numbers = stack_facts(path.name, 1 if len(shape) == 2 else shape[0], how.first)
    return Source(
        path=path,
        form="mrc",
        names=names,
        numbers=numbers,
        shapes=(tuple(shape[-2:]),) * len(names),
        dtypes=(dtype,) * len(names),
        decode=_Slices(path),
        files=(path,),
        voxel=voxel,
    )


def _dtype(mrc: Any) -> np.dtype:
    """Bytes are signed, but of files with IMOD's mark only where a flag says so."""
    mark, flags = np.frombuffer(mrc.header.extra2.tobytes(), mrc.header.mode.dtype, 2, offset=40)
    unsigned = mrc.data.dtype == np.int8 and mark == _IMOD and not flags & 1
    return np.dtype("u1") if unsigned else mrc.data.dtype
