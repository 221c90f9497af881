"""How the loss of cells falls while they train, each as a curve on one line: for `hpcseg status --watch`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from hpcseg.cli import console
from hpcseg.errors import IncompleteError
from hpcseg.runs.folder import CellFolder
from hpcseg.runs.told import finished_epochs

_WIDEST_NAME = 34
_WIDEST_CURVE = 60
# What the name, two numbers and the space between columns leave of 80.
_LEAST_CURVE = 10
_NUMBERS = 20
# What no training has written, and no sum should meet.
_NO_LOSS = 1e30
_HEIGHTS = "▁▂▃▄▅▆▇█"
# By how much ink they have, for a screen that shows no more than ASCII.
_ASCII_HEIGHTS = "_.-~=+*#"


class LossCurves:
    """The losses of the cells that are shown; a file is read again only when it has changed."""

    def __init__(self) -> None:
        self._losses: dict[str, tuple[tuple[int, int], list[float]]] = {}
        """By cell id, and when and of which size the file was that said so."""

    def table(self, cells: Mapping[str, CellFolder]) -> Table | None:
        """One row for each cell of which two epochs are known; None where there is none.

        Args:
            cells: by the names that are shown.
        """
        losses = {name: of for name, folder in cells.items() if len(of := self._read(folder)) > 1}
        if not losses:
            return None
        name = min(_WIDEST_NAME, max(map(len, losses)))
        width = min(_WIDEST_CURVE, max(_LEAST_CURVE, console.stdout.width - name - _NUMBERS))
        table = Table(box=None, pad_edge=False)
        table.add_column("Cell", max_width=_WIDEST_NAME, overflow="fold")
        table.add_column("Loss of the epochs, logarithmic", width=width, no_wrap=True)
        for heading in ("First", "Last"):
            table.add_column(heading, justify="right", no_wrap=True)
        for name_shown, of in losses.items():
            drawn = curve(of, width, ascii_only=console.stdout.options.ascii_only)
            table.add_row(Text(name_shown), drawn, f"{of[0]:.4f}", f"{of[-1]:.4f}")
        return table

    def _read(self, folder: CellFolder) -> list[float]:
        """The loss of each epoch; none where no file says so that can be used, which `status` notes itself."""
        try:
            found = folder.metrics_file.stat()
            changed = found.st_mtime_ns, found.st_size
            if folder.id not in self._losses or self._losses[folder.id][0] != changed:
                losses = [epoch.train_loss for epoch in finished_epochs(folder)]
                self._losses[folder.id] = changed, [loss for loss in losses if abs(loss) < _NO_LOSS]
        except (OSError, IncompleteError, OverflowError):
            return []
        return self._losses[folder.id][1]


def curve(values: Sequence[float], width: int, *, ascii_only: bool) -> str:
    """Values as heights between the least and the greatest: of their logarithms, where all are positive.

    Args:
        values: one a character; of more than `width`, means of neighbours.
        width: characters, at most.
        ascii_only: the screen shows no others.
    """
    count = min(len(values), width)
    ends = [index * len(values) // count for index in range(count + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in itertools.pairwise(ends)]
    scaled = list(map(math.log, means)) if min(means) > 0 else means
    low, span = min(scaled), max(scaled) - min(scaled)
    heights = _ASCII_HEIGHTS if ascii_only else _HEIGHTS
    return "".join(heights[round((value - low) / span * (len(heights) - 1)) if span else 0] for value in scaled)
