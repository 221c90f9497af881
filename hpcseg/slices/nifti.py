"""A NIfTI file (.nii, .nii.gz) in, slices out: along its third axis, with rows along its second."""

from __future__ import annotations

import contextlib
import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.errors import DatasetError
from hpcseg.slices.extras import load_extra
from hpcseg.slices.source import Reading, Source, first_line, stack_facts, voxel_size

_UNITS = {"mm": "millimeter", "micron": "micrometer", "meter": "meter"}


@dataclass(frozen=True)
class _Slices:
    path: Path
    dtype: np.dtype

    def __call__(self, index: int) -> np.ndarray:
        image = _image(self.path)
        chosen = (slice(None), slice(None), index, *(0,) * (image.ndim - 3))[: image.ndim]
        return np.ascontiguousarray(np.asarray(image.dataobj[chosen]).T).astype(self.dtype, copy=False)


@functools.lru_cache(maxsize=2)
def _image(path: Path) -> Any:
    return load_extra("nibabel", "nifti", path).load(path)


def is_nifti(path: Path) -> bool:
    """By its name, since a packed one shows no mark."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def open_nifti(path: Path, how: Reading) -> Source:
    """The slices of an image of two or three axes; its scaling, where it has one, makes them floats.

    Raises:
        DatasetError: it is damaged, or has times or channels.
        ConfigError: nibabel is not installed.
    """
    nibabel = load_extra("nibabel", "nifti", path)
    try:
        image = nibabel.load(path)
        shape, zooms = image.shape, image.header.get_zooms()
        unit = ""
        with contextlib.suppress(KeyError):  # a number that stands for no unit
            unit = _UNITS.get(image.header.get_xyzt_units()[0], "")
        scaled = image.dataobj.slope not in (None, 1.0) or image.dataobj.inter not in (None, 0.0)
        stored = image.get_data_dtype()
        dtype = np.dtype("f4" if scaled else stored).newbyteorder("=")
        np.asarray(image.dataobj[(slice(0, 1),) * image.ndim])
        ends = image.dataobj.offset + math.prod(shape) * stored.itemsize
        if path.suffix.lower() != ".gz" and (missing := ends - path.stat().st_size) > 0:
            raise ValueError(f"it was cut short: {missing} bytes are missing")
    except Exception as error:  # nibabel raises its own errors and OSError for damaged files
        raise DatasetError(f"{path} is no NIfTI file that can be read ({first_line(error)}).") from None
    if len(shape) < 2 or any(length > 1 for length in shape[3:]) or 0 in shape or dtype.kind not in "uif":
        raise DatasetError(f"{path} is {shape} {dtype}, which are no slices of grey values.")
    names, numbers = stack_facts(path.name, shape[2] if len(shape) > 2 else 1, how.first)
    return Source(
        path=path,
        form="nifti",
        names=names,
        numbers=numbers,
        shapes=((shape[1], shape[0]),) * len(names),
        dtypes=(dtype,) * len(names),
        decode=_Slices(path, dtype),
        files=(path,),
        voxel=voxel_size((*zooms[2:3], *zooms[1::-1]), unit),
    )
