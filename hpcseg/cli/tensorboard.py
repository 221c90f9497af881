"""The verb `tensorboard`: the epochs of a run as event files."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from hpcseg.cli import console
from hpcseg.runs.finding import find_run, run_called
from hpcseg.runs.gate import place_inside
from hpcseg.text import counted


def tensorboard(
    run: Annotated[
        str | None,
        typer.Argument(help="Folder of the run, or its name in runs/.", show_default="the newest in runs/"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where the files go.", show_default="RUN/tensorboard")
    ] = None,
) -> None:
    """Write loss and accuracy of every epoch, and the settings of the cells, as files that TensorBoard shows.

    Again, it brings them up to date, also while TensorBoard shows them. Needs hpcseg[tensorboard] to be installed.
    """
    from hpcseg.records.tensorboard import export

    folder = find_run(None if run is None else run_called(run))
    out = out or place_inside(folder, folder.tensorboard)
    exported = export(folder, out)
    said = [f"{counted(len(exported.written), 'cell')} written to {out}"]
    if exported.right:
        said.append(f"{len(exported.right)} as they were")
    if exported.without:
        said.append(f"{len(exported.without)} without an epoch")
    console.stdout.print(", ".join(said))
    console.stdout.print(f"Next: tensorboard --logdir {shlex.quote(str(out))}   # pip install tensorboard")
