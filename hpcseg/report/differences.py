"""Pairs of trainings on the same test slices: how far apart they are, and whether chance could have done it.

Two kinds of chance are kept apart. Other test slices: an interval by bootstrap over slices, paired, since both models
segment the same ones, and in blocks, since a slice is much like its neighbours (Künsch 1989; circular blocks, Politis
and Romano 1992). Another seed of the training: the spread of the difference over seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hpcseg.config import NoiseLevel
from hpcseg.report.collect import Group, Records, mean_and_spread
from hpcseg.report.comparison import group_label, level_name, training_label
from hpcseg.report.sheet import Block, Sheet, csv_text, fixed

RESAMPLES = 2000
BLOCK_SLICES = 15
"""Neighbouring slices that are drawn together. In results/noise-models what one training gains over another in a slice
correlates with what it gains five slices further by 0.6."""
_CSV_HEAD = "table,group,against,noise,difference,low,high,seed_spread,seeds,slices"


@dataclass(frozen=True)
class Difference:
    """Accuracy of one group minus another's at one noise level."""

    mean: float
    low: float
    high: float
    """95 % interval over test slices."""
    seed_spread: float | None
    """Sample standard deviation of the difference over seeds; None for fewer than two."""
    seeds: int
    slices: int

    @property
    def within_seeds(self) -> bool:
        """No larger than what another seed changes."""
        return self.seed_spread is not None and abs(self.mean) <= self.seed_spread


def differences(records: Records) -> Sheet:
    """Every group against the first of its tiles and split, and against the next lower noise fraction."""
    levels = list({level: None for group in records.groups for level in group.config.evaluate.headline_levels()})
    levels.sort(key=lambda level: (level.mixed, level.model != "gaussian"))
    blocks, observations = [], []
    for (tiles, split), pairs in _pairs(records).items():
        lines, sources = [], []
        for group, other in pairs:
            names = (group_label(group, records), group_label(other, records))
            found = [compare(group, other, level) for level in levels]
            if not any(found):
                continue
            shown = f"{training_label(group, records)} against {training_label(other, records)}"
            lines.append((shown, *("-" if one is None else _text(one) for one in found)))
            sources.append((other.rows[0].id, *(group.rows[0].id,) * len(levels)))
            for level, one in zip(levels, found, strict=True):
                if one:
                    numbers = (one.mean, one.low, one.high, one.seed_spread)
                    observations.append(
                        ["differences", *names, level.key, *map(fixed, numbers), str(one.seeds), str(one.slices)]
                    )
        if lines:
            blocks.append(
                Block(f"{tiles}, {split} split", ("training", *map(level_name, levels)), tuple(lines), tuple(sources))
            )
    caption = (
        "Difference of pixel accuracy, with its 95 % interval over test slices (paired bootstrap, "
        f"{RESAMPLES} resamples, in blocks of {BLOCK_SLICES} neighbouring slices, seeds pooled). ≈: no larger than the "
        "spread of the difference over seeds, so another seed could turn it."
    )
    return Sheet(
        "differences",
        "Differences between trainings",
        caption,
        tuple(blocks),
        csv_text(_CSV_HEAD, observations),
    )


def compare(group: Group, other: Group, level: NoiseLevel) -> Difference | None:
    """The difference of two groups, over the seeds that both have finished; None where there is none."""
    rows = {row.config.train.seed: row for row in group.rows if row.evaluation and row.evaluation.slices}
    others = {row.config.train.seed: row for row in other.rows if row.evaluation and row.evaluation.slices}
    per_seed = []
    numbers: list[int] | None = None
    for seed in sorted(rows.keys() & others.keys()):
        ours, theirs = rows[seed].evaluation, others[seed].evaluation
        assert ours is not None and theirs is not None
        here = [one.number for one in ours.slices]
        same = here == [one.number for one in theirs.slices] and (numbers is None or here == numbers)
        if not same or any(level.key not in one.right for one in (*ours.slices, *theirs.slices)):
            continue
        numbers = here
        pixels = np.array([one.pixels for one in ours.slices], dtype=np.float64)
        if [one.pixels for one in theirs.slices] != pixels.tolist():
            continue
        gained = [a.right[level.key] - b.right[level.key] for a, b in zip(ours.slices, theirs.slices, strict=True)]
        per_seed.append(np.array(gained, dtype=np.float64))
    if not per_seed:
        return None
    assert numbers is not None
    low, high = _interval(np.mean(per_seed, axis=0), pixels, np.array(numbers))
    means = tuple(float(gained.sum() / pixels.sum()) for gained in per_seed)
    mean, spread = mean_and_spread(means)
    assert mean is not None
    return Difference(mean, low, high, spread, len(per_seed), len(pixels))


def _interval(gained: np.ndarray, pixels: np.ndarray, numbers: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of sum(gained) / sum(pixels) over resampled slices; the draw is always the same.

    Args:
        gained: (N,) right pixels of one training minus the other's, by slice.
        pixels: (N,) of the test tiles of each slice.
        numbers: (N,) of the slices, ascending.
    """
    # As many test slices as lie within a block: one of a shuffled split has its neighbours further away.
    spacing = float(np.median(np.diff(numbers))) if len(numbers) > 1 else 1.0
    length = min(len(numbers), max(1, round(BLOCK_SLICES / spacing)))
    starts = np.random.default_rng(0).integers(len(numbers), size=(RESAMPLES, -(-len(numbers) // length)))
    draw = (starts[:, :, None] + np.arange(length)).reshape(RESAMPLES, -1)[:, : len(numbers)] % len(numbers)
    low, high = np.percentile(gained[draw].sum(1) / pixels[draw].sum(1), (2.5, 97.5))
    return float(low), float(high)


def _pairs(records: Records) -> dict[tuple[str, str], list[tuple[Group, Group]]]:
    blocks: dict[tuple[str, str], list[Group]] = {}
    for group in records.groups:
        blocks.setdefault((group.config.data.tiles, group.config.data.split), []).append(group)
    for groups in blocks.values():
        # Job files may list them in any order: first by noise, then those of the tables, then what differs from them.
        usual = set(map(id, records.positions.values()))
        groups.sort(key=lambda group: (group.config.train.noise_fraction, id(group) not in usual))
    return {block: list(_against(groups)) for block, groups in blocks.items() if len(groups) > 1}


def _against(groups: list[Group]) -> Iterator[tuple[Group, Group]]:
    for group in groups[1:]:
        yield group, groups[0]
    # The first of a fraction stands for it; the others differ in something else.
    fractions = list({group.config.train.noise_fraction: group for group in reversed(groups)}.values())[::-1]
    for before, group in itertools.pairwise(fractions[1:]):
        yield group, before


def _text(one: Difference) -> str:
    mark = " ≈" if one.within_seeds else ""
    return f"{one.mean:+.3f} [{one.low:+.3f}, {one.high:+.3f}]{mark}"
