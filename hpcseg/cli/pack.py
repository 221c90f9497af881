"""The verb `pack`: a data set goes into one file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcseg.cli import console
from hpcseg.cli.reading import LabelledOptions
from hpcseg.errors import ConfigError, HpcsegError

if TYPE_CHECKING:
    from hpcseg.data.store import DatasetInfo

DEFAULT_DATASET = Path("dataset.h5")
_TILE_GRIDS = ("small", "large")
# More than anybody draws by hand, and than a line holds.
_MANY_CLASSES = 30


def pack(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DATA", help="Folder that holds data/ and labels/.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HDF5 file to write.")] = DEFAULT_DATASET,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Slices in any format: a folder or file, or `FILE::DATASET`; instead of DATA/data.", show_default=False
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Their labels, likewise; instead of DATA/labels.", show_default=False),
    ] = None,
    grey_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LOW HIGH",
            help="Grey values that a model meets as 0 and 1.",
            show_default="the type's range if they use it, else 0.1 and 99.9 % of them",
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="VALUE=NAME,...",
            help='What label values mean, as "0=pore,1-9=grain", or a TOML file; others are refused.',
            show_default="each value is a class",
        ),
    ] = None,
    ignore: Annotated[
        list[int] | None,
        typer.Option(
            metavar="VALUE", help="Label value of pixels without a class; may be repeated.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an output that holds other data.")] = False,
    *,
    how: LabelledOptions,
) -> None:
    """Pack slices of any format and their labels into one verified HDF5 file."""
    from hpcseg.api import pack as pack_slices
    from hpcseg.cli.next_step import after_pack
    from hpcseg.data.contact_sheet import sheet_file
    from hpcseg.signals import like_ctrl_c

    there = output.exists() and not force
    with like_ctrl_c(), console.progress_bar() as progress:
        task = progress.add_task("Comparing slices" if there else "Packing slices", total=None)

        def on_slice(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        content = pack_slices(
            folder,
            output,
            images=images,
            labels=labels,
            how=how.reading(),
            grey_range=grey_range,
            classes=classes,
            ignore=ignore or (),
            force=force,
            on_slice=on_slice,
            on_note=console.note,
        )
    if there:
        console.stderr.print("These slices and labels are there already; nothing was written.")
    show_packed(content)
    if not (there and sheet_file(output).exists()):
        with like_ctrl_c():
            _draw_sheet(content)
    option = "" if output == DEFAULT_DATASET else f" --data {shlex.quote(str(output))}"
    step = after_pack(content, option)
    if step.startswith("Next"):
        console.stdout.print("With --dry-run the next command only shows what would be trained.")
    console.stdout.print(step)


def _draw_sheet(info: DatasetInfo) -> None:
    """Write the contact sheet and name it; without one the packed file is as good."""
    from hpcseg.data.contact_sheet import write_contact_sheet

    try:
        file = write_contact_sheet(info)
    except HpcsegError as error:
        console.note(f"there is no contact sheet. {error}")
        return
    console.row("Look at", f"{file}: do slices and labels belong together?")


def show_packed(info: DatasetInfo) -> None:
    """Print what a packed file holds."""
    from hpcseg.data.classes import with_values
    from hpcseg.data.notes import in_words, left_out
    from hpcseg.data.store import info_as_json

    slices, height, width = info.shape
    summary = info_as_json(info)
    shares = summary["class_shares"]
    assert isinstance(shares, list)
    named = with_values(info.class_values, info.class_names)
    classes = ", ".join(f"{name}: {share:.1%}" for name, share in zip(named, shares, strict=True))
    classes += f"  (label value: share of pixels{' that have one' if info.ignored_pixels.any() else ''})"
    if len(named) >= _MANY_CLASSES:
        asked = "are these grey values, or instances? --classes names and merges them"
        classes = f"{len(named)}, from {named[0]} to {named[-1]}: {asked}"
    numbers, grey = info.numbers, info.grey
    values = f"{summary['grey_min']:g} to {summary['grey_max']:g}"
    if grey.quantiles:
        values += f" (0.1 to 99.9 %: {grey.quantiles[0]:g} to {grey.quantiles[1]:g})"
    left = summary["gap_slices"]
    assert isinstance(left, int | None)
    gap = f"; a blocked split leaves out {left_out(info, left)} between two sets" if left else ""
    lines = {
        "File": str(info.path),
        "Slices": f"{slices} of {height} x {width} pixels, {info.dtype}, numbers {numbers[0]} to {numbers[-1]}",
        "Grey values": f"{values}; a model meets {grey.low:g} as 0 and {grey.high:g} as 1",
        "Classes": classes,
        "Tiles": ", ".join(
            f"{name} {number or 'does not fit (128 pixels)'}" for name, number in tiles_by_name(info).items()
        ),
        "Voxel": "of unknown size" if info.voxel is None else info.voxel.text(),
        "Neighbours": f"{in_words(info)}{gap}",
        "Data hash": info.data_sha256,
        "Packed": f"{info.created} by hpcseg {info.hpcseg_version}: {info.command}",
    }
    for name, text in lines.items():
        console.row(name, text)


def tiles_by_name(info: DatasetInfo) -> dict[str, int | None]:
    """Number of tiles in each of the paper's grids; None where it does not fit on a slice."""
    return {name: _tiles(info, name) for name in _TILE_GRIDS}


def _tiles(info: DatasetInfo, name: str) -> int | None:
    from hpcseg.config import DataConfig
    from hpcseg.data.tiles import tile_corners

    config = DataConfig(tiles=name)
    rows, columns = config.tile_grid(*info.shape[1:])
    try:
        corners = tile_corners(*info.shape[1:], rows=rows, columns=columns, size=config.tile_size)
    except ConfigError:
        return None
    return info.shape[0] * len(corners)
