"""A PNG in, one page out: a slice, or what many programs write that draw labels. imagecodecs decodes it.

Grey values of fewer than 8 bits are shares of white (PNG specification, 12.4), and are read so, as of every program;
of colours in a table the numbers count, which are the classes.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import imagecodecs
import numpy as np

from hpcseg.slices.other_kinds import other_kind
from hpcseg.slices.page import Page

SUFFIX = ".png"
_MARK = b"\x89PNG\r\n\x1a\n"
_END = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))
_GREY, _TABLE = 0, 3
# Of a colour type: how many numbers each pixel has.
_CHANNELS = {_GREY: 1, 2: 3, _TABLE: 1, 4: 2, 6: 4}
# It warns of each that is interlaced.
logging.getLogger("imagecodecs").addHandler(logging.NullHandler())


@dataclass(frozen=True, kw_only=True)
class PngPage(Page):
    """The one image of a PNG."""

    def stored_pixels(self) -> np.ndarray:
        """(H, W), of the header and the pixels alone: the decoder would apply transparency and colours."""
        coded = self.path.read_bytes()
        header, *pixels = (
            coded[first - 8 : first + size + 4]
            for name, first, size in _chunks(io.BytesIO(coded))
            if name in (b"IHDR", b"IDAT")
        )
        bits, kind_of_colour = header[16:18]
        if kind_of_colour == _TABLE:
            as_grey = header[4:17] + bytes([_GREY]) + header[18:21]
            header = header[:4] + as_grey + struct.pack(">I", zlib.crc32(as_grey))
        decoded = imagecodecs.png_decode(b"".join((_MARK, header, *pixels, _END)))
        # As shares of white, and the largest number is that.
        return decoded // (255 // (2**bits - 1)) if kind_of_colour == _TABLE else decoded


def png_page(path: Path) -> PngPage:
    """What a PNG says of its pixels, which are not read.

    Raises:
        OSError: it cannot be read.
        ValueError: it is none, is damaged, or has several pictures.
    """
    with path.open("rb") as file:
        if file.read(len(_MARK)) != _MARK:
            kind = other_kind(path)
            raise ValueError("it does not begin as one" if kind is None else f"it is a {kind}")
        before = dict[bytes, bytes]()
        for name, _, size in _chunks(file):
            if name == b"IDAT":
                break
            before[name] = file.read(size)
        file.seek(-len(_END), os.SEEK_END)
        if file.read() != _END:  # else all are looked at, for what lies behind the last
            file.seek(len(_MARK))
            list(_chunks(file))
    width, height, bits, kind_of_colour = struct.unpack_from(">IIBB", before.get(b"IHDR", b"").ljust(10, b"\0"))
    if not width or not height or kind_of_colour not in _CHANNELS:
        raise ValueError("its header is damaged")
    if b"acTL" in before:
        raise ValueError("it is animated, and a slice is one picture")
    channels, stored = _CHANNELS[kind_of_colour], np.dtype("u2" if bits == 16 else "u1")
    return PngPage(
        path=path,
        offset=0,
        shape=(height, width) if channels == 1 else (height, width, channels),
        stored=stored,
        runs=(),
        tile=0,
        bits=8 * stored.itemsize,
        orientation=1,
        white_is_zero=False,
        means_stored=True,
        colours=hash(before.get(b"PLTE")) if kind_of_colour == _TABLE else None,
        sizes=0,
        lossy="",
        function="",
    )


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk's name, first byte and bytes in the file, which are all there; ValueError where it ends early."""
    end = file.seek(0, os.SEEK_END)
    at, name = len(_MARK), b""
    while name != b"IEND":
        file.seek(at)
        size, name = struct.unpack(">I4s", file.read(8).ljust(8, b"\0"))
        if at + 12 + size > end:
            raise ValueError("it was cut short")
        yield name, at + 8, size
        at += 12 + size
