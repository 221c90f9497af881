"""The verbs `pack` and `info`: a data set goes into one file, and what is in that file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcseg.cli import console
from hpcseg.errors import ConfigError

if TYPE_CHECKING:
    from hpcseg.config import DataConfig
    from hpcseg.data.store import DatasetInfo

DEFAULT_DATASET = Path("dataset.h5")


def pack(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DATA", help="Folder that holds data/ and labels/.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HDF5 file to write.")] = DEFAULT_DATASET,
    images: Annotated[
        Path | None, typer.Option(help="Folder of TIFF slices, or one stack; instead of DATA/data.", show_default=False)
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Folder of TIFF labels, or one stack; instead of DATA/labels.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an output that holds other data.")] = False,
) -> None:
    """Pack TIFF slices and their labels into one verified HDF5 file."""
    from hpcseg.data.pack import pack as pack_slices
    from hpcseg.runs.provenance import command_line

    images = images or (folder / "data" if folder else None)
    labels = labels or (folder / "labels" if folder else None)
    if images is None or labels is None:
        raise ConfigError("Name the folder that holds data/ and labels/, or give both --images and --labels.")
    if output.exists() and not force:
        raise ConfigError(
            f"{output} exists already; `hpcseg info {output}` shows what it holds. Use it as it is, replace it with "
            "--force, or write elsewhere with --output."
        )
    with console.progress_bar() as progress:
        task = progress.add_task("Packing slices", total=None)
        info = pack_slices(
            images,
            labels,
            output,
            command=command_line(),
            on_slice=lambda done, total: progress.update(task, completed=done, total=total),
        )
    _show(info)
    option = "" if output == DEFAULT_DATASET else f" --data {output}"
    console.stdout.print(f"Next: hpcseg grid{option}")


def info(
    file: Annotated[Path, typer.Argument(help="A packed HDF5 file.")] = DEFAULT_DATASET,
    verify: Annotated[bool, typer.Option("--verify", help="Hash all pixels again and compare.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a packed file holds, and check it."""
    from hpcseg.data import store

    content = store.read_info(file)
    if as_json:
        console.stdout.print(json.dumps(store.info_as_json(content), indent=1), markup=False)
    else:
        _show(content)
    if verify:
        with console.progress_bar() as progress:
            task = progress.add_task("Verifying", total=content.shape[0])
            store.verify(file, lambda done, _: progress.update(task, completed=done))
        console.stderr.print(f"verified: {content.shape[0]} slices and labels match their SHA-256")


def _show(info: DatasetInfo) -> None:
    from hpcseg.config import DataConfig
    from hpcseg.data.store import info_as_json

    slices, height, width = info.shape
    summary = info_as_json(info)
    shares = summary["class_shares"]
    assert isinstance(shares, list)
    classes = ", ".join(f"{value}: {share:.1%}" for value, share in zip(info.class_values, shares, strict=True))
    numbers, low, high = info.numbers, summary["grey_min"], summary["grey_max"]
    lines = {
        "File": str(info.path),
        "Slices": f"{slices} of {height} x {width} pixels, {info.dtype}, numbers {numbers[0]} to {numbers[-1]}",
        "Grey values": f"{low:g} to {high:g}, divided by {info.full_scale:g} for a model",
        "Classes": f"{classes}  (label value: share of pixels)",
        "Tiles": ", ".join(f"{name} {_tiles(info, DataConfig(tiles=name))}" for name in ("small", "large")),
        "Data hash": info.data_sha256,
        "Packed": f"{info.created} by hpcseg {info.hpcseg_version}: {info.command}",
    }
    for name, text in lines.items():
        console.stdout.print(f"[bold]{name:<12}[/bold]", end="")
        console.stdout.print(text, markup=False)


def _tiles(info: DatasetInfo, config: DataConfig) -> str:
    from hpcseg.data.tiles import tile_corners

    rows, columns = config.grid()
    try:
        corners = tile_corners(*info.shape[1:], rows=rows, columns=columns, size=config.tile_size)
    except ConfigError:
        return f"does not fit ({config.tile_size} pixels)"
    return str(info.shape[0] * len(corners))
