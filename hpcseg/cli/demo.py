"""The verb `demo`: the four commands on a synthetic sample, as a user would type them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from hpcseg.cli import console
from hpcseg.cli.grid import grid
from hpcseg.cli.options import RankOptions, SlurmOptions
from hpcseg.cli.pack import pack
from hpcseg.cli.predict import predict
from hpcseg.cli.reading import LabelledOptions, ReadingOptions
from hpcseg.cli.report import report

_SLICES = 40
_SIZE = 256
_SEED = 2023
_MODEL = "large-*-p050-*"


def demo(
    folder: Annotated[Path, typer.Argument(help="Where everything goes; may exist, then it goes on.")] = Path("demo"),
) -> None:
    """Make a synthetic three-phase sample, pack it, train on it, report and segment it: two minutes on two cores."""
    from hpcseg.data.sample import write_sample
    from hpcseg.predict.outcome import OutFolder
    from hpcseg.runs.folder import RunFolder

    dataset, run = folder / "dataset.h5", folder / "runs" / "demo"
    if not dataset.exists():
        console.stdout.print(f"Making {_SLICES} slices of {_SIZE} x {_SIZE} pixels in {folder}")
        write_sample(folder, slices=_SLICES, size=_SIZE, seed=_SEED)
        _announce("pack", folder, "-o", dataset)
        pack(folder, output=dataset, how=LabelledOptions())
    _announce("grid", "--job", "demo", "--local", "--data", dataset, "--run", run)
    grid(job="demo", local=True, data=dataset, run=run, slurm=RankOptions())
    _announce("report", "--run", run)
    report(run=run)
    console.stdout.print("The sample is synthetic.")
    prediction = folder / "prediction"
    _announce("predict", _MODEL, folder / "data", "-o", prediction, "--uncertainty", "--run", run)
    predict(
        _MODEL,
        folder / "data",
        output=prediction,
        uncertainty=True,
        run=run,
        how=ReadingOptions(),
        slurm=SlurmOptions(),
    )
    console.stdout.print(f"\nThe report, for a browser:      {RunFolder(run).report / 'report.html'}")
    console.stdout.print(f"What was segmented, to look at: {OutFolder(prediction).sheet_file}")


def _announce(*words: str | Path) -> None:
    console.stdout.print(f"\n$ {shlex.join(['hpcseg', *map(str, words)])}", style="bold")
