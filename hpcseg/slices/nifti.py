"""A NIfTI file (.nii, .nii.gz, or .hdr and .img) in, slices out: along its third axis, with rows along its second."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.slices.array import array_source
from hpcseg.slices.extras import load_extra
from hpcseg.slices.source import Reading, Source, refusing, voxel_size

_UNITS = {1: "meter", 2: "millimeter", 3: "micrometer"}


def is_nifti(path: Path) -> bool:
    """By its name, since a packed one shows no mark; of two files, the header's is looked at."""
    if path.suffix.lower() not in (".hdr", ".img"):
        return path.name.lower().endswith((".nii", ".nii.gz"))
    header = path.with_suffix(".HDR" if path.suffix.isupper() else ".hdr")
    if not os.path.isfile(header):
        return False
    with header.open("rb") as file:
        start = file.read(348)
    return start[344:] == b"ni1\0" or start[4:8] == b"ni2\0"


def open_nifti(path: Path, how: Reading) -> Source:
    """The slices of an image of two or three axes; its scaling, where it has one, makes them floats.

    Raises:
        DatasetError: it is damaged, or has times or channels.
        ConfigError: nibabel is not installed.
    """
    nibabel = load_extra("nibabel", "nifti", path)
    with refusing(f"{path} is no NIfTI file that can be read"):
        image = nibabel.load(path)
        files = tuple(sorted({Path(part.filename) for part in image.file_map.values()}))
        if not all(map(os.path.isfile, files)):
            raise ValueError(f"it is {' and '.join(file.name for file in files)}, and one of them is no file")
        points_to = _points_to(nibabel, image) if how.pixels != "stored" else ""
        begins = tuple((np.linalg.pinv(image.affine[:3, :3]) @ image.affine[:3, 3])[::-1]) if points_to else None
        shape, zooms = image.shape, image.header.get_zooms()
        # What says where its voxels lie goes before what says their size alone, as in other programs.
        along = nibabel.affines.voxel_sizes(image.affine)[: len(zooms)]
        if points_to and not np.allclose(along, zooms[:3], rtol=1e-3):
            zooms = tuple(along)
        unit = _UNITS.get(int(image.header["xyzt_units"]) & 7, "")
        scaled = image.dataobj.slope not in (None, 1.0) or image.dataobj.inter not in (None, 0.0)
        stored = image.get_data_dtype()
        np.asarray(image.dataobj[(slice(0, 1),) * image.ndim])
        ends = image.dataobj.offset + math.prod(shape) * stored.itemsize
        packed = path.suffix.lower() == ".gz"
        if not packed and (missing := ends - os.stat(image.file_map["image"].filename).st_size) > 0:
            raise ValueError(f"it was cut short: {missing} bytes are missing")
    return array_source(
        path,
        "nifti",
        how,
        shape[2::-1] if math.prod(shape[3:]) == 1 else shape,
        np.dtype("f4") if scaled else stored,
        load=_load,
        of=(image.dataobj,),
        certain=True,
        files=files,
        together=shape[2] if packed and len(shape) > 2 else 1,  # a packed file is read from its start each time
        voxel=voxel_size((*zooms[:3], None, None)[2::-1], unit),
        points_to=points_to,
        begins=begins,
    )


def _points_to(nibabel: Any, image: Any) -> str:
    """Where its axes point to, as "RAS"; "" where its header does not say, or nonsense."""
    header = image.header
    if not any(int(header[name]) for name in ("qform_code", "sform_code")) or not np.isfinite(image.affine).all():
        return ""
    return "".join(str(axis or "-") for axis in nibabel.aff2axcodes(image.affine))


def _load(pixels: Any, first: int, last: int) -> np.ndarray:
    """Of nibabel's proxy, which opens the file for each slice; its header was read, and warned of, once."""
    chosen = (slice(None), slice(None), slice(first, last), *(0,) * (pixels.ndim - 3))[: pixels.ndim]
    return np.ascontiguousarray(np.asarray(pixels[chosen]).T)
