"""Grey values in, what they mean to a model and to its noise out: one scale for training, evaluation and prediction.

Knows nothing of files, so that a report can use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from hpcseg.data.classes import outside
from hpcseg.errors import ConfigError, DatasetError
from hpcseg.sigma import Share, Sigma

QUANTILES = (0.001, 0.999)
"""Shares of the pixels at which the span of grey values begins and ends: a hot pixel, or a thousand, lies beyond."""
FAR = 3.0
"""Grey values so many spans beyond the quantiles are no part of the sample: a hot pixel, a dead one."""
PAPER_SPAN = 23_797.0
"""Of the paper's slices, in counts: 19624 to 43421. What a sigma in counts was chosen for."""
_FLOAT_BITS = 21
"""Of a float32 that are counted: sign, exponent and 12 binary digits behind the first, a resolution of 1 in 4096."""

_REST = 32 - _FLOAT_BITS
"""Bits of a float32 that are not."""

FLOAT_STEP = 2.0 ** -(_FLOAT_BITS - 9)
"""The resolution of these: what two values must differ by to be told apart, as a share of them."""


@dataclass(frozen=True)
class GreyScale:
    """One affine map of grey values for a model, and the span that they have."""

    low: float
    """The grey value that a model meets as 0."""
    high: float
    """The grey value that a model meets as 1. Values outside are not clipped, unless they lie beyond `limits`."""
    quantiles: tuple[float, float] | None = None
    """Grey values at `QUANTILES` of all pixels but those of a padded border; None: packed before they were measured."""
    limits: tuple[float, float] | None = None
    """Grey values beyond are taken for these, before any noise; None: none is."""

    def __post_init__(self) -> None:
        pairs = [(self.low, self.high), *(pair for pair in (self.quantiles, self.limits) if pair is not None)]
        if not self.low < self.high or not all(low <= high for low, high in pairs) or not np.isfinite(pairs).all():
            raise ValueError(f"no grey scale has the ends, quantiles and limits {pairs}")

    def limited(self, values: np.ndarray) -> np.ndarray:
        """Grey values as they were measured, of any shape, without those beyond `limits`; of the same type.

        A single one of a thousand spans, in one tile, spoils the means of batch normalisation for a whole training.
        What has no grey value (NaN) gets the one that a model meets as 0, as beyond the edges of a tile.
        """
        if (missing := outside(values)) is not None:
            values = np.where(missing, values.dtype.type(self.low), values)
        if self.limits is None:
            return values
        low, high = self.limits
        if values.dtype.kind in "ui":
            ends = np.iinfo(values.dtype)
            low, high = max(np.floor(low), ends.min), min(np.ceil(high), ends.max)
        limited: np.ndarray = np.clip(values, values.dtype.type(low), values.dtype.type(high))
        return limited

    def normalised(self, values: np.ndarray) -> np.ndarray:
        """Grey values of any shape as a network takes them: float32, (value - low) / (high - low).

        Source: the paper's data section has low 0 and high 65535.
        """
        kind = np.dtype(np.float64 if values.dtype == np.float64 else np.float32)
        scaled: np.ndarray = values.astype(kind, copy=False) - kind.type(self.low)
        scaled /= kind.type(self.high - self.low)
        return scaled.astype(np.float32, copy=False)

    def counts(self, sigma: Sigma) -> float:
        """A sigma in counts; the one place where a share becomes counts.

        Raises:
            DatasetError: it is a share, and the span is not known, or is nothing.
        """
        if not isinstance(sigma, Share):
            return sigma
        if self.span:
            return sigma.per_cent / 100 * self.span
        why = (
            "which was not measured when these slices were packed. Pack them again with `hpcseg pack --force`."
            if self.quantiles is None
            else f"but 99.8 % of all pixels have the one value {self.quantiles[0]:g}. Write it as a number of counts."
        )
        raise DatasetError(f'A sigma of "{sigma}" is a share of the span of the grey values, {why}')

    @property
    def span(self) -> float | None:
        """Between the two quantiles, in counts; None where they are not known."""
        return None if self.quantiles is None else self.quantiles[1] - self.quantiles[0]

    @property
    def middle(self) -> float:
        """The grey value at which every model of noise has the same deviation."""
        return (self.low + self.high) / 2

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a record."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def read_scale(content: Mapping[str, Any]) -> GreyScale:
    """The scale whose `as_dict` was stored.

    Raises:
        ValueError: it is none; in words that fit behind a colon.
    """
    try:
        return msgspec.convert(content, GreyScale)
    except msgspec.ValidationError:
        raise ValueError(f"its grey scale is {content}") from None


def choose_scale(
    dtype: np.dtype, full_scale: float, quantiles: tuple[float, float], wish: tuple[float, float] | None = None
) -> GreyScale:
    """The scale of a data set.

    Whole numbers that use their type's range are divided by its largest value, as in the paper. Floating-point
    numbers, whose type says nothing about them, and whole numbers of which 99.9 % lie in the lower half of their type
    (12 bits of a camera in 16) are mapped by the quantiles, so that one hot pixel decides nothing. What is not divided
    by the full scale is limited to `FAR` spans beyond the quantiles.

    Args:
        dtype: of the grey values.
        full_scale: largest value of the type, or of the data where the type has none.
        quantiles: at `QUANTILES`.
        wish: what stands for 0 and for 1 instead, if anything.
    """
    fills, span = dtype.kind == "u" and quantiles[1] >= full_scale / 2, quantiles[1] - quantiles[0]
    low, high = wish or ((0.0, full_scale) if fills or not span else quantiles)
    if (low, high) == (0.0, full_scale) or not span:
        return GreyScale(low, high, quantiles)
    beyond = FAR * span
    return GreyScale(low, high, quantiles, (min(low, quantiles[0] - beyond), max(high, quantiles[1] + beyond)))


def check_range(wish: tuple[float, float] | None) -> None:
    """Raises ConfigError for what cannot stand for 0 and 1."""
    if wish and not (np.isfinite(wish).all() and wish[0] < wish[1]):
        raise ConfigError(f"--grey-range is {wish[0]:g} {wish[1]:g}, but LOW must be below HIGH, and both finite.")


class GreyCounts:
    """Counts grey values of uint8, uint16 (exactly) or float32 (to 12 binary digits) in one pass and bounded memory.

    Counts of parts add up, so that it does not matter which process has counted what.
    """

    def __init__(self, dtype: np.dtype) -> None:
        self._dtype = dtype
        bits = _FLOAT_BITS if dtype.kind == "f" else 8 * dtype.itemsize
        # Zeros that nobody has touched take no memory.
        self._pixels = np.zeros(2**bits, dtype=np.int64)

    def add(self, values: np.ndarray) -> None:
        """Count the pixels of an array of any shape, but NaN; eight bytes for each are needed meanwhile."""
        if (missing := outside(values)) is not None:
            values = values[~missing]
        if not values.size:
            return
        bins = self._bins(values).ravel()
        # Of floats a few bins far from 0; whole numbers are as quickly counted from 0 as their least is found.
        first = int(bins.min()) if self._dtype.kind == "f" else 0
        counted = np.bincount(bins - first if first else bins)
        self._pixels[first : first + len(counted)] += counted

    def of(self, value: float) -> int:
        """Pixels of one value, and of those that are not told from it."""
        return int(self._pixels[self._bins(np.array([value], dtype=self._dtype))][0])

    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        """What was counted, for `merge`: (B,) int64 bins that have pixels, and (B,) int64 how many."""
        bins = np.flatnonzero(self._pixels)
        return bins, self._pixels[bins]

    def merge(self, bins: np.ndarray, pixels: np.ndarray) -> None:
        """Add what another has counted of the same type."""
        self._pixels[bins] += pixels

    def quantiles(self, shares: tuple[float, float]) -> tuple[float, float]:
        """The lowest grey value at or below which each share (0..1) of the pixels lies; of floats its 12 digits."""
        bins, pixels = self.parts()
        total = np.cumsum(pixels)
        wanted = np.ceil(np.array(shares) * total[-1]).clip(1, total[-1])
        low, high = self._values(bins[np.searchsorted(total, wanted)]).tolist()
        return low + 0.0, high + 0.0  # no -0.0

    def _bins(self, values: np.ndarray) -> np.ndarray:
        """The bin of each value, ascending with it."""
        if self._dtype.kind != "f":
            return values
        turned = _turned(np.ascontiguousarray(values, dtype=np.float32).view(np.int32))
        bins: np.ndarray = (turned >> _REST) + 2 ** (_FLOAT_BITS - 1)
        return bins

    def _values(self, bins: np.ndarray) -> np.ndarray:
        """Of each bin its value nearest to zero, which of numbers with few digits is the number itself."""
        if self._dtype.kind != "f":
            return bins
        turned = (bins.astype(np.int32) - 2 ** (_FLOAT_BITS - 1)) << _REST
        return (_turned(turned) & np.int32(-(2**_REST))).view(np.float32)


def count_quantiles(slices: Callable[[], Iterable[np.ndarray]], dtype: np.dtype, shares: np.ndarray) -> np.ndarray:
    """Quantiles of more pixels than fit into memory: the lowest grey value at or below which each share of them lies.

    Exact in two passes (of whole numbers in one), however far a hot pixel lies from all others, and however many pixels
    have one value.

    Args:
        slices: all pixels, once more at each call: arrays of any shape, of finite values, whose NaN do not count.
        dtype: uint8 or uint16 as they are; float32: as such, to which other types are rounded.
        shares: (Q,), 0..1.

    Returns:
        (Q,) float64; NaN, where no pixel has a grey value.
    """
    counts = GreyCounts(dtype)
    for pixels in slices():
        counts.add(pixels)
    bins, in_bins = counts.parts()
    if not len(bins):
        return np.full(len(shares), np.nan)
    total = np.cumsum(in_bins)
    # A share of the last pixel, not of a pixel after it.
    wanted = np.ceil(shares * total[-1]).clip(1, total[-1]).astype(np.int64)
    found = np.searchsorted(total, wanted)
    if dtype.kind != "f":
        values: np.ndarray = bins[found].astype(np.float64)
        return values
    # The floats of a bin differ in their last binary digits, of which each is counted in a second pass.
    chosen, place = np.unique(found, return_inverse=True)
    slots = np.full(2**_FLOAT_BITS, -1)
    slots[bins[chosen]] = np.arange(len(chosen))
    fine = np.zeros((len(chosen), 2**_REST), dtype=np.int64)
    for pixels in slices():
        known = pixels if (missing := outside(pixels)) is None else pixels[~missing]
        turned = _turned(np.ascontiguousarray(known, dtype=np.float32).view(np.int32)).ravel()
        slot = slots[(turned >> _REST) + 2 ** (_FLOAT_BITS - 1)]
        inside = slot >= 0
        last = slot[inside] * 2**_REST + (turned[inside] & (2**_REST - 1))
        fine += np.bincount(last, minlength=fine.size).reshape(fine.shape)
    below = wanted - (total - in_bins)[found]
    within = np.array([np.searchsorted(np.cumsum(fine[at]), rest) for at, rest in zip(place, below, strict=True)])
    bits = ((bins[found] - 2 ** (_FLOAT_BITS - 1)) << _REST) + within
    return _turned(bits.astype(np.int32)).view(np.float32).astype(np.float64) + 0.0  # no -0.0


def _turned(bits: np.ndarray) -> np.ndarray:
    """int32, the bits of floats so that they ascend with them, and back: those of negative ones descend."""
    turned: np.ndarray = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return turned


def border_mask(image: np.ndarray) -> np.ndarray | None:
    """(H, W) bool, the pixels of a slice's padded border, which has one value; None where there is none.

    It has the four corners and half of the outline, which is true of slices that were padded and of the corners round a
    reconstructed circle. It reaches inwards from both ends of each row.
    """
    value = image[0, 0]
    outline = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    corners = outline[[0, image.shape[1] - 1, image.shape[1], 2 * image.shape[1] - 1]]
    if (corners != value).any() or 2 * np.count_nonzero(outline == value) < len(outline):
        return None
    inside = image != value
    has_some = inside.any(1)
    if not has_some.any():
        return None
    places, width = np.arange(image.shape[1]), image.shape[1]
    first = np.where(has_some, inside.argmax(1), width)[:, None]
    last = (width - inside[:, ::-1].argmax(1))[:, None]
    mask: np.ndarray = (places < first) | (places >= last)
    return mask


def without_border(image: np.ndarray) -> np.ndarray:
    """(P,) or (H, W) grey values of a slice: those that are not of a padded border."""
    mask = border_mask(image)
    return image if mask is None else image[~mask]
