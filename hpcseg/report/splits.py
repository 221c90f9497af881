"""The honest split: every headline number on a shuffled and on a blocked split, side by side."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from hpcseg.report.collect import Group, Records
from hpcseg.report.comparison import headline_levels, training_label
from hpcseg.report.differences import GAINS, OF_DIFFERENCE, numbers
from hpcseg.report.observations import WHOLE, Observations, observations
from hpcseg.report.sheet import INTERVAL, Block, Sheet, as_error, as_gain, csv_text, fixed
from hpcseg.report.statistics import Estimate, difference, estimate, shown_of

_CSV_HEAD = (
    "table,group,measure,shuffled,shuffled_half_interval,blocked,blocked_half_interval,"
    f"{OF_DIFFERENCE},{','.join(f'same_slices_{name}' for name in OF_DIFFERENCE.split(','))}"
)
_HEAD = ("training", "shuffled", "blocked", "blocked - shuffled", "the same, on the same slices")
_CAPTION = (
    "Wrong pixels in per cent, and what a blocked split gains or loses. Neighbouring slices of a tomogram are nearly "
    "the same picture. A shuffled split, the paper's, puts near-copies of training slices into the test set, and of "
    "`large` other tiles of the same slices. A blocked split tests on runs of slices that begin data.gap_slices away "
    "from those of the training. What a user gets on new material is nearer to the blocked number; only the shuffled "
    "one can be compared with the paper. The two have other test slices, of which one may be harder; so the last "
    "column takes the slices that both test: what is lost there is what the shuffled split flatters. "
)


def splits(records: Records) -> Sheet:
    """One block per measure, one line per training that the job has on both splits."""
    table = observations(records)
    levels = {**headline_levels(records), WHOLE: WHOLE}
    lines: dict[str, list[tuple[Group, Group, list[Estimate | None]]]] = {}
    for head, level in levels.items():
        for shuffled, blocked in _pairs(records):
            ours, theirs = table.of(shuffled, level), table.of(blocked, level)
            if ours or theirs:
                gains = [difference(theirs, ours), _on_the_same_slices(table, blocked, shuffled, level)]
                lines.setdefault(head, []).append((shuffled, blocked, [estimate(ours), estimate(theirs), *gains]))
    flat = [one for block in lines.values() for *_, found in block for one in found[2:]]
    shown = iter(shown_of(flat))
    blocks, observed = [], []
    for head, block in lines.items():
        texts, sources = [], []
        for shuffled, blocked, found in block:
            label = f"{shuffled.config.data.tiles}, {training_label(shuffled, records)}"
            marks = next(shown), next(shown)
            texts.append((label, *map(as_error, found[:2]), *map(as_gain, found[2:], marks)))
            first, second = shuffled.rows[0].id, blocked.rows[0].id
            sources.append((first, first, second, second, second))
            ends = [fixed(value) for one in found[:2] for value in ((one.mean, one.half) if one else (None, None))]
            gained = [text for one, mark in zip(found[2:], marks, strict=True) for text in numbers(one, mark)]
            observed.append(["splits", label, head, *ends, *gained])
        blocks.append(Block(head, _HEAD, tuple(texts), tuple(sources)))
    caption = f"{_CAPTION}{INTERVAL} Differences are {GAINS.format(number=sum(one is not None for one in flat))}"
    csv = csv_text(_CSV_HEAD, observed)
    return Sheet("splits", "The honest split: shuffled and blocked", caption, tuple(blocks), csv)


def _on_the_same_slices(table: Observations, ours: Group, theirs: Group, level: str) -> Estimate | None:
    """Ours minus theirs, of each seed and position on the test slices of both."""
    pairs = []
    for row, other in itertools.product(ours.rows, theirs.rows):
        common = np.intersect1d(table.slices(row.id, level), table.slices(other.id, level))
        one, against = (table.of_cell(cell.id, level, common) for cell in (row, other))
        if one and against and (one.seed, one.place) == (against.seed, against.place):
            pairs.append((one, against))
    return difference(*zip(*pairs, strict=True)) if pairs else None


def _pairs(records: Records) -> Iterator[tuple[Group, Group]]:
    """The groups that differ in their split alone, by tiles and noise fraction."""
    found: dict[tuple[str, str], dict[str, Group]] = {}
    for group in records.groups:
        key = group.config.data.tiles, training_label(group, records)
        found.setdefault(key, {}).setdefault(group.config.data.split, group)
    both = [splits for splits in found.values() if {"shuffled", "blocked"} <= splits.keys()]
    # Small before large as in the paper, and by noise.
    both.sort(key=lambda splits: (splits["shuffled"].config.data.tiles != "small", _noise(splits["shuffled"])))
    yield from ((splits["shuffled"], splits["blocked"]) for splits in both)


def _noise(group: Group) -> float:
    return group.config.train.noise_fraction
