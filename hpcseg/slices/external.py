"""Which files are read because a file names them: regular ones in the folder of the file that was opened."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hpcseg.errors import DatasetError


@dataclass(frozen=True)
class Reach:
    """How far the names in a file lead."""

    opened: Path
    """The file that the user has named."""
    allow_external: bool
    """Out of its folder as well."""
    checked: set[tuple[object, ...]] = field(default_factory=set)
    """Files, data sets, and what is taken of them, that were looked at, which others may name again and again."""
    written: dict[tuple[Path, str], np.ndarray] = field(default_factory=dict)
    """The chunks (number, axis) of those files and data sets that lack some."""

    def check(self, file: Path) -> None:
        """See that a file may be read; one that is not there may.

        Raises:
            DatasetError: it is a pipe, a device or the like, or outside of the folder, whatever links lead there.
        """
        real = Path(os.path.realpath(file))
        # Whoever names a link means what it leads to.
        homes = [
            Path(os.path.realpath(home)) for home in (self.opened.parent, Path(os.path.realpath(self.opened)).parent)
        ]
        if not self.allow_external and not any(real.is_relative_to(home) for home in homes):
            raise DatasetError(
                f"{self.opened} names {real}, which is neither in its folder nor below. As that may show others what "
                "only you can read, files elsewhere, also in a folder beside it, are read with --allow-external only."
            )
        if os.path.exists(real) and not os.path.isfile(real):
            raise DatasetError(f"{self.opened} names {real}, which is no regular file and is never read.")
