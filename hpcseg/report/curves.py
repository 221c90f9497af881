"""Figures 3 and 7, and accuracy against work and labelled slices. Every training is shown by itself."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter, NullLocator

from hpcseg.config import SPLITS, NoiseLevel
from hpcseg.records.collect import Records
from hpcseg.records.groups import Group, alike_but, group_label, training_label
from hpcseg.records.observations import WHOLE
from hpcseg.records.row import CLEAN, Hole, Row
from hpcseg.report import paper
from hpcseg.report.baselines import commonest, filtered
from hpcseg.report.measures import at
from hpcseg.runs.epochs import validation_accuracy
from hpcseg.sheet import COLOURS as _COLOURS
from hpcseg.sigma import Share, Sigma, amount
from hpcseg.text import some_of

_OF_SPLIT = {"shuffled": "#0072B2", "blocked": "#D55E00"}
_FILTER, GREY, _PAPER = "#009E73", "#777777", "#000000"
_MARKERS = "os^Dv"
_MOST_NAMED = 120
"""Settings that are named; a legend of more would be higher than a page."""
_LETTERS_IN_HALF = 56
"""What half of a figure's width holds beside a line's sample, at a legend's size."""
_LINE = 0.175
"""Height of a legend's line in inches."""
_ROWS_WITH_ROOM = 6
LEAST_WRONG = 0.01
"""Per cent of wrong pixels: where a scale of logarithms ends, which has no 0."""
_DASHES = ((0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)))


@dataclass(frozen=True)
class Drawn:
    """A figure, or None where there is nothing to draw, and what is missing in it."""

    figure: Figure | None
    holes: tuple[Hole, ...] = ()
    said: Mapping[str, object] = field(default_factory=dict)
    """What its caption takes from the records."""


def figure3(records: Records) -> Drawn:
    """Loss and errors per epoch without noise: a column for small and one for large."""
    columns: dict[Group, list[Row]] = {}
    holes = []
    for tiles in paper.BATCH_SIZE:
        group = next((found for split in SPLITS if (found := records.positions.get((tiles, split, 0.0)))), None)
        if group is None:
            holes.append(records.lacks("figure3", f"the job has no {tiles} cell without noise.", planned=False))
            continue
        trained = [row for row in group.rows if row.training]
        for row in (row for row in trained if not row.epochs):
            reason = f"cells/{row.id}/metrics.jsonl has not all epochs."
            holes.append(Hole("figure3", reason, f"Delete cells/{row.id}, then: {records.remedy}"))
        if not trained:
            names = some_of([row.id for row in group.rows])
            holes.append(Hole("figure3", f"no record of {names}, so nothing for {tiles}.", records.remedy))
        columns |= {group: drawn} if (drawn := [row for row in trained if row.epochs]) else {}
    if not columns:
        return Drawn(None, tuple(holes))
    figure = Figure(figsize=(3.6 * len(columns), 4.6), layout="constrained")
    axes = figure.subplots(2, len(columns), squeeze=False, sharex="col", sharey="row")
    for column, (group, rows) in zip(axes.T, columns.items(), strict=True):
        for row in rows:
            learnt = [(one.train_loss, one.train_accuracy) for one in row.epochs]
            validated = [(one.validation_loss, validation_accuracy(one)) for one in row.epochs]
            for name, numbers, colour in (("train", learnt, _COLOURS[0]), ("validation", validated, _COLOURS[4])):
                loss, right = np.array(numbers).T
                epochs, label = range(1, len(row.epochs) + 1), name if row is rows[0] else None
                column[0].plot(epochs, loss, color=colour, linewidth=1, label=label)
                column[1].plot(epochs, wrong_pixels(right), color=colour, linewidth=1)
        column[0].set_title(f"{group.config.data.tiles}, no noise, {group.config.data.split}")
        column[1].set_xlabel("epoch")
        column[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    losses_and_errors(axes[:, 0].tolist(), "wrong pixels (%)")
    axes[0, 0].legend()
    return Drawn(figure, tuple(holes), least_said(axes[1]))


def wrong_pixels(right: Iterable[float]) -> np.ndarray:
    """(N,) float64 per cent of (N,) shares of right pixels: `LEAST_WRONG` and more, as a logarithmic scale has no 0."""
    wrong: np.ndarray = np.maximum(100 * (1 - np.array(list(right))), LEAST_WRONG)
    return wrong


def least_said(axes: Iterable[Axes]) -> dict[str, object]:
    """What a caption says of wrong pixels, where any line has so few."""
    drawn = (np.asarray(line.get_ydata(), dtype=np.float64) for axis in axes for line in axis.lines)
    return {"least": LEAST_WRONG} if any((wrong == LEAST_WRONG).any() for wrong in drawn) else {}


def losses_and_errors(axes: Sequence[Axes], errors: str) -> None:
    """Labels and logarithmic scales of axes that have their lines."""
    for line, name in zip(axes, ("cross-entropy", errors), strict=True):
        line.set(ylabel=name, yscale="log")
        logarithmic(line.yaxis)
        low, high = line.get_ylim()
        if sum(low <= mark <= high for mark in line.yaxis.get_majorticklocs()) < 2:  # a line needs two to be read
            line.yaxis.set_major_locator(MaxNLocator(4))


def logarithmic(axis: Axis) -> None:
    """Plain numbers at 1, 2 and 5 of every power of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def figure7(records: Records) -> Drawn:
    """Accuracy against the sigma of the test noise: ours, what needs no network, and what the paper says."""
    tiles, fraction = paper.FIGURE_7.tiles, paper.FIGURE_7.noise_fraction
    swept: dict[tuple[str, float], list[Row]] = {}
    holes = []
    for (of, split, noise), group in sorted(records.positions.items(), key=lambda item: item[0][2] != fraction):
        planned = [row for row in group.rows if row.config.evaluate.sweep_max and of == tiles]
        swept[split, noise] = [row for row in planned if row.evaluation]
        if planned and not swept[split, noise] and noise == fraction:
            names = some_of([row.id for row in planned])
            holes.append(Hole("figure7", f"no record of {names}, the {split} curve.", records.remedy))
    main = [row for (_, noise), rows in swept.items() for row in rows if noise == fraction]
    if not main and not holes:
        what = f"the job has no {tiles} cell of {100 * fraction:g} % noise with a sweep (evaluate.sweep_max)."
        holes.append(records.lacks("figure7", what, planned=False))
    if not main:
        return Drawn(None, tuple(holes))
    # One axis has one unit, and the first curve's is taken.
    first = main[0].config
    shares = isinstance(first.evaluate.sweep_max, Share)
    figure = Figure(figsize=(6.6, 4.6), layout="constrained")
    axes = figure.subplots()
    for number, ((split, noise), rows) in enumerate((place, rows) for place, rows in swept.items() if rows):
        label: str | None = f"ours, {100 * noise:g} % noise in training, {split} (a line per seed)"
        colour, dashes = (_OF_SPLIT[split], "-") if noise == fraction else (GREY, _DASHES[number % len(_DASHES)])
        for row in rows:
            if isinstance(row.config.evaluate.sweep_max, Share) == shares:
                axes.plot(*swept_curve(row, shares), color=colour, linestyle=dashes, linewidth=1.2, label=label)
                label = None
            else:
                unit = "counts" if shares else "shares of the span of grey values"
                what = f"the sweep of {row.id} is in {unit}, unlike the others."
                holes.append(Hole("figure7", what, "Give all sweeps of the job one unit."))
        if noise == fraction:
            group = records.positions[tiles, split, noise]
            curve = filter_curve(records, group, shares)
            name = f"filter (blur, grey thresholds), {split}"
            axes.plot(*curve, color=_FILTER, linestyle=_DASHES[number], label=name if curve[0] else None)
    if always := commonest(records.positions[tiles, first.data.split, fraction], CLEAN.key):
        guess = 1 / len(records.class_values)
        label = f"always the commonest class: {always.mean:.2f}; guessing: {guess:.2f}"
        for y, named in ((always.mean, label), (guess, None)):
            axes.axhline(y, color=_COLOURS[3], linewidth=1, linestyle=":", label=named)
    if isinstance(first.train.noise_sigma_max, Share) == shares:
        seen = amount(first.train.noise_sigma_max)
        axes.axvline(seen, color=GREY, linewidth=1, zorder=1, label="the strongest noise of the training")
    if not shares:
        _draw_paper(axes)
    axes.set_xlim(0, amount(first.evaluate.sweep_max) if shares else paper.FIGURE_7_SIGMA_MAX)
    axes.set_ylim(top=1.0)
    of = "% of the span of grey values" if shares else "counts of 16-bit grey values"
    axes.set_xlabel(f"sigma of the test noise ({of})")
    axes.set_ylabel("pixel accuracy on the test set")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    # Outside, because where the curves leave room is not known beforehand.
    figure.legend(loc="outside upper left", ncols=2, columnspacing=1.2, fontsize=7.5)
    said = "" if shares else "Black: what the paper says of its own curve."
    return Drawn(figure, tuple(holes), {"paper": said})


def swept_curve(row: Row, shares: bool) -> tuple[list[float], list[float]]:
    """Amounts of sigma and the accuracies there: of the test sets whose unit is this one."""
    return _points({sigma: row.test_accuracy(NoiseLevel(sigma)) for sigma in _sigmas(row, shares)})


def filter_curve(records: Records, group: Group, shares: bool) -> tuple[list[float], list[float]]:
    """The same of the filter on a group's test sets; empty where it was not measured."""
    of_filter = {one: filtered(records, group, NoiseLevel(one).key) for one in _sigmas(group.rows[0], shares)}
    return _points({sigma: found.mean if found else None for sigma, found in of_filter.items()})


def _sigmas(row: Row, shares: bool) -> list[Sigma]:
    """Of its test sets; the table's sigma may have another unit than the sweep, and 0 has both."""
    return [one for one in row.config.evaluate.sigmas() if not one or isinstance(one, Share) == shares]


def _points(values: Mapping[Sigma, float | None]) -> tuple[list[float], list[float]]:
    known = {amount(sigma): value for sigma, value in values.items() if value is not None}
    return list(known), list(known.values())


def _draw_paper(axes: Axes) -> None:
    """The paper's points, as far as its text gives them."""
    flat, last, at_table = paper.FIGURE_7_FLAT_UNTIL, paper.FIGURE_7_SIGMA_MAX, paper.FIGURE_7
    style: Any = {"color": _PAPER, "markerfacecolor": "white", "markersize": 6.5, "zorder": 4, "clip_on": False}
    axes.axvline(flat, color=_PAPER, linestyle="--", linewidth=0.9, zorder=1, label=f'paper: "flat to about {flat:g}"')
    label = f"paper: {at_table.accuracy:.3f} at {paper.TABLE_SIGMA:g} ({at_table.source})"
    axes.plot([paper.TABLE_SIGMA], [at_table.accuracy], "D", label=label, **style)
    axes.plot([last], [paper.FIGURE_7_END], "v", label=f'paper: "a little under 0.50" at {last:g}', **style)


def cost(records: Records) -> Drawn:
    """Errors on whole slices against the pixels that a training saw, one colour and marker per group."""
    groups = sorted(records.groups, key=lambda group: group.rows[0].pixels_seen() or 0.0)
    known = [(group, errors) for group in groups if (errors := _errors(records, group))]
    if not known:
        return _nothing("cost", records, "no cell with whole slices has been tested.")
    figure, axes = _of_whole_slices("millions of pixels seen in training: steps, whatever the machine")
    for (group, errors), colour, marker in zip(known, itertools.cycle(_COLOURS), itertools.cycle(_MARKERS)):
        seen = (group.rows[0].pixels_seen() or 0.0) / 1e6
        name = f"{group.config.data.tiles}, {training_label(group, records.differing)}".replace(", 0 % noise", "")
        axes.plot([seen] * len(errors), errors, marker, color=colour, markersize=4, alpha=0.7, label=name)
    return Drawn(figure, (), name_settings(figure, axes, len(_COLOURS) * len(_MARKERS)))


def name_settings(figure: Figure, axes: Axes, distinct: int) -> dict[str, object]:
    """A legend above the axes: two columns, or one where texts are too long for two, and the figure higher by it.

    Args:
        figure: that has the axes.
        axes: whose lines are named.
        distinct: looks that lines have, before they begin anew.

    Returns:
        What the caption says of it.
    """
    lines, names = axes.get_legend_handles_labels()
    if len(names) > _MOST_NAMED:
        return {"unnamed": len(names)}
    columns = 2 if max(map(len, names), default=0) <= _LETTERS_IN_HALF else 1
    names = [textwrap.fill(name, 2 * _LETTERS_IN_HALF) for name in names]
    rows = -(-sum(name.count("\n") + 1 for name in names) // columns)
    # For a few rows in two columns there is room.
    figure.set_figheight(figure.get_figheight() + _LINE * max(0, rows - (_ROWS_WITH_ROOM if columns == 2 else 0)))
    figure.legend(lines, names, loc="outside upper left", ncols=columns, fontsize=7.5)
    return {"distinct": distinct} if len(names) > distinct else {}


_LABELLED = {"data.train_slices": "", "data.label_share": "all or a part of the pixels of {slices} slices"}
"""Settings that say how much is labelled, and what a curve of one is called."""
_TICKS_APART, _MOST_ON_ONE_SCALE = 1.2, 10.0


def learning_curve(records: Records) -> Drawn:
    """Errors against what is labelled, for the settings that have several numbers of slices, or shares of pixels."""
    names = [name for name in records.differing if name not in _LABELLED]
    curves: dict[str, list[tuple[float, float]]] = {}
    for setting, what in _LABELLED.items():
        for series in alike_but(records.groups, setting):
            known = [(group, errors) for group in series.values() if (errors := _errors(records, group))]
            if len(known) > 1:
                called = what.format(slices=known[0][0].rows[0].training_slices())
                name = ", ".join(text for text in (group_label(known[0][0], names), called) if text)
                for group, errors in known:
                    slices = group.rows[0].labelled_slices() or 0.0
                    curves.setdefault(name, []).extend((slices, error) for error in errors)
    if not curves:
        return _nothing("learning_curve", records, "no two numbers of labelled slices, else alike, have been tested.")
    shares = any(group.config.data.label_share < 1 for group in records.groups)
    figure, axes = _of_whole_slices("labelled slices in training" + ", or as many pixels of more slices" * shares)
    for (name, points), colour, marker in zip(curves.items(), itertools.cycle(_COLOURS), itertools.cycle(_MARKERS)):
        axes.plot(*zip(*points, strict=True), marker, color=colour, markersize=5, alpha=0.7, label=name)
    every = [point for points in curves.values() for point in points]
    ticks: list[float] = []
    for slices in sorted({slices for slices, _ in every}):
        if not ticks or slices > _TICKS_APART * ticks[-1]:
            ticks.append(slices)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    least, largest = min(error for _, error in every), max(error for _, error in every)
    if least and largest > _MOST_ON_ONE_SCALE * least:
        # Else a training that came to nothing would press all others into one line.
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.legend()
    return Drawn(figure)


def _of_whole_slices(x: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", xlabel=x, ylabel="wrong pixels of whole test slices (%)")
    axes.xaxis.set_major_formatter("{x:g}")
    return figure, axes


def _errors(records: Records, group: Group) -> list[float]:
    """On whole slices in per cent, one per finished cell."""
    return [100 * (1 - one.value) for one in at(records, WHOLE)(group)]


def _nothing(name: str, records: Records, what: str) -> Drawn:
    if any(group.config.evaluate.whole_slices for group in records.groups):
        return Drawn(None, (records.lacks(name, "not enough cells are finished." if records.holes else what),))
    what = "the job segments no whole slices (evaluate.whole_slices)."
    return Drawn(None, (Hole(name, what, "Choose a job that does."),))
