"""A packed file in, what its user should know about its slices out: a sentence each, with what to do."""

from __future__ import annotations

import numpy as np

from hpcseg.data.border import border_of
from hpcseg.data.classes import IGNORED
from hpcseg.data.evenly import evenly
from hpcseg.data.grey import FAR, FLOAT_STEP
from hpcseg.data.layout import automatic_gap
from hpcseg.data.likeness import too_near, usual_step
from hpcseg.data.misplaced import misplaced_notes
from hpcseg.data.splits import split_tiles
from hpcseg.data.store import DatasetInfo, read_labels
from hpcseg.text import counted

# Of the labelled pixels: few enough to be a mistake, too few to learn a class from.
_RARE = 1e-4
# More classes than anybody draws by hand.
_MOST_USUAL = 16
# Of a span, in which floating-point values are counted, so that its ends are right to a hundredth.
_FEWEST_STEPS = 100
# A dead pixel of a camera is 0, which is no more than a part of a span below the darkest of the others.
_BELOW = 0.25
# Each set has one.
_FEWEST_DIVIDED = 3
# Of a class that is nothing but the edge between two others: in how many slices, how many pixels, which share of them,
# and of all pixels, which edges are a small part of. How far a pixel of it is from both at most: interpolation between
# labels that were enlarged fourfold makes edges of two pixels.
_LOOKED_AT, _FEWEST_AT_EDGES, _NEARLY_ALL, _MOST_EDGES, _REACH = 5, 20, 0.97, 0.2, 2
# Values that differ by no more than the first, where classes are as far apart as the second.
_AS_GOOD_AS_ONE, _FAR_APART = 3, 32
# Of the classes of a label, so many and more are grains that are numbered, if they are no more pieces than that each.
_FEWEST_GRAINS, _MOST_PIECES = 4, 1.5
# Of the labelled pixels of a slice, as a share of their mean over slices: what a click by accident leaves.
HARDLY_ANY = 0.01


def notes(info: DatasetInfo) -> tuple[str, ...]:
    """All of them."""
    about_labels = (*ignored_notes(info), *class_notes(info), *drawn_notes(info), *misplaced_notes(info))
    return *type_notes(info), *about_labels, *grey_notes(info), *gap_notes(info)


def type_notes(info: DatasetInfo) -> tuple[str, ...]:
    """A note where slices were converted."""
    if info.source_dtype == info.dtype:
        return ()
    how = "rounded to 7 digits" if info.source_dtype == "float64" else "every value exactly"
    return (f"the slices are {info.source_dtype} and were packed as {info.dtype}, {how}.",)


def ignored_notes(info: DatasetInfo) -> tuple[str, ...]:
    """Notes on pixels of no class."""
    found = info.ignored_pixels > 0
    if not found.any():
        named = " or ".join(map(str, info.ignored_values))
        text = f"no pixel of these slices is labelled {named}, which --ignore names; each has a class."
        return (text,) if named else ()
    share = info.ignored_pixels.sum() / np.prod(info.shape)
    why = [f"are labelled {' or '.join(map(str, info.ignored_values))}"] if info.ignored_values else []
    if not why or np.dtype(info.dtype).kind == "f":
        why.append("have no grey value (NaN), as outside of the field of view")
    notes = [
        f"{share:.1%} of all pixels, in {_slices(found)}, have no class, since they {' or '.join(why)}: they are not "
        "trained on, and count in no accuracy."
    ]
    labelled = info.class_counts.sum(1)
    if (hardly := labelled < HARDLY_ANY * labelled.mean()).any():
        notes.append(
            f"{_slices(hardly)} have hardly a labelled pixel, such as {info.label_names[labelled.argmin()]}: "
            f"{labelled.min()}, where the mean is {labelled.mean():.0f}. They count as labelled slices, and a test set "
            "may have no others. If nobody meant to label them, take the files of their labels away, and pack again."
        )
    return tuple(notes)


def class_notes(info: DatasetInfo) -> tuple[str, ...]:
    """Notes on classes that nobody may have drawn: stray values, numbered grains, signs that a type has added."""
    counts, there, notes = info.class_counts.sum(0), info.class_counts > 0, []
    classes, labels = info.class_names, info.label_names
    rare = counts < _RARE * counts.sum()
    if rare.any() or len(counts) > _MOST_USUAL:
        share = f"{rare.sum()} of {len(counts)} classes have less than {_RARE:.2%} of the labelled pixels each"
        least = int(counts.argmin())
        pixels = info.class_counts[:, least]
        notes.append(
            f"{share if rare.any() else f'the labels have {len(counts)} classes'}, such as {classes[least]}: "
            f"{counted(int(pixels.max()), 'pixel')} in {labels[pixels.argmax()]}. If nobody drew them (edges that were "
            "interpolated, a stray pixel, grains that are numbered), say which values are one class, as "
            f'--classes "0-127=pore,128-255=grain", or leave them out: --ignore {info.class_values[least]}.'
        )
    together = there.T.astype(np.int64) @ there
    apart = np.argwhere((together == 0) & (there.sum(0) > 1) & (there.sum(0) > 1)[:, None])
    if len(counts) > _MOST_USUAL or np.median(there.sum(1)) <= 1:
        apart = apart[:0]
    values = sorted(info.class_values)
    # Where one of two values that no label has both of is another way to write a class, the others say no more.
    in_two_ways = any(
        _near_and_far([of for of in values if of != info.class_values[one]]) is None for one in apart.flat
    )
    near = None if in_two_ways or rare.any() else _near_and_far(values)
    mark = None if in_two_ways else _mark_of_none(values, info.label_dtype)
    last_byte = 256 ** (np.dtype(info.label_dtype).itemsize - 1)
    if last_byte > 1 and any(values) and not any(value % last_byte for value in values):
        notes.append(
            f"all classes are multiples of {last_byte} ({', '.join(map(str, values[:5]))}), as raw labels are in the "
            "wrong byte order: --label-dtype says which they have, as <u2 or >u2."
        )
    if mark is not None:
        others = [value for value in values if value != mark]
        notes.append(
            f"the labels have {mark}, where the others are {others[0]} to {others[-1]}. If it marks pixels that nobody "
            f"labelled, leave them out: --ignore {mark}."
        )
    elif near is not None:
        notes.append(
            f"the labels have both {values[near]} and {values[near + 1]}, where others are as far apart as "
            f"{np.diff(values).max()}. Were they saved as JPEG? Say which values are one class, as --classes "
            '"0-127=pore,128-255=grain".'
        )
    few = (there.sum(0) < _FEWEST_DIVIDED) & ~rare
    if few.any() and len(there) >= _FEWEST_DIVIDED:
        having = there[:, few.argmax()]
        notes.append(
            f"{classes[few.argmax()]} is in {counted(int(having.sum()), 'label')} only, such as "
            f"{labels[having.argmax()]}, so that not every one of the three sets of slices has it: it may never be "
            "trained on, or never be tested. Label it in more slices, or merge it with another class: --classes."
        )
    if len(apart):
        one, other = (f"{classes[of]}, as {labels[there[:, of].argmax()]}" for of in apart[0])
        notes.append(
            f"no label has both {one}, and {other}. If they are one class that was written in two ways, such as 1 and "
            "255, say so with --classes."
        )
    blank = (there.sum(1) == 1) & (info.ignored_pixels == 0)
    if blank.any() and there.sum(1).max() > 1:
        worst = int(blank.argmax())
        notes.append(
            f"{_slices(blank)} have one class on every pixel, such as {classes[there[worst].argmax()]} in "
            f"{labels[worst]}. If nobody has labelled them yet, take the files of their labels away, and pack again."
        )
    if negative := [value for value in info.class_values if value < 0][:_MOST_USUAL]:
        unsigned = f", which are {', '.join(str(value + 256) for value in negative)} in unsigned ones"
        kind, means = ("signed 8-bit", unsigned) if info.label_dtype == "int8" else (info.label_dtype, "")
        notes.append(
            f"the labels are {kind} and have {', '.join(map(str, negative))}{means}. Classes are in the order of the "
            "signed values; a value that means no class is left out with --ignore."
        )
    return tuple(notes)


def _near_and_far(values: list[int]) -> int | None:
    """Where two of ascending values are as good as one, if others are far apart; else None."""
    steps = np.diff(values)
    return int(steps.argmin()) if len(steps) and steps.max() >= _FAR_APART > _AS_GOOD_AS_ONE >= steps.min() else None


def _mark_of_none(values: list[int], dtype: str) -> int | None:
    """Of ascending label values the one that stands alone at an end of its type, and the others follow each other."""
    ends = {int(np.iinfo(dtype).min), *(int(np.iinfo(kind).max) for kind in (dtype, "u1", "i1", "u2", "i2"))} - {0}
    for mark, others in ((values[-1:], values[:-1]), (values[:1], values[1:])):
        alone = len(others) > 1 and others[-1] - others[0] == len(others) - 1 and ends.issuperset(mark)
        if alone and min(abs(mark[0] - others[0]), abs(mark[0] - others[-1])) >= _FAR_APART:
            return mark[0]
    return None


def drawn_notes(info: DatasetInfo) -> tuple[str, ...]:
    """Notes on what nobody draws, by some slices: a class at edges of others alone, and grains that are numbered."""
    most = len(info.class_values)
    if not 3 <= most <= _MOST_USUAL:
        return ()
    chosen = evenly(info.shape[0], _LOOKED_AT)
    pixels, many = info.class_counts[chosen].sum(0), (info.class_counts[chosen] > 0).sum(1) > _FEWEST_GRAINS
    # Filters over whole slices take long, so only of those few classes that may be nothing but edges.
    few = np.flatnonzero((pixels >= _FEWEST_AT_EDGES) & (pixels < _MOST_EDGES * pixels.sum()))
    edges, grains = np.zeros(most, int), list[bool]()
    for index, has_many in zip(chosen, many, strict=True):
        label = read_labels(info.path, index)
        for place in few.tolist():
            edges[place] += _at_edges(label, place).sum()
        grains += [_are_pieces(label)] if has_many else []
    if grains and all(grains):
        return (
            f"each of {most - 1} classes is hardly more than one piece of a label, and touches the background alone: "
            "if these are grains that are numbered, they are no classes: say which values are one, as --classes "
            f'"{info.class_values[0]}=pore,{info.class_values[1]}-{info.class_values[-1]}=grain".',
        )
    found = few[edges[few] > _NEARLY_ALL * pixels[few]]
    if not len(found):
        return ()
    one, of = found[0], counted(int(pixels[found[0]]), "pixel")
    return (
        f"{edges[one]} of {of} of {info.class_names[one]} in some labels lie where two other classes meet. If nobody "
        "drew this class, and labels were interpolated when they were resized, or saved as JPEG, say which values are "
        f"one class, with --classes, or leave it out: --ignore {info.class_values[one]}.",
    )


def _at_edges(label: np.ndarray, of: int) -> np.ndarray:
    """(H, W) bool: where a class has two others no more than `_REACH` away, of (H, W) class indices."""
    from scipy import ndimage

    mine = label == of
    others = ~mine & (label < IGNORED)
    lowest = ndimage.minimum_filter(np.where(others, label, IGNORED), 2 * _REACH + 1)
    highest = ndimage.maximum_filter(np.where(others, label, 0), 2 * _REACH + 1)
    found: np.ndarray = mine & (lowest < highest)
    return found


def _are_pieces(label: np.ndarray) -> bool:
    """Whether the classes of (H, W) class indices but the commonest are pieces apart, hardly more than one of each."""
    from scipy import ndimage

    inside = (label < IGNORED) & (label != np.bincount(label[label < IGNORED]).argmax())
    pieces, number = ndimage.label(inside, np.ones((3, 3)))
    classes_of_pieces = np.unique(np.stack([pieces[inside], label[inside]]), axis=1).shape[1]
    return bool(classes_of_pieces == number <= _MOST_PIECES * len(np.unique(label[inside])))


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
    gap = automatic_gap(info, slices)
    tiles = np.arange(slices)[:, None] * [1, 0, 0]  # one on each slice
    split = split_tiles(tiles, numbers=info.numbers, policy="blocked", seed=0, gap_slices=gap)
    if not too_near((split.train, split.validation, split.test), info.alike_slices, info.numbers):
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
    if info.alike_slices == 1:
        return "not alike"
    return f"alike less than {info.alike_slices} apart"


def left_out(info: DatasetInfo, gap: int) -> str:
    """How many of these slices a gap of slice numbers leaves out between two sets of a blocked split."""
    step = usual_step(info.numbers)
    if gap < step:
        return "none"
    return f"{gap // step}" + (f" (slice numbers: {gap})" if step > 1 else "")


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
    inside = min(high, info.grey.high) - max(low, info.grey.low)
    if inside < span / 2:
        notes.append(
            f"99.8 % of the pixels have {low:g} to {high:g}, of which most lie outside of {info.grey.low:g} to "
            f"{info.grey.high:g}, which a model meets as 0 to 1: it learns badly from such values. --grey-range takes "
            "grey values of these slices; pack again with others, or without it."
        )
    apart = float(info.grey_max.max()) - float(info.grey_min.min())
    if np.dtype(info.dtype).kind == "f" and 0 < apart < _FEWEST_STEPS * FLOAT_STEP * max(abs(low), abs(high)):
        notes.append(
            f"the grey values differ by no more than {apart:g} and lie at {low:g}, too far from 0 for their span to be "
            f"measured. Subtract {info.grey_min.min():g} from all slices, and pack again."
        )
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
    plain = info.grey_min == info.grey_max
    if plain.any():
        worst = int(plain.argmax())
        notes.append(
            f"{_slices(plain)} have one grey value only, such as {info.grey_min[worst]:g} in "
            f"{info.image_names[worst]}. Nothing can be learnt from them; leave them out, and pack again."
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
        so = (
            "it has no label, so models do not learn from it, and `hpcseg predict` leaves it out of the fractions"
            if border_of(info) == "ignored"
            else "models are trained and tested on it as on all else; where it is no part of the sample, cut it off, "
            "or give it a label of its own, and pack again with --ignore and that"
        )
        notes.append(
            f"round {_slices(padded)} lies a border of one value, {share:.1%} of their pixels, such as "
            f"{info.border_value[worst]:g} in {info.image_names[worst]}. It does not count for the span of the grey "
            f"values; {so}."
        )
    return tuple(notes)


def _slices(found: np.ndarray) -> str:
    return f"{int(found.sum())} of {len(found)} slices"
