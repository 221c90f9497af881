"""What the numbers of a run come from, and what they have cost."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable

from hpcseg.errors import IncompleteError
from hpcseg.records.collect import Records
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.record import read_lines
from hpcseg.runs.schema import Evaluated, Trained
from hpcseg.runs.told import time_of


def origin(records: Records) -> dict[str, str]:
    """What the numbers come from: the plan, and every place and version that an accepted record names."""
    plan = records.plan
    trained = [row.training.record for row in records.rows if row.training]
    evaluated = [row.evaluation.record for row in records.rows if row.evaluation]
    made: list[Trained | Evaluated] = [*trained, *evaluated]
    places = [{**one.provenance.as_dict(), "precision": one.precision, "world_size": one.world_size} for one in made]
    kinds = ("commit", "host", "device", "slurm_job_id", "precision", "world_size", "python", "torch", "numpy")
    return {
        "job": f"{plan.job}: {plan.title}",
        "planned": f"{plan.time} by `{plan.command}`, hpcseg {plan.hpcseg_version}",
        "data hash": plan.data_sha256,
        "code": plan.code(),
        "cells": f"{len(evaluated)} of {len(records.rows)} finished, {len(trained)} trained",
        **{kind.replace("_", " "): _counted(place.get(kind) for place in places) for kind in kinds},
        "cost": _cost(records),
    }


def _counted(values: Iterable[object]) -> str:
    """Each value once, with the number of records that state it where they do not agree."""
    counts = Counter("none" if value is None else str(value) for value in values)
    return ", ".join(counts) if len(counts) == 1 else "; ".join(f"{value} ({n} records)" for value, n in counts.items())


def _cost(records: Records) -> str:
    """Hours of GPUs, of cores and in the queue, over all starts of all cells."""
    hours: dict[str, float] = {}
    for made in (made for row in records.rows for made in (row.training, row.evaluation) if made):
        device = made.record.provenance.device or ""
        threads = re.match(r"CPU, (\d+) thread", device)
        kind = "core hours" if device.startswith("CPU") else "GPU hours"
        units = made.record.world_size * (int(threads[1]) if threads else 1)
        hours[kind] = hours.get(kind, 0.0) + made.record.seconds * units / 3600
    waits = queue_seconds(records.run)
    queued = f"{sum(waits.values()) / 3600:.2f} hours in the queue" if waits else "time in the queue not known here"
    return ", ".join([*(f"{number:.2f} {kind}" for kind, number in sorted(hours.items())), queued])


def queue_seconds(run: RunFolder) -> dict[str, float]:
    """Seconds from a submission to Slurm to the start of a job's first cell, by that cell; over all its submissions.

    A submission whose job never started, since it was cancelled, has none.
    """
    submitted: dict[str, list[float]] = {}
    for line in read_lines(run.submissions_file):
        # An earlier hpcseg had jobs of their own for evaluations.
        ours = line.get("event") == "submitted" and line.get("stage") in ("cells", "train")
        if ours and (time := time_of(line)) is not None:
            for task in line["cells"] if isinstance(line.get("cells"), list) else ():
                if first := task[0] if isinstance(task, list) and task else task:
                    submitted.setdefault(str(first), []).append(time)
    waits: dict[str, float] = {}
    for cell_id, times in submitted.items():
        try:
            events = read_lines(run.cell(cell_id).events_file)
        except IncompleteError:
            continue
        # The first of what a job does with a cell; of one that was trained before it is the evaluation.
        begun = ("start", "resume", "evaluate")
        started = [time for one in events if one.get("event") in begun and (time := time_of(one))]
        for begin, end in itertools.pairwise([*times, math.inf]):
            first = min((time for time in started if begin <= time < end), default=None)
            if first is not None:
                waits[cell_id] = waits.get(cell_id, 0.0) + first - begin
    return waits
