"""The verb `export`: a trained cell becomes one file to keep, or to give away."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from hpcseg.cli import console
from hpcseg.cli.options import MovedData, Run
from hpcseg.errors import ConfigError
from hpcseg.runs.finding import find_trained
from hpcseg.text import two_digits

# Suffixes of files of other kinds: a model file under such a name would be taken for one.
_OTHER_KINDS = (".onnx", ".zip", ".pt", ".pth", ".pkl", ".h5", ".hdf5", ".tif", ".tiff", ".json")


def export(
    cell: Annotated[str, typer.Argument(help="A trained cell: its name, its id, a pattern, its folder.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write.", show_default="CELL.safetensors")
    ] = None,
    run: Run = None,
    data: MovedData = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also write FILE.onnx, for other programs.")] = False,
    bioimageio: Annotated[
        Path | None,
        typer.Option(
            help="Also write this zip file, a package for the BioImage Model Zoo. A part of the middle slice is in it.",
            show_default=False,
        ),
    ] = None,
    author: Annotated[
        list[str] | None, typer.Option(help="Name for the package; may be given again.", show_default=False)
    ] = None,
    license_: Annotated[
        str | None,
        typer.Option("--license", help="Of the package, as SPDX writes it: CC-BY-4.0.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that holds something else.")] = False,
) -> None:
    """Write a trained model into one file with all that `hpcseg predict` has to know about it; no code is in it."""
    from hpcseg.data.classes import with_values
    from hpcseg.predict import bioimageio as zoo
    from hpcseg.predict import onnx_file
    from hpcseg.predict.model_file import SUFFIX, as_bytes, open_cell, open_data
    from hpcseg.predict.model_file import export as export_model

    if output and output.suffix.lower() in _OTHER_KINDS:
        raise ConfigError(f"--output is {output}, but a model file is a FILE{SUFFIX}.")
    if bioimageio:
        if bioimageio.suffix.lower() != ".zip":
            raise ConfigError(f"--bioimageio is {bioimageio}, but a package is a FILE.zip.")
        zoo.load(bioimageio)
    elif author or license_:
        raise ConfigError("--author and --license are those of a package, which is written with --bioimageio FILE.zip.")
    folder = find_trained(cell, run)
    file = output or Path(folder.id + SUFFIX)
    onnx_output = file.with_name(f"{file.stem if file.suffix == SUFFIX else file.name}.onnx")
    if onnx:
        onnx_file.require(onnx_output)
    others = {"--output": onnx_output if onnx else None, "--bioimageio": bioimageio}
    targets = [file, *filter(None, others.values())]
    if len({target.resolve() for target in targets}) < len(targets):
        raise ConfigError(f"Of {', '.join(map(str, targets))} some are the same file. Name each differently.")
    model = open_cell(folder, data)
    if file.exists() and not force and file.read_bytes() != as_bytes(model):
        raise ConfigError(f"{file} exists already and holds something else. Replace it with --force, or use --output.")
    for option, other in others.items():
        if other and other.exists() and not force:
            raise ConfigError(f"{other} exists already. Replace it with --force, or give another {option}.")
    # The package first: what the zoo does not take is known only when all of it is there.
    if bioimageio:
        tolerance = zoo.export_package(
            model, open_data(folder, data), bioimageio, authors=author or (), license_id=license_
        )
        console.stdout.print(
            f"{bioimageio}: passes the test of bioimageio.core; its probabilities are ours to within {tolerance:.1g}"
        )
    if onnx:
        difference = onnx_file.export_onnx(model, onnx_output)
        console.stdout.print(f"{onnx_output}: its scores in ONNX Runtime differ by at most {difference:.1g} from ours")
    size = len(export_model(model, file))
    card = model.card
    console.stdout.print(
        f"{file}: {two_digits(size / 1e6)} MB, classes {', '.join(with_values(card.class_values, card.class_names))}"
    )
    console.stdout.print(f"Next: hpcseg predict {shlex.quote(str(file))} SLICES -o OUT")
