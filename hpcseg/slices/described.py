"""What descriptions of a TIFF say of its pages (ImageJ, OME, tifffile): their order, and which are missing."""

from __future__ import annotations

import contextlib
import math
import warnings
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import tifffile

from hpcseg.errors import DatasetError
from hpcseg.slices.array import no_parts, no_such
from hpcseg.slices.external import Reach
from hpcseg.slices.page import Page, page_of
from hpcseg.slices.sizes import refuse_many
from hpcseg.slices.source import Reading

_STK_PLANES = 33629
# What OME-XML counts.
_COUNTS = {*(f"{what}{axis}" for what in ("Size", "First") for axis in "ZCT"), "IFD", "NumPlanes", "PlaneCount"}


def as_described(path: Path, tif: tifffile.TiffFile, pages: list[Page], how: Reading) -> list[Page]:
    """The pages of a file in the order of its description; one header for many slices is as many pages.

    Raises ValueError where the description counts slices that are not there, DatasetError where several channels.
    """
    ome: list[Any] = []
    dataset = how.dataset
    # Of Micro-Manager's own description, which would go first, tifffile opens whatever lies beside the file.
    in_ome = tif.is_ome and not tif.is_mmstack
    if in_ome:
        _check_ome(path, str(tif.ome_metadata), Reach(path, how.allow_external))
    try:
        images, axes = _counted(tif)
        ome = [one for one in tif.series if one.kind == "ome"] if in_ome else []
    except Exception:  # a description that tifffile cannot read: the pages are as their headers say
        images, axes = 1, {}
    if ome:
        chosen = [one for index, one in enumerate(ome) if dataset in (None, one.name, str(index))]
        if len(chosen) != 1:
            raise no_such(path, dataset, {f"{index} {one.name}": one for index, one in enumerate(ome)})
        axes = dict(zip(chosen[0].axes, chosen[0].shape, strict=True))
    elif dataset is not None:
        raise no_parts(path)
    elif images > len(pages):
        pages = _behind(pages, images, tif.filehandle.size)
    across = [name for name in axes if name != "S"][-2:]
    if {"Y", "X"} <= axes.keys() and across != ["Y", "X"]:
        raise DatasetError(
            f"{path} cannot be used: its description says that its axes are {''.join(axes)}, so that its pages are no "
            "slices. Save it as slices (Z), height (Y), width (X), or take its pages as they are stored: --pixels "
            "stored."
        )
    long = {name: length for name, length in axes.items() if length > 1 and name not in "YXS"}
    contradicted = not ome and len(pages) % math.prod(long.values())  # by the pages, or by each other
    if (len(long) > 1 or "C" in long) and not contradicted:
        words = {"C": "channels", "T": "times", "Z": "slices"}
        shown = ", ".join(f"{length} {words.get(name, name)}" for name, length in long.items())
        raise DatasetError(
            f"{path} cannot be used: it has {shown}; save the one channel and time to segment. If all pages are "
            "slices, take them as they are stored: --pixels stored."
        )
    if not ome:
        return _of_one_stack(path, tif, pages)
    wanted, planes = math.prod(long.values()), [page for page in chosen[0].pages if page is not None]
    if (gone := wanted - len(planes)) > 0:
        raise ValueError(f"its OME metadata count {wanted} planes, and {gone} are missing, or the files they are in")
    if (twice := len(planes) - len({(page.parent.filehandle.path, page.offset) for page in planes})) > 0:
        raise ValueError(
            f"its OME metadata take {twice} of its pages for two slices, as where its UUID is that of another of its "
            "files. Open that one, or their folder"
        )
    own = sum(page.parent is tif for page in planes)
    if dataset is None and own < len(pages):
        raise DatasetError(
            f"{path} has {len(pages)} pages, and its OME metadata count {own} of them. Take those as "
            f"{path.name}::0, or all as they are stored: --pixels stored."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other files, which tifffile has closed and opens again
        return [page_of(Path(page.parent.filehandle.path), page.aspage()) for page in planes]


def _check_ome(path: Path, text: str, reach: Reach) -> None:
    """Look at what OME-XML claims, before tifffile makes lists of so many planes and opens the files that it names.

    What is no XML is left to tifffile. Raises DatasetError: it counts too many planes, names a file that is not to be
    read, or leaves all to another.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return
    own, items = root.get("UUID"), list(root.iter())
    for item in items:
        if item.tag.endswith("BinaryOnly"):
            raise DatasetError(
                f"{path} cannot be used: the OME metadata of its volume are in {item.get('MetadataFile')}. Save the "
                "volume as one OME-TIFF, or take the pages of this file as they are stored: --pixels stored."
            )
        counts = {"": 0}
        for name in _COUNTS & item.attrib.keys():
            with contextlib.suppress(ValueError):  # at which tifffile gives up as well
                counts[name] = int(item.attrib[name])
        refuse_many(path, math.prod(count for name, count in counts.items() if name.startswith("Size")))
        refuse_many(path, max(counts.values()))
        if "Start" in item.attrib:  # of an axis that is divided, whose places are listed
            with contextlib.suppress(ValueError, ZeroDivisionError):
                start, end, step = (float(item.get(name, 1)) for name in ("Start", "End", "Step"))
                refuse_many(path, math.ceil(min(abs((end - start) / step), 1e18)))
        # What has the file's own identity is this file, wherever it was when its name was written.
        if item.tag.endswith("UUID") and (named := item.get("FileName")) and (not own or item.text != own):
            reach.check(path.parent / named)


def _of_one_stack(path: Path, tif: tifffile.TiffFile, pages: list[Page]) -> list[Page]:
    """These pages; raises DatasetError where tifffile's descriptions say that they are of several stacks."""
    stacks = list[int]()
    with contextlib.suppress(Exception):  # a description that tifffile cannot read
        series = tif.series if tif.is_shaped else []
        stacks = [len(one) for one in series if one.kind == "shaped" and not one.keyframe.is_reduced]
    if len(stacks) > 1 and max(stacks) > 1:  # many of one page each are slices that were written one by one
        raise DatasetError(
            f"{path} cannot be used: its descriptions say that it is {len(stacks)} stacks, the first of {stacks[0]} "
            f"slices and the next of {stacks[1]}. Save the one to segment, or take all pages as they are stored: "
            "--pixels stored."
        )
    return pages


def with_hidden(tif: tifffile.TiffFile, pages: list[Page]) -> list[Page]:
    """Also the images that lie behind the only page header of a file, as in large stacks of ImageJ.

    A description that counts as many as do not end with the file is of the stack that a page was taken from.
    """
    if len(pages) > 1 or len(pages[0].runs) != 1 or not (tif.is_imagej or tif.is_shaped):
        return pages
    ((start, size),), images = pages[0].runs, 1
    with contextlib.suppress(Exception):  # a description that tifffile cannot read
        images = _counted(tif)[0]
    there = tif.filehandle.size
    return _behind(pages, images, there) if 0 <= there - start - images * size < size else pages


def _behind(pages: list[Page], images: int, there: int) -> list[Page]:
    """As many images as are counted, which lie behind the only page header of a file of so many bytes."""
    as_stored = "If that is all, take its pages as they are: --pixels stored"
    if len(pages) > 1 or len(pages[0].runs) != 1:
        raise ValueError(f"its description counts {images} slices, and it has {len(pages)}. {as_stored}")
    ((start, size),) = pages[0].runs
    refuse_many(pages[0].path, images)
    if (missing := start + images * size - there) > 0:
        raise ValueError(f"it is one page header for {images} slices, and {missing} bytes are missing. {as_stored}")
    return [replace(pages[0], runs=((start + index * size, size),)) for index in range(images)]


def _counted(tif: tifffile.TiffFile) -> tuple[int, dict[str, int]]:
    """How many slices a description counts, and along which axes; of any other than OME's."""
    if tif.is_imagej:
        metadata: dict[str, Any] = tif.imagej_metadata or {}
        keys = {"T": "frames", "Z": "slices", "C": "channels"}
        axes = {name: int(metadata[key]) for name, key in keys.items() if key in metadata}
        if list(axes) == ["C"] and metadata.get("mode") == "grayscale":
            # A volume as Python writes it: `tifffile.imwrite(file, volume, imagej=True)` calls the first of three axes
            # channels, where nobody names them.
            axes = {}
        return int(metadata.get("images", 1)), axes
    first = tif.pages.first
    if tif.is_stk:
        return first.tags[_STK_PLANES].count, {}
    said = (tif.shaped_metadata or ({},))[0] if tif.is_shaped else {}
    shape, names = tuple(said.get("shape", ())), str(said.get("axes", ""))
    if shape[-len(first.shape) :] == tuple(first.shape):  # else a page was cut or converted since
        named = len(names) == len(shape) and set(names) <= set("TZCYXS")
        return math.prod(shape[: -len(first.shape)]), dict(zip(names, shape, strict=True)) if named else {}
    return 1, {}
