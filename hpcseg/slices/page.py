"""One page of a TIFF: what its header says of its pixels, and these as they are stored. tifffile decodes them."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

from hpcseg.slices.calibration import ome_unit

_WHITE_IS_ZERO, _COLOUR_TABLE = 0, 3
_RESOLUTION = ("XResolution", "YResolution", "ResolutionUnit")
_FUNCTION = re.compile(r"^(cf|c\d)=(.*)", re.MULTILINE)
_MOST_LOOKED_THROUGH = 20_000  # of a description, of which each page may have one of megabytes
_NO_FUNCTION = (None, "20")
# Codecs whose decoders fill what is missing without a word: CCITT's for 1 bit, of which no code ends in so many zeros,
# JPEG and JPEG 2000, whose last two bytes are a mark, and JPEG XR, of which a header says where it begins and how long
# it is.
_CCITT, _JPEG, _END_OF_JPEG = (2, 3, 4), (7, 33007, 34892, 33003, 33004, 33005, 34712), b"\xff\xd9"
# Those that libtiff, and so whoever writes TIFFs by it, takes a predictor with: LZW, Deflate, LZMA, Zstandard.
_PREDICTED = (5, 8, 32946, 34925, 34926, 50000)
_LERC = 34887
# With which tifffile writes and reads one too, where it is asked to: PackBits and LERC.
_PREDICTED_BY_TIFFFILE = (32773, _LERC)
# Those that may change values; each but JPEG's can be told not to, which no header says in one way.
_LOSSY = {
    **dict.fromkeys((6, 7, 33007, 34892), "JPEG"),
    **dict.fromkeys((33003, 33004, 33005, 34712), "JPEG 2000"),
    **dict.fromkeys((22610, 34934), "JPEG XR"),
    **dict.fromkeys((50002, 52546), "JPEG XL"),
    **dict.fromkeys((34927, 50001), "WebP"),
    _LERC: "LERC",
}
_JPEG_XR, _PLACES_IN_JPEG_XR = (22610, 34934), (0xBCC0, 0xBCC1)


@dataclass(frozen=True, kw_only=True)
class Page:
    """One image of a TIFF: where it lies, and what its header says of its pixels."""

    path: Path
    offset: int
    """Of its header in the file, so that reading a page of a long stack does not walk along those before it."""
    shape: tuple[int, ...]
    stored: np.dtype
    """In the byte order of the file."""
    runs: tuple[tuple[int, int], ...]
    """First byte and bytes of each part, where pixels lie uncompressed; empty: tifffile decodes them."""
    tile: int
    """Bytes of a tile, decoded; 0: it has none."""
    bits: int
    """Of a sample, as stored."""
    orientation: int
    white_is_zero: bool
    means_stored: bool
    """Whether what wrote the file takes stored values for the numbers, whatever is white: tifffile and ImageJ do."""
    colours: int | None
    """Hash of the colour table, where it has one."""
    sizes: int
    """Hash of all by which its header may say the size of a pixel."""
    lossy: str
    """Its compression, where that may have changed values; else empty."""
    function: str
    """What ImageJ's description says of a function between stored values and those that are shown, to compare."""

    def stored_pixels(self) -> np.ndarray:
        """(H, W), as stored."""
        if self.runs:
            parts = [np.fromfile(self.path, np.uint8, size, offset=first) for first, size in self.runs]
            return (parts[0] if len(parts) == 1 else np.concatenate(parts)).view(self.stored).reshape(self.shape)
        with tifffile.TiffFile(self.path) as tif:
            page = tif.pages.first  # which is read with the file
            if page.offset != self.offset:
                tif.filehandle.seek(self.offset)
                page = tifffile.TiffPage(tif, index=0)
            _refuse_cut(page)
            _pass_over_predictor(page)
            # One thread: slices are read by several threads or processes.
            return np.asarray(page.asarray(maxworkers=1))


def page_of(path: Path, page: tifffile.TiffPage) -> Page:
    """Refuses what tifffile decodes without a word: it fills missing strips with zeros, and lzw just ends early."""
    if page.dtype is None:
        raise ValueError("its pixel format is unknown")
    if not all(isinstance(length, int) for length in page.shape):
        raise ValueError(f"its size is {page.shape}, which are no whole numbers")
    if 0 in page.shape:
        raise ValueError("it has no pixels")
    stored = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
    _pass_over_predictor(page)
    runs = _runs(page, stored)
    parts = (*page.dataoffsets, *page.databytecounts)
    if not runs and (0 in parts or len(page.databytecounts) < math.prod(page.chunked)):
        raise ValueError("strips are missing")
    ends = (first + size for first, size in (runs or zip(page.dataoffsets, page.databytecounts, strict=True)))
    if (missing := max(ends) - page.parent.filehandle.size) > 0:
        raise ValueError(f"it was cut short: {missing} bytes are missing")
    orientation = page.tags.valueof("Orientation", 1)
    table = page.colormap if page.photometric == _COLOUR_TABLE else None
    return Page(
        path=path,
        offset=page.offset,
        shape=tuple(page.shape),
        stored=stored,
        runs=runs,
        tile=math.prod(page.chunks) * stored.itemsize if page.is_tiled else 0,
        bits=page.bitspersample,
        orientation=int(orientation) if orientation in range(1, 9) else 1,
        # Where the tag is missing, tifffile's own attribute is 0.
        white_is_zero=page.tags.valueof("PhotometricInterpretation") == _WHITE_IS_ZERO,
        means_stored=page.parent.pages.first.is_imagej or _by_tifffile(page),
        colours=None if table is None else hash(np.asarray(table).tobytes()),
        sizes=hash((str(list(map(page.tags.valueof, _RESOLUTION))), page.description)),
        lossy=_LOSSY.get(page.compression, ""),
        function=_function(page.description) if page.is_imagej else "",
    )


def _in_one_way(value: str) -> str:
    """A number or a unit, which may be written in several ways."""
    try:
        return f"{float(value):g}"
    except ValueError:
        return ome_unit(value)


def _function(description: str) -> str:
    """Of ImageJ's lines those of a function that changes values; empty: there is none."""
    said = dict(_FUNCTION.findall(description[:_MOST_LOOKED_THROUGH]))
    line = [_in_one_way(said.get(name, "")) for name in ("cf", "c0", "c1")]
    changes = said.get("cf") not in _NO_FUNCTION and line != ["0", "0", "1"]
    return ", ".join(f"{name}={value}" for name, value in said.items()) if changes else ""


def _refuse_cut(page: tifffile.TiffPage) -> None:
    """Raises ValueError where a strip that is decoded to the end all the same is not all there, or lacks its NaN."""
    if page.compression not in (*_CCITT, *_JPEG, *_JPEG_XR, _LERC):
        return
    for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        page.parent.filehandle.seek(offset)
        coded = page.parent.filehandle.read(size)
        if page.compression == _LERC:
            if np.dtype(page.dtype).kind == "f" and imagecodecs.lerc_decode(coded, masks=True)[1] is not None:
                raise ValueError("LERC has pixels without a value, which would be 0. Save it in another compression")
            continue
        if page.compression in _JPEG:
            whole = _END_OF_JPEG in coded
        elif page.compression in _JPEG_XR:
            end = _end_of_jpeg_xr(coded)
            whole = end <= len(coded) and any(coded[end - 8 : end])
        else:
            whole = any(coded[-8:])
        if not whole:
            raise ValueError("a strip was cut short")


def _pass_over_predictor(page: tifffile.TiffPage) -> None:
    """Have tifffile take none where the compression has none, or there is none, whatever the header says."""
    by_tifffile = page.compression in _PREDICTED_BY_TIFFFILE and _by_tifffile(page)
    if page.compression not in _PREDICTED and not by_tifffile:
        page.predictor = 1


def _by_tifffile(page: tifffile.TiffPage) -> bool:
    """Whether tifffile wrote the file, as its first page alone says."""
    return page.parent.pages.first.software == "tifffile.py"


def _end_of_jpeg_xr(coded: bytes) -> int:
    """Where the pixels of a JPEG XR end, as its list of tags says, which is one of TIFF (ITU-T T.832, annex A)."""
    (at,) = struct.unpack_from("<I", coded, 4)
    (tags,) = struct.unpack_from("<H", coded, at)
    found = (struct.unpack_from("<HHII", coded, at + 2 + 12 * index) for index in range(tags))
    return sum(value for tag, _, _, value in found if tag in _PLACES_IN_JPEG_XR)


def _runs(page: tifffile.TiffPage, stored: np.dtype) -> tuple[tuple[int, int], ...]:
    """Where uncompressed pixels lie: as long as the header's rows are, whatever its byte counts say, as libtiff has it.

    Empty: they are compressed, tiled or packed.
    """
    of_bytes = page.bitspersample == 8 * stored.itemsize and page.predictor == page.fillorder == 1
    if page.compression not in (0, 1) or page.is_tiled or len(page.shape) != 2 or not of_bytes:
        return ()
    height, width = page.shape
    rows = page.rowsperstrip if 0 < page.rowsperstrip < height else height
    if len(page.dataoffsets) == 1 and page.databytecounts[0] >= height * width * stored.itemsize:
        rows = height  # all lie in the one strip, whatever is said of its rows
    tops = range(0, height, rows)
    offsets = page.dataoffsets[: len(tops)]
    if len(offsets) < len(tops) or 0 in offsets:
        raise ValueError("strips are missing")
    runs = list[tuple[int, int]]()
    for top, offset in zip(tops, offsets, strict=True):
        size = min(rows, height - top) * width * stored.itemsize
        if runs and sum(runs[-1]) == offset:
            runs[-1] = (runs[-1][0], runs[-1][1] + size)
        else:
            runs.append((int(offset), size))
    return tuple(runs)
