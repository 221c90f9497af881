"""A table as texts, the same for Markdown, HTML and CSV: what a builder of tables gives and a page shows."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hpcseg.report.statistics import Estimate

INTERVAL = (
    "± is half of a 95 % interval: other trainings and, where slices were counted, other stretches of slices. Fewer "
    "than three repetitions have none, since they say nothing of another training; where they lie far apart, each "
    "stands by itself."
)
"""What every caption of a table with `as_ratio` or `as_error` says."""


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


def signed(value: float, digits: int) -> str:
    """A number with its sign; what rounds to zero has a plus."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def as_ratio(found: Estimate | None) -> str:
    """Mean and half interval of shares, three decimals; "-" for nothing."""
    return _with_interval(found, lambda value: f"{value:.3f}", 1, 3)


def as_error(found: Estimate | None) -> str:
    """The same of accuracies, as error rates in per cent with two decimals: three of the accuracy hide what differs."""
    return _with_interval(found, lambda value: f"{100 * (1 - value):.2f}", 100, 2)


def as_count(found: Estimate | None) -> str:
    """A mean without decimals."""
    return "-" if found is None else f"{found.mean:.0f}"


def as_gain(found: Estimate | None, shown: bool) -> str:
    """A difference of accuracies in percentage points: bold where a correction leaves it, with its bound where zero is
    inside its interval, and without an interval where there are too few repetitions for one."""
    if found is None:
        return "-"
    mean = signed(100 * found.mean, 2)
    if found.half is None or found.bound is None:
        return f"{mean} (n={len(found.values)})"
    if not found.excludes_zero:
        return f"{mean} (not shown, within ±{100 * found.bound:.2f})"
    text = f"{mean} ± {100 * found.half:.2f}"
    return f"**{text}**" if shown else text


def _with_interval(found: Estimate | None, text: Callable[[float], str], scale: int, digits: int) -> str:
    if found is None:
        return "-"
    if found.two_populations:
        return ", ".join(map(text, found.values))
    return text(found.mean) + ("" if found.half is None else f" ± {scale * found.half:.{digits}f}")
