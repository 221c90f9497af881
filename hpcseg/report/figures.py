"""The names of all figures that a job file may ask for, and how one becomes the bytes of its files."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

from hpcseg.records.collect import Records
from hpcseg.records.row import Hole
from hpcseg.report import curves, pictures
from hpcseg.report.curves import Drawn
from hpcseg.report.table import caption

_STYLE = Path(__file__).with_name("templates") / "figures.mplstyle"

_CURVES = {
    one.__name__: one for one in (curves.figure3, curves.figure7, curves.cost, curves.learning_curve, curves.epochs)
}
FIGURES: Mapping[str, Callable[[Records], Drawn]] = dict(sorted((_CURVES | pictures.PICTURES).items()))
"""What a job file may name under report.figures."""

SUFFIXES: Mapping[str, Any] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}, "webp": None}
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
        files = {}
        shows_slices = any(axes.images for axes in drawn.figure.axes)
        for suffix in ("png", "webp") if shows_slices else ("png", "svg"):
            buffer = io.BytesIO()
            drawn.figure.savefig(buffer, format=suffix, dpi=150, metadata=SUFFIXES[suffix])
            files[suffix] = buffer.getvalue()
    kind = min(files, key=lambda suffix: len(files[suffix]))
    content = files[kind]
    files.pop("webp", None)
    return Picture(name, caption("figures", name, drawn.said), files, kind, content, drawn.holes)
