"""The verb `export`: a trained cell becomes one file to keep, or to give away."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from hpcseg.cli import console
from hpcseg.errors import ConfigError
from hpcseg.runs.finding import find_trained


def export(
    cell: Annotated[str, typer.Argument(help="A trained cell: its name, its id, a pattern, its folder.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write.", show_default="CELL.safetensors")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="the newest in runs/")] = None,
    data: Annotated[
        Path | None, typer.Option(help="The packed data set, should it have moved.", show_default=False)
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also write FILE.onnx, for other programs.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that holds something else.")] = False,
) -> None:
    """Write a trained model into one file with all that `hpcseg predict` has to know about it; no code is in it."""
    from hpcseg.data.classes import with_values
    from hpcseg.predict import onnx_file
    from hpcseg.predict.model_file import SUFFIX, as_bytes, open_cell
    from hpcseg.predict.model_file import export as export_model

    if onnx:
        onnx_file.require()
    folder = find_trained(cell, run)
    file = output or Path(folder.id + SUFFIX)
    onnx_output = file.with_name(f"{file.stem if file.suffix == SUFFIX else file.name}.onnx")
    model = open_cell(folder, data)
    if file.exists() and not force and file.read_bytes() != as_bytes(model):
        raise ConfigError(f"{file} exists already and holds something else. Replace it with --force, or use --output.")
    if onnx and onnx_output.exists() and not force:
        raise ConfigError(f"{onnx_output} exists already. Replace it with --force, or use --output.")
    size = len(export_model(model, file))
    card = model.card
    console.stdout.print(
        f"{file}: {size / 1e6:.2g} MB, classes {', '.join(with_values(card.class_values, card.class_names))}"
    )
    if onnx:
        difference = onnx_file.export_onnx(model, onnx_output)
        console.stdout.print(f"{onnx_output}: its scores in ONNX Runtime differ by at most {difference:.1g} from ours")
    console.stdout.print(f"Next: hpcseg predict {shlex.quote(str(file))} SLICES -o OUT")
