"""What a builder of figures gives."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure

from hpcseg.report.collect import Hole


@dataclass(frozen=True)
class Drawn:
    """A figure, or None where there is nothing to draw, and what is missing in it."""

    title: str
    figure: Figure | None
    holes: tuple[Hole, ...]
    sources: tuple[str, ...] = ()
    """Ids of the cells that it shows."""
