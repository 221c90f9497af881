"""Collected records in, Table 1, Table 2 and the table of cells out, as Markdown and as CSV. Reads no file.

A CSV holds one observation a row. It is a function of the published records alone, so that a published folder
rebuilds it byte for byte: no time, no path, no reason of a hole.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcseg.config import SPLITS, NoiseLevel
from hpcseg.learn import metrics
from hpcseg.report import paper
from hpcseg.report.collect import Records, Row, mean_and_spread

_CSV_HEAD = "table,split,tiles,noise_fraction,set,sigma,status,paper,ours,difference,spread,seeds,missing_cells"
_CELL_COLUMNS = (
    *("cell", "split", "validation", "clean test", "noisy test", "mean IoU clean", "mean IoU noisy"),
    *("epochs", "seconds", "precision", "ranks", "commit"),
)
_CLASS_COLUMNS = ("cell", "class", "IoU clean", "IoU noisy", "Dice clean", "Dice noisy")
_CELLS_HEAD = "cell,tiles,split,noise_fraction,seed,set,noise,measure,class_value,value,precision,world_size,commit"


@dataclass(frozen=True)
class Entry:
    """One place of a table: the paper's number and ours."""

    published: paper.Published
    split: str
    sigma: float | None
    """Noise of our test set in counts; None for validation."""
    values: tuple[float, ...]
    """One per finished cell, in the order of the job's seeds."""
    missing: tuple[str, ...]
    """Cells that the job has for this place and that are holes."""

    @property
    def ours(self) -> float | None:
        """Mean over seeds."""
        return mean_and_spread(self.values)[0]

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two."""
        return mean_and_spread(self.values)[1]

    @property
    def reference(self) -> float | None:
        """The paper's number; only the shuffled split is its split."""
        return self.published.accuracy if self.split == "shuffled" else None

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.ours is None or self.reference is None else self.ours - self.reference

    @property
    def status(self) -> str:
        """For the CSV: measured (perhaps of fewer seeds than planned), hole, or not in the job."""
        if self.values:
            return "measured"
        return "hole" if self.missing else "not in the job"


@dataclass(frozen=True)
class Table:
    """A table of the paper, filled: `blocks[split][row label][column label]`."""

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    blocks: Mapping[str, Mapping[str, tuple[Entry, ...]]]

    def entries(self) -> Iterable[Entry]:
        """All places, block by block and row by row."""
        return (entry for block in self.blocks.values() for row in block.values() for entry in row)


def table1(records: Records) -> Table:
    """Table 1: no noise anywhere."""
    columns = tuple(f"{entry.dataset} ({entry.tiles})" for entry in paper.TABLE_1)
    blocks = {
        split: {"accuracy": tuple(_entry(records, split, published) for published in paper.TABLE_1)} for split in SPLITS
    }
    return Table("table1", "Table 1: no noise anywhere", _caption(records, noisy=False), columns, _filled(blocks))


def table2(records: Records) -> Table:
    """Table 2: noise on a share of the training and validation tiles, and on all test tiles."""
    columns = tuple(f"{100 * fraction:g} %" for fraction in paper.NOISE_FRACTIONS)
    blocks: dict[str, dict[str, tuple[Entry, ...]]] = {split: {} for split in SPLITS}
    for split, block in blocks.items():
        for published in paper.TABLE_2:
            label = f"{published.dataset} ({published.tiles})"
            block[label] = (*block.get(label, ()), _entry(records, split, published))
    title = "Table 2: noise in training and validation (columns: share of tiles), noise on every test tile"
    return Table("table2", title, _caption(records, noisy=True), columns, _filled(blocks))


TABLES: Mapping[str, Callable[[Records], Table]] = {"table1": table1, "table2": table2}
"""What a job file may name under report.tables."""


def table_markdown(table: Table, hole_numbers: Mapping[str, int]) -> str:
    """A table with its caption; a hole points to its number in the list of holes."""
    parts = [f"## {table.title}", table.caption]
    for split, block in table.blocks.items():
        compared = split == "shuffled"
        parts.append(
            "Shuffled split, beside the paper's" if compared else f"{split.capitalize()} split (not in the paper)"
        )
        lines: list[Sequence[str]] = []
        for label, entries in block.items():
            if compared:
                lines.append([f"{label}, paper", *(f"{entry.published.accuracy:.3f}" for entry in entries)])
            lines.append([f"{label}, ours", *(_shown(entry, hole_numbers) for entry in entries)])
            if compared:
                lines.append(
                    [
                        "difference",
                        *("-" if e.difference is None else f"{round(e.difference, 3) + 0.0:+.3f}" for e in entries),
                    ]
                )
        parts.append(markdown_table(("", *table.columns), lines))
    return "\n\n".join(parts)


def table_csv(table: Table) -> str:
    """One line per place of the table."""
    lines = []
    for entry in table.entries():
        published = entry.published
        lines.append(
            [
                table.name,
                entry.split,
                published.tiles,
                f"{published.noise_fraction:g}",
                published.dataset,
                "" if entry.sigma is None else f"{entry.sigma:g}",
                entry.status,
                "" if entry.reference is None else f"{entry.reference:.3f}",
                _fixed(entry.ours),
                _fixed(entry.difference),
                _fixed(entry.spread),
                str(len(entry.values)),
                " ".join(entry.missing),
            ]
        )
    return _csv(_CSV_HEAD, lines)


def cells_csv(records: Records) -> str:
    """One line per measured number of every cell, each with what it was made with."""
    return _csv(_CELLS_HEAD, [line for row in records.rows for line in _observations(row)])


def cells_markdown(records: Records, hole_numbers: Mapping[str, int]) -> str:
    """One line per cell, then one line per class of the finished ones."""
    return "\n\n".join(
        [
            "## Cells",
            "Accuracy and mean IoU; noisy is at the table's sigma; seconds of training, summed over restarts.",
            markdown_table(_CELL_COLUMNS, [_cell_line(row, hole_numbers) for row in records.rows]),
            "Per class (by its value in the label images), on the test set:",
            markdown_table(_CLASS_COLUMNS, [line for row in records.rows for line in _class_lines(row)]),
        ]
    )


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]], *, numbers: bool = True) -> str:
    """A Markdown table; the first column is text, the others are numbers (aligned right) or text as well."""
    rule = ["---", *["---:" if numbers else "---"] * (len(head) - 1)]
    escaped = ([text.replace("|", "\\|") for text in line] for line in (head, rule, *lines))
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped)


def _entry(records: Records, split: str, published: paper.Published) -> Entry:
    group = records.positions.get((published.tiles, split, published.noise_fraction))
    rows = group.rows if group else ()
    sigma = published.sigma
    if group and sigma:
        # The noise of Table 2 is what the job calls its table's; the caption says so where it is not the paper's.
        sigma = group.config.evaluate.table_sigma
    measured = [
        (row.id, row.validation_accuracy() if sigma is None else row.test_accuracy(NoiseLevel(sigma))) for row in rows
    ]
    return Entry(
        published,
        split,
        sigma,
        tuple(value for _, value in measured if value is not None),
        tuple(cell for cell, value in measured if value is None),
    )


def _filled(blocks: dict[str, dict[str, tuple[Entry, ...]]]) -> dict[str, dict[str, tuple[Entry, ...]]]:
    """Without the rows that no cell of the job belongs to; those of the paper's own split always stay."""
    kept = {}
    for split, block in blocks.items():
        rows = {label: row for label, row in block.items() if any(entry.status != "not in the job" for entry in row)}
        if rows or split == "shuffled":
            kept[split] = block if split == "shuffled" else rows
    return kept


def _caption(records: Records, *, noisy: bool) -> str:
    """What the numbers are, and where their settings are not the paper's."""
    parts = ["Pixel accuracy; difference is ours minus the paper's."]
    if noisy:
        sigmas = sorted({group.config.evaluate.table_sigma for group in records.positions.values()})
        parts.append(f"The test noise has sigma {', '.join(f'{sigma:g}' for sigma in sigmas)} counts.")
    if any(len(group.rows) > 1 for group in records.positions.values()):
        parts.append("Over seeds: mean ± sample standard deviation (n).")
    by_tiles = {tiles: paper.deviations(group.config) for (tiles, _, _), group in records.positions.items()}
    parts += [
        f"Settings of {tiles} that are not the paper's: {', '.join(found)}."
        for tiles, found in by_tiles.items()
        if found and tiles in paper.BATCH_SIZE
    ]
    return " ".join(parts)


def _shown(entry: Entry, hole_numbers: Mapping[str, int]) -> str:
    if entry.ours is None:
        numbers = ", ".join(str(hole_numbers[cell]) for cell in entry.missing)
        return f"**hole {numbers}**" if numbers else "-"
    planned = len(entry.values) + len(entry.missing)
    if planned == 1:
        return f"{entry.ours:.3f}"
    count = f"n={planned}" if not entry.missing else f"n={len(entry.values)} of {planned}"
    return f"{entry.ours:.3f} ({count})" if entry.spread is None else f"{entry.ours:.3f} ± {entry.spread:.3f} ({count})"


def _cell_line(row: Row, hole_numbers: Mapping[str, int]) -> list[str]:
    """One line of the table of cells."""
    made = ["-"] * 5
    if row.training:
        record = row.training.record
        commit = short_commit(record["provenance"].get("commit"))
        made = [
            str(record["epochs"]),
            f"{record['seconds']:.0f}",
            record["precision"],
            str(record["world_size"]),
            commit,
        ]
    measured = [
        row.validation_accuracy(),
        *(None if matrix is None else metrics.accuracy(matrix) for matrix in _clean_and_noisy(row)),
        *(None if matrix is None else metrics.mean_iou(matrix) for matrix in _clean_and_noisy(row)),
    ]
    numbers = ["-" if value is None else _ratio(value) for value in measured]
    hole = f" **hole {hole_numbers[row.id]}**" if row.hole else ""
    return [f"`{row.id}`{hole}", row.config.data.split, *numbers, *made]


def _class_lines(row: Row) -> list[list[str]]:
    """One line per class of a finished cell."""
    clean, noisy = _clean_and_noisy(row)
    if row.evaluation is None or clean is None or noisy is None:
        return []
    ratios = [ratio(matrix) for ratio in (metrics.iou_per_class, metrics.dice_per_class) for matrix in (clean, noisy)]
    return [
        [f"`{row.id}`", str(value), *(_ratio(float(column[index])) for column in ratios)]
        for index, value in enumerate(row.evaluation.record["class_values"])
    ]


def _clean_and_noisy(row: Row) -> tuple[np.ndarray | None, np.ndarray | None]:
    return row.test_confusion(NoiseLevel(0.0)), row.test_confusion(NoiseLevel(row.config.evaluate.table_sigma))


def _observations(row: Row) -> Iterator[list[str]]:
    """The lines of cells.csv of one cell."""
    config = row.config
    who = [row.id, config.data.tiles, config.data.split, f"{config.train.noise_fraction:g}", str(config.train.seed)]
    if row.training:
        record, made = row.training.record, _made(row.training.record)
        classes = row.evaluation.record["class_values"] if row.evaluation else range(len(row.training.confusion))
        for measure in ("epochs", "steps", "parameters", "train_tiles", "validation_tiles"):
            yield [*who, "train", "", measure, "", str(record[measure]), *made]
        yield [*who, "train", "", "seconds", "", _fixed(record["seconds"]), *made]
        yield [*who, "validation", "", "loss", "", _fixed(record["validation_loss"]), *made]
        for line in _ratios(row.training.confusion, classes):
            yield [*who, "validation", "", *line, *made]
    if row.evaluation:
        record, made = row.evaluation.record, _made(row.evaluation.record)
        yield [*who, "test", "", "test_tiles", "", str(record["test_tiles"]), *made]
        for level, confusion in row.evaluation.confusion.items():
            for line in _ratios(confusion, record["class_values"]):
                yield [*who, "test", level.key, *line, *made]


def _ratios(confusion: np.ndarray, classes: Sequence[int]) -> Iterator[list[str]]:
    yield ["accuracy", "", _fixed(metrics.accuracy(confusion))]
    yield ["mean_iou", "", _fixed(metrics.mean_iou(confusion))]
    for measure, ratio in (("iou", metrics.iou_per_class), ("dice", metrics.dice_per_class)):
        for value, of_class in zip(classes, ratio(confusion), strict=True):
            yield [measure, str(value), _fixed(float(of_class))]


def _made(record: Mapping[str, Any]) -> list[str]:
    origin = record["provenance"]
    return [record["precision"], str(record["world_size"]), str(origin.get("commit") or "")]


def short_commit(commit: str | None) -> str:
    """Seven digits of a commit, and whether its checkout was changed."""
    if not commit:
        return "none"
    return commit[:7] + ("-dirty" if commit.endswith("-dirty") else "")


def _ratio(value: float) -> str:
    return "absent" if math.isnan(value) else f"{value:.3f}"


def _fixed(value: float | None) -> str:
    """Six decimals; empty for what is not there. The sum with 0.0 turns a rounded -0.0 into 0.0."""
    return "" if value is None or math.isnan(value) else f"{round(value, 6) + 0.0:.6f}"


def _csv(head: str, lines: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([head.split(","), *lines])
    return text.getvalue()
