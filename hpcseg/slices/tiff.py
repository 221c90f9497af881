"""TIFFs in, slices out: a folder of single images, or the pages of one file. tifffile decodes them.

The header of its pixels decides what a page is; what a description says besides (ImageJ, OME, tifffile) orders the
pages of a file, and shows which are missing. Every fault of a folder is found and told in one go.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os.path
import re
import stat
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from hpcseg.errors import ConfigError, DatasetError
from hpcseg.slices.calibration import read_calibration
from hpcseg.slices.numbers import Numbered, number_names
from hpcseg.slices.source import Faults, Pixels, Reading, Source, first_line, size_in_words, stack_facts

SUFFIXES = {".tif", ".tiff", ".btf", ".tf8", ".stk", ".ome"}
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_WHITE_IS_ZERO, _COLOUR_TABLE = 0, 3
_STK_PLANES = 33629
_AXES = {"C": "channels", "T": "times", "Z": "slices"}
# tifffile logs what it makes of a damaged file; whether that will do is decided, and told, here.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Page:
    """One image of a TIFF: where it lies, and what its header says of its pixels."""

    path: Path
    index: int
    """In the chain of pages."""
    offset: int
    """Of its header in the file, so that reading a page of a long stack does not walk along those before it."""
    shape: tuple[int, ...]
    stored: np.dtype
    """In the byte order of the file."""
    runs: tuple[tuple[int, int], ...] = ()
    """First byte and bytes of each part, where pixels lie uncompressed; empty: tifffile decodes them."""
    bits: int = 8
    """Of a sample, as stored."""
    orientation: int = 1
    white_is_zero: bool = False
    colours: str | None = None
    """SHA-256 of the colour table, where it has one."""

    @property
    def dtype(self) -> np.dtype:
        """As it is read."""
        return self.stored.newbyteorder("=")

    def decode(self) -> np.ndarray:
        """(H, W), native byte order, as stored."""
        if self.runs:
            parts = [np.fromfile(self.path, np.uint8, size, offset=first) for first, size in self.runs]
            pixels = (parts[0] if len(parts) == 1 else np.concatenate(parts)).view(self.stored).reshape(self.shape)
        else:
            with tifffile.TiffFile(self.path) as tif:
                page = tif.pages.first  # which is read with the file
                if page.offset != self.offset:
                    tif.filehandle.seek(self.offset)
                    page = tifffile.TiffPage(tif, self.index)
                # One thread: slices are read by several threads or processes.
                pixels = np.asarray(page.asarray(maxworkers=1))
        return pixels.astype(self.dtype, copy=False)

    def shown(self) -> np.ndarray:
        """The same as its header says that it is shown: turned, and white where it says that 0 is white."""
        pixels = _turn(self.decode(), self.orientation)
        if self.white_is_zero and pixels.dtype.kind == "u":
            pixels = pixels ^ pixels.dtype.type(2**self.bits - 1)
        elif self.white_is_zero:
            pixels = -pixels if pixels.dtype.kind == "f" else ~pixels
        return np.ascontiguousarray(pixels)


@dataclass(frozen=True)
class _Pages:
    pages: tuple[Page, ...]
    shown: bool

    def __call__(self, index: int) -> np.ndarray:
        page = self.pages[index]
        return page.shown() if self.shown else page.decode()


def open_folder(folder: Path, how: Reading, *, known: dict[str, int] | None = None) -> Source:
    """The TIFFs of a folder, one slice each, by ascending number; a single one of several pages is a stack.

    Args:
        folder: hidden files in it are no slices.
        how: `number` and `pixels` count.
        known: as for `number_names`.

    Raises:
        DatasetError: it has none, or faults in names or headers; the message lists them.
        ConfigError: as `number_names`.
    """
    paths = list_tiffs(folder)
    if len(paths) == 1 and how.number is None:
        stack = open_file(paths[0], how)
        if len(stack) > 1 or (how.needs_numbers and not re.search(r"\d", paths[0].stem)):  # alone it is the first
            return stack
    faults, notes = Faults(folder), list[str]()
    doubts = faults if how.needs_numbers else Faults(folder)
    numbered = number_names([path.name for path in paths], doubts, pattern=how.number, known=known)
    if not how.needs_numbers:
        numbers = [number for number in numbered.numbers if number is not None]
        if len(set(numbers)) == len(paths):  # as they are packed, where a person would count 1.5 before 1.25
            paths = [path for _, path in sorted(zip(numbers, paths, strict=True))]
        numbered = Numbered(list(range(1, len(paths) + 1)))
    if numbered.example:
        notes.append(f"the number of a slice is that of {numbered.example}; --number says otherwise.")
    found: dict[int, Page] = {}
    for path, number in zip(paths, numbered.numbers, strict=True):
        if number is not None and number in found:
            faults.add(f"{path.name} and {found[number].path.name} both have the number {number}")
            continue
        try:
            pages = read_pages(path)
        except DatasetError as error:
            faults.add(str(error).removesuffix("."))
            continue
        if len(pages) != 1:
            faults.add(f"{path.name} has {len(pages)} pages; a folder holds one slice per file")
        elif number is not None:
            found[number] = pages[0]
    order = sorted(found)
    pages = [found[number] for number in order]
    return _source(folder, pages, [page.path.name for page in pages], order, how, faults, notes)


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
    pages = read_pages(path)
    if how.pixels != "stored":
        pages = _as_described(path, pages, how.dataset)
    elif how.dataset is not None:
        raise ConfigError("--dataset and --pixels stored exclude each other: pages as stored are of no image.")
    names, numbers = stack_facts(path.name, len(pages), how.first)
    source = replace(_source(path, pages, names, numbers, how, Faults(path), []), dataset=how.dataset)
    for name, shape in zip(source.names, source.shapes, strict=True):
        if shape != source.shapes[0]:
            raise DatasetError(
                f"{path} has pages of several sizes: {name} is {size_in_words(shape)} pixels, but {source.names[0]} is "
                f"{size_in_words(source.shapes[0])}. To segment them, put them into a folder of single files."
            )
    return source


def is_tiff(path: Path) -> bool:
    """By its name or its mark."""
    with path.open("rb") as file:
        return path.suffix.lower() in SUFFIXES or file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def list_tiffs(folder: Path) -> list[Path]:
    """The TIFFs of a folder, in the order in which a person counts them: 2 before 10.

    Hidden files are no slices: a Mac puts one beside each file that it copies (`._name.tif`), and what is downloaded is
    one until it is there.

    Raises:
        DatasetError: it has none, or may not be listed.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise DatasetError(f"{folder} cannot be listed: {error.strerror}.") from None
    # A link that leads nowhere is no file either, but a slice that would be missed.
    found = [
        path
        for path in paths
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
    ]
    if not found:
        hint = f" Did you mean {folder / 'data'}?" if (folder / "data").is_dir() else ""
        others = sorted({path.suffix for path in paths if path.suffix and not path.name.startswith(".")})
        hint = hint or (f" It has {', '.join(others)}; name one file, if that is the volume." if others else "")
        raise DatasetError(f"{folder} holds no .tif or .tiff files.{hint}")
    return sorted(found, key=lambda path: ([int(digits) for digits in re.findall(r"\d+", path.name)], path.name))


def read_pages(path: Path) -> list[Page]:
    """The images of a file as their headers have them, without thumbnails.

    Raises:
        DatasetError: the file is damaged or not all there.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("it is no regular file")
        with tifffile.TiffFile(path) as tif:
            pages, offsets, subfiles = list[Page](), set[int](), list[int]()
            page: Any = None
            for page in tif.pages:
                if page.offset in offsets:
                    raise ValueError("its list of pages is a ring")
                offsets.add(page.offset)
                full = page.aspage() if isinstance(page, tifffile.TiffFrame) else page
                subfiles.append(int(full.subfiletype) & (_REDUCED | _MASK))
                if not subfiles[-1]:
                    pages.append(_page(path, full, tif))
            if not pages:
                raise ValueError("it has no pages" if page is None else "it has nothing but thumbnails")
            _check_chain(tif, page, len(offsets))
            return pages
    except Exception as error:  # tifffile raises its own errors, struct.error, IndexError, ... for damaged files
        raise DatasetError(f"{path} is not a readable TIFF file ({_cause(path, error)}).") from None


def _cause(path: Path, error: Exception) -> str:
    """What is wrong with a file; what it is, where it is another kind of file."""
    kinds = {b"\x1f\x8b": "gzip file; unpack it", b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"PK\x03\x04": "zip file"}
    start = b""
    if os.path.isfile(path):  # opening a pipe would wait for its writer
        with contextlib.suppress(OSError), path.open("rb") as file:
            start = file.read(4)
    for magic, kind in kinds.items():
        if start.startswith(magic):
            return f"it is a {kind}"
    return first_line(error)


def _page(path: Path, page: Any, tif: tifffile.TiffFile) -> Page:
    """Refuses what tifffile decodes without a word: it fills missing strips with zeros, and lzw just ends early."""
    if page.dtype is None:
        raise ValueError("its pixel format is unknown")
    if 0 in page.shape:
        raise ValueError("it has no pixels")
    stored = np.dtype(page.dtype).newbyteorder(tif.byteorder)
    runs = _runs(page, stored)
    if runs is None and (0 in page.databytecounts or len(page.databytecounts) < math.prod(page.chunked)):
        raise ValueError("strips are missing")
    ends = (first + size for first, size in (runs or zip(page.dataoffsets, page.databytecounts, strict=True)))
    if (missing := max(ends) - tif.filehandle.size) > 0:
        raise ValueError(f"it was cut short: {missing} bytes are missing")
    orientation = page.tags.valueof("Orientation", 1)
    table = page.colormap if page.photometric == _COLOUR_TABLE else None
    return Page(
        path,
        page.index if isinstance(page.index, int) else page.index[-1],
        page.offset,
        tuple(page.shape),
        stored,
        runs or (),
        page.bitspersample,
        int(orientation) if orientation in range(1, 9) else 1,
        page.tags.valueof("PhotometricInterpretation") == _WHITE_IS_ZERO,  # where it is missing, tifffile has 0
        None if table is None else hashlib.sha256(np.asarray(table).tobytes()).hexdigest(),
    )


def _runs(page: Any, stored: np.dtype) -> tuple[tuple[int, int], ...] | None:
    """Where uncompressed pixels lie: as long as the header's rows are, whatever its byte counts say, as libtiff has it.

    None: they are compressed, tiled or packed.
    """
    plain = (
        page.compression in (0, 1)
        and not page.is_tiled
        and len(page.shape) == 2
        and page.bitspersample == 8 * stored.itemsize
        and page.predictor == 1
        and page.fillorder == 1
    )
    if not plain:
        return None
    height, width = page.shape
    rows = page.rowsperstrip if 0 < page.rowsperstrip < height else height
    offsets = page.dataoffsets[: -(-height // rows)]
    if len(offsets) < -(-height // rows) or 0 in offsets:
        raise ValueError("strips are missing")
    runs = list[tuple[int, int]]()
    for top, offset in zip(range(0, height, rows), offsets, strict=True):
        size = min(rows, height - top) * width * stored.itemsize
        if runs and sum(runs[-1]) == offset:
            runs[-1] = (runs[-1][0], runs[-1][1] + size)
        else:
            runs.append((int(offset), size))
    return tuple(runs)


def _check_chain(tif: tifffile.TiffFile, last: Any, pages: int) -> None:
    """Raises ValueError where a file's list of pages says that it goes on, and does not."""
    layout, handle = tif.tiff, tif.filehandle
    handle.seek(last.offset)
    entries = int.from_bytes(handle.read(layout.tagnosize), "little" if tif.byteorder == "<" else "big")
    handle.seek(last.offset + layout.tagnosize + entries * layout.tagsize)
    following = handle.read(layout.offsetsize)
    if not tif.is_stk and len(following) == layout.offsetsize and any(following):
        raise ValueError(f"its list of pages breaks off after {pages}")


def _as_described(path: Path, pages: list[Page], dataset: str | None) -> list[Page]:
    """The pages of a file in the order of its description; one header for many slices is as many pages.

    Raises DatasetError where the description counts slices that are not there, or several channels.
    """
    try:
        with tifffile.TiffFile(path) as tif:
            if tif.is_ome:
                return _ome(path, pages, tif, dataset)
            images, axes, start = _counted(tif)
    except (DatasetError, ConfigError):
        raise
    except Exception:  # a description that tifffile cannot read: the pages are as their headers say
        images, axes, start = len(pages), {}, None
    if dataset is not None:
        raise ConfigError(f"--dataset names a part of an HDF5, Zarr or OME file, and {path} is none. Leave it out.")
    if images > len(pages):
        pages = _behind(path, pages, images, start)
    if len(pages) % max(1, math.prod(axes.values())):  # they contradict the pages, or each other
        axes = {}
    if axes.get("C", 1) > 1:
        raise DatasetError(f"{path} cannot be used: it has {axes['C']} channels; save the one to segment.")
    if axes.get("T", 1) > 1 and axes.get("Z", 1) > 1:
        raise DatasetError(f"{path} cannot be used: it has {axes['T']} times {axes['Z']} slices; save one of them.")
    return pages


def _behind(path: Path, pages: list[Page], images: int, start: int | None) -> list[Page]:
    """As many images as are counted, which lie behind the only page header; raises DatasetError where they do not."""
    if len(pages) > 1 or start is None:
        raise DatasetError(
            f"{path} is not a readable TIFF file: its description counts {images} slices, and it has {len(pages)}. "
            "If that is all, take its pages as they are: --pixels stored."
        )
    size = math.prod(pages[0].shape) * pages[0].stored.itemsize
    if (missing := start + images * size - path.stat().st_size) > 0:
        raise DatasetError(
            f"{path} is not a readable TIFF file: it is one page header for {images} slices, and {missing} bytes are "
            "missing. If it is one slice, take it as it is: --pixels stored."
        )
    return [replace(pages[0], runs=((start + index * size, size),)) for index in range(images)]


def _counted(tif: tifffile.TiffFile) -> tuple[int, dict[str, int], int | None]:
    """How many slices a description counts, along which axes, and where they begin if they lie in one run."""
    first: Any = tif.pages.first
    if tif.is_imagej:
        metadata = tif.imagej_metadata or {}
        axes = {"T": metadata.get("frames", 1), "Z": metadata.get("slices", 1), "C": _channels(metadata)}
        axes = {name: length for name, length in axes.items() if isinstance(length, int)}
        images = metadata.get("images", 1)
        return images if isinstance(images, int) else 1, axes, _one_run(first)
    if tif.is_stk:
        return first.tags[_STK_PLANES].count, {}, _one_run(first)
    if tif.is_shaped and len(tif.pages) == 1:
        return tif.series[0].size // max(1, math.prod(first.shape)), {}, _one_run(first)
    return 1, {}, None


def _one_run(page: Any) -> int | None:
    return int(page.dataoffsets[0]) if page.is_contiguous else None


def _channels(metadata: dict[str, Any]) -> int:
    """Channels of an ImageJ stack. Those that are alone and shown in grey are slices: a volume as Python writes it.

    `tifffile.imwrite(file, volume, imagej=True)` calls the first of three axes channels, where nobody names them.
    """
    alone = not {"slices", "frames"} & metadata.keys() and metadata.get("mode") == "grayscale"
    return 1 if alone else int(metadata.get("channels", 1))


def _ome(path: Path, pages: list[Page], tif: tifffile.TiffFile, dataset: str | None) -> list[Page]:
    """The pages of one image of an OME-TIFF in the order of its metadata, those of its other files among them."""
    series = [one for one in tif.series if one.kind == "ome"]
    if not series:
        return pages
    if dataset is not None:
        chosen = [one for index, one in enumerate(series) if dataset in (one.name, str(index))]
    else:
        chosen = series if len(series) == 1 else []
    if not chosen:
        listing = ", ".join(f"{index} {one.name} {one.shape}" for index, one in enumerate(series))
        raise ConfigError(f"{path} has several images: {listing}. Name one with --dataset.")
    image = chosen[0]
    axes = {name: length for name, length in zip(image.axes, image.shape, strict=True) if name not in "YXS"}
    if sum(length > 1 for length in axes.values()) > 1 or axes.get("C", 1) > 1:
        shown = ", ".join(f"{length} {_AXES.get(name, name)}" for name, length in axes.items() if length > 1)
        raise DatasetError(f"{path} cannot be used: it has {shown}; save the one channel and time to segment.")
    listed: Sequence[Any] = list(image.pages)
    if (gone := sum(page is None for page in listed)) or len(listed) < math.prod(axes.values()):
        raise DatasetError(
            f"{path} is not a readable TIFF file: its OME metadata count {len(listed)} planes, and {gone} are missing, "
            "or the files that they are in."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the other files, which tifffile has closed and opens again
        whole = [page.aspage() if isinstance(page, tifffile.TiffFrame) else page for page in listed]
    own = sum(page.parent is tif for page in whole)
    if dataset is None and len(series) == 1 and own < len(pages):
        raise DatasetError(
            f"{path} has {len(pages)} pages, and its OME metadata count {own} of them. Take those with --dataset 0, or "
            "all as they are stored: --pixels stored."
        )
    return [_page(Path(page.parent.filehandle.path), page, page.parent) for page in whole]


def _source(
    path: Path,
    pages: list[Page],
    names: Sequence[str],
    numbers: Sequence[int],
    how: Reading,
    faults: Faults,
    notes: list[str],
) -> Source:
    """Refuses what is no picture, and headers that do not agree on what pixels mean."""
    for name, page in zip(names, pages, strict=True):
        if len(page.shape) != 2:
            faults.add(
                f"{name} is not a grey-value image: its shape is {page.shape}, and a slice has one number per pixel, "
                "its grey value or that of its class"
            )
    _agree(names, pages, how.pixels, faults)
    faults.raise_if_any()
    shown = how.pixels != "stored"
    turned = [shown and page.orientation > 4 for page in pages]
    shapes = [(page.shape[1], page.shape[0]) if turn else page.shape for page, turn in zip(pages, turned, strict=True)]
    orientation = pages[0].orientation if how.pixels is None else 1
    if orientation != 1:
        notes.append(f"the slices are stored turned (Orientation {orientation}) and were turned as they are shown.")
    if shown and (white := sum(page.white_is_zero for page in pages)):
        notes.append(f"{white} of {len(pages)} slices are stored with 0 as white and were inverted, as they are shown.")
    if any(page.colours for page in pages):
        notes.append("the slices have a colour table, which is passed over: their values are taken as they are.")
    files = tuple(dict.fromkeys(page.path for page in pages))
    return Source(
        path=path,
        form="folder" if os.path.isdir(path) else "stack",
        names=tuple(names),
        numbers=tuple(numbers),
        shapes=tuple((int(shape[0]), int(shape[1])) for shape in shapes),
        dtypes=tuple(page.dtype for page in pages),
        decode=_Pages(tuple(pages), shown),
        files=files if len(files) == len(pages) else (path,),
        pixels_in=files,
        voxel=read_calibration(files[0]).voxel,
        orientation=orientation,
        notes=tuple(notes),
    )


def _agree(names: Sequence[str], pages: Sequence[Page], pixels: Pixels | None, faults: Faults) -> None:
    facts: dict[str, tuple[Pixels | None, Callable[[Page], object]]] = {
        "Orientation": (None, lambda page: page.orientation),
        "PhotometricInterpretation": (None, lambda page: page.white_is_zero),
        # What is shown by a colour table, or is white in fewer bits than it is read in, is taken as its number.
        "ColorMap": ("shown", lambda page: page.colours),
        "BitsPerSample": ("shown", lambda page: page.bits % (8 * page.stored.itemsize)),
    }
    for what, (also, of) in facts.items():
        if pixels not in (None, also):
            continue
        other = [name for name, page in zip(names, pages, strict=True) if of(page) != of(pages[0])]
        if other:
            faults.add(
                f"{len(other)} of {len(pages)} slices, such as {other[0]}, have another {what} in their header than "
                f"{names[0]}. Take them as they are {'' if also else 'shown, or as they are '}stored: "
                f"{'' if also else '--pixels shown or '}--pixels stored"
            )


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """As TIFF 6.0 has it: 2 to 4 mirrored or upside down, 5 to 8 with rows and columns exchanged as well."""
    if orientation > 4:
        pixels = pixels.T
        orientation = {5: 1, 6: 2, 7: 3, 8: 4}[orientation]
    across, down = {1: (1, 1), 2: (-1, 1), 3: (-1, -1), 4: (1, -1)}[orientation]
    return pixels[::down, ::across]
