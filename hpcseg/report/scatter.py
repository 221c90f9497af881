"""Accuracy on whole slices against the seconds of training, and against the number of labelled slices."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from hpcseg.report.collect import Group, Hole, Records
from hpcseg.report.comparison import device_seconds, group_label, repeated
from hpcseg.report.drawn import Drawn
from hpcseg.report.observations import WHOLE, observations
from hpcseg.report.statistics import Estimate, Repetition, estimate

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def cost(records: Records) -> Drawn:
    """One point per group: mean over repetitions, with its 95 % interval."""
    title = "Accuracy on whole test slices against the time of training"
    points = [
        (group, estimate(_of_whole(records, group)), estimate(repeated(device_seconds)(group)))
        for group in records.groups
    ]
    if not any(accuracy for _, accuracy, _ in points):
        return Drawn(title, None, (_nothing("cost", records),))
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    for index, (group, accuracy, seconds) in enumerate(points):
        if accuracy is None or seconds is None:
            continue
        axes.errorbar(
            seconds.mean, accuracy.mean, yerr=accuracy.half,
            marker=_MARKERS[index // len(_COLOURS) % len(_MARKERS)], color=_COLOURS[index % len(_COLOURS)],
            markersize=6, linewidth=1, linestyle="none", label=group_label(group, records),
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    axes.set_xlabel("seconds of training, times ranks")
    axes.set_ylabel("accuracy on whole test slices")
    figure.legend(loc="outside right upper", fontsize=7)
    return Drawn(title, figure, (), _sources(records))


def learning_curve(records: Records) -> Drawn:
    """Accuracy against the number of training slices, for the settings that have several numbers of them."""
    title = "Accuracy on whole test slices against the number of labelled slices"
    curves: dict[str, list[tuple[int, Estimate]]] = {}
    for group in records.groups:
        if found := estimate(_of_whole(records, group)):
            name = ", ".join(part for part in group_label(group, records).split(", ") if "train slices" not in part)
            curves.setdefault(name, []).append((_training_slices(group), found))
    curves = {name: sorted(points, key=lambda point: point[0]) for name, points in curves.items() if len(points) > 1}
    if not curves:
        return Drawn(title, None, (_nothing("learning_curve", records),))
    figure = Figure(figsize=(6.6, 4.2), layout="constrained")
    axes = figure.subplots()
    for index, (name, points) in enumerate(curves.items()):
        colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
        slices, means = [number for number, _ in points], [found.mean for _, found in points]
        axes.plot(slices, means, color=colour, linewidth=1.4, label=f"{name} (line: mean)")
        # Every training by itself: a band of three would run over what any of them reached.
        each = [(number, value) for number, found in points for value in found.values]
        axes.plot(*zip(*each, strict=True), marker, color=colour, markersize=3.5, alpha=0.7)
    ticks = sorted({number for points in curves.values() for number, _ in points})
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([float(tick) for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda slices, _: f"{slices:g}"))
    axes.set_xlabel("labelled slices in training")
    axes.set_ylabel("accuracy on whole test slices")
    axes.legend()
    return Drawn(title, figure, (), _sources(records))


def _sources(records: Records) -> tuple[str, ...]:
    return tuple(row.id for row in records.rows if (row.id, WHOLE) in observations(records).places)


def _of_whole(records: Records, group: Group) -> list[Repetition]:
    return observations(records).of(group, WHOLE)


def _training_slices(group: Group) -> int:
    """How many slices the training tiles come from."""
    if group.config.data.train_slices:
        return group.config.data.train_slices
    record = next(row.training.record for row in group.rows if row.training)
    if "train_slices" in record:
        return int(record["train_slices"])
    # A record of before that was counted has a grid of a fixed number of tiles, which a blocked split keeps together.
    rows, columns = group.config.data.tile_grid(0, 0)
    return round(int(record["train_tiles"]) / (rows * columns))


def _nothing(name: str, records: Records) -> Hole:
    if any(group.config.evaluate.whole_slices for group in records.groups):
        return Hole(name, "not enough cells are finished.", records.remedy)
    return Hole(name, "the job segments no whole slices (evaluate.whole_slices).", "Choose a job that does.")
