"""A volume as NumPy saves it (.npy) in, slices out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpcseg.errors import ConfigError
from hpcseg.slices.array import array_source, slab, slice_axes
from hpcseg.slices.source import Reading, Source, refusing


def is_npy(path: Path) -> bool:
    """By its mark."""
    with path.open("rb") as file:
        return file.read(6) == b"\x93NUMPY"


def open_npy(path: Path, how: Reading) -> Source:
    """The slices of an array in any order of its bytes and axes.

    Raises:
        ConfigError: a header is described that it has itself.
        DatasetError: it was cut short, or is of no numbers.
    """
    if how.dtype or how.header or how.byteorder or how.shape:
        raise ConfigError(
            f"{path} is a NumPy file, and says its shape and type itself. Leave out --shape, --dtype, --label-dtype, "
            "--byteorder and --header."
        )
    with refusing(f"{path} is no NumPy file that can be read"):
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        return array_source(path, "npy", how, pixels.shape, pixels.dtype, load=_load, of=(path, how.pixels == "stored"))


def _load(path: Path, stored: bool, first: int, last: int) -> np.ndarray:
    pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    return slab(pixels, slice_axes(pixels.shape, certain=stored) or (), first, last).copy()
