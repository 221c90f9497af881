"""Groups of cells side by side: accuracy at every noise level, per class, on whole slices, and against its cost.

These answer what the paper left open. A row is a group of cells that differ in their seed alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpcseg import metrics
from hpcseg.config import CellConfig, NoiseLevel, Share, shown
from hpcseg.report import paper
from hpcseg.report.collect import Group, Records, Row
from hpcseg.report.observations import VALIDATION, WHOLE, observations
from hpcseg.report.sheet import INTERVAL, Block, Sheet, as_count, as_error, as_ratio, csv_text, fixed
from hpcseg.report.statistics import Estimate, Repetition, best, estimate

_CSV_HEAD = "table,group,column,mean,half_interval,sd,repetitions"
_BEST = (
    "Bold: better than every other one of its block (95 %, after Holm's correction for their number); where nothing "
    "is bold, none is shown to be the best."
)
# Every row's name, or the heading above it, has these.
_ALWAYS_NAMED = ("data.tiles", "data.split", "train.noise_fraction")
# These may follow from the others, as the paper's batch sizes do from the tiles; then they only make names longer.
_OFTEN_IMPLIED = ("train.batch_size", "data.gap_slices")
# Cells of one group may differ in these.
_NEVER_NAMED = (
    "train.seed",
    "data.split_seed",
    *(f"evaluate.{name}" for name in ("sweep_max", "sweep_step", "examples")),
)

Measure = Callable[[Group], list[Repetition]]


@dataclass(frozen=True)
class Column:
    """What is measured of a group, and how it is shown."""

    measure: Measure
    shown: Callable[[Estimate | None], str]
    ranked: bool = False
    """The best of a block is marked."""


@dataclass(frozen=True)
class Line:
    """One row: the group's name, and for each column what its finished cells say."""

    label: str
    shown: str
    """The same without what the block's heading says."""
    source: str
    """The group's first cell."""
    values: Mapping[str, list[Repetition]]


def group_label(group: Group, records: Records) -> str:
    """What sets a group apart: tiles, split and noise fraction, and other settings where the job varies them."""
    return f"{group.config.data.tiles}, {group.config.data.split}, {training_label(group, records)}"


def training_label(group: Group, records: Records) -> str:
    """`group_label` without tiles and split, for a place that has them in its heading."""
    parts = [f"{shown(round(100 * group.config.train.noise_fraction, 10))} % noise"]
    settings, usual = _flat(group.config), _flat(CellConfig())
    for name in _varied(records):
        value, key = settings[name], name.removeprefix("data.").removeprefix("train.").replace("_", " ")
        if isinstance(value, bool):
            parts += [f"{'' if value else 'no '}{key}"] if value != usual[name] else []
        elif value != usual[name]:
            parts.append(f"{key} {shown(value)}")
    return ", ".join(parts)


def level_name(level: NoiseLevel) -> str:
    """A noise level as a column's head."""
    sigma = level.sigma if isinstance(level.sigma, Share) else f"{level.sigma:g}"
    statistics = f", statistics of {level.norm_tiles} test tiles" if level.norm_tiles else ""
    if level.fraction is not None:
        tiles = " of tiles," if isinstance(level.sigma, Share) else ""
        return f"mixed: {100 * level.fraction:g} %{tiles} up to {sigma}{statistics}"
    return ("clean" if level.sigma == 0 else f"{level.model} {sigma}") + statistics


def levels(records: Records) -> Sheet:
    """Error rate of every group at every noise level that tables show: which training is best where."""
    caption = (
        f"Wrong pixels of the test set in per cent, at each noise level. {INTERVAL} {_BEST} Validation is with the "
        "cell's own training noise. Mixed: that share of the test tiles is noisy, each with a sigma of its own up to "
        "the number. The CSV has accuracies."
    )
    columns = {
        head: Column(_at(records, key), as_error, ranked=key != VALIDATION)
        for head, key in headline_levels(records).items()
    }
    return _sheet("levels", "Accuracy at every noise level", caption, records, columns)


def headline_levels(records: Records) -> dict[str, str]:
    """The key in the observations of validation and of every noise level that tables show, by a column's head."""
    found = {level: None for group in records.groups for level in group.config.evaluate.headline_levels()}
    # In the order of the settings.
    levels = sorted(found, key=lambda level: (level.mixed, level.model != "gaussian"))
    return {VALIDATION: VALIDATION, **{level_name(level): level.key for level in levels}}


def classes(records: Records) -> Sheet:
    """Accuracy, mean IoU, and IoU, Dice and recall of every class: on clean and noisy tiles, and on whole slices."""
    values: list[int] = next((row.evaluation.record["class_values"] for row in records.rows if row.evaluation), [])
    measures = (("IoU", metrics.iou_per_class), ("Dice", metrics.dice_per_class), ("recall", metrics.recall_per_class))
    ratios: dict[str, Callable[[Row], float | None]] = {}
    for noise, level in _SETS.items():
        ratios[f"accuracy, {noise}"] = _ratio_of(metrics.accuracy, level)
        ratios[f"mean IoU, {noise}"] = _ratio_of(metrics.mean_iou, level)
        for name, measure in measures:
            for index, value in enumerate(values):
                of_class = functools.partial(lambda place, of, matrix: of(matrix)[place], index, measure)
                ratios[f"{name} {value}, {noise}"] = _ratio_of(of_class, level)
    caption = (
        f"Accuracy, mean IoU, and ratios per class (by its value in the label images). {INTERVAL} Here it is of "
        "trainings alone. Noisy is at the table's sigma, whole slices are without noise. A class that is absent has no "
        "ratio. The confusion matrices of tiles are in cells.csv, those of whole slices in the cells' slices.jsonl."
    )
    columns = {head: Column(repeated(ratio), as_ratio) for head, ratio in ratios.items()}
    sheet = _sheet("classes", "IoU, Dice and recall per class", caption, records, columns)
    # A block per kind of noise, or the table is wider than any page.
    blocks = []
    for block in sheet.blocks:
        for noise in _SETS:
            places = [0, *(place for place, head in enumerate(block.head) if head.endswith(f", {noise}"))]
            lines = tuple(tuple(line[place] for place in places) for line in block.lines)
            head = tuple(block.head[place].removesuffix(f", {noise}") for place in places)
            sources = tuple((line[0],) * len(places) for line in block.sources)
            if len(places) > 1:
                blocks.append(Block(f"{block.heading}, {noise}", head, lines, sources))
    return dataclasses.replace(sheet, blocks=tuple(blocks))


def whole_slices(records: Records) -> Sheet:
    """Figure 9's number: errors on whole slices of models that were trained on tiles."""
    table = observations(records)

    def some(group: Group) -> list[Repetition]:
        found = (table.of_cell(row.id, WHOLE, _evenly(table.slices(row.id, WHOLE))) for row in group.rows)
        return [one for one in found if one is not None]

    def worst(group: Group) -> list[Repetition]:
        single = (
            [table.of_cell(row.id, WHOLE, np.array([one])) for one in table.slices(row.id, WHOLE)] for row in group.rows
        )
        found = [[one for one in ones if one is not None] for ones in single]
        return [Repetition(ones[0].seed, ones[0].place, min(one.value for one in ones)) for ones in found if ones]

    caption = (
        "Wrong pixels of whole slices without noise in per cent, each slice segmented in one piece; the paper has "
        f"{100 * (1 - paper.FIGURE_9_ACCURACY):.1f} over ten. The ten are evenly spaced over the test slices. Where "
        "the split is shuffled, other tiles of a test slice may have been trained on; where it is blocked, none was. "
        f"{INTERVAL} The CSV has accuracies."
    )
    columns = {
        "10 slices": Column(some, as_error),
        "all test slices": Column(_at(records, WHOLE), as_error),
        "worst slice": Column(worst, as_error),
    }
    return _sheet("whole_slices", "Figure 9: whole slices", caption, records, columns)


def cost(records: Records) -> Sheet:
    """Errors on whole slices against the data and the time that went into it."""
    columns = {
        WHOLE: Column(_at(records, WHOLE), as_error, ranked=True),
        VALIDATION: Column(_at(records, VALIDATION), as_error),
        "training tiles": Column(_from_training("train_tiles"), as_count),
        "steps": Column(_from_training("steps"), as_count),
        "seconds": Column(repeated(device_seconds), as_count),
    }
    caption = (
        f"Wrong pixels of whole test slices without noise in per cent, and what the training took. {INTERVAL} {_BEST} "
        "Seconds, times ranks, are those of this run's machine; compare them with each other only. All groups have "
        "the same test slices, so the first column is of the same pixels for all of them. The CSV has accuracies."
    )
    return _sheet("cost", "Accuracy against data and time", caption, records, columns)


def _sheet(name: str, title: str, caption: str, records: Records, columns: Mapping[str, Column]) -> Sheet:
    """One block per tiles and split, one line per group, one column per measure that any cell has."""
    lines_of: dict[str, list[Line]] = {}
    # Job files may list the fractions in any order.
    for group in sorted(records.groups, key=lambda group: group.config.train.noise_fraction):
        measured = {head: column.measure(group) for head, column in columns.items()}
        # Cost compares ways to make tiles, so there they stand in one block.
        data, label = group.config.data, training_label(group, records)
        heading, shown_label = (
            (data.split, f"{data.tiles}, {label}") if name == "cost" else (f"{data.tiles}, {data.split}", label)
        )
        lines_of.setdefault(heading, []).append(
            Line(group_label(group, records), shown_label, group.rows[0].id, measured)
        )
    shown = [head for head in columns if any(line.values[head] for lines in lines_of.values() for line in lines)]
    blocks, observed = [], []
    for heading, lines in lines_of.items():
        texts = [[line.shown for line in lines]]
        for head in shown:
            column, rivals = columns[head], [line.values[head] for line in lines]
            found = [column.shown(estimate(values)) for values in rivals]
            top = best(rivals) if column.ranked else None
            texts.append([f"**{text}**" if place == top else text for place, text in enumerate(found)])
        sources = tuple((line.source,) * (1 + len(shown)) for line in lines)
        blocks.append(Block(f"{heading} split", ("training", *shown), tuple(zip(*texts, strict=True)), sources))
        for line in lines:
            for head, values in line.values.items():
                if one := estimate(values):
                    numbers = map(fixed, (one.mean, one.half, one.sd))
                    observed.append([name, line.label, head, *numbers, str(len(values))])
    return Sheet(name, title, caption, tuple(blocks), csv_text(_CSV_HEAD, observed))


def repeated(measure: Callable[[Row], float | None]) -> Measure:
    """A measure of a cell's records as one of a group, one number per finished cell that has it."""

    def values(group: Group) -> list[Repetition]:
        found = ((row.config, measure(row)) for row in group.rows)
        return [
            Repetition(config.train.seed, config.data.split_seed, value)
            for config, value in found
            if value is not None and not np.isnan(value)
        ]

    return values


def _at(records: Records, level: str) -> Measure:
    return lambda group: observations(records).of(group, level)


def _evenly(slices: np.ndarray) -> np.ndarray:
    """Ten of the slices, evenly spaced."""
    places = np.unique(np.linspace(0, len(slices) - 1, min(10, len(slices))).round().astype(int))
    return np.take(slices, places)


def _clean(row: Row) -> np.ndarray | None:
    return row.test_confusion(NoiseLevel(0.0))


def _noisy(row: Row) -> np.ndarray | None:
    return row.test_confusion(NoiseLevel(row.config.evaluate.table_sigma))


def _whole(row: Row) -> np.ndarray | None:
    """Confusion matrix of all whole test slices together, without noise; none for a hole."""
    found = [of.whole for of in row.evaluation.slices if of.whole is not None] if row.evaluation else []
    return np.sum(found, axis=0) if found else None


_SETS: Mapping[str, Callable[[Row], np.ndarray | None]] = {
    "clean test set": _clean,
    "noisy test set": _noisy,
    "whole test slices": _whole,
}


def _ratio_of(
    measure: Callable[[np.ndarray], float], confusion: Callable[[Row], np.ndarray | None]
) -> Callable[[Row], float | None]:
    return lambda row: None if (found := confusion(row)) is None else float(measure(found))


def _from_training(key: str) -> Measure:
    return repeated(lambda row: None if row.training is None else float(row.training.record[key]))


def device_seconds(row: Row) -> float | None:
    """Seconds of training, times ranks."""
    return None if row.training is None else float(row.training.record["seconds"] * row.training.record["world_size"])


def _flat(config: CellConfig) -> dict[str, object]:
    return {
        f"{section}.{key}": value
        for section in ("data", "train", "evaluate")
        for key, value in dataclasses.asdict(getattr(config, section)).items()
    }


@functools.lru_cache(maxsize=4)
def _varied(records: Records) -> tuple[str, ...]:
    """Settings that are not the same in all cells of the job: all that it takes to tell its groups apart."""
    flat = [_flat(group.config) for group in records.groups]
    free = [name for name in flat[0] if name not in (*_ALWAYS_NAMED, *_NEVER_NAMED)]
    implied = {name for name in free if name in _OFTEN_IMPLIED or name.startswith("evaluate.")}
    named = [name for name in free if name not in implied and _differ(flat, name)]
    alike: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for one in flat:
        alike.setdefault(tuple(one[name] for name in (*_ALWAYS_NAMED, *named)), []).append(one)
    not_implied = (name for name in free if name in implied and any(_differ(same, name) for same in alike.values()))
    return (*named, *not_implied)


def _differ(settings: Sequence[Mapping[str, object]], name: str) -> bool:
    return len({one[name] for one in settings}) > 1
