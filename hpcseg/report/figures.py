"""The names of all figures that a job file may ask for, and how one becomes the bytes of its files."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

from hpcseg.records.collect import Records
from hpcseg.records.row import Hole
from hpcseg.report import curves, own_figures, pictures
from hpcseg.report.curves import Drawn
from hpcseg.report.readings import readings_drawn
from hpcseg.report.seeds_apart import seeds_apart_drawn
from hpcseg.report.table import caption

_STYLE = Path(__file__).with_name("templates") / "figures.mplstyle"

_CURVES = (curves.figure3, curves.figure7, curves.cost, curves.learning_curve)
_OWN = (own_figures.epochs, own_figures.sweep, own_figures.levels, own_figures.classes, own_figures.calibration)
FIGURES: Mapping[str, Callable[[Records], Drawn]] = {
    **{one.__name__: one for one in (*_CURVES, *_OWN)},
    "seeds_apart": seeds_apart_drawn,
    "readings": readings_drawn,
    **pictures.PICTURES,
}
"""What a job file may name under report.figures."""

SUFFIXES: Mapping[str, Any] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
"""The kinds of files of a figure, each with the metadata that would make its bytes differ without a reason."""


@dataclass(frozen=True)
class Picture:
    """A figure as the bytes of its files: a drawing as "png" and "svg", one of slices as "png"; none without data."""

    name: str
    caption: str
    files: Mapping[str, bytes]
    kind: str
    """Suffix of what a page shows: the smallest of them, which for pictures of slices may be a WebP."""
    content: bytes
    holes: tuple[Hole, ...]


def draw(name: str, records: Records) -> Picture:
    """One figure by its name."""
    with matplotlib.rc_context():
        # A user's matplotlibrc must not decide how a published figure looks.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(matplotlib.rc_params_from_file(_STYLE, use_default_template=False))
        drawn = FIGURES[name](records)
        if drawn.figure is None:
            return Picture(name, "", {}, "", b"", drawn.holes)
        canvas, files = FigureCanvasAgg(drawn.figure), {"png": _saved(drawn.figure, "png")}
        if any(axes.images for axes in drawn.figure.axes):
            # Of the same pixels: to draw them again would take as long as the figure did.
            buffer = io.BytesIO()
            imsave(buffer, np.asarray(canvas.buffer_rgba()), format="webp")  # type: ignore[no-untyped-call]
            shown = files | {"webp": buffer.getvalue()}
        else:
            shown = files = files | {"svg": _saved(drawn.figure, "svg")}
    kind = min(shown, key=lambda suffix: len(shown[suffix]))
    return Picture(name, caption("figures", name, drawn.said), files, kind, shown[kind], drawn.holes)


def _saved(figure: Figure, suffix: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix, dpi=150, metadata=SUFFIXES[suffix])
    return buffer.getvalue()
