"""The options that say of a source what its files do not, and what of it is wanted, for all verbs that read slices."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hpcseg.errors import ConfigError

if TYPE_CHECKING:
    from hpcseg.slices.source import Reading

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


def _of_files(*names: str, **more: Any) -> Any:
    """An option that says of a source what its files do not."""
    return typer.Option(*names, **more, rich_help_panel="Reading")


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """What the files of a source may not say, for every verb that reads one."""

    number: Annotated[
        str | None,
        _of_files(
            metavar="REGEX",
            help="Which number in a file's name is the slice's: its first group, as \"_(\\d+)_\".",
            show_default="the last one in which the names differ",
        ),
    ] = None
    pixels: Annotated[
        Literal["shown", "stored"] | None,
        _of_files(
            help="TIFFs as their headers say (shown: turned, inverted), or as they are in the file (stored).",
            show_default="shown, where all files say the same",
        ),
    ] = None
    shape: Annotated[str | None, _of_files(metavar="SLICES,HEIGHT,WIDTH", help="Of a raw file, in pixels.")] = None
    dtype: Annotated[str | None, _of_files(metavar="TYPE", help="Of a raw file, as uint16 or float32.")] = None
    byteorder: Annotated[
        Literal["little", "big"] | None,
        _of_files(help="Of a raw file.", show_default="as its .vol.info says, else little"),
    ] = None
    header: Annotated[int, _of_files(min=0, metavar="BYTES", help="Bytes before the first pixel of a raw file.")] = 0
    allow_external: Annotated[
        bool,
        _of_files(
            "--allow-external",
            help="Read files that an HDF5 file or OME-TIFF names outside of its folder. Only where you trust it.",
        ),
    ] = False

    def reading(self, **more: Any) -> Reading:
        """What they say, and what more is known; raises ConfigError for a shape that is none."""
        from hpcseg.slices.source import Reading

        typed = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Reading(**{**typed, "shape": None if self.shape is None else _shape(self.shape), **more})


@dataclass(frozen=True, kw_only=True)
class NumberedOptions(ReadingOptions):
    """The same where slices must have numbers."""

    first: Annotated[int, _of_files(min=0, help="Number of the first slice of a stack or data set.")] = 1


@dataclass(frozen=True, kw_only=True)
class LabelledOptions(NumberedOptions):
    """The same of slices and their labels."""

    label_dtype: Annotated[
        str | None,
        _of_files(metavar="TYPE", help="Of a raw file of labels, as uint8; its shape is the slices'."),
    ] = None


def _shape(text: str) -> tuple[int, int, int]:
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) for part in parts):
        raise ConfigError(f'--shape is "{text}", but it must be SLICES,HEIGHT,WIDTH, such as 500,501,501.')
    slices, height, width = map(int, parts)
    return slices, height, width
