"""Repetitions of a measure in; means, spreads and intervals out. The only place that computes one.

A repetition is one training, of one seed and one position of the split. Two chances can move a mean over them: another
training, and another stretch of slices. An interval holds both, as two variances of the mean that are estimated apart:
between repetitions, and between blocks of neighbouring slices. It is mean ± sqrt(t1² v1 + t2² v2), each variance with
the quantile of its own degrees of freedom (Zou and Donner, Statistics in Medicine 27, 2008), since a common one after
Satterthwaite covers too seldom with three repetitions. tests/report/test_report_statistics.py simulates how often it
covers. Knows nothing of records.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import brentq
from scipy.special import fdtrc, fdtri, stdtrit

LEVEL = 0.05
"""Share of intervals that may miss, and of tables (after Holm's correction) that may show what is chance."""
FEWEST = 3
"""Repetitions that an interval takes, of two seeds or more: fewer say nothing of another training."""
_POWER = 0.8
MOST_REPETITIONS = 1000
"""As many as are looked at for how many a difference takes."""
_BLOCKS = 6
"""Parts of neighbouring slices, whatever hangs together in them: over how many slices that is, too few of them tell."""
_GAP = 3
"""Two groups of values lie apart where the gap is this many times the wider one's range, and ..."""
_LEAST_GAP = 0.05
"""... this wide, as a share: below it, a mean ± an interval misleads nobody."""
_LEAST_RANGE = 0.02
"""The same for values whose interval leaves 0..1."""

Part = tuple[float, float]
"""A variance of the mean, and its degrees of freedom."""


@dataclass(frozen=True, eq=False)
class Repetition:
    """What one training says of a measure."""

    seed: Hashable
    place: Hashable
    """Position of the split, or another factor that is crossed with the seeds."""
    value: float
    slices: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """(N,) int64 numbers of the slices that the value was counted on; none where it was not counted by slice."""
    pulls: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """(N,) float64: how far each slice moves the value; they sum to 0."""
    setting: Hashable = None
    """Of several settings that a mean is taken over: they are what was asked for, and no chance draws others."""


@dataclass(frozen=True)
class Estimate:
    """A mean over repetitions, and how far chance may have moved it."""

    values: tuple[float, ...]
    """One per repetition."""
    trainings: tuple[Part, ...] = ()
    """From another training; none where these are `few`."""
    slices: tuple[Part, ...] = ()
    """From another stretch of slices; none where the measure was not counted by slice."""
    few: bool = False
    """Each setting has fewer than three repetitions, or all have one seed; what else has no interval has one slice."""

    @property
    def mean(self) -> float:
        """Over repetitions."""
        return float(np.mean(self.values))

    @property
    def sd(self) -> float | None:
        """Sample standard deviation (n - 1) of the repetitions; None for one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    @property
    def half(self) -> float | None:
        """Half of the 95 % interval; None for fewer than three repetitions, or one seed."""
        return self._half(LEVEL) if self.trainings else None

    @property
    def bound(self) -> float | None:
        """The 95 % interval has nothing farther from zero than this."""
        return None if self.half is None else abs(self.mean) + self.half

    @functools.cached_property
    def p_value(self) -> float | None:
        """The level at which the interval ends at zero; None without an interval."""
        if not self.trainings:
            return None
        if self.mean == 0:
            return 1.0
        lowest = 1e-9
        if self._half(lowest) <= abs(self.mean):
            return lowest
        return float(brentq(lambda level: self._half(level) - abs(self.mean), lowest, 1.0))

    @property
    def excludes_zero(self) -> bool:
        """The 95 % interval lies on one side of zero."""
        return self.half is not None and abs(self.mean) > self.half

    @property
    def leaves_0_to_1(self) -> bool:
        """Whether the 95 % interval does, which of a share has no meaning beyond."""
        return self.half is not None and not 0 <= self.mean - self.half <= self.mean + self.half <= 1

    @property
    def two_populations(self) -> bool:
        """The repetitions fall into two groups that lie apart, or scatter so that their interval leaves 0..1."""
        if self.leaves_0_to_1:
            return max(self.values) - min(self.values) > _LEAST_RANGE
        ordered = sorted(self.values)
        gaps = [high - low for low, high in itertools.pairwise(ordered)]
        if len(ordered) < FEWEST or max(gaps) < _LEAST_GAP:
            return False
        place = gaps.index(max(gaps))
        return max(gaps) > _GAP * max(ordered[place] - ordered[0], ordered[-1] - ordered[place + 1])

    def repetitions_for(self, size: float) -> float | None:
        """How many repetitions show a difference of that size in four of five cases, with this spread and these slices.

        Infinite where it is more than `MOST_REPETITIONS`; None where no number of them does, since the slices are too
        few, and where it is not known.
        """
        if not self.trainings or self.sd is None:
            return None
        of_slices = sum(float(_margin(freedom)) ** 2 * variance for variance, freedom in self.slices)
        if of_slices >= size**2:
            return None
        number = np.arange(FEWEST, MOST_REPETITIONS + 1)
        enough = np.flatnonzero(_margin(number - 1) ** 2 * self.sd**2 / number + of_slices <= size**2)
        return int(number[enough[0]]) if len(enough) else math.inf

    def _half(self, level: float) -> float:
        parts = (*self.trainings, *self.slices)
        return float(np.sqrt(sum(stdtrit(freedom, 1 - level / 2) ** 2 * variance for variance, freedom in parts)))


@dataclass(frozen=True)
class Likeness:
    """How much alike repetitions are that share one of two things: a correlation, with its 95 % interval."""

    mean: float
    """1: alike, and unlike all others; 0: no more alike than any two; below 0 by chance alone."""
    low: float
    high: float
    p_value: float
    """Of so much likeness where there is none."""


def likeness(values: np.ndarray) -> Likeness | None:
    """Of the values of a row, beyond what a column has in common; None for fewer than three of either, or one value.

    The intraclass correlation ICC(C,1) of McGraw and Wong (Psychological Methods 1, 1996, tables 4 and 7), whose
    interval is exact where rows, columns and what remains are normal.

    Args:
        values: (R, C) float64, a repetition for each pair of a row and a column.
    """
    rows, columns = values.shape
    if min(rows, columns) < FEWEST:
        return None
    of_row = values.mean(1, keepdims=True)
    remains = values - of_row - values.mean(0, keepdims=True) + values.mean()
    freedom, of_error = rows - 1, (rows - 1) * (columns - 1)
    between = columns * float(((of_row - values.mean()) ** 2).sum()) / freedom
    within = float((remains**2).sum()) / of_error
    if within <= 0:
        return None
    ratio = between / within
    least = ratio / float(fdtri(freedom, of_error, 1 - LEVEL / 2))
    most = ratio * float(fdtri(of_error, freedom, 1 - LEVEL / 2))
    mean, low, high = ((one - 1) / (one + columns - 1) for one in (ratio, least, most))
    return Likeness(mean, low, high, float(fdtrc(freedom, of_error, ratio)))


def counted(seed: Hashable, place: Hashable, slices: np.ndarray, right: np.ndarray, pixels: np.ndarray) -> Repetition:
    """The share of right pixels of one training.

    Args:
        seed: of the training.
        place: position of the split.
        slices: (N,) numbers of its test slices.
        right: (N,) right pixels of each.
        pixels: (N,) test pixels of each.
    """
    value = float(right.sum() / pixels.sum())
    return Repetition(seed, place, value, slices, (right - value * pixels) / pixels.sum())


def weighted(terms: Sequence[tuple[float, Repetition]]) -> Repetition:
    """A sum of measures with weights, of the first one's seed, place and setting."""
    return dataclasses.replace(
        terms[0][1],
        value=sum(weight * one.value for weight, one in terms),
        slices=np.concatenate([one.slices for _, one in terms]),
        pulls=np.concatenate([weight * one.pulls for weight, one in terms]),
    )


def of_setting(found: Iterable[Repetition], setting: Hashable) -> list[Repetition]:
    """Repetitions of one of several settings that a mean is taken over."""
    return [dataclasses.replace(one, setting=setting) for one in found]


def estimate(repetitions: Sequence[Repetition]) -> Estimate | None:
    """The mean over repetitions, with what another training and another stretch of slices may change; None for none."""
    if not repetitions:
        return None
    # One seed at one position is one training, and a second record of it no repetition.
    once = list({(one.seed, one.place, one.setting): one for one in repetitions}.values())
    repeated = _repeated(once)
    repetitions = repeated or once
    values = tuple(one.value for one in repetitions)
    numbers = np.concatenate([one.slices for one in repetitions])
    # A single slice says nothing of others, so there is no interval either; nor does one seed.
    few = not repeated or len({one.seed for one in repetitions}) == 1
    if few or (len(numbers) and numbers.min() == numbers.max()):
        return Estimate(values, few=few)
    slices = (_between_slices(repetitions, numbers),) if len(numbers) else ()
    return Estimate(values, tuple(_between_trainings(repetitions)), slices)


def difference(ours: Iterable[Repetition], theirs: Iterable[Repetition]) -> Estimate | None:
    """Ours minus theirs, over the seeds and positions that both have; None where they share none.

    Slices that both were tested on count as pairs.
    """
    others = {(one.seed, one.place, one.setting): one for one in theirs}
    pairs = ((one, others.get((one.seed, one.place, one.setting))) for one in ours)
    return estimate([weighted([(1.0, one), (-1.0, other)]) for one, other in pairs if other is not None])


def slope(settings: Mapping[Hashable, Mapping[float, Iterable[Repetition]]]) -> Estimate | None:
    """The mean slope over all settings: one least-squares line per setting, seed and position.

    Args:
        settings: of each setting the repetitions at every x. Where a seed lacks an x, it has no line.
    """
    lines = list[Repetition]()
    for setting, points in settings.items():
        at = np.array(list(points))
        centred = at - at.mean()
        weights = centred / (centred**2).sum()
        found: dict[tuple[Hashable, Hashable], dict[float, Repetition]] = {}
        for x, repetitions in points.items():
            for one in repetitions:
                found.setdefault((one.seed, one.place), {})[x] = one
        whole = (list(ones.values()) for ones in found.values() if len(ones) == len(at))
        lines += of_setting((weighted(list(zip(weights.tolist(), ones, strict=True))) for ones in whole), setting)
    return estimate(lines)


def best(rivals: Sequence[Sequence[Repetition]]) -> int | None:
    """The place of the one whose values are higher than every other's, after correction; None where none is."""
    means = [float(np.mean([one.value for one in rival])) if rival else -np.inf for rival in rivals]
    first = int(np.argmax(means))
    found = [difference(rivals[first], rival) for place, rival in enumerate(rivals) if place != first and rival]
    return first if found and all(shown_of(found)) else None


def shown_of(estimates: Sequence[Estimate | Likeness | None]) -> list[bool]:
    """Which of a family are not zero: Holm's step-down procedure keeps the chance of any error.

    One that is not there, or has no interval, is not shown, and no member of the family.
    """
    p_values = {place: p for place, one in enumerate(estimates) if one is not None and (p := one.p_value) is not None}
    shown = [False] * len(estimates)
    for rank, place in enumerate(sorted(p_values, key=lambda place: p_values[place])):
        if p_values[place] > LEVEL / (len(p_values) - rank):
            break
        shown[place] = True
    return shown


def _repeated(repetitions: Sequence[Repetition]) -> Sequence[Repetition]:
    """Those of settings with repetitions enough: how far others scatter nobody knows."""
    trained: dict[Hashable, set[tuple[Hashable, Hashable]]] = {}
    for one in repetitions:
        trained.setdefault(one.setting, set()).add((one.seed, one.place))
    enough = [setting for setting, of in trained.items() if len(of) >= FEWEST]
    return [one for one in repetitions if one.setting in enough]


def _between_trainings(repetitions: Sequence[Repetition]) -> list[Part]:
    """Variance of the mean between repetitions; where seeds and positions are crossed, each of the two has its own.

    A seed that is good at one position is good at others, so crossed repetitions are no independent ones (Cameron,
    Gelbach and Miller 2011: the clusters of either factor, less what both count). Nor are one seed's of several
    settings, which are one repetition; each is taken from its setting's mean, since that differs for no chance.
    """
    values = np.array([one.value for one in repetitions])
    settings = _numbered(one.setting for one in repetitions)
    usual = np.bincount(settings, values) / np.bincount(settings)
    moved = (values - usual[settings]) / len(values)
    both = _numbered((one.seed, one.place) for one in repetitions)
    single = _of_clusters(moved, settings, both)
    factors = [_numbered(one.seed for one in repetitions), _numbered(one.place for one in repetitions)]
    crossed = [_of_clusters(moved, settings, of) for of in factors if of.max() < both.max()]
    first, *others = sorted((part for part in crossed if part[1]), reverse=True) or [single]
    return [first, *((max(0.0, variance - single[0]), freedom) for variance, freedom in others)]


def _of_clusters(moved: np.ndarray, settings: np.ndarray, clusters: np.ndarray) -> Part:
    """Variance of the mean between clusters, and its degrees of freedom; both 0 where no setting has two of them.

    What is left of clusters once the settings' means are taken is corrected by what it would be were a cluster's
    repetitions alike, and so are the degrees of freedom: of n equal ones n - 1, of a large one and some small ones less
    (Bell and McCaffrey, Survey Methodology 28, 2002). A setting with one cluster tells nothing of others.
    """
    counts = np.zeros((settings.max() + 1, clusters.max() + 1))
    np.add.at(counts, (settings, clusters), 1)
    counts = counts[(counts > 0).sum(1) > 1]
    if not len(counts):
        return 0.0, 0.0
    of_mean = counts.sum(0)
    left = np.diag(of_mean) - counts.T @ (counts / counts.sum(1, keepdims=True))
    of_left = (left**2).sum()
    variance = (np.bincount(clusters, moved) ** 2).sum() * (of_mean**2).sum() / of_left
    return float(variance), float(of_left**2 / ((left @ left) ** 2).sum())


def _numbered(labels: Iterable[Hashable]) -> np.ndarray:
    """(N,) int64: equal labels have equal numbers, from 0 on."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels])


def _between_slices(repetitions: Sequence[Repetition], numbers: np.ndarray) -> Part:
    """Variance of the mean between blocks of neighbouring slices."""
    slices, places = np.unique(numbers, return_inverse=True)
    pulls = np.bincount(places, np.concatenate([one.pulls for one in repetitions])) / len(repetitions)
    covered = float(np.median(np.diff(slices))) * len(slices)
    blocks = _blocks(slices, max(1, math.ceil(covered / _BLOCKS)))
    share = np.bincount(blocks) / len(slices)
    free = 1 - (share**2).sum()
    # Of independent blocks with these shares of the slices, from which their common mean was taken.
    freedom = free**2 / ((share**2).sum() - 2 * (share**3).sum() + (share**2).sum() ** 2)
    return float((np.bincount(blocks, pulls) ** 2).sum() / free), float(freedom)


def _blocks(slices: np.ndarray, length: int) -> np.ndarray:
    """(N,) the block of each slice: equal parts, of about that length, of every stretch without a gap as long."""
    block = np.zeros(len(slices), dtype=np.int64)
    ends = np.flatnonzero(np.diff(slices) > length) + 1
    for stretch in np.split(np.arange(len(slices)), ends):
        offset = slices[stretch] - slices[stretch[0]]
        parts = max(1, round((offset[-1] + 1) / length))
        block[stretch] = block.max() + 1 + offset * parts // (offset[-1] + 1)
    return np.unique(block, return_inverse=True)[1]


def _margin(freedom: np.ndarray | float) -> np.ndarray:
    """How many standard errors an effect has to be for an interval to exclude zero with the power asked for."""
    return np.asarray(stdtrit(freedom, 1 - LEVEL / 2) + stdtrit(freedom, _POWER))
