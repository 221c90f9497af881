"""The verb `info`: what is in a packed file, in any source of slices before it is packed, or in a model file."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcseg.cli import console
from hpcseg.cli.options import AsJson
from hpcseg.cli.pack import DEFAULT_DATASET, show_packed, tiles_by_name
from hpcseg.cli.reading import NumberedOptions
from hpcseg.errors import ConfigError, DatasetError
from hpcseg.runs.folder import CellFolder, RunFolder

if TYPE_CHECKING:
    from hpcseg.slices.source import Reading, Source

_MOST_LISTED = 40
_MOST_TESTS = 7


def info(
    file: Annotated[
        str,
        typer.Argument(
            metavar="PACKED|SOURCE|MODEL",
            help="A packed HDF5 file; slices in any format, as `NAME` or `NAME::DATASET`; or a model file.",
        ),
    ] = str(DEFAULT_DATASET),
    verify: Annotated[bool, typer.Option("--verify", help="Hash all packed pixels again and compare.")] = False,
    as_json: AsJson = False,
    *,
    how: NumberedOptions,
) -> None:
    """Show what a packed file or a model file holds, and check it; or what slices there are in any other source."""
    from hpcseg.data.store import is_packed_file

    path = Path(file)
    if RunFolder(path).is_prediction():  # whose labels are slices as well
        shown = f"`hpcseg status --run {path}` shows it, `hpcseg view {path}` its slices"
        raise ConfigError(f"{path} is a prediction: {shown}.")
    if path.suffix in (".safetensors", ".onnx"):  # the second is refused, as it is wherever a model is opened
        _show_model(path, as_json=as_json)
        return
    # It is missed as a packed file where it has the name of one.
    missed = not os.path.lexists(path) and path.suffix in (".h5", ".hdf5") and "::" not in file
    if verify or missed or is_packed_file(path):
        _show_packed_file(path, verify=verify, as_json=as_json)
        return
    try:
        _show_source(path, how.reading(), as_json=as_json)
    except DatasetError:
        _refuse_own(path)
        raise


def _refuse_own(path: Path) -> None:
    """Raise ConfigError with the verb for a folder that hpcseg writes and that holds no slices."""
    for what, found, verb in (
        ("a run", RunFolder(path).grid_file, "status --run {}` shows its cells"),
        ("a cell of a run", CellFolder(path).config_file, "export {} -o FILE.safetensors` makes a file of it"),
    ):
        if os.path.isfile(found):  # Path.is_file raises where a name is too long
            raise ConfigError(f"{path} is {what}: `hpcseg {verb.format(path)}.")


def _show_packed_file(path: Path, *, verify: bool, as_json: bool) -> None:
    from hpcseg.data import store
    from hpcseg.data.notes import notes

    content = store.read_info(path)
    if as_json:
        more = {"tiles": tiles_by_name(content), "notes": notes(content)}
        console.stdout.print(json.dumps({**store.info_as_json(content), **more}, indent=1))
    else:
        show_packed(content)
        for note in notes(content):
            console.note(note)
    if verify:
        with console.progress_bar() as progress:
            task = progress.add_task("Verifying", total=content.shape[0])
            store.verify(path, lambda done, _: progress.update(task, completed=done))
        console.stderr.print(f"verified: {content.shape[0]} slices and labels match their SHA-256")


def _show_source(path: Path, how: Reading, *, as_json: bool) -> None:
    """Print its data sets, if it has any by name, and its slices, if there is no choice between them."""
    from hpcseg.slices.opening import list_parts, open_source, split_name
    from hpcseg.slices.source import as_grey_values

    choice = ""
    try:
        try:
            source: Source | None = open_source(path, how)
        except DatasetError as error:  # what has no numbers can be segmented, if not packed
            source = open_source(path, dataclasses.replace(how, needs_numbers=False))
            console.note(f"this cannot be packed. {error}")
    except ConfigError as error:  # there is a choice, unless one was made
        if split_name(str(path))[1] is not None:
            raise
        source, choice = None, str(error)
    parts: dict[str, tuple[tuple[int, ...], str]] = {}
    try:
        parts = list_parts(path, how.allow_external)
    except DatasetError as error:
        if source is None:
            raise
        console.note(str(error))
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
        console.note(choice)
        return
    sizes = sorted(set(source.shapes))
    size = " and ".join(f"{height} x {width}" for height, width in sizes[:2]) + (" and others" if sizes[2:] else "")
    types = ", ".join(dict.fromkeys(map(str, source.dtypes)))
    console.row("Slices", f"{len(source)} of {size} pixels, {types}")
    console.row("Numbers", _numbers(source))
    console.row("Voxel", "of unknown size" if source.voxel is None else source.voxel.text())
    for note in source.notes:
        console.note(note)
    try:
        as_grey_values(source, of_any_type=True)
    except DatasetError as error:
        console.note(f"{_what_for(source)} {error}")


def _what_for(source: Source) -> str:
    """Of what has no grey values."""
    from hpcseg.slices.source import as_labels

    try:
        as_labels(source)
    except DatasetError:
        return "these can be neither packed nor segmented."
    return "as slices these can be neither packed nor segmented; as labels they can be packed."


def _show_model(path: Path, *, as_json: bool) -> None:
    """Print what a model file says of its model: what it takes and answers, how it was made and how right it is."""
    from hpcseg.data.classes import with_values
    from hpcseg.data.evenly import evenly
    from hpcseg.predict.model_file import open_file

    card = open_file(path).card
    if as_json:
        console.stdout.print(json.dumps(card.as_dict(), indent=1))
        return
    made, data, train, (low, high) = card.training, card.data, card.train, card.grey_range
    around = f", each slice with {data.context} on either side" if data.context else ""
    tests = [made.test_accuracy[place] for place in evenly(len(made.test_accuracy), _MOST_TESTS)]
    right = [f"{100 * (made.validation_accuracy or 0):.2f} % in validation"] if made.validation_accuracy else []
    for one in tests:
        sigma = one.sigma if isinstance(one.sigma, str) else f"{one.sigma:g}"
        noise = "clean" if not one.sigma else f"at {one.noise or 'gaussian'}-{sigma}"
        noise += f" on a share of {one.fraction:g} of the tiles" if one.fraction else ""
        right += [f"{100 * one.accuracy:.2f} % {noise}"] if one.accuracy is not None else []
    lines = {
        "Model": f"{path}, of the cell {made.cell or 'of unknown name'}",
        "Network": f"U-Net of width {train.width} and depth {train.depth}, tiles of {data.tile_size} pixels{around}",
        "Classes": ", ".join(with_values(card.class_values, card.class_names)),
        "Grey values": f"{card.grey_dtype}, in training 0.1 to 99.9 % of them from {low:g} to {high:g}",
        "Trained": f"{train.epochs} epochs, {100 * train.noise_fraction:g} % of the tiles noisy; {made.time or ''} by "
        f"hpcseg {made.hpcseg_version or 'of unknown version'}: {made.command or 'command unknown'}",
        "Right": f"{', '.join(right) or 'not tested'} ({data.split} split)",
        "Data hash": made.data_sha256 or "unknown",
    }
    for name, text in lines.items():
        console.row(name, text)


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
