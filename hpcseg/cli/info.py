"""The verb `info`: what is in a packed file, or in any source of slices before it is packed."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcseg.cli import console
from hpcseg.cli.pack import DEFAULT_DATASET, show_packed, tiles_by_name
from hpcseg.cli.reading import NumberedOptions
from hpcseg.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from hpcseg.slices.source import Reading, Source

_MOST_LISTED = 40


def info(
    file: Annotated[
        str,
        typer.Argument(
            metavar="PACKED|SOURCE",
            help="A packed HDF5 file; or slices in any format, as `NAME` or `NAME::DATASET`.",
        ),
    ] = str(DEFAULT_DATASET),
    verify: Annotated[bool, typer.Option("--verify", help="Hash all packed pixels again and compare.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    *,
    how: NumberedOptions,
) -> None:
    """Show what a packed file holds, and check it; or what there is to pack or to segment in any other source."""
    from hpcseg.data.store import is_packed_file

    path = Path(file)
    # It is missed as a packed file where it has the name of one.
    missed = not os.path.lexists(path) and path.suffix in (".h5", ".hdf5") and "::" not in file
    if verify or missed or is_packed_file(path):
        _show_packed_file(path, verify=verify, as_json=as_json)
        return
    _show_source(path, how.reading(), as_json=as_json)


def _show_packed_file(path: Path, *, verify: bool, as_json: bool) -> None:
    from hpcseg.data import store
    from hpcseg.data.notes import notes

    content = store.read_info(path)
    if as_json:
        more = {"tiles": tiles_by_name(content), "notes": notes(content)}
        console.stdout.print(json.dumps({**store.info_as_json(content), **more}, indent=1))
    else:
        show_packed(content)
    if verify:
        with console.progress_bar() as progress:
            task = progress.add_task("Verifying", total=content.shape[0])
            store.verify(path, lambda done, _: progress.update(task, completed=done))
        console.stderr.print(f"verified: {content.shape[0]} slices and labels match their SHA-256")


def _show_source(path: Path, how: Reading, *, as_json: bool) -> None:
    """Print its data sets, if it has any by name, and its slices, if there is no choice between them."""
    from hpcseg.slices.opening import list_parts, open_source, split_name

    choice = ""
    try:
        try:
            source: Source | None = open_source(path, how)
        except DatasetError as error:  # what has no numbers can be segmented, if not packed
            source = open_source(path, dataclasses.replace(how, needs_numbers=False))
            console.say(f"Note: this cannot be packed. {error}", to=console.stderr)
    except ConfigError as error:  # there is a choice, unless one was made
        if split_name(str(path))[1] is not None:
            raise
        source, choice = None, str(error)
    parts = list_parts(path, how.allow_external)
    if source is None and not parts:
        raise ConfigError(choice)
    if as_json:
        listed = {name: {"shape": list(shape), "dtype": dtype} for name, (shape, dtype) in parts.items()}
        console.stdout.print(json.dumps({"source": str(path), "parts": listed, **_as_json(source)}, indent=1))
        return
    console.row("Source", str(path) if source is None else f"{source.path} ({source.form})")
    file = Path(split_name(str(path))[0]).name
    for name, (shape, dtype) in list(parts.items())[:_MOST_LISTED]:
        taken = " (these slices)" if source is not None and source.dataset == name else ""
        console.row("Holds", f"{file}::{name}  {' x '.join(map(str, shape))} {dtype}{taken}")
    if len(parts) > _MOST_LISTED:
        console.row("", f"and {len(parts) - _MOST_LISTED} more")
    if source is None:
        console.say(f"Note: {choice}", to=console.stderr)
        return
    sizes = sorted(set(source.shapes))
    size = " and ".join(f"{height} x {width}" for height, width in sizes[:2]) + (" and others" if sizes[2:] else "")
    types = ", ".join(dict.fromkeys(map(str, source.dtypes)))
    console.row("Slices", f"{len(source)} of {size} pixels, {types}")
    console.row("Numbers", _numbers(source))
    console.row("Voxel", "of unknown size" if source.voxel is None else source.voxel.text())
    for note in source.notes:
        console.say(f"Note: {note}", to=console.stderr)


def _numbers(source: Source) -> str:
    numbers = source.numbers
    if not source.numbered:
        return "none in the names"
    missing = numbers[-1] - numbers[0] + 1 - len(numbers)
    return f"{numbers[0]} to {numbers[-1]}" + (f", {missing} between them not there" if missing > 0 else "")


def _as_json(source: Source | None) -> dict[str, object]:
    if source is None:
        return {"slices": None}
    return {
        "form": source.form,
        "dataset": source.dataset,
        "slices": len(source),
        "shapes": [list(shape) for shape in sorted(set(source.shapes))],
        "dtypes": list(dict.fromkeys(map(str, source.dtypes))),
        "numbers": list(source.numbers) if source.numbered else None,
        "voxel": None if source.voxel is None else dataclasses.asdict(source.voxel),
        "orientation": source.orientation,
        "notes": list(source.notes),
    }
