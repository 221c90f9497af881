"""Figure 3 and Figure 7: learning curves, and accuracy against the noise of the test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from hpcseg.config import SPLITS, NoiseLevel, Share, Sigma, amount
from hpcseg.report import paper
from hpcseg.report.accept import Epoch
from hpcseg.report.collect import Group, Hole, Records, Row
from hpcseg.report.drawn import Drawn
from hpcseg.report.statistics import mean_and_sd

# Okabe and Ito's colours, which stay apart for colour-blind readers.
_COLOURS = {"shuffled": "#0072B2", "blocked": "#D55E00"}
_TRAIN, _VALIDATION = "#0072B2", "#E69F00"
_PAPER = "#000000"
_GREYS = ("#555555", "#777777", "#8A8A8A", "#A0A0A0")
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
_LABEL_HEIGHT = 0.03
"""Of a line's name in Figure 7, as accuracy; names that would overlap move up."""


def figure3(records: Records) -> Drawn:
    """Loss and accuracy per epoch without noise: a column for small and one for large."""
    title = "Figure 3: loss and accuracy per epoch, without noise"
    columns: list[tuple[Group, list[tuple[Epoch, ...]]]] = []
    holes, sources = [], list[str]()
    for tiles in paper.BATCH_SIZE:
        group = next((found for split in SPLITS if (found := records.positions.get((tiles, split, 0.0)))), None)
        if group is None:
            holes.append(Hole("figure3", f"the job has no {tiles} cell without noise.", "Choose a job that has one."))
            continue
        runs = [row.training.epochs for row in group.rows if row.training and row.training.epochs]
        if runs:
            columns.append((group, runs))
            sources += [row.id for row in group.rows if row.training and row.training.epochs]
        trained = [row for row in group.rows if row.training]
        holes += [_no_epochs(records, row) for row in trained if row.training and not row.training.epochs]
        if not trained:
            names = ", ".join(row.id for row in group.rows)
            holes.append(Hole("figure3", f"no record of {names}, so nothing for {tiles}.", records.remedy))
    if not columns:
        return Drawn(title, None, tuple(holes))
    figure = Figure(figsize=(3.6 * len(columns), 4.6), layout="constrained")
    axes = figure.subplots(2, len(columns), squeeze=False, sharex="col", sharey="row")
    for column, (group, runs) in zip(axes.T, columns, strict=True):
        _learning_curves(column[0], runs, "train_loss", "validation_loss")
        _learning_curves(column[1], runs, "train_accuracy", "validation_accuracy")
        column[0].set_title(_panel_title(group, len(runs)))
        column[1].set_xlabel("epoch")
    axes[0, 0].set_ylabel("cross-entropy")
    axes[0, 0].set_yscale("log")
    axes[1, 0].set_ylabel("pixel accuracy")
    axes[0, 0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0, 0].yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
    axes[0, 0].yaxis.set_minor_formatter(NullFormatter())
    axes[0, 0].legend()
    return Drawn(title, figure, tuple(holes), tuple(sources))


def figure7(records: Records) -> Drawn:
    """Accuracy against the sigma of the test noise: ours by split, and what the paper says of its own curve."""
    title = "Figure 7: accuracy against the noise of the test set; black: what the paper says of its curve"
    place = (paper.FIGURE_7_TILES, paper.FIGURE_7_NOISE_FRACTION)
    sweeps = {position: curve for position, group in records.positions.items() if (curve := _sweep(group))}
    holes = []
    planned = [split for split in SPLITS if _plans_sweep(records.positions.get((place[0], split, place[1])))]
    for split in planned:
        if (place[0], split, place[1]) not in sweeps:
            names = ", ".join(row.id for row in records.positions[place[0], split, place[1]].rows)
            holes.append(Hole("figure7", f"no record of {names}, the {split} curve.", records.remedy))
    if not planned:
        what = f"the job has no {place[0]} cell of {100 * place[1]:g} % noise with a sweep (evaluate.sweep_max)."
        holes.append(Hole("figure7", what, "Choose a job that has one."))
    main = {split: curve for split in SPLITS if (curve := sweeps.get((place[0], split, place[1])))}
    if not main:
        return Drawn(title, None, tuple(holes))
    # One axis has one unit, and the first curve's is taken.
    shares = next(iter(main.values())).shares
    for position, curve in list(sweeps.items()):
        if curve.shares != shares:
            unit = "shares of the span of grey values" if curve.shares else "counts"
            what = f"the sweep of {records.positions[position].rows[0].id} is in {unit}, unlike the others."
            holes.append(Hole("figure7", what, "Give all sweeps of the job one unit."))
            del sweeps[position]
            main = {split: other for split, other in main.items() if other is not curve}
    figure = Figure(figsize=(6.6, 4.2), layout="constrained")
    axes = figure.subplots()
    others = {
        (split, fraction): curve
        for (tiles, split, fraction), curve in sweeps.items()
        if tiles == place[0] and fraction != place[1]
    }
    for split, curve in main.items():
        _draw_main(axes, split, curve)
    last = max(float(curve.sigmas[-1]) for curve in main.values()) if shares else paper.FIGURE_7_SIGMA_MAX
    _draw_others(axes, others, last)
    if shares:
        title = title.partition(";")[0]  # the paper's sigmas are counts
    else:
        _draw_paper(axes)
    axes.set_xlim(0, last)
    axes.set_ylim(top=1.0)
    unit = "% of the span of grey values" if shares else "counts of 16-bit grey values"
    axes.set_xlabel(f"sigma of the test noise ({unit})")
    axes.set_ylabel("pixel accuracy on the test set")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda sigma, _: f"{sigma:,.0f}"))
    # Outside, because where the curves leave room is not known beforehand.
    figure.legend(loc="outside upper left", ncols=2, columnspacing=1.5)
    shown = [records.positions[position] for position in sweeps if position[0] == place[0]]
    sources = [row.id for group in shown for row in group.rows if row.evaluation]
    return Drawn(title, figure, tuple(holes), tuple(sources))


@dataclass(frozen=True, eq=False)
class _Curve:
    """Accuracy against sigma: (seeds, sigmas)."""

    sigmas: np.ndarray
    """In counts, or in per cent of the span of grey values."""
    accuracy: np.ndarray
    shares: bool
    """Which of the two."""


def _sweep(group: Group) -> _Curve | None:
    """The sigmas that all finished cells with a sweep share; one without a sweep would break the curve in two."""
    rows = [row for row in group.rows if row.evaluation and row.config.evaluate.sweep_max]
    if not rows:
        return None
    shares = isinstance(rows[0].config.evaluate.sweep_max, Share)
    common = set.intersection(*(set(row.config.evaluate.sigmas()) for row in rows))
    # The table's sigma may have another unit than the sweep; 0 has both.
    swept = sorted((sigma for sigma in common if not sigma or isinstance(sigma, Share) == shares), key=amount)
    accuracy = [[_accuracy(row, sigma) for sigma in swept] for row in rows]
    return _Curve(np.array([amount(sigma) for sigma in swept]), np.array(accuracy), shares)


def _plans_sweep(group: Group | None) -> bool:
    return group is not None and any(row.config.evaluate.sweep_max for row in group.rows)


def _accuracy(row: Row, sigma: Sigma) -> float:
    accuracy = row.test_accuracy(NoiseLevel(sigma))
    assert accuracy is not None
    return accuracy


def _draw_main(axes: Axes, split: str, curve: _Curve) -> None:
    seeds, colour = len(curve.accuracy), _COLOURS[split]
    label = f"ours, {100 * paper.FIGURE_7_NOISE_FRACTION:g} % noise, {split} split"
    if seeds > 1:
        label += f" (mean ± s.d., n={seeds})"
    axes.plot(
        curve.sigmas, mean_and_sd(curve.accuracy)[0], "o-", color=colour, markersize=3.2, linewidth=1.6, clip_on=False,
        label=label,
    )  # fmt: skip
    _band(axes, curve.sigmas, curve.accuracy, colour)


def _draw_others(axes: Axes, curves: Mapping[tuple[str, float], _Curve], last: float) -> None:
    """Thin lines for the other noise fractions, named at the right, beyond the last sigma of the axis."""
    ends: list[tuple[float, float, str]] = []
    for index, ((split, fraction), curve) in enumerate(sorted(curves.items(), key=lambda item: item[0][1])):
        mean = mean_and_sd(curve.accuracy)[0]
        grey, dashes = _GREYS[index % len(_GREYS)], _DASHES[index % len(_DASHES)]
        label = None if ends else "ours, other noise fractions"
        axes.plot(curve.sigmas, mean, color=grey, linestyle=dashes, linewidth=1, zorder=1.5, label=label)
        name = f"{100 * fraction:g} %" + (f" {split}" if split != "shuffled" else "")
        ends.append((float(mean[-1]), float(curve.sigmas[-1]), name))
    height = -np.inf
    for end, sigma, name in sorted(ends):
        height = max(end, height + _LABEL_HEIGHT)
        axes.annotate(
            name, (sigma, end), (last * 1.02, height), color=_GREYS[0], fontsize=8, va="center",
            annotation_clip=False,
            # To the left edge of the name: a line to its middle would run through the names below.
            arrowprops={"arrowstyle": "-", "color": _GREYS[-1], "linewidth": 0.5, "relpos": (0, 0.5)},
        )  # fmt: skip


def _draw_paper(axes: Axes) -> None:
    """The paper's points, as far as its text gives them."""
    at_table = next(
        point
        for point in paper.TABLE_2
        if (point.dataset, point.tiles, point.noise_fraction)
        == ("test", paper.FIGURE_7_TILES, paper.FIGURE_7_NOISE_FRACTION)
    )
    assert at_table.sigma is not None
    flat, end = paper.FIGURE_7_FLAT_UNTIL, paper.FIGURE_7_END
    axes.axvline(flat, color=_PAPER, linestyle="--", linewidth=0.9, zorder=1, label=f'paper: "flat to about {flat:g}"')
    axes.plot(
        [at_table.sigma], [at_table.accuracy], "D", color=_PAPER, markerfacecolor="white", markersize=6, zorder=4,
        label=f"paper: {at_table.accuracy:.3f} at {at_table.sigma:g} ({at_table.source})",
    )  # fmt: skip
    axes.plot(
        [paper.FIGURE_7_SIGMA_MAX], [end.accuracy], "v", color=_PAPER, markerfacecolor="white", markersize=7,
        zorder=4, clip_on=False, label='paper: "a little under 0.50" at 30000',
    )  # fmt: skip


def _learning_curves(axes: Axes, runs: Sequence[tuple[Epoch, ...]], train: str, validation: str) -> None:
    epochs = np.arange(1, min(len(run) for run in runs) + 1)
    for name, label, colour, marker in ((train, "train", _TRAIN, "o"), (validation, "validation", _VALIDATION, "s")):
        values = np.array([[getattr(epoch, name) for epoch in run[: len(epochs)]] for run in runs])
        axes.plot(
            epochs, mean_and_sd(values)[0], color=colour, marker=marker, markersize=3.2, linewidth=1.4, label=label
        )
        _band(axes, epochs, values, colour)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _band(axes: Axes, x: np.ndarray, values: np.ndarray, colour: str) -> None:
    """Mean plus and minus one sample standard deviation; nothing for a single seed."""
    if len(values) > 1:
        mean, spread = mean_and_sd(values)
        axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)


def _panel_title(group: Group, seeds: int) -> str:
    title = f"{group.config.data.tiles}, no noise"
    if group.config.data.split != "shuffled":
        title += f", {group.config.data.split} split"
    return title + (f" (mean ± s.d., n={seeds})" if seeds > 1 else "")


def _no_epochs(records: Records, row: Row) -> Hole:
    file = f"cells/{row.id}/metrics.jsonl"
    return Hole("figure3", f"{file} has not all epochs.", f"Delete cells/{row.id}, then: {records.remedy}")
