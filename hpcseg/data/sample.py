"""A synthetic three-phase sample in the layout of a real data set, for the demo and the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage

# Of the real sample (a solid oxide cell): shares of pore and grey phase, label values, and about its grey values.
_SHARES = (0.295, 0.434)
_LABEL_VALUES = np.array([0, 128, 255], dtype=np.uint8)
_PHASE_COUNTS = np.array([25_000.0, 31_500.0, 38_000.0])
_STRUCTURE_PIXELS = 9.0
_SHADING_COUNTS = 3_000.0
_NOISE_COUNTS = 1_100.0


def write_sample(folder: Path, *, slices: int, size: int, seed: int) -> None:
    """Write slices and labels of a random three-phase structure.

    The phases are level sets of a smooth Gaussian random field, so that neighbouring slices are as alike as those of
    a tomogram. Grey values are one level per phase with a soft edge, a shading across the slice that a threshold
    cannot follow, and noise. The folder gets so many slices of `size` x `size` pixels as `data/sampleNNNN.tiff`
    (uint16) and `labels/sampleNNNN.tif` (uint8, 0 / 128 / 255).
    """
    rng = np.random.default_rng(seed)
    # The low-pass is periodic; slices beyond the last keep the two ends of the stack from being neighbours.
    beyond = round(4 * _STRUCTURE_PIXELS)
    field = _smooth(rng.standard_normal((slices + beyond, size, size), dtype=np.float32), _STRUCTURE_PIXELS)[:slices]
    low, high = np.quantile(field, np.cumsum(_SHARES))
    phases = (field > low).astype(np.int64) + (field > high)
    y, x = np.mgrid[0:size, 0:size] / size
    shading = _SHADING_COUNTS * np.sin(2 * np.pi * (x + 0.5 * y))
    for name in ("data", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index in range(slices):
        grey = _smooth(_PHASE_COUNTS[phases[index]], 0.8) + shading
        grey += _NOISE_COUNTS * rng.standard_normal((size, size))
        pixels = np.clip(np.rint(grey), 0, 65_535).astype(np.uint16)
        number = f"sample{index + 1:04d}"
        tifffile.imwrite(folder / "data" / f"{number}.tiff", pixels, compression="zlib")
        tifffile.imwrite(folder / "labels" / f"{number}.tif", _LABEL_VALUES[phases[index]], compression="zlib")


def _smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian low-pass over all axes of a periodic array, sigma in pixels."""
    spectrum = ndimage.fourier_gaussian(np.fft.rfftn(values), sigma, values.shape[-1])
    return np.fft.irfftn(spectrum, s=values.shape, axes=tuple(range(values.ndim)))
