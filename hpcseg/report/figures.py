"""The names of all figures that a job file may ask for, and how one becomes the bytes of its files."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib

from hpcseg.report import curves, panels, scatter
from hpcseg.report.collect import Hole, Records
from hpcseg.report.drawn import Drawn

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
    # Ids in an SVG come from this and not from a clock: the same records give the same bytes.
    "svg.hashsalt": "hpcseg",
}

FIGURES: Mapping[str, Callable[[Records], Drawn]] = {
    "figure1": panels.figure1,
    "figure3": curves.figure3,
    "figure4": panels.figure4,
    "figure5": panels.figure5,
    "figure6": panels.figure6,
    "figure7": curves.figure7,
    "figure8": panels.figure8,
    "figure9": panels.figure9,
    "cost": scatter.cost,
    "learning_curve": scatter.learning_curve,
}
"""What a job file may name under report.figures."""

SUFFIXES: Mapping[str, Any] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
"""The kinds of files of a figure, each with the metadata that would make its bytes differ without a reason."""


@dataclass(frozen=True)
class Picture:
    """A figure as the bytes of its files, by suffix ("png", "svg"); without any data it has none."""

    title: str
    files: Mapping[str, bytes]
    holes: tuple[Hole, ...]
    sources: tuple[str, ...]
    """Ids of the cells that it shows."""


def draw(name: str, records: Records) -> Picture:
    """One figure by its name."""
    with matplotlib.rc_context():
        # A user's matplotlibrc must not decide how a published figure looks.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        drawn = FIGURES[name](records)
        files = {}
        if drawn.figure:
            for suffix, metadata in SUFFIXES.items():
                buffer = io.BytesIO()
                drawn.figure.savefig(buffer, format=suffix, dpi=150, metadata=metadata)
                files[suffix] = buffer.getvalue()
    return Picture(drawn.title, files, drawn.holes, drawn.sources)
