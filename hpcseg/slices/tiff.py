"""TIFFs or PNGs in, slices out: a folder of single images, or the pages of one file. tifffile decodes them.

The header of its pixels decides what a page is; what a description says besides (ImageJ, OME, tifffile) orders the
pages of a file, and shows which are missing. Every fault of a folder is found and told in one go.
"""

from __future__ import annotations

import logging
import os.path
import re
import stat
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from hpcseg.errors import ConfigError, DatasetError
from hpcseg.slices.calibration import is_as_large, read_calibration
from hpcseg.slices.described import as_described, with_hidden
from hpcseg.slices.numbers import number_names
from hpcseg.slices.other_kinds import other_kind
from hpcseg.slices.page import Page, page_of
from hpcseg.slices.png import SUFFIX as PNG
from hpcseg.slices.png import png_page
from hpcseg.slices.sizes import refuse_many
from hpcseg.slices.source import Reading, Source, raise_faults, refusing

_SUFFIXES = {".tif", ".tiff", ".btf", ".tf8", ".stk", ".ome"}
_FORMATS = (
    "a folder of TIFFs or PNGs, a TIFF stack, HDF5 or NeXus, Zarr, MRC, NIfTI, NumPy or raw pixels (--shape and "
    "--dtype), or is not all there"
)
# tifffile logs what it makes of a damaged file; whether that will do is decided, and told, here.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def _read(pages: Sequence[Page], shown: bool, index: int) -> np.ndarray:
    """A slice as stored, or turned, and white where its header says that 0 is white."""
    page = pages[index]
    pixels = page.stored_pixels().astype(page.stored.newbyteorder("="), copy=False)
    if not shown:
        return pixels
    # TIFF 6.0: 2 to 4 are mirrored or upside down, 5 to 8 the same with rows and columns exchanged.
    down, across = ((1, 1), (1, -1), (-1, -1), (-1, 1))[(page.orientation - 1) % 4]
    pixels = (pixels.T if page.orientation > 4 else pixels)[::down, ::across]
    if page.white_is_zero:
        kind = pixels.dtype.kind
        pixels = -pixels if kind == "f" else pixels ^ pixels.dtype.type(-1 if kind == "i" else 2**page.bits - 1)
    return np.ascontiguousarray(pixels)


def open_folder(folder: Path, how: Reading) -> Source:
    """The TIFFs of a folder, or PNGs where it has none, by ascending number; a single one of several pages is a stack.

    Args:
        folder: hidden files in it are no slices.
        how: what says numbers, and `pixels`, count.

    Raises:
        DatasetError: it has none, or faults in names or headers; the message lists them.
        ConfigError: as `number_names`.
    """
    paths, others = _list_images(folder)
    refuse_many(folder, len(paths))
    if len(paths) == 1 and how.number is None:
        stack = open_file(paths[0], how)
        if len(stack) > 1 or (how.needs_numbers and not re.search(r"\d", paths[0].stem)):  # alone it is the first
            return stack
    faults, notes = list[str](), list[str]()
    # A label that was saved as PNG is one that nobody wants to lose.
    kinds = {name: kind for name in others if (kind := other_kind(folder / name)) is not None}
    faults += [
        f"{name} is named as a slice of which there is no {_kind_of(paths[0])}, and is a {kind}, or put it elsewhere"
        for name, kind in kinds.items()
    ]
    if others := [name for name in others if name not in kinds]:
        few = f"{', '.join(others[:3])}{' and others' if others[3:] else ''} in {folder}"
        what = f"are no {_kind_of(paths[0])}s: they are no slices here."
        notes.append(f"{few} have names as its slices have, and {what}")
    doubts = faults if how.needs_numbers else []
    numbers, taken = number_names([path.name for path in paths], doubts, pattern=how.number, known=how.known)
    numbered = len(set(numbers) - {None}) == len(paths)
    if not how.needs_numbers:
        if numbered:  # as they are packed, where a person would count 1.5 before 1.25
            paths = [path for _, path in sorted(zip(numbers, paths, strict=True))]
            numbers.sort()
        else:
            notes += _in_natural_order(paths, numbers)
            numbers = list(range(1, len(paths) + 1))
        taken = ""
    notes += [f"the number of a slice is that of {taken}; --number says otherwise."] if taken else []
    found: dict[int, Page] = {}
    for path, number in zip(paths, numbers, strict=True):
        if number is not None and number in found:
            faults.append(f"{path.name} and {found[number].path.name} both have the number {number}")
            continue
        try:
            pages = _read_pages(path, how)
        except DatasetError as error:
            faults.append(str(error).removesuffix("."))
            continue
        if len(pages) != 1:
            faults.append(f"{path.name} has {len(pages)} pages; a folder holds one slice per file. Name a stack itself")
        elif number is not None:
            found[number] = pages[0]
    order = sorted(found)
    pages = [found[number] for number in order]
    source = _source(folder, pages, [page.path.name for page in pages], order, how, faults, notes)
    return replace(source, numbered=numbered)


def open_file(path: Path, how: Reading) -> Source:
    """The pages of one file, or what its description makes of them.

    Args:
        path: of the file.
        how: `dataset` names the image of an OME-TIFF (its name, or its index from 0); `pixels` "stored" takes the
            pages as they lie, whatever descriptions say.

    Raises:
        DatasetError: it is damaged, parts are missing, or it is no volume of grey values.
        ConfigError: it has several images, or `dataset` names none.
    """
    if how.dataset is not None and how.pixels == "stored":
        raise ConfigError("--dataset and --pixels stored exclude each other: pages as stored are of no image.")
    pages = _read_pages(path, how, described=how.pixels != "stored")
    names = [f"{path.name}#{number}" for number in range(1, len(pages) + 1)]
    numbers = range(how.first, how.first + len(pages))
    return replace(_source(path, pages, names, numbers, how, [], []), dataset=how.dataset)


def _list_images(folder: Path) -> tuple[list[Path], list[str]]:
    """The TIFFs or else PNGs of a folder, in the order in which a person counts them; and names as theirs of others.

    Hidden files are no slices: a Mac puts one beside each file that it copies (`._name.tif`), and what is downloaded is
    one until it is there.
    """
    try:
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise DatasetError(f"{folder} cannot be listed: {error.strerror}.") from None
    # A link that leads nowhere is no file either, but a slice that would be missed.
    # The metadata of an OME-TIFF may lie beside its files.
    paths = [path for path in paths if not path.name.lower().endswith(".companion.ome")]
    files = [path for path in paths if not path.is_dir()]
    found = [path for path in files if path.suffix.lower() in _SUFFIXES] or [path for path in files if _is_png(path)]
    if not found:
        others = ", ".join(sorted({path.suffix for path in paths if path.suffix}))
        hint = f" It has {others}; name one file, if that is a volume in a format that is read." if others else ""
        known = ((path.name, other_kind(path)) for path in sorted(paths) if path.is_file())
        hint = next((f" {name} is a {kind}." for name, kind in known if kind is not None), hint)
        if (folder / "attributes.json").is_file():
            hint = " It has the attributes.json of an N5 store; save that as OME-Zarr, HDF5 or TIFF, as Fiji does."
        hint = f" Did you mean {folder / 'data'}?" if (folder / "data").is_dir() else hint
        raise DatasetError(f"{folder} holds no .tif, .tiff or .png files.{hint}")
    stems = {start for path in found for start in _starts(path.stem)}
    called = {re.sub(r"\d+", "0", stem) for stem in stems}
    # What may be a suffix, and what the number behind a point, is told by the names of slices: the longest that fits.
    beside = (path.name for path in sorted(set(paths).difference(found)) if not path.is_dir())
    named = {name: [start for start in _starts(name) if re.sub(r"\d+", "0", start) in called][:1] for name in beside}
    parts = {
        path: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)] for path in found
    }
    found.sort(key=lambda path: (parts[path], path.name))
    return found, [name for name, start in named.items() if set(start) - stems]


def _is_png(path: Path) -> bool:
    return path.suffix.lower() == PNG


def _kind_of(path: Path) -> str:
    return "PNG" if _is_png(path) else "TIFF"


def _starts(name: str) -> list[str]:
    """As slice1.tif.part, slice1.tif and slice1: a name, and what of it ends at a point."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _in_natural_order(paths: Sequence[Path], numbers: Sequence[int | None]) -> list[str]:
    """A note on files whose names do not number them, and on those few that have no number at all."""
    without = [path.name for path, number in zip(paths, numbers, strict=True) if number is None]
    few = (
        f" (none in {', '.join(without[:3])}: move away what is no slice)" if 0 < 2 * len(without) < len(paths) else ""
    )
    note = f"the names do not say a number of each slice{few}: they come in natural order, from {paths[0].name} on."
    return [note] if len(paths) > 1 else []


def _read_pages(path: Path, how: Reading, *, described: bool = False) -> list[Page]:
    """The images of a file as their headers have them, without thumbnails; or as its description has them."""
    is_named = _is_png(path) or path.suffix.lower() in _SUFFIXES
    what = f"a readable {_kind_of(path)} file" if is_named else _FORMATS
    with refusing(f"{path} is not {what}"):
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("it is no regular file")  # the writer of a pipe would never come
        if _is_png(path):
            return [png_page(path)]
        with _opened(path) as tif:
            pages, offsets, places = list[Page](), set[int](), set[int]()
            flagged = list[tuple[int, tifffile.TiffPage]]()
            for page in tif.pages:
                if page.offset in offsets:
                    raise ValueError("its list of pages is a ring")
                offsets.add(page.offset)
                refuse_many(path, len(offsets))
                full = page.aspage()
                if (place := hash(tuple(full.dataoffsets))) in places:
                    raise ValueError(f"its page {len(offsets)} has the pixels of another page")
                places.add(place)
                if full.is_reduced or full.is_mask:
                    flagged.append((len(pages), full))
                else:
                    pages.append(page_of(path, full))
            stored = how.pixels == "stored"
            _add_flagged(path, pages, flagged, stored)
            if not pages:
                raise ValueError("it has no pages")
            tif.filehandle.seek(tif.pages.next_page_offset or 0)
            if any(tif.filehandle.read(tif.tiff.offsetsize)) and not tif.is_stk and (len(offsets) > 1 or not stored):
                hint = ". If that is all, take it as it is stored: --pixels stored" if len(offsets) == 1 else ""
                raise ValueError(f"its list of pages breaks off after {len(offsets)}{hint}")
            if described:
                return as_described(path, tif, pages, how)
            return pages if stored else with_hidden(tif, pages)


def _add_flagged(path: Path, pages: list[Page], flagged: list[tuple[int, tifffile.TiffPage]], stored: bool) -> None:
    """Put among the pages those that are flagged as thumbnails or masks but are none: all are, or they are as large.

    One behind each slice is a preview of it, however large. Raises ValueError where others are as large as slices,
    unless pages are taken as they are stored.
    """
    if not pages and not stored and any(full.subifds for _, full in flagged):
        raise ValueError(
            "its pages are flagged as thumbnails (NewSubfileType) of pictures in SubIFDs, which are not read. Save "
            "these, or take the pages: --pixels stored"
        )
    of_slices = {(page.shape, page.bits) for page in pages[:1]}
    found = [(at, full) for at, full in flagged if not pages or (tuple(full.shape), full.bitspersample) in of_slices]
    if found and pages and not stored:
        if [at for at, _ in found] == list(range(1, len(pages) + 1)):
            return
        raise ValueError(
            f"{len(found)} of its pages are as large as others and flagged as thumbnails or masks (NewSubfileType). "
            "Take all as they are stored: --pixels stored"
        )
    for at, full in reversed(found):
        pages.insert(at, page_of(path, full))


def _opened(path: Path) -> tifffile.TiffFile:
    """The file; raises ValueError with what it is, where it is another kind of file that is known."""
    try:
        return tifffile.TiffFile(path)
    except tifffile.TiffFileError:
        if (kind := other_kind(path)) is not None:
            raise ValueError(f"it is a {kind}") from None
        raise


def _source(
    path: Path,
    pages: list[Page],
    names: Sequence[str],
    numbers: Sequence[int],
    how: Reading,
    faults: list[str],
    notes: list[str],
) -> Source:
    """Refuses what is no picture, and headers that do not agree on what pixels mean."""
    if odd := [(name, page.shape) for name, page in zip(names, pages, strict=True) if len(page.shape) != 2]:
        (name, shape), also = odd[0], f" (and {len(odd) - 1} more)" if odd[1:] else ""
        way_out = (
            "Save it so, as Fiji's Image > Type > 8-bit does, or of classes in colours 8-bit Color"
            if len(shape) != 3 or shape[-1] == min(shape)
            else "If these are slices that were saved as the planes of one page (as tifffile takes three or four for "
            "colours), save each as a page: tifffile.imwrite(NAME, SLICES, photometric='minisblack')"
        )
        faults.append(
            f"{name}{also} is not a grey-value image: its shape is {shape}, and a slice has one number per pixel, its "
            f"grey value or that of its class. {way_out}"
        )
    shown, as_shown = how.pixels != "stored", "--pixels shown or "
    functions = {page.path: page.function for page in reversed(pages)}  # the first page of a file says it of all
    facts: list[tuple[str, str, list[Any]]] = [
        ("Orientation", as_shown, [page.orientation for page in pages]),
        ("PhotometricInterpretation", as_shown, [page.white_is_zero for page in pages]),
        # What is shown by a colour table, or is white in fewer bits than it is read in, is taken as its number.
        ("ColorMap", "", [page.colours for page in pages]),
        ("calibration function of ImageJ", "", [functions[page.path] for page in pages]),
        ("BitsPerSample", "", [page.bits % (8 * page.stored.itemsize) for page in pages]),
    ]
    for tag, also, values in facts:
        others = [name for name, value in zip(names, values, strict=True) if value != values[0]]
        if others and shown and not (also and how.pixels):
            faults.append(
                f"{len(others)} of {len(pages)} slices, such as {others[0]}, have another {tag} in their header than "
                f"{names[0]}. Say how they are to be taken: {also}--pixels stored"
            )
    unclear = [name for name, page in zip(names, pages, strict=True) if page.white_is_zero and not page.means_stored]
    if unclear and how.are_labels and how.pixels is None:
        faults.append(
            f"{len(unclear)} of {len(pages)} labels, such as {unclear[0]}, are stored with 0 as white "
            "(PhotometricInterpretation), and programs differ on which classes they are: Fiji and tifffile take the "
            "stored values, Pillow and viewers those that are shown, inverted. Say --pixels stored or --pixels shown, "
            "which counts for the images too, or save them with 0 as black"
        )
    raise_faults(path, faults)
    orientation = pages[0].orientation if how.pixels is None else 1
    if orientation != 1:
        notes.append(f"the slices are stored turned (Orientation {orientation}) and were turned as they are shown.")
    if shown and (white := sum(page.white_is_zero for page in pages)):
        stored = f"{white} of {len(pages)} slices are stored with 0 as white"
        if how.are_labels and how.pixels is None:
            notes.append(
                f"{stored}, and are taken by their stored values, which tifffile and ImageJ mean, one of which wrote "
                "them; --pixels shown inverts them."
            )
            pages = [replace(page, white_is_zero=False) for page in pages]
        else:
            # Of one bit they can be nothing but labels.
            of_labels = how.pixels is None and pages[0].bits == 1 and all(page.means_stored for page in pages)
            so = "; as labels they are taken so without it" if of_labels else ""
            notes.append(f"{stored} and were inverted, as they are shown; --pixels stored takes them as they are{so}.")
    if any(page.colours is not None for page in pages):
        notes.append("the slices have a colour table, which is passed over: their values are taken as they are.")
    if pages[0].function:
        notes.append(f"ImageJ shows other values ({pages[0].function}); pixels are taken as they are stored.")
    files = tuple(dict.fromkeys(page.path for page in pages))
    voxel = read_calibration(files[0], how.dataset, shown=shown).voxel
    # Most files say the same, and are not opened again.
    differing = {page.path for page in pages if page.sizes != pages[0].sizes} if voxel else set[Path]()
    sizes = {file: read_calibration(file, how.dataset, shown=shown).voxel for file in files[1:] if file in differing}
    others = [file.name for file, size in sizes.items() if voxel and size and not is_as_large(size, voxel)]
    if others:
        notes.append(
            f"{len(others)} of {len(pages)} slices, such as {others[0]}, say another size of a pixel "
            f"(XResolution, YResolution, ResolutionUnit, or a description) than {files[0].name}, whose is taken."
        )
    shapes = [page.shape[::-1] if shown and page.orientation > 4 else page.shape for page in pages]
    return Source(
        path=path,
        form="folder" if os.path.isdir(path) else "stack",
        names=tuple(names),
        numbers=tuple(numbers),
        shapes=tuple((height, width) for height, width in shapes),
        dtypes=tuple(page.stored.newbyteorder("=") for page in pages),
        decoded=max(page.tile for page in pages),
        stored_dtype=pages[0].stored.newbyteorder("="),
        decode=partial(_read, tuple(pages), shown),
        files=files,
        voxel=voxel,
        orientation=orientation,
        lossy=next((page.lossy for page in pages if page.lossy), ""),
        shown=shown,
        notes=tuple(notes),
    )
