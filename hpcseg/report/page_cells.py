"""The cells of a run as parts of report.html: grouped over seeds, each with its curves, counts and origin."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpcseg import metrics
from hpcseg.config import CellConfig, NoiseLevel
from hpcseg.numerics import describe_code
from hpcseg.report.accept import Epoch
from hpcseg.report.cells import short_commit
from hpcseg.report.collect import Group, Records, Row
from hpcseg.report.comparison import group_label, level_name
from hpcseg.report.markup import box, head_row
from hpcseg.report.observations import WHOLE, observations
from hpcseg.runs.record import read_lines

_WIDTH, _HEIGHT, _MARGIN = 320.0, 150.0, 34.0


def cells_section(records: Records) -> str:
    """All cells, those that differ in their seed alone together."""
    numbers = {hole.subject: number for number, hole in enumerate(records.holes, start=1)}
    groups = "\n".join(_group(group, records, numbers) for group in records.groups)
    caption = '<p class="caption">One training and its evaluation each.</p>'
    return f'<section id="cells"><h2>Cells</h2>\n{caption}\n{groups}\n</section>'


def _group(group: Group, records: Records, numbers: dict[str, int]) -> str:
    cells = "\n".join(_cell(row, numbers.get(row.id), records) for row in group.rows)
    heading = html.escape(group_label(group, records))
    return f'<section id="group-{html.escape(group.rows[0].id)}"><h3>{heading}</h3>\n{cells}\n</section>'


def _cell(row: Row, hole: int | None, records: Records) -> str:
    noisy = NoiseLevel(row.config.evaluate.table_sigma)
    whole = observations(records).of_cell(row.id, WHOLE)
    shown = [
        (name, value)
        for name, value in (
            ("validation", row.validation_accuracy()),
            ("clean", row.test_accuracy(NoiseLevel(0.0))),
            (level_name(noisy), row.test_accuracy(noisy)),
            (WHOLE, None if whole is None else whole.value),
        )
        if value is not None
    ]
    words = ", ".join(f"{name} {value:.3f}" for name, value in shown)
    if hole:
        words = f'{words} <a class="hole" href="#hole-{hole}">hole {hole}</a>'.strip()
    parts = [f"<h4>Settings</h4>{_settings(row.config)}"]
    if row.training:
        parts += [_curves(row.training.epochs), f"<h4>Confusion matrices</h4>{_confusions(row)}"]
        parts.append(f"<h4>Origin</h4>{_origin(row, records)}")
    return (
        f'<details id="cell-{html.escape(row.id)}"><summary><code>{html.escape(row.id)}</code> {words}</summary>'
        f"<div>{''.join(parts)}</div></details>"
    )


def _settings(config: CellConfig) -> str:
    lines = []
    for section in ("data", "train", "evaluate"):
        for key, value in dataclasses.asdict(getattr(config, section)).items():
            text = f"{value:g}" if isinstance(value, float) else str(value)
            lines.append(f"{section}.{key} = {text}" if text else f'{section}.{key} = ""')
    return f"<p>{', '.join(f'<code>{html.escape(line)}</code>' for line in lines)}</p>"


def _confusions(row: Row) -> str:
    """Rows are true classes, columns predicted ones; pixels."""
    assert row.training is not None
    values = row.evaluation.record["class_values"] if row.evaluation else list(range(len(row.training.confusion)))
    matrices: list[tuple[str, np.ndarray]] = [("validation", row.training.confusion)]
    if row.evaluation:
        shown = row.config.evaluate.headline_levels()
        matrices += [(level_name(level), row.evaluation.confusion[level]) for level in shown]
    body = []
    for name, confusion in matrices:
        ratios = [
            metrics.iou_per_class(confusion),
            metrics.dice_per_class(confusion),
            metrics.recall_per_class(confusion),
        ]
        for index, value in enumerate(values):
            numbers = [f"{count:,}" for count in confusion[index].tolist()]
            numbers += ["absent" if math.isnan(ratio[index]) else f"{ratio[index]:.4f}" for ratio in ratios]
            label = (
                f"{html.escape(name)}: {metrics.accuracy(confusion):.4f}, class {value}"
                if index == 0
                else f"class {value}"
            )
            cells = "".join(f"<td>{number}</td>" for number in numbers)
            body.append(f'<tr><th scope="row">{label}</th>{cells}</tr>')
    heads = ["", *(f"as {value}" for value in values), "IoU", "Dice", "recall"]
    return box(head_row(heads), body, f"Confusion matrices of {row.id}")


def _origin(row: Row, records: Records) -> str:
    assert row.training is not None
    record, place = row.training.record, row.training.record["provenance"]
    starts = [line for line in read_lines(row.cell.folder.events_file) if line.get("event") in ("start", "resume")]
    memory = ", ".join(f"{name} {value} MiB" for name, value in (record.get("peak_memory_mib") or {}).items())
    facts: list[tuple[str, Any]] = [
        ("data hash", records.plan["data_sha256"]),
        ("weights hash", record["model_sha256"]),
        ("command", place.get("command")),
        ("training", f"{record['seconds']:.0f} s, {record['steps']} steps, {record['train_tiles']} tiles"),
        ("its starts", _starts(starts)),
        ("its peak memory", memory),
        *((f"its {name}", value) for name, value in _place(record)),
    ]
    if row.evaluation:
        made = row.evaluation.record
        facts.append(("evaluation", f"{made['seconds']:.0f} s, {made['test_tiles']} tiles"))
        facts += [(f"its {name}", value) for name, value in _place(made)]
    lines = [
        f'<tr><th scope="row">{name}</th><td><code>{html.escape(str(value))}</code></td></tr>'
        for name, value in facts
        if value
    ]
    return box("", lines, f"Origin of {row.id}", text=True)


def _place(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Where and with what a training or an evaluation was made."""
    place = record["provenance"]
    return [
        ("commit", short_commit(place.get("commit"))),
        ("code", describe_code(place)),
        ("package hash", place.get("package_sha256")),
        ("device", f"{place.get('device')}, {record['world_size']} rank(s), {record['precision']}"),
        ("host", place.get("host")),
        ("Slurm job", place.get("slurm_job_id") or "none, run without Slurm"),
        ("versions", ", ".join(f"{name} {place.get(name)}" for name in ("hpcseg_version", "python", "torch", "numpy"))),
    ]


def _starts(starts: Sequence[dict[str, Any]]) -> str:
    """How often the training was started or went on, and in which jobs."""
    jobs = [f"job {line['slurm_job_id']} on {line.get('host')}" for line in starts if line.get("slurm_job_id")]
    return f"{len(starts)}" + (f": {', '.join(jobs)}" if jobs else "")


def _curves(epochs: Sequence[Epoch]) -> str:
    """Loss and accuracy per epoch, as two small drawings."""
    if not epochs:
        return ""
    loss = _curve("cross-entropy", [one.train_loss for one in epochs], [one.validation_loss for one in epochs])
    right = [one.train_accuracy for one in epochs], [one.validation_accuracy for one in epochs]
    return f'<h4>Training</h4><div class="curves">{loss}{_curve("pixel accuracy", *right)}</div>'


def _curve(name: str, train: Sequence[float], validation: Sequence[float]) -> str:
    finite = [value for value in (*train, *validation) if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    span = (high - low) or 1.0
    inner_width, inner_height = _WIDTH - 1.5 * _MARGIN, _HEIGHT - 1.6 * _MARGIN

    def points(values: Sequence[float]) -> str:
        last = max(1, len(values) - 1)
        return " ".join(
            f"{_MARGIN + inner_width * index / last:.1f},{_MARGIN / 2 + inner_height * (1 - (value - low) / span):.1f}"
            for index, value in enumerate(values)
            if math.isfinite(value)
        )

    bottom = _MARGIN / 2 + inner_height
    lines = "".join(
        f'<polyline class="{kind}" fill="none" stroke-width="1.6" points="{points(values)}"/>'
        for kind, values in (("train", train), ("validation", validation))
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{name} per epoch: training from '
        f'{train[0]:.3g} to {train[-1]:.3g}, validation from {validation[0]:.3g} to {validation[-1]:.3g}">'
        f'<path class="axis" fill="none" d="M{_MARGIN:g},{_MARGIN / 2:g}V{bottom:g}H{_MARGIN + inner_width:g}"/>{lines}'
        f'<text x="{_MARGIN - 4:g}" y="{_MARGIN / 2 + 6:g}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{_MARGIN - 4:g}" y="{bottom:g}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{_MARGIN:g}" y="{bottom + 12:g}">1</text>'
        f'<text x="{_MARGIN + inner_width:g}" y="{bottom + 12:g}" text-anchor="end">epoch {len(train)}</text>'
        f'<text x="{_MARGIN:g}" y="{bottom + 26:g}">{name}: <tspan class="train-key">training</tspan>, '
        f'<tspan class="validation-key">validation</tspan></text></svg>'
    )
