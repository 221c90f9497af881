"""How large a source may be. Asked before anything is made of the size that a file claims, which costs it nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from hpcseg.errors import DatasetError
from hpcseg.memory import free_host_bytes

MOST_SLICES = 1_000_000
"""Of a source: a name and a number are kept of each, and a scan has thousands."""
# The decoder's buffer, and what is made of it: native bytes, grey values, labels.
_COPIES = 2
# Deflate unpacks to 1,030 times as much at most, LZMA to some 7,000, Zstandard to 32,000 and Blosc2 to 600,000, of
# nothing but one value in the largest chunks. More is one chunk that is named again and again.
_MOST_UNPACKED = 1_000_000


def refuse_many(where: object, slices: int) -> None:
    """Raises DatasetError for more slices than a source may have."""
    if slices > MOST_SLICES:
        raise DatasetError(f"{where} claims {slices} slices, and at most {MOST_SLICES} are read. Split it.")


def refuse_large(where: object, at_once: int) -> None:
    """Raises DatasetError where memory has no room for what is decoded at once: a slice, or its chunk or tile."""
    # Asked on the node that reads, since the one that submits may be smaller.
    if _COPIES * at_once > (free := free_host_bytes()):
        raise DatasetError(
            f"{where} claims {at_once / 2**30:.4g} GiB of pixels to decode at once, which takes twice that, and "
            f"{free / 2**30:.4g} GiB of memory are free. If that is its size, take a machine with more memory, or "
            "write it in smaller chunks."
        )


def refuse_bomb(where: object, claimed: int, files: Iterable[Path]) -> None:
    """Raises DatasetError where files have so few bytes that no compression makes the claimed bytes of them."""
    if claimed > _MOST_UNPACKED * (stored := sum(map(os.path.getsize, files))):
        raise DatasetError(f"{where} has {stored} bytes and claims {claimed} of pixels. No compression does that.")
