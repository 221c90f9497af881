"""Whether a cell runs now, by its heartbeat: one that is old, or whose process is gone from this machine, is none."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from hpcseg.runs.grid import Cell
from hpcseg.runs.schema import Beat
from hpcseg.runs.told import read_progress

# A heartbeat comes every few seconds, later only where a step takes longer.
_SECONDS_TO_CALL_IT_STOPPED = 90.0


def heartbeat(cell: Cell) -> Beat | None:
    """The heartbeat of a cell that runs now; None where it is old, or where its process is gone."""
    beat = read_progress(cell.folder)
    if beat is None or time.time() - beat.time > max(_SECONDS_TO_CALL_IT_STOPPED, 3 * beat.seconds_per_step):
        return None
    here = beat.job_id is None and beat.host == socket.gethostname()
    return None if here and not _runs(beat.pid) else beat


def _runs(pid: int) -> bool:
    """Whether a process of this machine is there, and not only waits for its parent to take note of its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
