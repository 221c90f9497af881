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
from hpcseg.report.collect import Group, Records, Row, mean_and_spread
from hpcseg.report.sheet import Block, Sheet, csv_text, fixed, over_seeds

_CSV_HEAD = "table,group,column,mean,spread,seeds"
_MANY_SLICES, _SOME_SLICES = "all test slices", "10 slices"
# Every row's name, or the heading above it, has these.
_ALWAYS_NAMED = ("data.tiles", "data.split", "train.noise_fraction")
# These may follow from the others, as the paper's batch sizes do from the tiles; then they only make names longer.
_OFTEN_IMPLIED = ("train.batch_size", "data.gap_slices")
# Cells of one group may differ in these.
_NEVER_NAMED = ("train.seed", *(f"evaluate.{name}" for name in ("sweep_max", "sweep_step", "examples")))

Values = tuple[float, ...]


@dataclass(frozen=True)
class Line:
    """One row: the group's name, and for each column the numbers of its finished cells."""

    label: str
    shown: str
    """The same without what the block's heading says."""
    source: str
    """The group's first cell."""
    values: Mapping[str, Values]


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
    if level.fraction is not None:
        tiles = " of tiles," if isinstance(level.sigma, Share) else ""
        return f"mixed: {100 * level.fraction:g} %{tiles} up to {sigma}"
    return "clean" if level.sigma == 0 else f"{level.model} {sigma}"


def levels(records: Records) -> Sheet:
    """Accuracy of every group at every noise level that tables show: which training is best where."""
    caption = (
        "Pixel accuracy on the test set at each noise level, mean ± standard deviation over seeds. Bold: the best of "
        "its block; ≈: less than the two seed spreads away from it. Validation is with the cell's own training noise. "
        "Mixed: that share of the test tiles is noisy, each with a sigma of its own up to the number."
    )
    return _sheet("levels", "Accuracy at every noise level", caption, records, headline_columns(records), best=True)


def headline_columns(records: Records) -> dict[str, Callable[[Row], float | None]]:
    """Accuracy in validation and at every noise level that tables show, by the column's head."""
    levels = {level_name(level): _at(level) for level in _levels(records)}
    return {"validation": Row.validation_accuracy, **levels}


def classes(records: Records) -> Sheet:
    """Accuracy, mean IoU, and IoU, Dice and recall of every class: on clean and noisy tiles, and on whole slices."""
    values: list[int] = next((row.evaluation.record["class_values"] for row in records.rows if row.evaluation), [])
    measures = (("IoU", metrics.iou_per_class), ("Dice", metrics.dice_per_class), ("recall", metrics.recall_per_class))
    columns: dict[str, Callable[[Row], float | None]] = {}
    for noise, level in _SETS.items():
        columns[f"accuracy, {noise}"] = _ratio_of(metrics.accuracy, level)
        columns[f"mean IoU, {noise}"] = _ratio_of(metrics.mean_iou, level)
        for name, measure in measures:
            for index, value in enumerate(values):
                columns[f"{name} {value}, {noise}"] = _of_class(measure, index, level)
    caption = (
        "Accuracy, mean IoU, and ratios per class (by its value in the label images), mean ± standard deviation over "
        "seeds; noisy is at the table's sigma, whole slices are without noise. A class that is absent has no ratio. "
        "The confusion matrices of tiles are in cells.csv, those of whole slices in the cells' slices.jsonl."
    )
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
    """Figure 9's number: accuracy on whole slices of models that were trained on tiles."""
    columns = {
        _SOME_SLICES: lambda row: whole_slice_accuracy(row, some=10),
        _MANY_SLICES: whole_slice_accuracy,
        "worst slice": lambda row: whole_slice_accuracy(row, worst=True),
    }
    caption = (
        "Mean over slices of the pixel accuracy on whole slices without noise, each segmented in one piece; the paper "
        f"has {paper.FIGURE_9_ACCURACY:.3f} over ten. The ten are evenly spaced over the test slices. Where the split "
        "is shuffled, other tiles of a test slice may have been trained on; where it is blocked, none was."
    )
    return _sheet("whole_slices", "Figure 9: whole slices", caption, records, columns)


def cost(records: Records) -> Sheet:
    """Accuracy on whole slices against the data and the time that went into it."""
    columns: dict[str, Callable[[Row], float | None]] = {
        "whole slices": whole_slice_accuracy,
        "validation": Row.validation_accuracy,
        "training tiles": _from_training("train_tiles"),
        "steps": _from_training("steps"),
        "seconds": _device_seconds,
    }
    caption = (
        "Accuracy on whole test slices without noise, mean ± standard deviation over seeds, and what the training "
        "took. Seconds, times ranks, are those of this run's machine; compare them with each other only. All "
        "groups have the same test slices, so the first column is of the same pixels for all of them."
    )
    return _sheet("cost", "Accuracy against data and time", caption, records, columns, best=True)


def _sheet(
    name: str,
    title: str,
    caption: str,
    records: Records,
    columns: Mapping[str, Callable[[Row], float | None]],
    *,
    best: bool = False,
) -> Sheet:
    """One block per tiles and split, one line per group, one column per measure that any cell has."""
    lines_of: dict[str, list[Line]] = {}
    # Job files may list the fractions in any order.
    for group in sorted(records.groups, key=lambda group: group.config.train.noise_fraction):
        measured = {head: values_of(group, measure) for head, measure in columns.items()}
        # Cost compares ways to make tiles, so there they stand in one block.
        data, label = group.config.data, training_label(group, records)
        heading, shown_label = (
            (data.split, f"{data.tiles}, {label}") if name == "cost" else (f"{data.tiles}, {data.split}", label)
        )
        lines_of.setdefault(heading, []).append(
            Line(group_label(group, records), shown_label, group.rows[0].id, measured)
        )
    shown = [head for head in columns if any(line.values[head] for lines in lines_of.values() for line in lines)]
    blocks = tuple(
        Block(
            f"{heading} split",
            ("training", *shown),
            tuple((line.shown, *(_text(line, head, lines if best else None) for head in shown)) for line in lines),
            tuple((line.source,) * (1 + len(shown)) for line in lines),
        )
        for heading, lines in lines_of.items()
    )
    observations = [
        [name, line.label, head, fixed(mean), fixed(spread), str(len(line.values[head]))]
        for lines in lines_of.values()
        for line in lines
        for head in columns
        for mean, spread in (mean_and_spread(line.values[head]),)
        if mean is not None
    ]
    return Sheet(name, title, caption, blocks, csv_text(_CSV_HEAD, observations))


def _text(line: Line, head: str, rivals: Sequence[Line] | None) -> str:
    """Mean and spread; bold for the best of the rivals, with a sign where the seeds cannot tell it from the best."""
    values = line.values[head]
    if head in ("training tiles", "steps", "seconds"):
        return f"{np.mean(values):.0f}" if values else "-"
    text = over_seeds(values)
    if not rivals or not values or head == "validation":
        return text
    top = max((rival for rival in rivals if rival.values[head]), key=lambda rival: float(np.mean(rival.values[head])))
    if top is line:
        return f"**{text}**"
    spreads = [mean_and_spread(of.values[head])[1] or 0.0 for of in (line, top)]
    close = float(np.mean(top.values[head]) - np.mean(values)) <= sum(spreads)
    return f"{text} ≈" if close and len(values) > 1 else text


def values_of(group: Group, measure: Callable[[Row], float | None]) -> Values:
    """What is measured of the finished cells of a group, one number per seed."""
    found = (measure(row) for row in group.rows)
    return tuple(value for value in found if value is not None and not np.isnan(value))


def _levels(records: Records) -> list[NoiseLevel]:
    """All headline levels that any cell of the job has, in the order of the settings."""
    found = {level: None for group in records.groups for level in group.config.evaluate.headline_levels()}
    return sorted(found, key=lambda level: (level.mixed, level.model != "gaussian"))


def _at(level: NoiseLevel) -> Callable[[Row], float | None]:
    return lambda row: row.test_accuracy(level)


def _clean(row: Row) -> np.ndarray | None:
    return row.test_confusion(NoiseLevel(0.0))


def _noisy(row: Row) -> np.ndarray | None:
    return row.test_confusion(NoiseLevel(row.config.evaluate.table_sigma))


def _whole(row: Row) -> np.ndarray | None:
    """Confusion matrix of all whole test slices together, without noise."""
    found = _whole_matrices(row)
    return np.sum(found, axis=0) if found else None


def _whole_matrices(row: Row) -> list[np.ndarray]:
    """Confusion matrices of the whole test slices that were segmented; none for a hole."""
    return [of.whole for of in row.evaluation.slices if of.whole is not None] if row.evaluation else []


_SETS: Mapping[str, Callable[[Row], np.ndarray | None]] = {
    "clean test set": _clean,
    "noisy test set": _noisy,
    "whole test slices": _whole,
}


def _ratio_of(
    measure: Callable[[np.ndarray], float], confusion: Callable[[Row], np.ndarray | None]
) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        found = confusion(row)
        return None if found is None else measure(found)

    return value


def _of_class(
    measure: Callable[[np.ndarray], np.ndarray], index: int, confusion: Callable[[Row], np.ndarray | None]
) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        found = confusion(row)
        return None if found is None else float(measure(found)[index])

    return value


def _from_training(key: str) -> Callable[[Row], float | None]:
    return lambda row: None if row.training is None else float(row.training.record[key])


def _device_seconds(row: Row) -> float | None:
    return None if row.training is None else float(row.training.record["seconds"] * row.training.record["world_size"])


def whole_slice_accuracy(row: Row, *, some: int | None = None, worst: bool = False) -> float | None:
    """Mean (or lowest) accuracy over whole slices: over all of them, or over some that are evenly spaced."""
    slices = _whole_matrices(row)
    if not slices:
        return None
    accuracies = np.array([metrics.accuracy(confusion) for confusion in slices])
    if some is not None:
        accuracies = accuracies[np.unique(np.linspace(0, len(accuracies) - 1, some).round().astype(int))]
    return float(accuracies.min() if worst else accuracies.mean())


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
