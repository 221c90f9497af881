"""Collected records in, Table 1, Table 2 and the table of cells out, as Markdown and as CSV. Reads no file.

A CSV holds one observation a row. It is a function of the published records alone, so that a published folder
rebuilds it byte for byte: no time, no path, no reason of a hole.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpcseg.config import SPLITS, CellConfig
from hpcseg.learn import metrics
from hpcseg.report import paper
from hpcseg.report.collect import Group, Position, Records, Row, mean_and_spread

_CSV_HEAD = "table,split,tiles,noise_fraction,set,sigma,status,paper,ours,difference,spread,seeds,missing_cells"
_CELLS_HEAD = (
    "cell,tiles,split,noise_fraction,seed,set,sigma,measure,class_value,value,precision,world_size,commit,code_sha256"
)


@dataclass(frozen=True)
class Entry:
    """One place of a table: the paper's number and ours."""

    published: paper.Published
    split: str
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
        split: {"accuracy": tuple(_entry(records, split, published) for published in paper.TABLE_1)}
        for split in SPLITS
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


def deviations(config: CellConfig) -> list[str]:
    """Where a cell's settings are not the paper's, as "train.width 16 (paper 64)"."""
    settings = {**paper.SETTINGS}
    if config.data.tiles in paper.BATCH_SIZE:
        settings["train.batch_size"] = paper.BATCH_SIZE[config.data.tiles]
    found = []
    for name, published in settings.items():
        section, key = name.split(".")
        value = getattr(getattr(config, section), key)
        if value != published:
            found.append(f"{name} {_plain(value)} (paper {_plain(published)})")
    return found


def table_markdown(table: Table, hole_numbers: Mapping[str, int]) -> str:
    """A table with its caption; a hole points to its number in the list of holes."""
    parts = [f"## {table.title}", table.caption]
    for split, block in table.blocks.items():
        compared = split == "shuffled"
        parts.append("Shuffled split, beside the paper's" if compared else f"{split} split (not in the paper)".title())
        lines: list[Sequence[str]] = []
        for label, entries in block.items():
            if compared:
                lines.append([f"{label}, paper", *(f"{entry.published.accuracy:.3f}" for entry in entries)])
            lines.append([f"{label}, ours", *(_shown(entry, hole_numbers) for entry in entries)])
            if compared:
                lines.append(
                    ["difference", *("-" if e.difference is None else f"{e.difference:+.3f}" for e in entries)]
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
                _plain(published.noise_fraction),
                published.dataset,
                _plain(_sigma(entry)),
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


def headlines(table: Table) -> list[str]:
    """One line per row of the table that is compared with the paper: ours, the paper's in brackets."""
    lines = []
    for label, entries in table.blocks.get("shuffled", {}).items():
        numbers = [
            f"{column} {entry.ours:.3f} ({entry.published.accuracy:.3f})"
            for column, entry in zip(table.columns, entries, strict=True)
            if entry.ours is not None
        ]
        if numbers:
            lines.append(f"{table.title.split(':')[0]}, {label}: {', '.join(numbers)}")
    return lines


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def _entry(records: Records, split: str, published: paper.Published) -> Entry:
    group = records.positions.get((published.tiles, split, published.noise_fraction))
    rows = group.rows if group else ()
    values = [(row.id, _measured(row, published)) for row in rows]
    return Entry(
        published,
        split,
        tuple(value for _, value in values if value is not None),
        tuple(cell for cell, value in values if value is None),
    )


def _measured(row: Row, published: paper.Published) -> float | None:
    if published.dataset == "validation":
        return row.validation_accuracy()
    # The noise of Table 2 is whatever the job calls its table's noise; the caption says so where it is not 5000.
    return row.test_accuracy(row.config.evaluate.table_sigma if published.sigma else 0.0)


def _filled(blocks: dict[str, dict[str, tuple[Entry, ...]]]) -> dict[str, dict[str, tuple[Entry, ...]]]:
    """Without the blocks that no cell of the job belongs to; the paper's own split always stays."""
    kept = {}
    for split, block in blocks.items():
        if split == "shuffled" or any(entry.status != "not in the job" for row in block.values() for entry in row):
            kept[split] = block
    return kept
