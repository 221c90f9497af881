"""The arrays of an .npz that came from anywhere: none is made before its size was compared with a limit."""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib

import numpy as np

_MOST_BYTES = 2**30
"""Of all arrays together; the largest that an evaluation keeps are a slice with its label and its prediction."""
# What zipfile, zlib and numpy say of bytes that are something else.
_UNREADABLE = (
    *(OSError, EOFError, KeyError, TypeError, SyntaxError, RuntimeError, OverflowError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError),
)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_arrays(content: bytes, names: frozenset[str]) -> dict[str, np.ndarray]:
    """Those of some names that are there.

    Raises:
        ValueError: it is no such file, or its arrays are larger than what is in it or than a limit.
    """
    found: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            members = {name: file.getinfo(f"{name}.npy") for name in names if f"{name}.npy" in file.namelist()}
            if sum(member.file_size for member in members.values()) > _MOST_BYTES:
                raise ValueError(f"its arrays have more than {_MOST_BYTES} bytes")
            for name, member in members.items():
                with file.open(member) as stream:
                    shape, _, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
                    if math.prod(shape) * dtype.itemsize != member.file_size - stream.tell():
                        raise ValueError(f"{name} has other bytes than its shape {shape} asks for")
                with file.open(member) as stream:
                    found[name] = np.lib.format.read_array(stream, allow_pickle=False)
    except _UNREADABLE as error:
        raise ValueError(f"it is no file of arrays ({error})") from None
    return found
