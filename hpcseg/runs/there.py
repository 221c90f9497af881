"""Whether a run is still where its cell began: somebody may move it, or remove it, while the cell runs."""

from __future__ import annotations

import time
from pathlib import Path

from hpcseg.errors import HpcsegError
from hpcseg.runs.folder import CellFolder, RunFolder

_SECONDS_BETWEEN_LOOKS = 1.0


class StillThere:
    """Ends a cell whose plan is gone, before it writes to a path at which the run is no more.

    Args:
        folder: of the cell. What of grid.json and its config.json is there now has to stay.
    """

    def __init__(self, folder: CellFolder) -> None:
        self._run = RunFolder(folder.path.parents[1])
        self._plan = [file for file in (self._run.grid_file, folder.config_file) if not _is_gone(file)]
        self._looked = time.monotonic()
        self._missed = False

    def check(self, *, now: bool = False) -> None:
        """Asked between two steps; most calls only look at the clock.

        Args:
            now: look, and believe one look; else a file that a shared file system does not show once is looked for
                again.

        Raises:
            HpcsegError: a file of the plan is gone.
        """
        if not now and time.monotonic() - self._looked < _SECONDS_BETWEEN_LOOKS:
            return
        self._looked = time.monotonic()
        gone = next((file for file in self._plan if _is_gone(file)), None)
        if gone is not None and (now or self._missed):
            raise HpcsegError(
                f"{self._run.path} was moved or removed while this cell ran: {gone.name} is gone, so the cell stops "
                "and writes nothing more. Where the run is now, `hpcseg grid` goes on from the last checkpoint."
            )
        self._missed = gone is not None


def _is_gone(file: Path) -> bool:
    """Whether a file is known not to be there: a file system that fails for a moment tells nothing."""
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
