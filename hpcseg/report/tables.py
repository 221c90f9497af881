"""Every table that a job file may ask for, by its name: records in, typed cells out. Reads no file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from hpcseg import metrics
from hpcseg.data.evenly import evenly
from hpcseg.records.collect import Records
from hpcseg.records.groups import Group, against, alike_but, both_splits, training_label
from hpcseg.records.observations import VALIDATION, WHOLE, headline_levels
from hpcseg.records.row import EDGES, LEVELS, Row
from hpcseg.report import own, paper, readings
from hpcseg.report.measures import (
    RATIOS,
    SETS,
    Column,
    Measure,
    at,
    gain_of_slices,
    made,
    matched,
    of_class,
    of_confusion,
    of_slices,
    repeated,
)
from hpcseg.report.paper_tables import batch_norm, table1, table2, weight_decay
from hpcseg.report.seeds_apart import seeds_apart
from hpcseg.report.table import Block, Line, Number, Table, Text, Unit, marked_gains
from hpcseg.report.texts import TEXTS
from hpcseg.runs.record import SURE
from hpcseg.statistics import FEWEST, MOST_REPETITIONS, Estimate, best, difference, estimate, slope


def levels(records: Records) -> Table:
    """Error rate of every group at every noise level that tables show: which training is best where."""
    columns = {
        head: Column(at(records, key), Unit.ERROR, ranked=key != VALIDATION)
        for head, key in headline_levels(records).items()
    }
    return Table("levels", _by_group(records, columns))


def classes(records: Records) -> Table:
    """IoU, recall and precision of every class: on clean and noisy tiles, and on whole slices."""
    blocks: list[Block] = []
    for place, name_of_class in enumerate(records.class_names):
        columns = {
            f"{head}: {name}": Column(of_confusion(confusion, of_class(ratio, place)), Unit.RATIO)
            for head, confusion in SETS.items()
            for name, ratio in RATIOS.items()
            if name == "IoU" or head != WHOLE
        }
        blocks += _by_group(records, columns, f", class {name_of_class}")
    mean = {f"{head}: IoU": Column(of_confusion(of, metrics.mean_iou), Unit.RATIO) for head, of in SETS.items()}
    return Table("classes", (*blocks, *_by_group(records, mean, ", mean of the classes")))


def whole(records: Records) -> Table:
    """Figure 9's number: errors on whole slices of models that were trained on tiles."""

    columns = {
        "10 slices": Column(of_slices(records, _ten), Unit.ERROR),
        "all test slices": Column(at(records, WHOLE), Unit.ERROR),
        "worst slice": Column(repeated(Row.worst_slice), Unit.ERROR),
    }
    said = {"paper": f"{100 * (1 - paper.FIGURE_9_ACCURACY):.1f}"}
    return Table("whole_slices", _by_group(records, columns), said)


def _ten(slices: np.ndarray) -> np.ndarray:
    return slices[evenly(len(slices), 10)] if len(slices) >= 10 else slices[:0]


def cost(records: Records) -> Table:
    """Errors on whole slices against the data and the work that went into it."""
    columns = {
        WHOLE: Column(at(records, WHOLE), Unit.ERROR, ranked=True),
        VALIDATION: Column(at(records, VALIDATION), Unit.ERROR),
        "training tiles": Column(made("training", "train_tiles"), Unit.COUNT),
        "steps": Column(made("training", "steps"), Unit.COUNT),
        "seconds": Column(made("training", "seconds"), Unit.COUNT),
    }
    positions = {
        frozenset(row.config.data.split_seed for row in group.rows if row.evaluation)
        for group in records.groups
        if group.tested
    }
    same = TEXTS["tables"]["cost"]["same" if len(positions) < 2 else "others"]
    # Ways to make tiles are compared here, so they stand in one block.
    return Table("cost", _by_group(records, columns, tiles_in_label=True), {"same": same})


def edges(records: Records) -> Table:
    """Where the errors are: near the edges of labels and away from them; phase fractions and interfaces."""
    where, phases = dict[str, Column](), dict[str, Column]()
    for head, level in LEVELS.items():
        for name in EDGES:
            measure = repeated(lambda row, level=level, name=name: row.edges(level(row)).get(name))  # type: ignore[misc]
            where[f"{head}: {name}"] = Column(measure, Unit.SHARE if name.startswith("errors") else Unit.ERROR)
    for place, value in enumerate(records.class_names):
        for head, found, which in (("labels", "clean", 0), ("clean", "clean", 1), ("noisy", "noisy", 1)):
            part = of_class(lambda confusion, which=which: metrics.phase_fractions(confusion)[which], place)  # type: ignore[misc]
            phases[f"{head}: {value}"] = Column(of_confusion(SETS[found], part), Unit.SHARE)
            if which:
                off = of_class(lambda confusion: np.subtract(*metrics.phase_fractions(confusion)[::-1]), place)
                phases[f"{head}: {value}, off by"] = Column(of_confusion(SETS[found], off), Unit.SIGNED)
    for head, level in LEVELS.items():
        ratio = repeated(lambda row, level=level: row.interfaces(level(row)))  # type: ignore[misc]
        phases[f"{head}: interfaces"] = Column(ratio, Unit.MULTIPLE)
    return Table("edges", (*_by_group(records, where, ", errors"), *_by_group(records, phases, ", phase fractions")))


def calibration(records: Records) -> Table:
    """How far probabilities are from the shares of pixels that are right, at every noise level that tables show."""
    columns = {}
    for head, key in headline_levels(records).items():
        columns[f"{head}: error"] = Column(_of_sure(key, metrics.calibration_error), Unit.SHARE)
        columns[f"{head}: too sure"] = Column(_of_sure(key, metrics.overconfidence), Unit.SIGNED)
    return Table("calibration", _by_group(records, columns))


def _of_sure(key: str, ratio: Callable[[np.ndarray], float]) -> Measure:
    def value(row: Row) -> float | None:
        counts = row.sure(key, SURE[0])
        return None if counts is None else ratio(counts)

    return repeated(value)


def _by_group(
    records: Records, columns: Mapping[str, Column], what: str = "", *, tiles_in_label: bool = False
) -> tuple[Block, ...]:
    """One block per tiles and split, one line per group that is measured, one column per measure that any cell has."""
    places: dict[str, list[Group]] = {}
    # Job files may list the fractions in any order.
    for group in sorted(records.groups, key=lambda group: group.noise):
        data = group.config.data
        heading = f"{data.split} split" if tiles_in_label else f"{data.tiles}, {data.split} split"
        places.setdefault(heading, []).append(group)
    measured = {head: {group: column.measure(group) for group in records.groups} for head, column in columns.items()}
    heads = tuple(head for head in columns if any(measured[head].values()))
    blocks = []
    for heading, groups in places.items():
        first = {head: best([measured[head][one] for one in groups]) for head in heads if columns[head].ranked}
        lines = []
        for place, group in enumerate(groups):
            tiles = f"{group.config.data.tiles}, " if tiles_in_label else ""
            cells = (
                Number(estimate(measured[head][group]), columns[head].unit, marked=first.get(head) == place)
                for head in heads
            )
            if any(measured[head][group] for head in heads):
                lines.append(Line(Text(tiles + training_label(group, records.differing), group.id), tuple(cells)))
        blocks += [Block(heading + what, heads, tuple(lines), of_repetitions=True)] if lines else []
    return tuple(blocks)


def differences(records: Records) -> Table:
    """Every group against the first of its tiles and split, against the next lower noise fraction, and the trends."""
    keys = {head: key for head, key in headline_levels(records).items() if key != VALIDATION}
    lines: dict[str, list[Line]] = {}
    for group, other in against(records.groups, records.differing):
        gains = [gain_of_slices(records, group, other, key) for key in keys.values()]
        if any(gains):
            names = " against ".join(training_label(one, records.differing) for one in (group, other))
            heading = f"{group.config.data.tiles}, {group.config.data.split} split"
            cells = tuple(Number(one, Unit.GAIN) for one in gains)
            lines.setdefault(heading, []).append(Line(Text(names, group.id), cells))
    blocks, found = marked_gains(lines, tuple(keys))
    trends = list[Line]()
    for name, least in (("100 % more noise", 0.0), ("the same, from the lowest fraction with noise", 1e-9)):
        slopes = [trend(records, key, least) for key in keys.values()]
        trends += [Line(Text(name), tuple(Number(one, Unit.GAIN) for one in slopes))] if any(slopes) else []
    heading = "Trend: the mean of one slope per setting and seed, corrected for the number of these"
    more, _ = marked_gains({heading: trends} if trends else {}, tuple(keys))
    return Table("differences", (*blocks, *more), {"number": len(found), "needed": needed(found)})


def trend(records: Records, key: str, least: float) -> Estimate | None:
    """The slope of accuracy over the noise fraction from the least one on, over all settings and seeds together."""
    series = [
        {float(str(noise)): at(records, key)(group) for noise, group in of.items() if group.noise >= least}
        for of in alike_but(records.groups, "train.noise_fraction")
    ]
    return slope({place: of for place, of in enumerate(series) if len(of) >= FEWEST})


def needed(found: Iterable[Estimate], what: str = "comparisons") -> str:
    """How many repetitions differences of some sizes would take, at the median of what is known."""
    known = [one for one in found if one.half is not None]
    texts = []
    for size in (0.001, 0.005) if known else ():
        # Those that no number of repetitions shows are behind those that very many do.
        numbers = sorted((one.repetitions_for(size) for one in known), key=lambda one: (one is None, one))
        middle = [numbers[(len(numbers) - 1) // 2], numbers[len(numbers) // 2]]
        takes = "more test slices than these"
        if None not in middle:
            number = sum(one or 0.0 for one in middle) / 2
            takes = f"{number:.0f} repetitions" if number < math.inf else f"more than {MOST_REPETITIONS} repetitions"
        texts.append(f"{100 * size:.1f} points {takes}")
    takes = f"To show a difference in four of five cases takes, at the median of the {what}, for"
    return f"{takes} {', for '.join(texts)}." if texts else ""


def splits(records: Records) -> Table:
    """The honest split: one block per measure, one line per training that the job has on both splits."""
    lines: dict[str, list[Line]] = {}
    for head, level in {**headline_levels(records), WHOLE: WHOLE}.items():
        for shuffled, blocked in both_splits(records.groups, records.differing):
            ours, theirs = at(records, level)(shuffled), at(records, level)(blocked)
            if ours or theirs:
                pairs = matched(records, blocked, shuffled, level)
                same = difference(*zip(*pairs, strict=True)) if pairs else None
                # What is not counted by slice has no interval for another stretch, which is most of the chance here.
                apart = difference(theirs, ours) if level != VALIDATION else None
                gains = (Number(one, Unit.GAIN) for one in (apart, same))
                both = [(estimate(found), of.id) for found, of in ((ours, shuffled), (theirs, blocked))]
                label = f"{shuffled.config.data.tiles}, {training_label(shuffled, records.differing)}"
                cells = (*(Number(found, Unit.ERROR, source) for found, source in both), *gains)
                lines.setdefault(head, []).append(Line(Text(label), cells))
    blocks, found = marked_gains(lines, ("shuffled", "blocked", "blocked - shuffled", "the same, on the same slices"))
    return Table("splits", blocks, {"number": len(found), "gap": records.gap})


TABLES: Mapping[str, Callable[[Records], Table]] = {
    **{one.__name__: one for one in (table1, table2, batch_norm, weight_decay, splits, differences, levels, classes)},
    "whole_slices": whole,
    "edges": edges,
    "calibration": calibration,
    "cost": cost,
    "readings": readings.readings,
    "seeds_apart": seeds_apart,
    **{one.__name__: one for one in (own.axes, own.compared, own.resources, own.labels)},
}
"""What a job file may name under report.tables."""
