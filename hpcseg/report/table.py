"""A table as typed cells: a number stays one until a page, a document or a CSV is written. Here it becomes a text."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hpcseg.records.cells import csv_text, fixed
from hpcseg.report.texts import TEXTS
from hpcseg.statistics import Estimate, shown_of
from hpcseg.text import cell_text

CSV_HEAD = "table,block,row,column,value,half_interval,sd,p_value,marked,repetitions,values,missing_cells"
"""The first line of a table's file."""


class Unit(enum.Enum):
    """What a number is, and so how it is written: the format of its values, their scale, and whether of errors."""

    MEAN = "a share; its mean alone"
    RATIO = "a share"
    MULTIPLE = "how many times as much"
    ERROR = "an accuracy, as wrong pixels in per cent: three decimals of accuracy hide what differs"
    GAIN = "a difference of accuracies, in percentage points"
    SHARE = "a share, in per cent"
    RIGHT = "an accuracy, as right pixels in per cent"
    SIGNED = "a difference of two shares of one training, in percentage points"
    COUNT = "a number without decimals"


@dataclass(frozen=True)
class Number:
    """A measured or a published number, or the place of one."""

    found: Estimate | None
    unit: Unit
    source: str = ""
    """The cell that it leads to; "" for none."""
    marked: bool = False
    """It is shown to be the best, or not zero, also after a correction for the number of comparisons."""
    missing: tuple[str, ...] = ()
    """Subjects of the holes that it would take to have it, or to have it of all repetitions."""


@dataclass(frozen=True)
class Text:
    """A name, or anything else that is no number."""

    text: str
    source: str = ""
    """The cell that it leads to; "" for none."""
    # What a number has; no fields.
    found, marked, missing = None, False, ()


@dataclass(frozen=True)
class Line:
    """One row of a table."""

    label: Text
    cells: tuple[Number | Text, ...]


@dataclass(frozen=True)
class Block:
    """Lines under one head, and under a heading that sets them apart from the table's other blocks."""

    heading: str
    """May be empty."""
    columns: tuple[str, ...]
    """Those of the cells; the labels have none."""
    lines: tuple[Line, ...]
    of_repetitions: bool = False
    """Where its lines have more or fewer of them, each says how many."""

    def repetitions(self, line: Line) -> str:
        """Those of the columns of a line, where not all lines have as many; else empty."""
        found = ((cell.found for cell in of.cells if cell.found) for of in (line, *self.lines))
        own, *others = (dict.fromkeys(len(one.values) for one in of) for of in found)
        alike = len(own) < 2 and all(other == own for other in others)
        return "" if alike or not self.of_repetitions else f" (n={', '.join(map(str, own))})"


@dataclass(frozen=True)
class Table:
    """One table of a report. Its title and caption are in texts.toml."""

    name: str
    blocks: tuple[Block, ...]
    said: Mapping[str, object] = field(default_factory=dict)
    """What the caption takes from the records."""

    @property
    def title(self) -> str:
        """Of the table."""
        return str(TEXTS["tables"][self.name]["title"])

    @property
    def caption(self) -> str:
        """What its numbers are."""
        return caption("tables", self.name, self.said)


def marked_gains(
    lines: Mapping[str, Sequence[Line]], columns: tuple[str, ...]
) -> tuple[tuple[Block, ...], list[Estimate]]:
    """Lines by the heading of their block, with what is shown among all their differences marked; and these."""
    cells = [cell for of in lines.values() for line in of for cell in line.cells]
    gains = [cell for cell in cells if isinstance(cell, Number) and cell.unit is Unit.GAIN]
    shown = {id(cell) for cell, mark in zip(gains, shown_of([cell.found for cell in gains]), strict=True) if mark}

    def marked(cell: Number | Text) -> Number | Text:
        return dataclasses.replace(cell, marked=True) if isinstance(cell, Number) and id(cell) in shown else cell

    blocks = (
        Block(
            heading,
            columns,
            tuple(Line(line.label, tuple(map(marked, line.cells))) for line in of),
            of_repetitions=True,
        )
        for heading, of in lines.items()
    )
    return tuple(blocks), [cell.found for cell in gains if cell.found and cell.found.half is not None]


def caption(kind: str, name: str, said: Mapping[str, object]) -> str:
    """A caption of texts.toml, with what it takes from the records; and of what is there where it is."""
    words = TEXTS[kind][name]
    texts = [words["caption"], *([words["gained"]] if "gained" in words and said["number"] else [])]
    texts += [text for name, text in TEXTS["drawn"].items() if name in said]
    return " ".join(" ".join(texts).format(**TEXTS["shared"], **said).split())


def number_text(number: Number, holes: Mapping[str, int]) -> str:
    """A number as a reader sees it; `holes` has the numbers of holes by their subjects."""
    found = number.found
    if found is None:
        listed = ", ".join(map(str, sorted({holes[subject] for subject in number.missing})))
        return f"hole {listed}" if listed else "-"
    done = len(found.values)
    planned = f" (n={done} of {done + len(number.missing)})" if number.missing else ""
    return estimate_text(found, number.unit) + planned


def estimate_text(found: Estimate, unit: Unit) -> str:
    """Mean and interval in a unit; each value by itself where they are two populations."""
    if unit is Unit.GAIN:
        return _gain_text(found)
    written = {Unit.MEAN: (3, 1), Unit.RATIO: (3, 1), Unit.MULTIPLE: (3, 1), Unit.COUNT: (0, 1)}
    digits, scale = written.get(unit, (2, 100))
    values = [scale * (1 - one if unit is Unit.ERROR else one) for one in (found.mean, *found.values)]
    # The sum with 0.0 turns a rounded -0.0 into 0.0.
    mean, *each = (f"{round(value, digits) + 0.0:.{digits}f}" for value in values)
    if found.two_populations and unit in (Unit.MEAN, Unit.RATIO, Unit.ERROR, Unit.RIGHT):
        return ", ".join(each)
    if found.half is None or unit in (Unit.MEAN, Unit.COUNT):
        return mean
    if found.leaves_0_to_1 and unit in (Unit.RATIO, Unit.ERROR, Unit.SHARE, Unit.RIGHT):
        at = 1 - found.mean if unit is Unit.ERROR else found.mean
        low, high = (scale * min(max(at + half, 0.0), 1.0) for half in (-found.half, found.half))
        return f"{mean} ({low:.{digits}f} to {high:.{digits}f})"
    return f"{mean} ± {scale * found.half:.{digits}f}"


def _gain_text(found: Estimate) -> str:
    """In percentage points, with its bound where zero is inside its interval."""
    mean = f"{round(100 * found.mean, 2) + 0.0:+.2f}"
    if found.half is None or found.bound is None:
        return f"{mean} (n={len(found.values)})"
    if not found.excludes_zero:
        return f"{mean}, not shown (at most {100 * found.bound:.2f})"
    return f"{mean} ± {100 * found.half:.2f}"


def table_csv(table: Table) -> str:
    """One line per number, accuracies and differences as shares of 1: a function of the records alone."""
    lines = []
    for block in table.blocks:
        for line in block.lines:
            for column, cell in zip(block.columns, line.cells, strict=True):
                if isinstance(cell, Number) and (cell.found or cell.missing):
                    names = map(cell_text, (table.name, block.heading, line.label.text, column))
                    lines.append([*names, *_csv_numbers(cell), cell_text(" ".join(cell.missing))])
    return csv_text(CSV_HEAD, lines)


def _csv_numbers(number: Number) -> list[str]:
    found = number.found
    if found is None:
        return ["", "", "", "", "", "0", ""]
    p_value = found.p_value if number.unit is Unit.GAIN and found.half is not None else None
    numbers = map(fixed, (found.mean, found.half, found.sd, p_value))
    values = " ".join(map(fixed, found.values))
    return [*numbers, "yes" if number.marked else "no", str(len(found.values)), values]
