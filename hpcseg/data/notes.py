"""A packed file in, what its user should know about its slices out: a sentence each, with what to do."""

from __future__ import annotations

import numpy as np

from hpcseg.data.grey import FAR
from hpcseg.data.layout import automatic_gap
from hpcseg.data.likeness import alike_numbers, usual_step
from hpcseg.data.store import DatasetInfo

# A dead pixel of a camera is 0, which is no more than a part of a span below the darkest of the others.
_BELOW = 0.25


# Each set has one.
_FEWEST_DIVIDED = 3


def notes(info: DatasetInfo) -> tuple[str, ...]:
    """All of them."""
    return *type_notes(info), *ignored_notes(info), *grey_notes(info), *gap_notes(info)


def type_notes(info: DatasetInfo) -> tuple[str, ...]:
    """A note where slices were converted."""
    if info.source_dtype == info.dtype:
        return ()
    how = "rounded to 7 digits" if info.source_dtype == "float64" else "every value exactly"
    return (f"the slices are {info.source_dtype} and were packed as {info.dtype}, {how}.",)


def ignored_notes(info: DatasetInfo) -> tuple[str, ...]:
    """A note on pixels of no class."""
    found = info.ignored_pixels > 0
    if not found.any():
        return ()
    share = info.ignored_pixels.sum() / np.prod(info.shape)
    return (
        f"{share:.1%} of all pixels, in {_slices(found)}, have no grey value (NaN): they are outside of the field of "
        "view, are not trained on, and count in no accuracy.",
    )


def gap_notes(info: DatasetInfo) -> tuple[str, ...]:
    """A note where the gap of a blocked split was not measured, or is shorter than slices are alike."""
    if info.alike_slices is None:
        return (
            "these slices were packed before hpcseg measured how far apart slices are alike, so data.gap_slices of a "
            "blocked split must be a number. `hpcseg pack --force` packs them again.",
        )
    slices = info.shape[0]
    if slices < _FEWEST_DIVIDED:
        return ()
    gap = automatic_gap(info, slices, seed=0)
    if gap >= alike_numbers(info.alike_slices, info.numbers):
        return ()
    return (
        f"slices are {in_words(info)}, but a blocked split leaves out only {left_out(info, gap)} between two sets, for "
        f"more would take too many of the {slices} slices. So part of its test set is like training slices, and easier "
        "than a new scan. Pack more slices of other parts of the sample.",
    )


def in_words(info: DatasetInfo) -> str:
    """How far apart slices are alike."""
    if info.alike_slices is None:
        return "not compared"
    if info.alike_slices == info.shape[0]:
        return "alike however far apart they are"
    return f"alike less than {info.alike_slices} apart"


def left_out(info: DatasetInfo, gap: int) -> str:
    """How many of these slices a gap of slice numbers leaves out between two sets of a blocked split."""
    step = usual_step(info.numbers)
    return f"{gap // step}" + (f" (the numbers of {gap})" if step > 1 else "")


def grey_notes(info: DatasetInfo) -> tuple[str, ...]:
    """Notes on hot and dead pixels, a padded border, and quantiles that were not measured."""
    if info.grey.quantiles is None:
        return (
            "these slices were packed before hpcseg measured the span of grey values, so a sigma cannot be a share of "
            "it, and they are divided by the largest of their type. `hpcseg pack --force` packs them again.",
        )
    low, high = info.grey.quantiles
    span = high - low
    padded = info.border_pixels > 0
    notes = []
    for name, ends, far in (
        ("hot", info.grey_max, info.grey_max - high),
        ("dead", info.grey_min, np.where(info.grey_min == 0, 0.0, low - info.grey_min)),
    ):
        found = (far > FAR * span) & ~(padded & (ends == info.border_value)) & (span > 0)
        if found.any():
            worst = int(np.where(found, far, 0).argmax())
            notes.append(
                f"{_slices(found)} have grey values far outside of all others, such as {ends[worst]:g} in "
                f"{info.image_names[worst]}, where 99.8 % of the pixels have {low:g} to {high:g}. A {name} pixel? "
                "The scale of grey values does not depend on it, but it stays in the tiles; replace it by the median "
                "of its neighbours, and pack again."
            )
    dead = info.zero_pixels > 0
    if dead.any() and low > _BELOW * span > 0:
        notes.append(
            f"{_slices(dead)} have {int(info.zero_pixels.sum())} pixels of the value 0, such as "
            f"{info.image_names[int(dead.argmax())]}, where 99.9 % of the pixels have {low:g} or more. Dead pixels? "
            "They stay in the tiles; replace each by the median of its neighbours, and pack again."
        )
    if padded.any():
        worst = int(info.border_pixels.argmax())
        share = info.border_pixels[padded].mean() / (info.shape[1] * info.shape[2])
        notes.append(
            f"round {_slices(padded)} lies a border of one value, {share:.1%} of their pixels, such as "
            f"{info.border_value[worst]:g} in {info.image_names[worst]}. It does not count for the span of the grey "
            "values, but models are trained and tested on it as on all else; if it is padding, cut it off from slices "
            "and labels, and pack again."
        )
    return tuple(notes)


def _slices(found: np.ndarray) -> str:
    return f"{int(found.sum())} of {len(found)} slices"
