"""The honest split: every headline number on a shuffled and on a blocked split, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from hpcseg.report.collect import Group, Records, Row, mean_and_spread
from hpcseg.report.comparison import headline_columns, training_label, values_of, whole_slice_accuracy
from hpcseg.report.sheet import Block, Sheet, csv_text, fixed, over_seeds

_CSV_HEAD = "table,group,measure,shuffled,shuffled_spread,blocked,blocked_spread,difference"
_CAPTION = (
    "Neighbouring slices of a tomogram are nearly the same picture. A shuffled split, the paper's, puts near-copies of "
    "training slices into the test set, and of `large` other tiles of the same slices. A blocked split tests on one "
    "stretch of slices, away from those of the training. What a user gets on new material is the blocked number; only "
    "the shuffled one can be compared with the paper. Where both agree, that is good news for this sample; where the "
    "blocked one is lower, the difference is what the shuffled one flatters. The two have other test slices, so a "
    "difference may also say that one stretch is harder. Mean ± standard deviation over seeds; ≈: less than the two "
    "spreads apart."
)


def splits(records: Records) -> Sheet:
    """One block per measure, one line per training that the job has on both splits."""
    columns: dict[str, Callable[[Row], float | None]] = {
        **headline_columns(records),
        "whole slices": whole_slice_accuracy,
    }
    pairs = list(_pairs(records))
    blocks, observations = [], []
    for measure, value in columns.items():
        lines, sources = [], []
        for shuffled, blocked in pairs:
            ours, theirs = values_of(shuffled, value), values_of(blocked, value)
            if not ours and not theirs:
                continue
            label = f"{shuffled.config.data.tiles}, {training_label(shuffled, records)}"
            difference = float(np.mean(theirs) - np.mean(ours)) if ours and theirs else None
            spreads = [mean_and_spread(found)[1] for found in (ours, theirs)]
            within = None not in spreads and difference is not None and abs(difference) <= sum(map(_known, spreads))
            shown = "-" if difference is None else f"{difference:+.3f}{' ≈' if within else ''}"
            lines.append((label, over_seeds(ours), over_seeds(theirs), shown))
            first, second = shuffled.rows[0].id, blocked.rows[0].id
            sources.append((first, first, second, second))
            numbers = (*mean_and_spread(ours), *mean_and_spread(theirs), difference)
            observations.append(["splits", label, measure, *map(fixed, numbers)])
        if lines:
            head = ("training", "shuffled", "blocked", "blocked - shuffled")
            blocks.append(Block(measure, head, tuple(lines), tuple(sources)))
    return Sheet(
        "splits", "The honest split: shuffled and blocked", _CAPTION, tuple(blocks), csv_text(_CSV_HEAD, observations)
    )


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


def _known(spread: float | None) -> float:
    return spread or 0.0
