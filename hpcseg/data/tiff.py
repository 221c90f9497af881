"""TIFF files in, numbered slices out. Every fault of a folder is found and told in one go. No h5py, no torch."""

from __future__ import annotations

import dataclasses
import logging
import math
import os.path
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from hpcseg.errors import DatasetError

_SUFFIXES = {".tif", ".tiff"}
_FAULTS_SHOWN = 10
_MOST_DIGITS = 18  # of a 64-bit integer
# tifffile logs what it makes of a damaged file; whether that will do is decided, and told, here.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Page:
    """One slice of a source: where it lies, and what its header says."""

    path: Path
    page: int
    """In a file of several, from 0; -1 for the only one."""
    number: int
    offset: int
    """Of its header in the file, so that reading a page of a long stack does not walk along those before it."""
    shape: tuple[int, ...]
    dtype: np.dtype
    """As it is read."""
    converted_from: np.dtype | None = None
    """As it lies in the file, where that is another one."""

    @property
    def name(self) -> str:
        """The file's name, with the page where a file has several."""
        return self.path.name if self.page < 0 else f"{self.path.name}#{self.page + 1}"

    def read(self) -> np.ndarray:
        """Decode the slice: (H, W), native byte order; NaN where a pixel has no grey value.

        Raises:
            DatasetError: the pixels cannot be decoded, or are infinite.
        """
        try:
            with tifffile.TiffFile(self.path) as tif:
                page = tif.pages.first  # which is read with the file
                if page.offset != self.offset:
                    tif.filehandle.seek(self.offset)
                    page = tifffile.TiffPage(tif, max(self.page, 0))
                # One thread: slices are read by several threads or processes.
                pixels = np.asarray(page.asarray(maxworkers=1))
        except Exception as error:  # tifffile and its codecs share no base class for damaged files
            raise DatasetError(
                f"{self.path}: the pixels of {self.name} cannot be decoded ({first_line(error)})."
            ) from None
        if pixels.shape != self.shape:
            raise DatasetError(f"{self.path}: {self.name} decodes to {pixels.shape}, but its header says {self.shape}.")
        if self.converted_from is not None:
            with np.errstate(over="ignore"):
                pixels = pixels.astype(self.dtype)
        if pixels.dtype.kind == "f" and np.isinf(pixels).any():
            raise DatasetError(f"{self.path}: {self.name} holds infinite values. Replace them first.")
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def find_pages(source: Path) -> list[Page]:
    """All slices of a folder of single-page TIFFs, or of one multi-page stack, by ascending number.

    The number of a slice is the last run of digits in its file's name that is not the same in all of them, as the 16 of
    rec_0001_16bit.tif is; or its page in a stack, from 1.

    Raises:
        DatasetError: nothing there, or faults in names or headers; the message lists them.
    """
    if os.path.isfile(source):  # Path.is_file raises where a name is too long or a folder may not be entered
        return _stack_pages(source)
    if not os.path.isdir(source):
        raise DatasetError(f"There is no folder or TIFF stack {source}.")
    paths = list_tiffs(source)
    if len(paths) == 1 and len(read_headers(paths[0])) > 1:
        return _stack_pages(paths[0])
    faults, pages = _Faults(source), []
    by_number: dict[int, Path] = {}
    for path, digits in zip(paths, _last_digits([path.stem for path in paths]), strict=True):
        if digits is None:
            faults.add(f"{path.name} has no number in its name")
            continue
        number = int(digits)
        if len(str(number)) > _MOST_DIGITS:
            faults.add(f"{path.name} has a number of more than {_MOST_DIGITS} digits")
            continue
        if number in by_number:
            faults.add(f"{path.name} and {by_number[number].name} both have the number {number}")
            continue
        by_number[number] = path
        try:
            headers = read_headers(path)
        except DatasetError as error:
            faults.add(str(error))
            continue
        if len(headers) != 1:
            faults.add(f"{path.name} has {len(headers)} pages; a folder holds one slice per file")
            continue
        pages.append(Page(path, -1, number, *headers[0]))
    faults.check(pages)
    faults.raise_if_any()
    return sorted(pages, key=lambda page: page.number)


def list_tiffs(folder: Path) -> list[Path]:
    """The TIFFs of a folder, in the order in which a person counts them: 2 before 10.

    Hidden files are no slices: a Mac puts one beside each file that it copies (`._name.tif`), and what is downloaded is
    one until it is there.

    Raises:
        DatasetError: it has none, or may not be listed.
    """
    try:
        # A link that leads nowhere is no file either, but a slice that would be missed.
        paths = [path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and not path.is_dir()]
    except OSError as error:
        raise DatasetError(f"{folder} cannot be listed: {error.strerror}.") from None
    paths = [path for path in paths if not path.name.startswith(".")]
    if not paths:
        hint = f" Did you mean {folder / 'data'}?" if (folder / "data").is_dir() else ""
        raise DatasetError(f"{folder} holds no .tif or .tiff files.{hint}")
    return sorted(paths, key=lambda path: ([int(digits) for digits in re.findall(r"\d+", path.name)], path.name))


def _last_digits(names: list[str]) -> list[str | None]:
    """Of each name the last run of digits; one that all end in does not count while each has another before it."""
    runs = [re.findall(r"\d+", name) for name in names]
    while len(runs) > 1 and all(len(of) > 1 for of in runs) and len({of[-1] for of in runs}) == 1:
        runs = [of[:-1] for of in runs]
    return [of[-1] if of else None for of in runs]


def pair(images: list[Page], labels: list[Page]) -> list[tuple[Page, Page]]:
    """Image and label of the same number, by ascending number.

    Raises:
        DatasetError: a number has no partner, labels are not whole numbers, or the shapes differ.
    """
    faults = _Faults(images[0].path.parent)
    label_of = {page.number: page for page in labels}
    image_numbers = {page.number for page in images}
    for page in images:
        if page.number not in label_of:
            faults.add(f"{page.name} (number {page.number}) has no label")
    for page in labels:
        if page.number not in image_numbers:
            faults.add(f"label {page.name} (number {page.number}) has no image")
    if labels[0].dtype.kind not in "ui":
        faults.add(f"labels are {labels[0].dtype}, but a class is a whole number ({labels[0].name})")
    if images[0].shape != labels[0].shape:
        faults.add(f"images are {_size(images[0])}, labels {_size(labels[0])} pixels ({labels[0].name})")
    faults.raise_if_any()
    return [(page, label_of[page.number]) for page in images]


def as_grey_values(pages: list[Page]) -> list[Page]:
    """Slices as they are packed: of types that are not, as float32. Raises DatasetError for one that cannot be."""
    dtype = pages[0].dtype
    if as_packed(dtype) not in (np.dtype("u1"), np.dtype("u2"), np.dtype("f4")):
        raise DatasetError(
            f"{pages[0].path} holds {dtype} grey values; uint8, uint16, int16, float32 and float64 are understood. "
            "Convert the slices, then pack again."
        )
    packed = as_packed(dtype)
    return (
        [dataclasses.replace(page, dtype=packed, converted_from=dtype) for page in pages] if packed != dtype else pages
    )


def as_packed(dtype: np.dtype) -> np.dtype:
    """The type in which grey values of a type are packed and segmented: int16 exactly, float64 rounded to 7 digits."""
    return np.dtype("f4") if dtype in (np.dtype("i2"), np.dtype("f8")) else dtype


class _Faults:
    """Collects what is wrong with a source, to tell it in one error."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._texts: list[str] = []

    def add(self, text: str) -> None:
        self._texts.append(text)

    def check(self, pages: list[Page]) -> None:
        """Every slice must look like the first grey-value image."""
        first = next((page for page in pages if len(page.shape) == 2), None)
        for page in pages:
            if first is None or len(page.shape) != 2:
                self.add(f"{page.name} is not a grey-value image: its shape is {page.shape}")
            elif (page.shape, page.dtype) != (first.shape, first.dtype):
                self.add(f"{page.name} is {_size(page)} {page.dtype}, but {first.name} is {_size(first)} {first.dtype}")

    def raise_if_any(self) -> None:
        if not self._texts:
            return
        more = len(self._texts) - _FAULTS_SHOWN
        shown = "; ".join(self._texts[:_FAULTS_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise DatasetError(f"{self._source} cannot be packed: {shown}.")


def _stack_pages(path: Path) -> list[Page]:
    faults = _Faults(path)
    pages = [Page(path, index, index + 1, *header) for index, header in enumerate(read_headers(path))]
    faults.check(pages)
    faults.raise_if_any()
    return pages


def read_headers(path: Path) -> list[tuple[int, tuple[int, ...], np.dtype]]:
    """Offset, shape and native dtype of every page; raises DatasetError for a file that is damaged or not all there."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("it is no regular file")  # opening a pipe would wait for its writer
        with tifffile.TiffFile(path) as tif:
            headers, offsets = [], set()
            for page in tif.pages:
                if page.offset in offsets:
                    raise ValueError("its list of pages is a ring")
                offsets.add(page.offset)
                headers.append(_header(page, tif.filehandle.size))
            if not headers:
                raise ValueError("it has no pages")
            if len(headers) == 1 and (tif.is_imagej or tif.is_shaped):
                _, shape, _ = headers[0]
                if tif.series[0].size != math.prod(shape):
                    raise ValueError(f"one page header for {tif.series[0].shape}; save it with one page per slice")
            return headers
    except Exception as error:  # tifffile raises its own errors, struct.error, IndexError, ... for damaged files
        raise DatasetError(f"{path} is not a readable TIFF file ({first_line(error)})") from None


def _header(page: Any, file_bytes: int) -> tuple[int, tuple[int, ...], np.dtype]:
    """Refuses what tifffile decodes without a word: it fills missing strips with zeros, and lzw just ends early."""
    if page.dtype is None:
        raise ValueError("its pixel format is unknown")
    if 0 in page.shape:
        raise ValueError("it has no pixels")
    if 0 in page.databytecounts or len(page.databytecounts) < math.prod(page.chunked):
        raise ValueError("strips are missing")
    missing = max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=True))) - file_bytes
    if missing > 0:
        raise ValueError(f"it was cut short: {missing} bytes are missing")
    return page.offset, tuple(page.shape), np.dtype(page.dtype).newbyteorder("=")


def _size(page: Page) -> str:
    return " x ".join(str(length) for length in page.shape)


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its name."""
    return (str(error).splitlines() or [type(error).__name__])[0] or type(error).__name__
