"""Trainings in which initial weights and epoch order have seeds of their own: which of the two decides how they end?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from hpcseg.records.collect import Records
from hpcseg.records.groups import Group, alike_but, group_label
from hpcseg.records.observations import headline_levels
from hpcseg.report.curves import Drawn
from hpcseg.report.fields import fields
from hpcseg.report.measures import at
from hpcseg.report.table import Block, Line, Number, Table, Text, Unit
from hpcseg.statistics import FEWEST, Estimate, Likeness, likeness, shown_of

SETTING = "train.order_seed"


@dataclass(frozen=True, eq=False)
class Crossed:
    """The accuracies at one level of trainings of each of some initial weights in each of some orders."""

    name: str
    """What the trainings have in common."""
    level: str
    weights: tuple[int, ...]
    orders: tuple[int, ...]
    right: np.ndarray
    """(W, O) float64."""


def crossed(records: Records) -> Iterator[Crossed]:
    """At every level that tables show, of all weights that were trained in each order."""
    names = [name for name in records.differing if name != SETTING]
    for series in alike_but(records.groups, SETTING):
        orders = sorted(order for order in series if isinstance(order, int))
        for head, level in headline_levels(records).items():
            found = [_by_weights(records, series[order], level) for order in orders]
            both = sorted(set.intersection(*map(set, found))) if found else []
            for position in dict.fromkeys(position for position, _ in both):
                weights = tuple(seed for of, seed in both if of == position)
                if min(len(weights), len(orders)) >= FEWEST:
                    right = np.array([[of[position, seed] for of in found] for seed in weights])
                    label = group_label(series[orders[0]], names)
                    label += f", position {position} of the split" if position else ""
                    yield Crossed(label, head, weights, tuple(orders), right)


def _by_weights(records: Records, group: Group, level: str) -> dict[tuple[int, int], float]:
    """Accuracies by position of the split and seed."""
    return {(int(str(one.place)), int(str(one.seed))): one.value for one in at(records, level)(group)}


def _with_likenesses(records: Records) -> list[tuple[Crossed, dict[str, tuple[Likeness | None, bool]]]]:
    """How much alike trainings are that share their "weights" or "order", and whether that is shown among all."""
    found = list(crossed(records))
    both = [likeness(right) for crossing in found for right in (crossing.right, crossing.right.T)]
    marks = zip(both, shown_of(both), strict=True)
    return [(crossing, {what: next(marks) for what in ("weights", "order")}) for crossing in found]


def seeds_apart(records: Records) -> Table:
    """How much alike trainings are that share their initial weights, or their epoch order."""
    blocks: dict[str, list[Line]] = {}
    for crossing, both in _with_likenesses(records):
        right = crossing.right
        cells = [Number(Estimate((float(value),)), Unit.SHARE) for value in (right.mean(), right.min(), right.max())]
        for alike, marked in both.values():
            values = (alike.mean, alike.low, alike.high) if alike else (None,) * 3
            estimates = (None if value is None else Estimate((value,)) for value in values)
            cells += [Number(estimate, Unit.RATIO, marked=marked) for estimate in estimates]
        blocks.setdefault(crossing.name, []).append(Line(Text(crossing.level), tuple(cells)))
    of_both = [f"{what}: {which}" for what in ("same weights", "same order") for which in ("alike", "from", "to")]
    columns = ("right, %", "least", "most", *of_both)
    return Table("seeds_apart", tuple(Block(name, columns, tuple(lines)) for name, lines in blocks.items()))


def which_seed(records: Records) -> str | None:
    """What initial weights and epoch order each decide, at the levels of which the records have both."""
    texts = []
    for crossing, both in _with_likenesses(records):
        parts = []
        for what, (alike, marked) in both.items():
            if alike:
                interval = f"{alike.low:.2f} to {alike.high:.2f}{'' if marked else ', not shown'}"
                parts.append(f"the same {what} {alike.mean:.2f} ({interval})")
        texts += [f"{crossing.name}, {crossing.level}: {', '.join(parts)}"] if parts else []
    return f"Correlation of trainings that share them, of 1 at most: {'; '.join(texts)}." if texts else None


def seeds_apart_drawn(records: Records) -> Drawn:
    """The accuracy of each training: a row for its initial weights, a column for its epoch order."""
    found = list(crossed(records))
    if not found:
        text = f"no cells with {FEWEST} or more values of {SETTING} and of train.seed each have been tested."
        return Drawn(None, (records.lacks("seeds_apart", text),))
    places, levels = (
        list(dict.fromkeys(names)) for names in zip(*((one.name, one.level) for one in found), strict=True)
    )
    size = max(len(one.weights) for one in found), max(len(one.orders) for one in found)
    figure = Figure(
        figsize=(0.8 + len(levels) * max(1.8, 0.42 * size[1]), 0.6 + len(places) * max(1.8, 0.42 * size[0])),
        layout="constrained",
    )
    panels = figure.subplots(len(places), len(levels), squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    for one in found:
        panel = panels[places.index(one.name), levels.index(one.level)]
        panel.set_axis_on()
        # Each with a scale of its own: what is a spread on clean tiles would not be seen beside one on noisy tiles.
        fields(panel, 100 * one.right, "{:.1f}".format, list(map(str, one.weights)), list(map(str, one.orders)))
        panel.set_title(one.level if len(places) == 1 else f"{one.name}\n{one.level}", fontsize=8)
        panel.set_xlabel("seed of the epoch order")
        panel.set_ylabel("seed of the initial weights")
    return Drawn(figure)
