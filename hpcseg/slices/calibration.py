"""What a file says about the size of its voxels, so that what is made from it says the same; it never ends the work."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from hpcseg.slices.source import Source, VoxelSize, voxel_size

ELEMENT_SIZE = "element_size_um"
"""The attribute of an HDF5 data set that Fiji and ilastik know: depth, height and width of a voxel in micrometres."""

# Of ImageJ's metadata, what is about the sample and not about the display or the shape of the grey values.
_KEPT = (
    *("unit", "yunit", "zunit", "spacing", "xorigin", "yorigin", "zorigin", "finterval", "fps", "tunit", "loop"),
    *("Info", "Properties", "ROI", "Overlays"),
)
# Of these, what ImageJ has in tags of its own; the others are lines of the description.
_IN_TAGS = {"Info", "Properties", "ROI", "Overlays"}
# What ImageJ opens (ij.io.TiffDecoder: 8, 16 and 32 bits, no floats of 16). Since tifffile's `imagej=True` refuses some
# of them, the description is made here.
_IMAGEJ_TYPES = {np.dtype(kind) for kind in ("i1", "u1", "i2", "u2", "i4", "u4", "f4")}
# ResolutionUnit: 2, inch, is what programs write that know no size. 4 and 5 are not of the standard, but written.
_RESOLUTION_UNITS = {3: "cm", 4: "mm", 5: "micrometer"}
# Micrometres in a unit, by its name in OME-Zarr, and what else it is called.
_UNITS = {
    "micrometer": (1.0, {"micrometre", "micron", "microns", "um", "µm", "\u03bcm"}),
    "nanometer": (1e-3, {"nanometre", "nm"}),
    "angstrom": (1e-4, {"Å", "\u212b"}),
    "millimeter": (1e3, {"millimetre", "mm"}),
    "centimeter": (1e4, {"centimetre", "cm"}),
    "meter": (1e6, {"metre", "m"}),
    "inch": (25400.0, {"in"}),
}


@dataclass(frozen=True)
class Calibration:
    """Resolution tags and ImageJ's metadata of a TIFF; empty where it has none."""

    resolution: tuple[tuple[int, int], tuple[int, int]] | None = None
    """XResolution and YResolution, each as numerator and denominator."""
    unit: int = 1
    """ResolutionUnit: 1 none, 2 inch, 3 cm."""
    imagej: dict[str, Any] | None = None
    """What is kept of ImageJ's metadata; None: the file is not ImageJ's."""
    labels: tuple[str, ...] = field(default=())
    """ImageJ's name of each slice of a stack."""
    in_time: bool = False
    """ImageJ calls the slices of the stack frames."""
    ome: VoxelSize | None = None
    """As OME metadata have it."""

    @property
    def voxel(self) -> VoxelSize | None:
        """Depth, height and width of a voxel, where they are known with their unit."""
        if self.ome is not None:
            return self.ome
        imagej = self.imagej or {}
        # The resolution alone, without a unit, is as often what a program writes that knows none.
        unit = _without_escapes(imagej.get("unit", "")) or _RESOLUTION_UNITS.get(self.unit, "")
        if self.resolution is None or unit == "pixel":
            return None
        width, height = (below / above for above, below in self.resolution)
        units = (*(_without_escapes(imagej.get(name, unit)) for name in ("zunit", "yunit")), unit)
        return voxel_in_one_unit((imagej.get("spacing", width), height, width), units)

    def of_slices(self, of: Sequence[int] | None, every: int) -> Calibration:
        """That of some slices of the stack, `every` slices apart; None: of all."""
        if of is None:
            return self
        imagej = self.imagej
        if imagej and isinstance(imagej.get("spacing"), int | float):
            imagej = {**imagej, "spacing": imagej["spacing"] * every}
        labels = tuple(self.labels[index] for index in of) if len(self.labels) > max(of) else ()
        return replace(self, imagej=imagej, labels=labels)

    def options(self, dtype: np.dtype, slices: int | None = None) -> dict[str, Any]:
        """What tifffile needs to write a little-endian image with the same calibration, or a stack of a slice or more.

        Args:
            dtype: of the pixels.
            slices: of a stack, which is written as (slices, H, W); None: an image, (H, W).
        """
        options: dict[str, Any] = {"photometric": "minisblack", "metadata": None, "byteorder": "<"}
        if self.resolution is not None:
            options |= {"resolution": self.resolution, "resolutionunit": self.unit if self.unit in (1, 2, 3) else 1}
        if self.imagej is not None and dtype in _IMAGEJ_TYPES:
            shape, axes = ((1, 1), "YX") if slices is None else ((slices, 1, 1), "TYX" if self.in_time else "ZYX")
            lines = {name: value for name, value in self.imagej.items() if name not in _IN_TAGS}
            tags = {name: value for name, value in self.imagej.items() if name in _IN_TAGS}
            if len(self.labels) == (slices or 1):
                tags["Labels"] = list(self.labels)
            options |= {
                "description": tifffile.imagej_description(shape, axes, **lines),
                "extratags": tifffile.imagej_metadata_tag(tags, "<"),
            }
        return options

    def is_kept(self, dtype: np.dtype) -> bool:
        """Whether an image of this type can have it: its unit is ImageJ's, which opens some types only."""
        return self.imagej is None or dtype in _IMAGEJ_TYPES


def read_calibration(path: Path) -> Calibration:
    """The calibration of a TIFF's first page; what cannot be understood is left out, since labels do without.

    What OME says, or a ResolutionUnit that is not of the standard, is in ImageJ's words, which labels can have.
    """
    try:
        with tifffile.TiffFile(path) as tif:
            tags, metadata, ome = tif.pages.first.tags, tif.imagej_metadata, tif.ome_metadata
            x, y = (_ratio(tags.valueof(name)) for name in ("XResolution", "YResolution"))
            unit = tags.valueof("ResolutionUnit")
    except Exception:  # tifffile raises its own errors, struct.error, IndexError, ... for tags that are damaged
        return Calibration()
    kept = labels = frames = None
    if metadata is not None:
        there = {name: metadata[name] for name in _KEPT if name in metadata}
        kept = {name: value if name in _IN_TAGS else _in_ascii(value) for name, value in there.items()}
        labels, frames = metadata.get("Labels"), metadata.get("frames")
    found = Calibration(
        resolution=(x, y) if x and y else None,
        unit=int(unit) if unit and isinstance(unit, int) else 1,
        imagej=kept,
        labels=_texts(labels),
        in_time=isinstance(frames, int) and frames > 1,
        ome=None if ome is None else _ome_voxel(ome),
    )
    said_so = metadata is not None or (found.ome is None and found.unit in (1, 2, 3))
    return found if said_so or found.voxel is None else replace(_in_words(found.voxel), ome=found.ome)


def calibration_of(source: Source) -> Calibration:
    """What TIFFs are to say that are made of a source: as its own first TIFF, or the size of its voxels."""
    if source.form in ("folder", "stack"):
        return read_calibration(source.file_of(0)).of_slices(source.of, source.every)
    return Calibration() if source.voxel is None else _in_words(source.voxel).of_slices(source.of, source.every)


def ome_unit(unit: str) -> str:
    """A unit of length as OME-Zarr calls it; one that nobody knows as it is."""
    return next((name for name, (_, others) in _UNITS.items() if unit == name or unit in others), unit)


def in_micrometers(voxel: VoxelSize) -> tuple[float, float, float] | None:
    """Depth, height and width in micrometres; None: of an unknown unit."""
    factor, _ = _UNITS.get(ome_unit(voxel.unit), (None, None))
    return None if factor is None else (voxel.depth * factor, voxel.height * factor, voxel.width * factor)


def voxel_in_one_unit(sizes: Sequence[Any], units: Sequence[str]) -> VoxelSize | None:
    """Depth, height and width that have a unit each, in that of the width; None where they cannot be compared."""
    if len(set(units)) == 1:
        return voxel_size(sizes, units[-1])
    factors = [_UNITS.get(ome_unit(unit), (math.nan,))[0] for unit in units]
    return voxel_size(
        (float(size) * factor / factors[-1] for size, factor in zip(sizes, factors, strict=True)), units[-1]
    )


def read_hdf5_voxel(dataset: Any) -> VoxelSize | None:
    """The size of a voxel of an HDF5 data set, where its attributes or those of a packed file say it."""
    try:
        if (size := dataset.attrs.get(ELEMENT_SIZE)) is not None:
            return voxel_size(np.asarray(size).ravel(), "micrometer")
        packed = dataset.file.attrs
        return voxel_size(np.ravel(packed.get("voxel_size", ())), packed.get("voxel_unit", ""))
    except (TypeError, OSError):  # an attribute of a type that numpy has not
        return None


def _in_words(voxel: VoxelSize) -> Calibration:
    ratios = [Fraction(1 / size).limit_denominator(10**6) for size in (voxel.width, voxel.height)]
    across, down = ((ratio.numerator, ratio.denominator) for ratio in ratios)
    if not all((*across, *down)) or max(*across, *down) >= 2**32:
        size = None if voxel.unit == "micrometer" else in_micrometers(voxel)
        return Calibration() if size is None else _in_words(VoxelSize(*size, "micrometer"))
    return Calibration((across, down), 1, {"unit": _in_ascii(voxel.unit), "spacing": voxel.depth})


def _ome_voxel(text: str) -> VoxelSize | None:
    try:
        pixels = next(item for item in ElementTree.fromstring(text).iter() if item.tag.endswith("}Pixels"))
    except (ElementTree.ParseError, StopIteration):
        return None
    unit = pixels.get("PhysicalSizeXUnit", "µm")
    sizes = [(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", unit)) for axis in "ZYX"]
    return voxel_in_one_unit(*zip(sizes[0] if sizes[0][0] else sizes[2], *sizes[1:], strict=True))


def _in_ascii(value: Any) -> Any:
    """As ImageJ writes what its description has no letters for, such as the micro sign: as an escape."""
    return re.sub(r"[^\0-\x7f]", lambda found: f"\\u{ord(found[0]):04X}", value) if isinstance(value, str) else value


def _without_escapes(value: Any) -> str:
    return re.sub(r"\\u([\da-fA-F]{4})", lambda found: chr(int(found[1], 16)), str(value))


def _ratio(value: Any) -> tuple[int, int] | None:
    """A resolution as it is written; None for one of zeros. Some programs write a floating-point number."""
    if isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], float):
        value = Fraction(value[0]).limit_denominator(10**6).as_integer_ratio()
    known = isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, int) for part in value)
    return value if known and all(value) else None


def _texts(labels: Any) -> tuple[str, ...]:
    labels = [labels] if isinstance(labels, str) else labels
    return tuple(map(str, labels)) if isinstance(labels, list | tuple) else ()
