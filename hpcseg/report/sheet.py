"""A table as texts, the same for Markdown, HTML and CSV: what a builder of tables gives and a page shows."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpcseg.report.collect import mean_and_spread


@dataclass(frozen=True)
class Block:
    """Lines of texts under one head, and under a heading that sets them apart from the table's other blocks."""

    heading: str
    """May be empty."""
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    sources: tuple[tuple[str, ...], ...] = ()
    """For each text of each line the first cell of the group behind it, "" for none; empty: for no text at all."""


@dataclass(frozen=True)
class Sheet:
    """One table of a report."""

    name: str
    title: str
    caption: str
    blocks: tuple[Block, ...]
    csv: str
    """The same numbers, one observation a line: a function of the records alone."""
    headlines: tuple[str, ...] = ()
    """What a terminal shows of it."""


def sheet_markdown(sheet: Sheet) -> str:
    """A table with its caption."""
    texts = [f"## {sheet.title}", sheet.caption]
    for block in sheet.blocks:
        texts += [block.heading] if block.heading else []
        texts.append(markdown_table(block.head, block.lines))
    return "\n\n".join(texts)


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]], *, numbers: bool = True) -> str:
    """A Markdown table; the first column is text, the others are numbers (aligned right) or text as well."""
    rule = ["---", *["---:" if numbers else "---"] * (len(head) - 1)]
    escaped = ([text.replace("|", "\\|") for text in line] for line in (head, rule, *lines))
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped)


def csv_text(head: str, lines: Iterable[Sequence[str]]) -> str:
    """A CSV of a comma-separated head and lines of texts."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([head.split(","), *lines])
    return text.getvalue()


def fixed(value: float | None) -> str:
    """Six decimals for a CSV; empty for what is not there. The sum with 0.0 turns a rounded -0.0 into 0.0."""
    return "" if value is None or math.isnan(value) else f"{round(value, 6) + 0.0:.6f}"


def over_seeds(values: Sequence[float], digits: int = 3) -> str:
    """Mean and sample standard deviation for a reader; "-" for no value."""
    mean, spread = mean_and_spread(tuple(values))
    if mean is None:
        return "-"
    return f"{mean:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")
