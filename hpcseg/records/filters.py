"""RUN/baselines/*.json: what a filter of blur and grey thresholds reaches on the test sets of a run's cells."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hpcseg import metrics
from hpcseg.records.collect import Records
from hpcseg.records.row import Row
from hpcseg.runs.record import read_baselines
from hpcseg.runs.schema import Baseline
from hpcseg.tables import describes


@dataclass(frozen=True)
class Filter:
    """A filter on the test set that some settings of data and a seed of test noise give."""

    record: Baseline
    confusion: Mapping[str, np.ndarray]
    """Confusion matrices by key of the noise level."""


def filter_of(records: Records, row: Row) -> Filter | None:
    """The filter on a cell's test set, at the levels of all files that have it; None where it was not measured.

    Of a cell that was trained by an hpcseg which draws other splits, it is on other test tiles of the same settings.
    """
    seed = row.config.evaluate.seed
    found = [
        one
        for one in _read(records)
        if one.record.evaluate_seed == seed and describes(one.record.data, row.config.data)
    ]
    if not found:
        return None
    first = found[0].record
    same = (one.confusion for one in reversed(found) if one.record.split_sha256 == first.split_sha256)
    return Filter(first, {key: matrix for levels in same for key, matrix in levels.items()})


def filter_notes(records: Records) -> tuple[str, ...]:
    """A sentence where the test tiles of some cell are not those of its filter."""
    for row in records.rows:
        one = filter_of(records, row)
        if row.training and one and row.training.record.split_sha256 != one.record.split_sha256:
            return (
                "The filter was measured on the test tiles that this hpcseg draws. Cells that were trained by an "
                "earlier one were tested on other tiles, drawn by lot in the same way.",
            )
    return ()


@functools.lru_cache(maxsize=4)
def _read(records: Records) -> tuple[Filter, ...]:
    found = []
    for content in read_baselines(records.run):
        if content.data_sha256 != records.plan.data_sha256:
            continue
        of_filter = [point for point in content.points if point.baseline == "filter"]
        try:
            of_level = {point.level.key: np.array(point.confusion) for point in of_filter}
            # Raises ValueError for what is no confusion matrix.
            for confusion in of_level.values():
                metrics.accuracy(confusion)
        except (ValueError, OverflowError):
            continue
        found.append(Filter(content, of_level))
    return tuple(found)
