"""What a run has cost, as a part of report.html: hours of GPUs or cores, and hours in the queue."""

from __future__ import annotations

import html
import itertools
import math
import re

from hpcseg.report.collect import Records, Row
from hpcseg.report.comparison import group_label
from hpcseg.report.markup import box, head_row
from hpcseg.runs.record import RunFolder, read_lines


def cost_section(records: Records) -> str:
    """One line per group of cells, and one for all."""
    queued = queue_seconds(records.run)
    lines = [(group_label(group, records), list(group.rows), group.rows[0].id) for group in records.groups]
    lines.append(("all cells", list(records.rows), ""))
    body = []
    for label, rows, source in lines:
        gpu = sum(hours for row in rows for hours, unit in _hours(row) if unit == "GPU")
        cores = sum(hours for row in rows for hours, unit in _hours(row) if unit == "core")
        waits = [queued[row.id] for row in rows if row.id in queued]
        texts = [f"{sum(row.training is not None for row in rows)} of {len(rows)}", f"{gpu:.2f}", f"{cores:.2f}"]
        texts.append(f"{sum(waits) / 3600:.2f}" if waits else "-")
        name = f'<a href="#group-{html.escape(source)}">{html.escape(label)}</a>' if source else html.escape(label)
        body.append(f'<tr><th scope="row">{name}</th>{"".join(f"<td>{text}</td>" for text in texts)}</tr>')
    heads = ("", "cells trained", "GPU hours", "core hours", "hours in the queue")
    said = "Training and evaluation, over all starts: seconds times GPUs, or times the threads where there is no GPU."
    if not queued:
        said += " The time in the queue is not known here: it is in submissions.jsonl of a run on Slurm."
    return (
        f'<section id="cost-of-run"><h2>Cost</h2><p class="caption">{said}</p>'
        f"{box(head_row(heads), body, 'Cost')}</section>"
    )


def queue_seconds(run: RunFolder) -> dict[str, float]:
    """Seconds from a submission to Slurm to the start of its training, by cell; over all its submissions.

    A submission whose job never started, since it was cancelled, has none.
    """
    submitted: dict[str, list[float]] = {}
    for line in read_lines(run.submissions_file):
        if line.get("event") == "submitted" and line.get("stage") == "train":
            for cell_id in line.get("cells", ()):
                submitted.setdefault(cell_id, []).append(line["time"])
    waits: dict[str, float] = {}
    for cell_id, times in submitted.items():
        events = read_lines(run.cell(cell_id).events_file)
        started = [one["time"] for one in events if one.get("event") in ("start", "resume")]
        for begin, end in itertools.pairwise([*times, math.inf]):
            first = min((time for time in started if begin <= time < end), default=None)
            if first is not None:
                waits[cell_id] = waits.get(cell_id, 0.0) + first - begin
    return waits


def _hours(row: Row) -> list[tuple[float, str]]:
    """Hours of training and of evaluation, each with what they are hours of."""
    found = []
    for made in (row.training, row.evaluation):
        if made is None:
            continue
        record = made.record
        device = str(record["provenance"].get("device") or "")
        threads = re.match(r"CPU, (\d+) thread", device)
        units = int(threads[1]) if threads else 1
        kind = "core" if device.startswith("CPU") else "GPU"
        found.append((record["seconds"] * record["world_size"] * units / 3600, kind))
    return found
