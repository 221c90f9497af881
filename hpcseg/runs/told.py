"""What a cell tells of itself while it runs and when it fails: what a command reads of it, whatever is in its files.

No torch and no numpy. A file that cannot be used is no end of a command: there are the other cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hpcseg.errors import IncompleteError
from hpcseg.runs.folder import CellFolder
from hpcseg.runs.record import STOPS, read_all_lines, read_json, read_lines
from hpcseg.runs.schema import Beat, EpochLine, Failed, as_record


def read_progress(folder: CellFolder) -> Beat | None:
    """progress.json with all that a heartbeat has; None where there is none that can be used."""
    try:
        beat = as_record(Beat, read_json(folder.progress_file))
        usable = math.isfinite(beat.seconds_left) and math.isfinite(beat.time)
    except (IncompleteError, ValueError, OverflowError):
        return None
    return beat if usable else None


def read_failure(folder: CellFolder) -> Failed | None:
    """failure.json; None where there is none. That it cannot be read is an error as others are, of no known time."""
    if not folder.failure_file.exists():
        return None
    try:
        return as_record(Failed, read_json(folder.failure_file))
    except (IncompleteError, ValueError):
        return Failed(error="its failure.json cannot be read")


def stopped_at(folder: CellFolder) -> float | None:
    """When a cell was told to stop, in UTC seconds, if it did and nothing has happened since."""
    try:
        last = (read_lines(folder.events_file) or [{}])[-1]
    except IncompleteError:
        return None
    return time_of(last) if last.get("event") in STOPS.values() else None


def time_of(line: Mapping[str, Any]) -> float | None:
    """When something was written down, in UTC seconds; None where a line does not say so."""
    time = line.get("time")
    try:
        return float(time) if isinstance(time, int | float) and not isinstance(time, bool) else None
    except OverflowError:
        return None


def finished_epochs(folder: CellFolder) -> list[EpochLine]:
    """The lines of metrics.jsonl; none where there is no such file.

    Raises:
        IncompleteError: it cannot be read, or a line of it is none of the epochs 1, 2, ... in this order.
    """
    lines = read_all_lines(folder.metrics_file)
    try:
        if not lines and folder.metrics_file.exists():
            raise ValueError("it holds no epoch")
        epochs = [as_record(EpochLine, line) for line in lines]
        for number, line in enumerate(epochs, start=1):
            if line.epoch != number:
                raise ValueError(f"epoch {number} is {line.epoch}")
    except ValueError as error:
        raise IncompleteError(f"{folder.metrics_file} is damaged: {error}.") from None
    return epochs
