"""Tiles in, training, validation and test sets out: a function of policy, seed and the tiles' places alone."""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from hpcseg.data.likeness import usual_step
from hpcseg.data.streams import Purpose, stream
from hpcseg.errors import DatasetError
from hpcseg.text import counted

TRAIN_SHARE = 0.70
VALIDATION_SHARE = 0.15
FEW_TEST_SLICES = 5
"""Of fewer test slices the standard deviation between them is itself uncertain by 40 % or more, its relative error
being 1 / sqrt(2 (n - 1)), so that no interval says how another slice would fare."""
NO_GAP = (
    "there are too few slices to leave any out between two sets, so test slices may be like training slices, and a new "
    "scan is segmented less well than they are."
)
SHORT_GAP = (
    "slices are alike farther apart than two sets are, so part of the test set is like training slices, and easier "
    "than a new scan."
)


@dataclass(frozen=True)
class Split:
    """Three disjoint sets of tiles by their rows, each (K,) int64 and ascending."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    gap_slices: int | None = None
    """Slice numbers between two blocks that no set has; None: shuffled."""

    def sha256(self) -> str:
        """Identifies the sets themselves: a record keeps it, so that no later run can test on other tiles."""
        whole = hashlib.sha256()
        for rows in (self.train, self.validation, self.test):
            whole.update(len(rows).to_bytes(8, "little") + rows.astype("<i8").tobytes())
        return whole.hexdigest()


def split_tiles(
    tiles: np.ndarray,
    *,
    numbers: np.ndarray,
    policy: str,
    seed: int,
    gap_slices: int,
    context: int = 0,
    overlapping: bool = False,
    train_slices: int = 0,
) -> Split:
    """Divide tiles 70 / 15 / 15 into training, validation and test set, each of which gets one at least.

    `shuffled` is the paper's: every tile for itself, so that crops of one slice, and of neighbouring slices that
    are nearly the same picture, land on both sides. No pixel does: tiles that overlap, which the paper has not, stay
    together with all others of their slice. `blocked` gives each set one contiguous run of slices, whose numbers are
    more than `gap_slices` from those of the others, which is what new material is like. The stack is taken as a ring
    and the seed says where the training block begins; a set that runs over the end goes on at the first slice. Seeds
    that follow each other begin far apart, so that the test sets of 0 to 4 have no slice in common as long as there are
    slices for that, but of a long stack with hardly a gap one in twenty at most, and no two of the first hundred seeds
    test the very same slices as long as there are other splits. `shared_tests` says where slices are too few.

    Args:
        tiles: (T, 3) int64 rows (slice index, y, x) from `tiles.all_tiles`.
        numbers: (N,) int64, ascending: the number of each slice in its stack.
        policy: "shuffled" or "blocked".
        seed: of the split.
        gap_slices: slice numbers between two blocks that no set gets, 0 or more; "blocked" only. Slices that are
            farther apart than that are all used.
        context: slices on each side that are inputs as well: so many numbers more are left out at both ends of a gap.
        overlapping: whether tiles of one slice share pixels.
        train_slices: keep the training tiles of this many slices only, 0: of all. They are drawn by lot, and those of
            a smaller number are among those of every larger one. The other two sets stay as they are.

    Raises:
        DatasetError: there are too few tiles or slices for three sets, or for `train_slices`.

    Source: the paper's data section (shuffled); what it did not see (blocked).
    """
    slices = np.unique(tiles[:, 0])
    whole_slices = policy == "blocked" or overlapping
    units = slices if whole_slices else np.arange(len(tiles))  # that are not divided
    gap_slices += 2 * context
    if policy == "blocked":
        sets = _blocks(numbers[slices], gap_slices, seed)
    else:
        order = stream(Purpose.SPLIT, seed).permutation(len(units))
        sets = np.split(order, np.cumsum(_cut(len(units)))[:2]) if len(units) >= len(_LEAST) else []
    if not sets:
        text = f"{len(tiles)} tiles on {len(slices)} slices are too few for "
        if len(units) >= len(_LEAST):
            raise DatasetError(text + _blocked_way(numbers[slices], gap_slices, seed, context))
        raise DatasetError(text + (_WHOLE_SLICES_WAY if whole_slices else _TILES_WAY))
    rows = [units[some] for some in sets]
    if whole_slices:
        rows = [np.flatnonzero(np.isin(tiles[:, 0], some)) for some in rows]
    if train_slices:
        trained = np.unique(tiles[rows[0], 0])
        if train_slices > len(trained):
            raise DatasetError(
                f"data.train_slices is {train_slices}, but the training tiles come from {len(trained)} slices. "
                "Ask for fewer."
            )
        drawn = stream(Purpose.TRAINING_SLICES, seed).permutation(trained)[:train_slices]
        rows[0] = rows[0][np.isin(tiles[rows[0], 0], drawn)]
    train, validation, test = (np.sort(of_set).astype(np.int64) for of_set in rows)
    return Split(train, validation, test, gap_slices if policy == "blocked" else None)


def few_test_slices(count: int, positions: int) -> str:
    """What so few test slices cannot tell, at one position of the split or at several; empty where they are enough."""
    if count * positions >= FEW_TEST_SLICES:
        return ""
    said = f"accuracy on {counted(count, 'test slice')}{' at each position' if positions > 1 else ''} says little"
    said += ": on others it may be quite another, and no interval can tell by how much."
    return said if positions > 1 else f'{said} --set "data.split_seed=[0,1,2]" tests on other slices as well.'


def shared_tests(tested: Mapping[int, Collection[int]]) -> str:
    """What positions of a split cannot tell that test the same slices; empty where each has slices of its own.

    Args:
        tested: by `seed` of the split its test slices.
    """
    found = list[tuple[float, str]]()
    for (one, ours), (other, theirs) in itertools.combinations(sorted(tested.items()), 2):
        if common := len(set(ours) & set(theirs)):
            most = max(len(ours), len(theirs))
            what = f"{common} of {counted(most, 'test slice')} in common" if common < most else "the same test slices"
            found.append((common / most, f"{one} and {other} of data.split_seed have {what}"))
    if not found:
        return ""
    share, worst = max(found, key=lambda one: one[0])
    more = f", the most of {len(found)} such pairs" if len(found) > 1 else ""
    so = "count as one position" if share == 1 else "say less than two positions do of other slices"
    return f"{worst}{more}, so they {so}. Label more slices, or ask for fewer positions."


def widest_gap(numbers: np.ndarray, *, at_most: int) -> int | None:
    """The largest gap in slice numbers, up to `at_most`, with which slices have a blocked split; None: there is none.

    `numbers` are as of `split_tiles`, and so it is for any seed.
    """
    at_most = min(at_most, int(numbers[-1] - numbers[0]))
    fitting = bisect.bisect(range(at_most + 1), False, key=lambda gap: not _blocks(numbers, gap, 0))
    return fitting - 1 if fitting else None


_LEAST = (1, 1, 1)
# Multiples of the golden ratio keep apart from each other on a ring, however many there are; here of 2**64.
_GOLDEN = 0x9E3779B97F4A7C15
# The splits of so many seeds test other slices, but for a part: the golden ratio puts them 0.146 of the stack apart,
# and a test set without gaps has 0.15 of it. More comes of few or uneven slices, to which the ratio is rounded.
_APART, _HARDLY = 5, 0.05
# Those of so many seeds do not test the very same slices, if there are as many splits.
_MOST_APART = 100


def _blocks(numbers: np.ndarray, gap: int, seed: int) -> list[np.ndarray]:
    """The places of each block's slices, of as many as fit; none where not even one slice for each does.

    The training begins where the seed says, or at the first slice behind it from which there is a split that shares no
    more of its test slices with one of a lower seed than it may; where none is, at that which shares the least.
    """
    count, from_start = len(numbers), dict[int, list[np.ndarray]]()
    first = int(stream(Purpose.SPLIT, 0).integers(count))
    tested = list[frozenset[int]]()
    # Where there are as many seeds as slices, they have every split that there is.
    for one in range(seed + 1) if seed < min(count, _MOST_APART) else (seed,):
        # Each draw for itself would put some within a few slices of others, which would then be no repetitions.
        drawn = first + one * _GOLDEN % 2**64 * count // 2**64
        best, least = list[np.ndarray](), np.inf
        for start in (place % count for place in range(drawn, drawn + count)):
            if start not in from_start:
                from_start[start] = _blocks_from(start, numbers, gap)
            if blocks := from_start[start]:
                test = frozenset(blocks[-1].tolist())
                shared = max((len(test & other) / max(len(test), len(other)) for other in tested), default=0.0)
                best, least = (blocks, shared) if shared < least else (best, least)
                if least < (_HARDLY if one < _APART else 1):
                    break
        if not best:
            return []
        tested.append(frozenset(best[-1].tolist()))
    return best


def _blocks_from(start: int, numbers: np.ndarray, gap: int) -> list[np.ndarray]:
    """`_blocks` whose training begins at this slice, or at none: of bundles that are far apart each is in one set."""
    count, steps = len(numbers), np.diff(numbers)
    # From the last slice to the first it is as far as between two neighbours at most: in truth it is no less.
    steps = np.append(steps, steps.max(initial=1))
    along = np.append(0, np.cumsum(np.roll(steps, -start)))
    if not _starts(along, _LEAST, gap):
        return []
    order = np.roll(np.arange(count), -start)
    fit = (_starts(along, _cut(used), gap) for used in range(count, len(_LEAST) - 1, -1))
    starts = next(found for found in fit if found)
    # Up to the gap: of slices that are not evenly numbered more may fit than the block was to have.
    ends = np.searchsorted(along, along[[*starts[1:], count]] - gap, side="left")
    return [order[start:end] for start, end in zip(starts, ends.tolist(), strict=True)]


def _starts(along: np.ndarray, sizes: tuple[int, int, int], gap: int) -> list[int]:
    """Where on the ring each block of so many slices begins; nothing where they do not fit with a gap between two.

    `along` is (N + 1,) int64, ascending from 0: slice numbers from the first slice to each, and once round.
    """
    starts, start = [], 0
    for size in sizes:
        starts.append(start)
        last = start + size - 1
        if last > len(along) - 2:
            return []
        start = int(np.searchsorted(along, along[last] + gap, side="right"))
    return starts if start < len(along) else []


def _cut(count: int) -> tuple[int, int, int]:
    """The shares of 3 or more, one each at least."""
    validation = max(1, round(VALIDATION_SHARE * count))
    train = min(round(TRAIN_SHARE * count), count - validation - 1)
    return train, validation, count - train - validation


# What it takes where there is no split, and what would make fewer do.
_TILES_WAY = "three sets. Label more slices, or set data.tiles."
_WHOLE_SLICES_WAY = (
    "three sets: of blocks, and of tiles that overlap, each set has whole slices, so it takes 3. Label more slices. Or "
    'set data.split to "shuffled" and data.tiles to a grid whose tiles do not overlap on these slices: the test set '
    "then has tiles of the slices that are trained on, and tells nothing of another slice."
)


def _blocked_way(numbers: np.ndarray, gap: int, seed: int, context: int) -> str:
    left_out, widest = gap // usual_step(numbers), widest_gap(numbers, at_most=gap)
    way = "" if gap <= 2 * context else 'data.gap_slices to "auto", which here leaves none out, or '
    if widest and widest > 2 * context:
        sizes = ", ".join(str(len(block)) for block in _blocks(numbers, widest, seed))
        way = f"data.gap_slices to {widest - 2 * context} or less, which leaves {sizes} slices to the three sets, or "
    other = 'data.split to "shuffled": then the test set is more like the training set than a new scan is'
    if context:
        other = f"data.context, for which {2 * context} of the {gap} are, to less"
    return (
        f"a blocked split into three sets with {gap} slice numbers between any two: it takes {3 + 3 * left_out} slices "
        f"that are numbered like these, one for each set and three times {left_out} left out. Label more slices, or "
        f"some farther apart, or set {way}{other}."
    )
