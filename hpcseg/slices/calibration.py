"""What a file says about the size of its voxels, so that what is made from it says the same; it never ends the work."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from hpcseg.slices.source import Source, VoxelSize, voxel_size

ELEMENT_SIZE = "element_size_um"
"""The attribute of an HDF5 data set that Fiji and ilastik know: depth, height and width of a voxel in micrometres."""
DEPTH_SAID = "voxel_depth_said"
"""The attribute that is false where the width stands for a depth that nobody said."""
PACKED_FORMAT, PREDICTION_FORMAT = "hpcseg-dataset", "hpcseg-prediction"
"""What the attribute `format` of an HDF5 file is that has the size of a voxel as `voxel_attributes` says it."""

# Of ImageJ's metadata, what is about the sample and not about the display or the shape of the grey values: lines of the
# description, and what is in tags of its own.
_LINES = ("unit", "yunit", "zunit", "spacing", "xorigin", "yorigin", "zorigin", "finterval", "fps", "tunit", "loop")
_TAGS = ("Info", "Properties", "ROI", "Overlays")
# What ImageJ opens (ij.io.TiffDecoder: 8, 16 and 32 bits, no floats of 16). Since tifffile's `imagej=True` refuses some
# of them, the description is made here.
_IMAGEJ_TYPES = {np.dtype(kind) for kind in ("i1", "u1", "i2", "u2", "i4", "u4", "f4")}
# ResolutionUnit: 2, inch, is what programs write that know no size. 4 and 5 are not of the standard, but written.
_RESOLUTION_UNITS = {3: "cm", 4: "mm", 5: "micrometer"}
# Dots per inch that programs write as pixels per centimetre which know no size either, with few digits.
_OF_SCREENS, _ROUNDED = (72, 96, 150, 300), 5e-4
# How far the steps of an axis, or two sizes that are meant to be the same, may differ, as they have few digits.
_EVEN = 0.01
# Micrometres in a unit, by its name in OME-Zarr, and what else it is called, in `str.casefold`'s letters.
_UNITS = {
    "micrometer": (1.0, {"micron", "microns", "um", "\u03bcm"}),
    "nanometer": (1e-3, {"nm"}),
    "angstrom": (1e-4, {"å", "ångström"}),
    "picometer": (1e-6, {"pm"}),
    "millimeter": (1e3, {"mm"}),
    "centimeter": (1e4, {"cm"}),
    "decimeter": (1e5, {"dm"}),
    "meter": (1e6, {"m"}),
    "kilometer": (1e9, {"km"}),
    "inch": (25400.0, {"in", "inches"}),
}
_LARGEST = 2**32 - 1
"""Numerator and denominator of a TIFF's ratio."""
_NEAR = 1e-6
"""Of a resolution, how far its ratio may be from it."""


@dataclass(frozen=True)
class Calibration:
    """Resolution tags and ImageJ's metadata of a TIFF; empty where it has none."""

    voxel: VoxelSize | None = None
    """Of the file, where its size is known with its unit."""
    resolution: tuple[tuple[int, int], tuple[int, int]] | None = None
    """XResolution and YResolution, each as numerator and denominator."""
    unit: int = 1
    """ResolutionUnit: 1 none, 2 inch, 3 cm."""
    imagej: dict[str, Any] | None = None
    """What is kept of ImageJ's metadata; None: the file is not ImageJ's."""
    labels: tuple[str, ...] = ()
    """ImageJ's name of each slice of a stack."""
    in_time: bool = False
    """ImageJ calls the slices of the stack frames."""

    def apart(self, every: int) -> Calibration:
        """That of slices of which there were so many from one to the next."""
        if every == 1:
            return self
        voxel = None if self.voxel is None else replace(self.voxel, depth=self.voxel.depth * every)
        if self.imagej is None:
            return self if voxel is None else _in_words(voxel)
        depth = {} if voxel is None else {"spacing": voxel.depth, "zunit": voxel.unit}
        if isinstance(spacing := self.imagej.get("spacing"), int | float):
            depth = {"spacing": spacing * every}
        return replace(self, voxel=voxel, imagej=self.imagej | depth)

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
            labels = {"Labels": list(self.labels)} if len(self.labels) == (slices or 1) else {}
            lines = {name: _in_ascii(value) for name, value in self.imagej.items() if name in _LINES}
            options |= {
                "description": tifffile.imagej_description(shape, axes, **lines),
                "extratags": tifffile.imagej_metadata_tag(self.imagej | labels, "<"),
            }
        return options

    def is_kept(self, dtype: np.dtype) -> bool:
        """Whether an image of this type can have it: its unit is ImageJ's, which opens some types only."""
        return self.imagej is None or dtype in _IMAGEJ_TYPES


def read_calibration(path: Path, image: str | None = None, *, shown: bool = True) -> Calibration:
    """The calibration of a TIFF's first page; what cannot be understood is left out, since labels do without.

    What OME says, or a ResolutionUnit that is not of the standard, is in ImageJ's words, which labels can have.

    Args:
        path: of the file.
        image: of an OME-TIFF, as `Reading.dataset`.
        shown: as `Source.shown`: of pages that are turned by a quarter heights are widths.
    """
    try:
        with tifffile.TiffFile(path) as tif:
            tags, metadata, ome = tif.pages.first.tags, tif.imagej_metadata, tif.ome_metadata
            stk = _stk_voxel(tif.stk_metadata or {}) if tif.is_stk else None
            x, y = (_ratio(tags.valueof(name)) for name in ("XResolution", "YResolution"))
            said_unit = tags.valueof("ResolutionUnit")
            unit = int(said_unit) if isinstance(said_unit, int) and said_unit else 1
            labels = (metadata or {}).get("Labels", ())
            images, frames = ((metadata or {}).get(name) for name in ("images", "frames"))
            turned = shown and tags.valueof("Orientation") in range(5, 9)
    except Exception:  # tifffile raises its own errors, struct.error, IndexError, ... for tags that are damaged
        return Calibration()
    kept = {name: metadata[name] for name in (*_LINES, *_TAGS) if name in metadata} if metadata else {}
    in_time = isinstance(frames, int) and frames > 1
    # ImageJ leaves out a depth of 1 (ij.io.FileSaver), and takes the value of a negative one (ij.io.TiffDecoder).
    spacing = kept.get("spacing", 1.0 if isinstance(images, int) and images > 1 and not in_time else None)
    if isinstance(spacing, int | float):
        kept["spacing"] = abs(spacing)
    if turned:
        x, y = y, x
    in_words = voxel = _ome_voxel(ome, image) if ome else stk
    if voxel is not None and turned:
        voxel = replace(voxel, height=voxel.width, width=voxel.height)
    # The resolution alone, without a unit, is as often what a program writes that knows none.
    by_tag = "" if unit == 3 and x and x == y and _is_of_screens(x[0] / x[1]) else _RESOLUTION_UNITS.get(unit, "")
    said = _without_escapes(kept.get("unit", "")) or by_tag
    if voxel is None and x and y and said not in ("", "pixel"):
        width, height = x[1] / x[0], y[1] / y[0]
        units = (*(_without_escapes(kept.get(name, said)) for name in ("zunit", "yunit")), said)
        voxel = voxel_in_one_unit((kept.get("spacing"), height, width), units)
    if voxel is not None and metadata is None and (in_words or unit not in (1, 2, 3)):
        return _in_words(voxel)
    labels = tuple(map(str, [labels] if isinstance(labels, str) else labels))
    return Calibration(voxel, (x, y) if x and y else None, unit, None if metadata is None else kept, labels, in_time)


def _is_of_screens(per_centimeter: float) -> bool:
    return any(math.isclose(per_centimeter * 2.54, dots, rel_tol=_ROUNDED) for dots in _OF_SCREENS)


def calibration_of(source: Source) -> Calibration:
    """What TIFFs are to say that are made of a source: as its own first TIFF, or the size of its voxels."""
    if source.form not in ("folder", "stack"):
        return Calibration() if source.voxel is None else _in_words(source.voxel)
    found, of = calibration_of_file(source, 0), source.of
    if of is None:
        return found
    return replace(found, labels=tuple(found.labels[place] for place in of) if len(found.labels) > max(of) else ())


def calibration_of_file(source: Source, index: int) -> Calibration:
    """Of the TIFF that a slice of a source is in, as its pixels are taken."""
    return read_calibration(source.file_of(index), source.dataset, shown=source.shown).apart(source.every)


def ome_unit(unit: str) -> str:
    """A unit of length as OME-Zarr calls it, however it is written; one that nobody knows as it is."""
    said = unit.strip().casefold().replace("metre", "meter")
    return next((name for name, (_, others) in _UNITS.items() if said in {name, f"{name}s", *others}), unit)


def in_micrometers(voxel: VoxelSize) -> tuple[float, float, float] | None:
    """Depth, height and width in micrometres; None: of an unknown unit."""
    factor = _micrometers(voxel.unit)
    depth, height, width = voxel.sizes
    return None if math.isnan(factor) else (depth * factor, height * factor, width * factor)


def is_as_large(voxel: VoxelSize, other: VoxelSize) -> bool:
    """Whether two voxels are of one size, to a few digits and as far as it is said, or of units without a relation."""
    sizes, others = in_micrometers(voxel), in_micrometers(other)
    if sizes is None or others is None:
        return True
    said = 0 if voxel.depth_said and other.depth_said else 1
    return all(math.isclose(one, two, rel_tol=_EVEN) for one, two in zip(sizes[said:], others[said:], strict=True))


def voxel_in_one_unit(sizes: Sequence[Any], units: Sequence[Any]) -> VoxelSize | None:
    """Depth, height and width that have a unit each, in that of the width; None where they cannot be compared.

    As of `voxel_size`, a depth of None is not said.
    """
    last = units[-1]
    factors = (1.0 if unit == last else _micrometers(unit) / _micrometers(last) for unit in units)
    both = zip(sizes, factors, strict=True)
    return voxel_size((size if size is None else float(size) * factor for size, factor in both), last)


def read_hdf5_voxel(dataset: Any) -> VoxelSize | None:
    """The size of a voxel of an HDF5 data set, where its attributes or those of a packed file say it."""
    try:
        if (size := dataset.attrs.get(ELEMENT_SIZE)) is not None:
            sizes = [None, *np.ravel(size)] if np.size(size) == dataset.ndim == 2 else np.ravel(size)
            return with_depth_said(voxel_size(sizes, "micrometer"), dataset.attrs)
        root = dataset.file.attrs
        # Other programs have attributes of these names too, in whatever order.
        return voxel_of_attributes(root) if root.get("format") in (PACKED_FORMAT, PREDICTION_FORMAT) else None
    except (TypeError, ValueError, OSError):  # an attribute of a type that numpy has not
        return None


def voxel_attributes(voxel: VoxelSize) -> dict[str, Any]:
    """Attributes of the root of an HDF5 file that keep the size of a voxel in any unit, or none."""
    return {"voxel_size": voxel.sizes, "voxel_unit": voxel.unit, DEPTH_SAID: voxel.depth_said}


def voxel_of_attributes(attributes: Mapping[str, Any]) -> VoxelSize | None:
    """The size of a voxel that `voxel_attributes` wrote, in a file of before as well; None: there is none."""
    voxel = voxel_size(np.ravel(attributes.get("voxel_size", ())), attributes.get("voxel_unit", ""))
    return with_depth_said(voxel, attributes)


def with_depth_said(voxel: VoxelSize | None, attributes: Mapping[str, Any]) -> VoxelSize | None:
    """A voxel whose depth is not said where attributes that hpcseg has written say so."""
    return voxel and replace(voxel, depth_said=voxel.depth_said and bool(attributes.get(DEPTH_SAID, True)))


def voxel_of_axes(axes: Sequence[tuple[np.ndarray, str | None]]) -> VoxelSize | None:
    """Of the places of slices, rows and columns, each with its unit, where these are lengths, and evenly spaced.

    Of one slice, or of slices whose places are none of these, such as numbers and angles, there is no depth.
    """
    steps = [_step(places) if not math.isnan(_micrometers(unit or "")) else None for places, unit in axes]
    if None in steps[-2:]:
        return None
    units = [unit for _, unit in axes]
    return voxel_in_one_unit([None, *steps][-3:], [units[-1] if steps[0] is None else units[0], *units[-2:]])


def _step(places: np.ndarray) -> float | None:
    """From one to the next; None: there is none, or not the same for all."""
    step = (places[-1] - places[0]) / max(1, len(places) - 1)
    return abs(step) if step and abs(np.diff(places) / step - 1).max() <= _EVEN else None


def _micrometers(unit: str) -> float:
    """In a unit; NaN: it is unknown."""
    return _UNITS[ome_unit(unit)][0] if ome_unit(unit) in _UNITS else math.nan


def _in_words(voxel: VoxelSize) -> Calibration:
    across, down = _ratio(1 / voxel.width), _ratio(1 / voxel.height)
    if across is None or down is None:  # a size for which TIFFs have no number in this unit
        other = None if voxel.unit == "micrometer" else voxel_size(in_micrometers(voxel) or (), "micrometer")
        return Calibration(voxel) if other is None else _in_words(other)
    unit = {"unit": voxel.unit} if voxel.unit else {}
    return Calibration(voxel, (across, down), 1, {**unit, "spacing": voxel.depth})


def _ome_voxel(text: str, image: str | None) -> VoxelSize | None:
    try:
        images = [item for item in ElementTree.fromstring(text) if item.tag.endswith("}Image")]
        # One without planes is none of those that are counted.
        images = [one for one in images if any(item.tag.endswith("}TiffData") for item in one.iter())] or images
        meant = (one for number, one in enumerate(images) if image in (None, one.get("Name"), str(number)))
        pixels = next(item for item in next(meant) if item.tag.endswith("}Pixels"))
    except (ElementTree.ParseError, StopIteration):
        return None
    units = [pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in "ZYX"]
    depth, height, width = (pixels.get(f"PhysicalSize{axis}") for axis in "ZYX")
    # Slices that are times have no depth.
    return voxel_in_one_unit((depth if pixels.get("SizeT") == "1" else None, height, width), units)


def _stk_voxel(metadata: dict[str, Any]) -> VoxelSize | None:
    """As MetaMorph has it; a distance of 0 between planes is none."""
    if not metadata.get("SpatialCalibration", True):
        return None
    depth = float(np.median(metadata.get("ZDistance", 0.0))) or None
    height, width = (metadata.get(f"{axis}Calibration") for axis in "YX")
    return voxel_size((depth, height, width), metadata.get("CalibrationUnits"))


def _in_ascii(value: Any) -> Any:
    """As ImageJ writes what its description has no letters for, such as the micro sign: as an escape."""
    return re.sub(r"[^\0-\x7f]", lambda found: f"\\u{ord(found[0]):04X}", value) if isinstance(value, str) else value


def _without_escapes(value: Any) -> str:
    return re.sub(r"\\u([\da-fA-F]{4})", lambda found: chr(int(found[1], 16)), str(value))


def _ratio(value: Any) -> tuple[int, int] | None:
    """Pixels per unit as a TIFF has them, of a ratio or a number (which some programs write); None: it cannot."""
    try:
        said = Fraction(*np.atleast_1d(value).tolist())
        # The nearest of those that have room.
        ratio = said.limit_denominator(_LARGEST) if said <= 1 else 1 / (1 / said).limit_denominator(_LARGEST)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return ratio.as_integer_ratio() if ratio > 0 and abs(ratio - said) <= said * _NEAR else None
