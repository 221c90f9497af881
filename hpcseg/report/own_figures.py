"""Figures of any job, whatever it varies: a colour per setting, and every training by itself."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hpcseg.metrics import SURE_UNIT
from hpcseg.records.collect import Records
from hpcseg.records.groups import Group, group_label, training_label
from hpcseg.records.observations import VALIDATION, headline_levels
from hpcseg.records.row import CLEAN, Hole
from hpcseg.report.curves import (
    GREY,
    Drawn,
    filter_curve,
    least_said,
    logarithmic,
    losses_and_errors,
    name_settings,
    swept_curve,
    wrong_pixels,
)
from hpcseg.report.measures import RATIOS, SETS, at
from hpcseg.runs.epochs import validation_accuracy
from hpcseg.runs.record import SURE
from hpcseg.sheet import COLOURS
from hpcseg.sigma import Share

_LEAST_IN_A_BIN = 1_000
"""Pixels, with fewer of which a share says little."""
_OF_SETTINGS = (*COLOURS, "#882255", "#999933", "#332288", "#661100", "#AA4499")
"""As many colours, further ones of Tol's, so that no two settings of a legend share one."""
_POINT = 0.075
"""Height of the points of one setting in inches."""
_PANEL = 2.4
"""Width and height of a small panel in inches."""
_SPREAD = 0.7
"""Of the room of a ratio, or of a test, what the points of its settings take."""
_MANY_CURVES = 5
"""Trainings of one setting, from which on their median is drawn and they lie behind it."""


def epochs(records: Records) -> Drawn:
    """Loss and validation per epoch of every training, as far as it has come; a colour per setting of the job."""
    labels = _labels(records)
    drawn = [(group, rows) for group in records.groups if (rows := [row for row in group.rows if row.epochs])]
    holes = tuple(
        Hole("epochs", f"cells/{row.id}/metrics.jsonl has not all epochs.", f"Delete cells/{row.id}. {records.remedy}")
        for row in records.rows
        if row.training and not row.epochs
    )
    if not drawn:
        return Drawn(None, holes or (records.lacks("epochs", "no cell has finished an epoch."),))
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for (group, rows), colour in zip(drawn, itertools.cycle(_OF_SETTINGS)):
        for row in rows:
            numbers, style = range(1, len(row.epochs) + 1), {"color": colour, "linewidth": 1}
            label = labels[group] if row is rows[0] else None
            axes[0].plot(numbers, [one.train_loss for one in row.epochs], linestyle=":", **style)
            axes[0].plot(numbers, [one.validation_loss for one in row.epochs], **style)
            wrong = wrong_pixels(map(validation_accuracy, row.epochs))
            axes[1].plot(numbers, wrong, marker="." if len(wrong) == 1 else None, label=label, **style)
    losses_and_errors(axes, "wrong pixels of validation (%)")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return Drawn(figure, holes, least_said([axes[1]]) | name_settings(figure, axes[1], len(_OF_SETTINGS)))


def sweep(records: Records) -> Drawn:
    """Accuracy against the sigma of the test noise, of every training with a sweep: a panel per tiles and split."""
    swept = [group for group in records.groups if group.config.evaluate.sweep_max]
    places: dict[tuple[str, str, bool], list[Group]] = {}
    for group in sorted(swept, key=lambda group: group.noise):
        if group.tested:
            shares = isinstance(group.config.evaluate.sweep_max, Share)
            places.setdefault((group.config.data.tiles, group.config.data.split, shares), []).append(group)
    if not places:
        text = "no cell with a sweep (evaluate.sweep_max) is finished." if swept else "no cell has a sweep."
        return Drawn(None, (records.lacks("sweep", text, planned=bool(swept)),))
    labels, colours = _coloured(records, itertools.chain.from_iterable(places.values()))
    figure = Figure(figsize=(max(4.6, 3.6 * len(places)), 3.6), layout="constrained")
    panels, with_filter = figure.subplots(1, len(places), squeeze=False, sharey=True)[0], False
    for panel, ((tiles, split, shares), groups) in zip(panels, places.items(), strict=True):
        for group in groups:
            _swept(panel, [swept_curve(row, shares) for row in group.rows if row.evaluation], colours[labels[group]])
        curve = filter_curve(records, groups[0], shares)
        panel.plot(*curve, color=GREY, linestyle="--", linewidth=1.2)
        with_filter |= bool(curve[0])
        panel.set_title(f"{tiles}, {split}")
        panel.set_xlabel(f"sigma of the test noise ({'% of the span' if shares else 'counts'})")
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.xaxis.set_major_formatter("{x:,.0f}")
        panel.set_xlim(left=0)
    panels[0].set_ylabel("pixel accuracy on the test set")
    panels[0].set_ylim(top=1)
    if with_filter:
        panels[0].plot([], [], color=GREY, linestyle="--", label="filter (blur, grey thresholds)")
    return Drawn(figure, (), _name_in_legend(figure, panels[0], colours, "-"))


def _swept(panel: Axes, curves: Sequence[tuple[list[float], list[float]]], colour: str) -> None:
    many = len(curves) >= _MANY_CURVES and len({tuple(sigmas) for sigmas, _ in curves}) == 1
    for curve in curves:
        panel.plot(*curve, color=colour, linewidth=0.5 if many else 0.9, alpha=0.3 if many else 0.75)
    if many:
        panel.plot(
            curves[0][0], np.median([right for _, right in curves], axis=0), color=colour, linewidth=1.6, zorder=3
        )


def levels(records: Records) -> Drawn:
    """Wrong pixels of every training in each test: a row per test, a panel per tiles and split."""
    heads = headline_levels(records)
    found = {
        (group, head): wrong_pixels(one.value for one in at(records, key)(group)).tolist()
        for group in records.groups
        for head, key in heads.items()
    }
    if not any(wrong for (_, head), wrong in found.items() if head != VALIDATION):
        return Drawn(None, (records.lacks("levels", "no cell has been tested."),))
    heads = {head: key for head, key in heads.items() if any(found[group, head] for group in records.groups)}
    places: dict[tuple[str, str], list[Group]] = {}
    for group in records.groups:
        if any(found[group, head] for head in heads):
            places.setdefault((group.config.data.tiles, group.config.data.split), []).append(group)
    labels, colours = _coloured(records, itertools.chain.from_iterable(places.values()))
    height = 0.9 + _POINT * len(heads) * (max(map(len, places.values())) + 2)
    figure = Figure(figsize=(max(7.2, 3.6 * len(places)), height), layout="constrained")
    panels = figure.subplots(1, len(places), squeeze=False, sharex=True, sharey=True)[0]
    for panel, ((tiles, split), groups) in zip(panels, places.items(), strict=True):
        groups.sort(key=lambda group: list(colours).index(labels[group]))
        for number, group in enumerate(groups):
            for row, head in enumerate(heads):
                wrong = found[group, head]
                at_row = row + _SPREAD / len(groups) * (number - (len(groups) - 1) / 2)
                panel.plot(wrong, [at_row] * len(wrong), ".", color=colours[labels[group]], markersize=4.5)
        panel.set_xscale("log")
        logarithmic(panel.xaxis)
        panel.set_yticks(range(len(heads)), [textwrap.fill(head, 24) for head in heads])
        panel.set_title(f"{tiles}, {split}")
        panel.set_xlabel("wrong pixels (%)")
    panels[0].invert_yaxis()
    return Drawn(figure, (), _name_in_legend(figure, panels[0], colours, "."))


def classes(records: Records) -> Drawn:
    """IoU, recall and precision of every class, a point per training: a column per class, a row per test set."""
    labels = _labels(records)
    tested = {
        head: [[found for row in group.rows if (found := SETS[head](row)) is not None] for group in records.groups]
        for head in ("clean", "noisy")
    }
    rows = [head for head, matrices in tested.items() if any(matrices)]
    if not rows:
        return Drawn(None, (records.lacks("classes", "no cell has been tested."),))
    columns = len(records.class_names)
    figure = Figure(figsize=(max(7.2, _PANEL * columns), _PANEL * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False, sharex=True)
    apart = _SPREAD / len(records.groups)
    for (row, head), (column, value) in itertools.product(enumerate(rows), enumerate(records.class_names)):
        panel = panels[row, column]
        of_groups = zip(records.groups, tested[head], itertools.cycle(_OF_SETTINGS))
        for number, (group, matrices, colour) in enumerate(of_groups):
            label = labels[group] if (row, column) == (0, 0) else None
            for place, ratio in enumerate(RATIOS.values()):
                values = [ratio(matrix)[column] for matrix in matrices]
                at = place + apart * (number - (len(records.groups) - 1) / 2)
                panel.plot([at] * len(values), values, ".", color=colour, label=label if place == 0 else None)
        panel.set_xticks(range(len(RATIOS)), list(RATIOS))
        panel.set_title(f"class {value}, {head}", fontsize=8)
        panel.grid(axis="y", linewidth=0.4)
    return Drawn(figure, (), name_settings(figure, panels[0, 0], len(_OF_SETTINGS)))


def calibration(records: Records) -> Drawn:
    """How often a model is right where it is so sure, clean and noisy; and how often wrong where it is uncertain."""
    labels = _labels(records)
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    drawn = 0
    for group, colour in zip(records.groups, itertools.cycle(_OF_SETTINGS)):
        for level, dashes in ((CLEAN, "-"), (group.rows[0].noisy, (0, (2, 1)))):
            for axis, what in zip((left, right), SURE, strict=True):
                known = [counts for row in group.rows if (counts := row.sure(level.key, what)) is not None]
                if known:
                    pixels, hits, sums = np.sum(known, axis=0).T
                    some = pixels >= _LEAST_IN_A_BIN
                    shares = hits[some] / pixels[some]
                    label = labels[group] if level == CLEAN and axis is left else None
                    values = shares if axis is left else 100 * (1 - shares)
                    style: Any = {"color": colour, "linestyle": dashes, "linewidth": 1.1, "label": label}
                    axis.plot(sums[some] / pixels[some] / SURE_UNIT, values, **style)
                    drawn += 1
    if not drawn:
        return Drawn(None, (records.lacks("calibration", "no evaluation has counted it."),))
    # The chosen class has at least as much as all have on average.
    least = min(0.3, 1 / len(records.class_names))
    left.set(
        xlabel="probability of the chosen class", ylabel="share of pixels that are right", xlim=(least, 1), ylim=(0, 1)
    )
    right.set(xlabel="uncertainty (0 sure, 1 nothing known)", ylabel="wrong pixels (%)", xlim=(0, 1), ylim=(0, None))
    return Drawn(figure, (), name_settings(figure, left, len(_OF_SETTINGS)))


def _labels(records: Records) -> dict[Group, str]:
    """What each group is called where its tiles and split are not seen otherwise."""
    places = {(group.config.data.tiles, group.config.data.split) for group in records.groups}
    label = training_label if len(places) == 1 else group_label
    return {group: _of_run(group, label(group, records.differing)) for group in records.groups}


def _of_run(group: Group, label: str) -> str:
    """A label, behind the name of the run in a comparison."""
    return f"{group.of}: {label}" if group.of else label


def _coloured(records: Records, groups: Iterable[Group]) -> tuple[dict[Group, str], dict[str, str]]:
    """What each is called in a panel of its tiles and split, and the colour of each such name."""
    labels = {group: _of_run(group, training_label(group, records.differing)) for group in groups}
    return labels, dict(zip(dict.fromkeys(labels.values()), itertools.cycle(_OF_SETTINGS)))


def _name_in_legend(figure: Figure, axes: Axes, colours: dict[str, str], style: str) -> dict[str, object]:
    """Each setting once, by a line without points, whichever panels have it; gives what the caption says of it."""
    for label, colour in colours.items():
        axes.plot([], [], style, color=colour, label=label)
    return name_settings(figure, axes, len(_OF_SETTINGS))
