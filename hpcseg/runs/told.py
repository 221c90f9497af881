"""What a cell tells of itself while it runs and when it fails: what a command reads of it, whatever is in its files.

No torch and no numpy. A file that cannot be used is no end of a command: there are the other cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpcseg.errors import IncompleteError
from hpcseg.runs.folder import CellFolder
from hpcseg.runs.record import check_types, read_all_lines, read_json

_BEAT = {
    **dict.fromkeys(("epoch", "epochs", "step", "steps_per_epoch", "pid"), int),
    **dict.fromkeys(("seconds_per_step", "time"), float),
    **dict.fromkeys(("stage", "host", "note"), str),
}
_EPOCH = {"epoch": int, "train_loss": float, "validation_confusion": list}


def read_progress(folder: CellFolder) -> dict[str, Any] | None:
    """progress.json with all that a heartbeat has; None where there is none that can be used."""
    try:
        progress = {"note": "", "job_id": None, **read_json(folder.progress_file)}
        check_types(progress, _BEAT)
        if not isinstance(progress["job_id"], str | None):
            raise ValueError("its job_id is no text")
        progress["seconds_left"] = _seconds_left(progress)
    except (IncompleteError, ValueError, OverflowError):
        return None
    return progress


def _seconds_left(progress: Mapping[str, Any]) -> float:
    """Of the stage; raises OverflowError where its numbers are none that anybody has written."""
    steps, _ = progress["steps_per_epoch"], float(progress["time"])
    done = (progress["epoch"] - 1) * steps + progress["step"]
    return float((progress["epochs"] * steps - done) * progress["seconds_per_step"])


def read_failure(folder: CellFolder) -> dict[str, Any]:
    """failure.json; empty where there is none. That it cannot be read is an error as others are, of no known time."""
    if not folder.failure_file.exists():
        return {}
    try:
        failure = read_json(folder.failure_file)
        check_types(failure, {"error": str})
    except (IncompleteError, ValueError):
        return {"error": "its failure.json cannot be read"}
    return failure


def time_of(line: Mapping[str, Any]) -> float | None:
    """When something was written down, in UTC seconds; None where a line, or a record, does not say so."""
    try:
        check_types(line, {"time": float})
        return float(line["time"])
    except (ValueError, OverflowError):
        return None


def finished_epochs(folder: CellFolder) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; none where there is no such file.

    Raises:
        IncompleteError: it cannot be read, or a line of it is none of the epochs 1, 2, ... in this order.
    """
    lines = read_all_lines(folder.metrics_file)
    epochs = [line for line in lines if line is not None]
    try:
        if len(epochs) < len(lines) or (not lines and folder.metrics_file.exists()):
            raise ValueError("it holds something else than epochs")
        for number, line in enumerate(epochs, start=1):
            check_types(line, _EPOCH)
            if line["epoch"] != number:
                raise ValueError(f"epoch {number} is {line['epoch']}")
    except ValueError as error:
        raise IncompleteError(f"{folder.metrics_file} is damaged: {error}.") from None
    return epochs
