"""What is reached without a network, on the tiles that the cells were tested on: the commonest class, and a filter."""

from __future__ import annotations

from hpcseg import metrics
from hpcseg.records.collect import Records
from hpcseg.records.filters import filter_of
from hpcseg.records.groups import Group
from hpcseg.records.row import CLEAN, Hole
from hpcseg.statistics import Estimate, Repetition, estimate

SUBJECT = "baselines"
"""Of the hole where the filter is missing."""


def filtered(records: Records, group: Group, level: str) -> Estimate | None:
    """The filter's accuracy on the test sets of a group at a noise level; None where it was not measured.

    The seeds of a group have one test set and so one number; positions of the split have one each.
    """
    found = {
        row.position: one.confusion[level]
        for row in group.rows
        if (one := filter_of(records, row)) is not None and level in one.confusion
    }
    return estimate([Repetition(place, place, metrics.accuracy(matrix)) for place, matrix in found.items()])


def commonest(group: Group, level: str) -> Estimate | None:
    """Accuracy of always answering the commonest class of the validation set; None without an evaluated cell."""
    found: dict[int, float] = {}
    for row in group.rows:
        tested = [one for key, one in row.evaluation.confusion.items() if key.key == level] if row.evaluation else []
        if tested and row.training:
            of_labels = tested[0].sum(1) / tested[0].sum()
            found[row.position] = float(of_labels[row.training.confusion.sum(1).argmax()])
    return estimate([Repetition(place, place, value) for place, value in found.items()])


def hole(records: Records) -> Hole | None:
    """What there is to do where a group of the paper's tables has no filter beside it; None where all have."""
    tables = ((group, level.key) for group in records.positions.values() for level in (CLEAN, group.rows[0].noisy))
    if all(filtered(records, *test) for test in tables if commonest(*test)):
        return None
    what = "the filter of blur and grey thresholds was not measured on these test sets."
    return Hole(SUBJECT, what, "Run `hpcseg report --data FILE` with the packed slices, once.")
