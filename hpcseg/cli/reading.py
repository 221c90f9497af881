"""The options that say of a source what its files do not, and what of it is wanted, for all verbs that read slices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hpcseg.errors import ConfigError

if TYPE_CHECKING:
    from hpcseg.slices.source import Reading

_PANEL = "Reading"

DataSetName = Annotated[
    str | None,
    typer.Option(
        "--dataset", help="Data set of an HDF5 file, array or level of a Zarr store.", show_default="the only one"
    ),
]
Range = Annotated[
    tuple[float, float] | None,
    typer.Option("--range", metavar="LOW HIGH", help="Grey values for the ends of the training's scale."),
]
Percentiles = Annotated[
    tuple[float, float] | None,
    typer.Option(metavar="LOW HIGH", help="Map the volume's percentiles to those of the training slices."),
]
Every = Annotated[
    int | None, typer.Option(min=1, help="For a quick look: every N-th slice only.", metavar="N", show_default="each")
]
Number = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        help="Which number in a file's name is the slice's: its first group, as \"_(\\d+)_\".",
        show_default="the last one in which the names differ",
        rich_help_panel=_PANEL,
    ),
]
First = Annotated[
    int, typer.Option(min=0, help="Number of the first slice of a stack or data set.", rich_help_panel=_PANEL)
]
AsPixels = Annotated[
    Literal["shown", "stored"] | None,
    typer.Option(
        help="TIFFs as their headers say (shown: turned, inverted), or as they are in the file (stored).",
        show_default="shown, where all files say the same",
        rich_help_panel=_PANEL,
    ),
]
Shape = Annotated[
    str | None,
    typer.Option(metavar="SLICES,HEIGHT,WIDTH", help="Of a raw file, in pixels.", rich_help_panel=_PANEL),
]
Dtype = Annotated[
    str | None, typer.Option(metavar="TYPE", help="Of a raw file, as uint16 or float32.", rich_help_panel=_PANEL)
]
LabelDtype = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE", help="Of a raw file of labels, as uint8; its shape is the slices'.", rich_help_panel=_PANEL
    ),
]
Byteorder = Annotated[
    Literal["little", "big"] | None,
    typer.Option(help="Of a raw file.", show_default="as its .vol.info says, else little", rich_help_panel=_PANEL),
]
Header = Annotated[
    int,
    typer.Option(min=0, metavar="BYTES", help="Bytes before the first pixel of a raw file.", rich_help_panel=_PANEL),
]
AllowExternal = Annotated[
    bool,
    typer.Option(
        "--allow-external",
        help="Read files that an HDF5 file or OME-TIFF names outside of its folder. Only where you trust it.",
        rich_help_panel=_PANEL,
    ),
]


def reading(*, shape: str | None = None, first: int = 1, **options: Any) -> Reading:
    """What the options say together; raises ConfigError for a shape that is none."""
    from hpcseg.slices.source import Reading

    return Reading(shape=None if shape is None else _shape(shape), first=first, **options)


def _shape(text: str) -> tuple[int, int, int]:
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) for part in parts):
        raise ConfigError(f'--shape is "{text}", but it must be SLICES,HEIGHT,WIDTH, such as 500,501,501.')
    slices, height, width = map(int, parts)
    return slices, height, width
