"""How grey values of a volume become those that a model was trained on. Said by the user, or refused; never guessed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hpcseg.data.evenly import evenly
from hpcseg.data.grey import GreyScale
from hpcseg.errors import ConfigError, DatasetError
from hpcseg.predict.ahead import ahead
from hpcseg.predict.card import GreyHistogram, ModelCard
from hpcseg.slices.source import Source

_SLICES_LOOKED_AT = 16
_SLICES_AHEAD = 4
# What is taken for grey values of another kind: so many pixels beyond the training's ends and a tenth of their
# distance, or a span of less than a tenth of the training's.
_MOST_OUTSIDE = 0.01
_MARGIN = 0.1
_LEAST_SPAN = 0.1
# A noisy tile of the training reached that many sigmas beyond the clean values.
_SIGMAS = 2.0


@dataclass(frozen=True)
class Mapping:
    """Grey value v of the volume stands for `scale * v + offset` counts of the training slices; nothing is clipped."""

    kind: Literal["as trained", "range", "percentiles"]
    scale: float = 1.0
    offset: float = 0.0
    asked: tuple[float, float] | None = None
    """Of a range the two grey values, of percentiles the two shares in per cent."""
    found: tuple[float, float] | None = None
    """The volume's grey values at these percentiles."""
    meant: tuple[float, float] | None = None
    """Counts of the training slices that the two stand for."""

    def apply(self, pixels: np.ndarray, grey: GreyScale) -> np.ndarray:
        """(H, W) grey values to (H, W) float32 as the network takes them: counts of the training on its grey scale."""
        if self.kind != "as trained":
            # float32 has too few digits for the values of some types.
            pixels = pixels.astype(np.float64) * self.scale + self.offset
        return grey.normalised(grey.limited(pixels))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the record."""
        return {
            "kind": self.kind,
            **{name: getattr(self, name) for name in ("asked", "found", "meant")},
            "counts": f"{self.scale:.17g} * grey value + {self.offset:.17g}",
            "scale": self.scale,
            "offset": self.offset,
        }


def read_mapping(content: dict[str, Any]) -> Mapping:
    """The mapping whose `as_dict` was stored."""
    pairs = {name: tuple(content[name]) if content[name] else None for name in ("asked", "found", "meant")}
    return Mapping(content["kind"], content["scale"], content["offset"], **pairs)


def decide(
    volume: Source,
    card: ModelCard,
    *,
    range_: tuple[float, float] | None = None,
    percentiles: tuple[float, float] | None = None,
    on_slice: Callable[[int, int], None] = lambda *_: None,
) -> Mapping:
    """The mapping that the user asked for; without a wish, that of the training, if the volume looks like it.

    Args:
        volume: to segment.
        card: of the model.
        range_: LOW and HIGH stand for the ends of the training's grey scale: 0 and the largest value of its type where
            it uses that type's range, so what was chosen for a conversion to it.
        percentiles: the volume's grey values at these two shares (per cent) stand for the training slices' at the
            same shares.
        on_slice: told how many slices of how many were read for percentiles.

    Raises:
        ConfigError: both wishes, or one that cannot be met.
        DatasetError: no wish, and the volume's number type or values are not those of the training.
    """
    if range_ and percentiles:
        raise ConfigError("--range and --percentiles both say how grey values are mapped. Give one of them.")
    if range_:
        if not range_[0] < range_[1] or not np.isfinite(range_).all():
            raise ConfigError(f"--range is {range_[0]:g} {range_[1]:g}, but LOW must be below HIGH.")
        return _between("range", range_, range_, (card.grey.low, card.grey.high))
    if percentiles:
        low, high = percentiles
        if not 0 <= low < high <= 100:
            raise ConfigError(f"--percentiles is {low:g} {high:g}, but it must be 0 <= LOW < HIGH <= 100.")
        found = volume_percentiles(volume, percentiles, on_slice)
        if not found[0] < found[1]:
            raise DatasetError(
                f"{volume.path} has the grey value {found[0]:g} at {low:g} and at {high:g} %, so nothing can be "
                "mapped by them. Take percentiles further apart, or --range."
            )
        return _between("percentiles", percentiles, found, (card.quantile(low), card.quantile(high)))
    _refuse_strangers(volume, card)
    return Mapping("as trained")


def _between(
    kind: Literal["range", "percentiles"],
    asked: tuple[float, float],
    found: tuple[float, float],
    meant: tuple[float, float],
) -> Mapping:
    if not meant[0] < meant[1]:
        raise ConfigError(f"The training slices have {meant[0]:g} counts at both percentiles. Take others, or --range.")
    scale = (meant[1] - meant[0]) / (found[1] - found[0])
    return Mapping(kind, scale, meant[0] - scale * found[0], asked, None if found == asked else found, meant)


def volume_percentiles(
    volume: Source, shares: tuple[float, float], on_slice: Callable[[int, int], None]
) -> tuple[float, float]:
    """Grey values of a whole volume at two shares in per cent.

    One pass; two where its type has too many values, and more where a few of them lie far from all others.
    """
    if volume.stored_dtype.kind in "ui" and volume.stored_dtype.itemsize <= 2:
        limits = np.iinfo(volume.stored_dtype)
        low, high, passes = float(limits.min), float(limits.max), 1
    else:
        low, high, passes = np.inf, -np.inf, 2
        ends = ahead(lambda index: _ends(volume.read(index)), range(len(volume)), at_most=_SLICES_AHEAD)
        for done, (slice_low, slice_high) in enumerate(ends, start=1):
            low, high = min(low, slice_low), max(high, slice_high)
            on_slice(done, 2 * len(volume))
        if not low <= high:
            raise DatasetError(f"{_shown(volume.path)} holds no grey values, only NaN.")
    wanted = (shares[0] / 100, shares[1] / 100)
    counts: GreyHistogram | None = GreyHistogram(low, high)
    while counts is not None:
        before = (passes - 1) * len(volume)
        for done, pixels in enumerate(ahead(volume.read, range(len(volume)), at_most=_SLICES_AHEAD), start=1):
            counts.add(pixels)
            on_slice(before + done, passes * len(volume))
        found = counts.quantiles(np.array(wanted))
        counts = counts.finer(wanted)
        passes += 1
    return float(found[0]), float(found[1])


def share_outside(image: np.ndarray, card: ModelCard) -> float:
    """Share of mapped pixels, of any shape, that lie far outside of what the training saw, noise included."""
    low, high = card.grey.normalised(np.array(_seen(card)))
    return int(np.count_nonzero((image < low) | (image > high))) / max(1, image.size)


def _refuse_strangers(volume: Source, card: ModelCard) -> None:
    """Look at a few slices; raises DatasetError where their values cannot be of the training's kind."""
    low, high = card.grey_range
    way_out = (
        f"Say how they map with --range LOW HIGH (stand for {card.grey.low:g} and {card.grey.high:g} counts) or "
        "--percentiles LOW HIGH (such as 0.5 99.5)."
    )
    source = _shown(volume.path)
    if volume.dtype != np.dtype(card.grey_dtype):
        raise DatasetError(
            f"{source} holds {volume.stored_dtype} grey values, but the model was trained on {card.grey_dtype}, "
            f"{low:g} to {high:g}. {way_out}"
        )
    chosen = evenly(len(volume), _SLICES_LOOKED_AT)
    reads = ahead(lambda index: volume.read(int(index)).ravel()[:: _thinned(volume, int(index))], chosen, at_most=2)
    sample = np.concatenate(list(reads)).astype(np.float64)
    sample = sample[~np.isnan(sample)]
    if not sample.size:
        raise DatasetError(f"{source} holds no grey values in the slices that were looked at, only NaN.")
    first, median, last = np.percentile(sample, (1, 50, 99))
    outside = share_outside(card.grey.normalised(sample), card)
    span, trained = last - first, card.quantile(99) - card.quantile(1)
    margin = _MARGIN * (high - low)
    if low - margin <= median <= high + margin and outside <= _MOST_OUTSIDE and span >= _LEAST_SPAN * trained:
        return
    raise DatasetError(
        f"{source} holds grey values from {sample.min():g} to {sample.max():g} (1 to 99 %: {first:g} to {last:g}), but "
        f"the model was trained on {low:g} to {high:g} (1 to 99 %: {card.quantile(1):g} to {card.quantile(99):g}). "
        f"{way_out} If they are right as they are: --range {card.grey.low:.17g} {card.grey.high:.17g}."
    )


def _thinned(volume: Source, index: int) -> int:
    """Every which pixel of a slice is looked at, so that large ones cost no more than others."""
    height, width = volume.shapes[index]
    return max(1, height * width // 1_000_003)


def _seen(card: ModelCard) -> tuple[float, float]:
    low, high = card.grey_range
    sigma = card.grey.counts(card.train.noise_sigma_max) if card.train.noise_fraction > 0 else 0.0
    margin = _MARGIN * (high - low) + _SIGMAS * sigma
    return low - margin, high + margin


def _ends(pixels: np.ndarray) -> tuple[float, float]:
    low, high = np.fmin.reduce(pixels, axis=None), np.fmax.reduce(pixels, axis=None)
    return (np.inf, -np.inf) if np.isnan(low) else (float(low), float(high))


def _shown(path: Path) -> str:
    return os.fspath(path)
