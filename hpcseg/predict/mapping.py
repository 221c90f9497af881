"""How grey values of a volume become those that a model was trained on. Said by the user, or refused; never guessed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec
import numpy as np

from hpcseg.ahead import OnSlice, ahead
from hpcseg.data.evenly import evenly
from hpcseg.data.grey import GreyScale, border_mask, count_quantiles, without_border
from hpcseg.errors import ConfigError, DatasetError
from hpcseg.predict.card import ModelCard
from hpcseg.runs.schema import Record
from hpcseg.slices.source import Source

Pair = tuple[float, float]
_SLICES_LOOKED_AT = 16
# What is taken for grey values of another kind: so many pixels beyond the training's ends and a tenth of their
# distance, or a span of less than a tenth of the training's.
_MOST_OUTSIDE = 0.01
_MARGIN = 0.1
_LEAST_SPAN = 0.1
# What is noted as perhaps of another exposure: 1 or 99 % that are off by so much of the training's span between them,
# which costs several per cent of the pixels (results/exposure); and where somebody has said how they map, as not meant.
_MOST_OFF, _MOST_OFF_AS_ASKED = 0.1, 0.2
# Of all pixels, from which on a border is worth a note.
_LEAST_BORDER = 0.01
# From here on a HIGH is no share of 1.
_LEAST_HIGH = 1.0
# A noisy tile of the training reached that many sigmas beyond the clean values.
_SIGMAS = 2.0


class Mapping(Record, frozen=True, eq=True):
    """Grey value v of the volume stands for `scale * v + offset` counts of the training slices; nothing is clipped."""

    kind: Literal["as trained", "range", "percentiles"]
    scale: float = 1.0
    offset: float = 0.0
    asked: Pair | None = None
    """Of a range the two grey values, of percentiles the two shares in per cent."""
    found: Pair | None = None
    """The volume's grey values at these percentiles."""
    meant: Pair | None = None
    """Counts of the training slices that the two stand for."""
    counts: str = ""
    """All of it as a formula."""

    def __post_init__(self) -> None:
        formula = f"{self.scale:.17g} * grey value + {self.offset:.17g}"
        msgspec.structs.force_setattr(self, "counts", formula)

    def apply(self, pixels: np.ndarray, grey: GreyScale) -> np.ndarray:
        """(H, W) grey values to (H, W) float32 as the network takes them: counts of the training on its grey scale."""
        return grey.normalised(grey.limited(self.in_counts(pixels)))

    def in_counts(self, pixels: np.ndarray) -> np.ndarray:
        """The counts of the training that grey values of any shape stand for."""
        # float32 has too few digits for the values of some types.
        return pixels if self.kind == "as trained" else pixels.astype(np.float64) * self.scale + self.offset


def decide(
    volume: Source,
    card: ModelCard,
    *,
    range_: Pair | None = None,
    percentiles: Pair | None = None,
    border: str | None = None,
    on_slice: OnSlice = lambda *_: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> Mapping:
    """The mapping that the user asked for; without a wish, that of the model's training, if the volume looks like it.

    Of both the mapped values of a few slices are looked at, and what may not be meant is noted.

    Args:
        volume: to segment.
        card: of the model.
        range_: LOW and HIGH stand for the ends of the training's grey scale: 0 and the largest value of its type where
            it uses that type's range, so what was chosen for a conversion to it.
        percentiles: the volume's grey values at these two shares (per cent) stand for the training slices' at the
            same shares.
        border: as in a `Request`, decided: of borders that are labelled and were not in the training it is noted.
        on_slice: called while slices are read for percentiles.
        on_note: told in a sentence each what may not be meant.

    Raises:
        ConfigError: both wishes, or one that cannot be met.
        DatasetError: no wish, and the volume's number type or values are not those of the training.
    """
    if range_ and percentiles:
        raise ConfigError("--range and --percentiles both say how grey values are mapped. Give one of them.")
    if range_:
        if not range_[0] < range_[1] or not np.isfinite(range_).all():
            raise ConfigError(f"--range is {range_[0]:g} {range_[1]:g}, but LOW must be below HIGH.")
        ends, found, meant = range_, None, (card.grey.low, card.grey.high)
    elif percentiles:
        low, high = percentiles
        if not 0 <= low < high <= 100:
            raise ConfigError(f"--percentiles is {low:g} {high:g}, but it must be 0 <= LOW < HIGH <= 100.")
        if high <= _LEAST_HIGH:
            on_note(f"--percentiles {low:g} {high:g} are per cent; for shares of 1: {100 * low:g} {100 * high:g}.")
        ends = found = volume_percentiles(volume, percentiles, on_slice, padded=card.border is None)
        if not found[0] < found[1]:
            raise DatasetError(
                f"{volume.path} has the grey value {found[0]:g} at {low:g} and at {high:g} %, so nothing can be "
                "mapped by them. Take percentiles further apart, or --range."
            )
        meant = (card.quantile(low), card.quantile(high))
    else:
        mapping = Mapping("as trained")
        _look(volume, card, mapping, border, on_note)
        return mapping
    if not meant[0] < meant[1]:
        raise ConfigError(f"The training slices have {meant[0]:g} counts at both percentiles. Take others, or --range.")
    scale = (meant[1] - meant[0]) / (ends[1] - ends[0])
    offset = meant[0] - scale * ends[0]
    mapping = Mapping("range" if range_ else "percentiles", scale, offset, range_ or percentiles, found, meant)
    _look(volume, card, mapping, border, on_note)
    return mapping


def other_exposure(card: ModelCard, first: ModelCard) -> str:
    """In what the training of one model had other grey values than that of the first, whose are mapped to; else empty.

    By the same measure as a volume is judged by.
    """
    (low, high), (first_low, first_high) = ((one.quantile(1), one.quantile(99)) for one in (card, first))
    if max(abs(low - first_low), abs(high - first_high)) <= _MOST_OFF * (first_high - first_low):
        return ""
    return f"1 to 99 % of their grey values in training are {first_low:g} to {first_high:g} and {low:g} to {high:g}"


def volume_percentiles(volume: Source, shares: Pair, on_slice: OnSlice, *, padded: bool = False) -> Pair:
    """Grey values of a whole volume at two shares in per cent, without padded borders, if not with them.

    One pass, two where its type is no uint8 or uint16; exact, of whole numbers beyond 24 bits to float32.

    Raises:
        DatasetError: a slice cannot be read, or none has a grey value.
    """
    dtype = volume.dtype if volume.dtype.name in ("uint8", "uint16") else np.dtype("f4")
    reads = itertools.count(1)
    every = len(volume) * (2 if dtype.kind == "f" else 1)

    def read(index: int) -> np.ndarray:
        return volume.read(index) if padded else without_border(volume.read(index))

    def slices() -> Iterator[np.ndarray]:
        for pixels in ahead(read, range(len(volume))):
            yield pixels
            on_slice(next(reads), every)

    first, second = count_quantiles(slices, dtype, np.array(shares) / 100).tolist()
    if math.isnan(first):
        raise DatasetError(f"{volume.path} holds no grey values, only NaN.")
    return first, second


def share_outside(image: np.ndarray, card: ModelCard) -> float:
    """Share of mapped pixels, of any shape, that lie far outside of what the training saw, noise included."""
    low, high = card.grey_range
    margin = _MARGIN * (high - low) + _noise(card)
    low, high = card.grey.normalised(np.array([low - margin, high + margin]))
    return int(np.count_nonzero((image < low) | (image > high))) / max(1, image.size)


def _noise(card: ModelCard) -> float:
    """How far beyond the clean grey values, in counts, the training met noisy ones."""
    return _SIGMAS * card.grey.counts(card.train.noise_sigma_max) if card.train.noise_fraction > 0 else 0.0


def _look(
    volume: Source, card: ModelCard, mapping: Mapping, border: str | None, on_note: Callable[[str], None]
) -> None:
    """Look at a few slices: note where their values, as mapped, may be of another exposure than the training's, and
    what becomes of their borders.

    Raises:
        DatasetError: nobody has said how they map, and they cannot be of the training's kind.
        ConfigError: as they are mapped they are no numbers for a network.
    """
    low, high = card.grey_range
    way_out = (
        f"Say how they map with --range LOW HIGH (stand for {card.grey.low:g} and {card.grey.high:g} counts) or "
        "--percentiles LOW HIGH (such as 0.5 99.5)."
    )
    as_trained = mapping.asked is None
    if as_trained and volume.dtype != np.dtype(card.grey_dtype):
        raise DatasetError(
            f"{volume.path} holds {volume.stored_dtype} grey values, but the model was trained on {card.grey_dtype}, "
            f"{low:g} to {high:g}. {way_out}"
        )

    def some(index: int) -> tuple[np.ndarray, float]:
        image = volume.read(index)
        mask = border_mask(image)
        share = 0.0 if mask is None else float(mask.mean())
        pixels = image if mask is None or card.border is None else image[~mask]
        # Of a large slice some pixels, so that it costs no more than others.
        return pixels.ravel()[:: max(1, image.size // 1_000_003)], share

    chosen = evenly(len(volume), _SLICES_LOOKED_AT).tolist()
    pixels, padded = zip(*ahead(some, chosen, at_most=2), strict=True)
    _note_border(np.array(padded), card, border, on_note)
    sample = np.concatenate(pixels).astype(np.float64)
    sample = sample[~np.isnan(sample)]
    if as_trained and not sample.size:
        raise DatasetError(f"{volume.path} holds no grey values in the slices that were looked at, only NaN.")
    asked = "" if mapping.asked is None else "--{} {:g} {:g}".format(mapping.kind, *mapping.asked)
    with np.errstate(over="ignore", invalid="ignore"):
        counts = mapping.in_counts(sample)
        image = card.grey.normalised(counts)
    if not 0 < mapping.scale < np.inf or not np.isfinite(image).all():
        raise ConfigError(
            f"{asked} maps the grey values of {volume.path} to no numbers that a network can take: LOW and HIGH stand "
            f"too close together, or too far apart. {way_out}"
        )
    if not sample.size:
        return
    first, median, last = np.percentile(counts, (1, 50, 99))
    ends = card.quantile(1), card.quantile(99)
    span, trained = last - first, ends[1] - ends[0]
    margin = _MARGIN * (high - low)
    if as_trained and (
        share_outside(image, card) > _MOST_OUTSIDE
        or not low - margin <= median <= high + margin
        or span < _LEAST_SPAN * trained
    ):
        raise DatasetError(
            f"{volume.path} holds grey values from {sample.min():g} to {sample.max():g} (1 to 99 %: {first:g} to "
            f"{last:g}), but the model was trained on {low:g} to {high:g} (1 to 99 %: {ends[0]:g} to {ends[1]:g}). "
            f"{way_out} If they are right as they are: --range {card.grey.low:.17g} {card.grey.high:.17g}."
        )
    most = (_MOST_OFF if as_trained else _MOST_OFF_AS_ASKED) * trained
    # Noise, which the training met, brings both ends further out; but so do a LOW and HIGH that are not the copy's.
    noisier = most + (_noise(card) if as_trained else 0.0)
    if not (-noisier <= first - ends[0] <= most and -most <= last - ends[1] <= noisier):
        what, advice = (
            ("", "that is another exposure, --percentiles or --range map them.")
            if as_trained
            else (f" by {asked}", "neither noise nor other shares of phases explain that, give others.")
        )
        on_note(
            f"1 to 99 % of the grey values{what}: {first:g} to {last:g} here, {ends[0]:g} to {ends[1]:g} in training. "
            f"If {advice}"
        )


def _note_border(shares: np.ndarray, card: ModelCard, border: str | None, on_note: Callable[[str], None]) -> None:
    """Say of borders of one value what becomes of them, where nobody has said it, and the training's have no labels."""
    if shares.mean() <= _LEAST_BORDER or border == "label" or (border is None and card.border == "labelled"):
        return
    found = (
        f"round {int(np.count_nonzero(shares))} of the {len(shares)} slices that were looked at lies a border of one "
        f"value, {shares.mean():.1%} of the pixels"
    )
    if border == "outside":
        why = "as it has no labels in the training" if card.border == "ignored" else "as --border says"
        on_note(f"{found}. It gets the label of --outside and is in no fraction, {why}.")
    else:
        on_note(f"{found}. It is labelled, and in the fractions. Where it is no part of the sample: --border outside.")
