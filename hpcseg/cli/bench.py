"""The verb `bench`: how fast this machine is, and how much of that hpcseg gets out of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from hpcseg.cli import console
from hpcseg.cli.options import AsJson, Data
from hpcseg.cli.pack import DEFAULT_DATASET
from hpcseg.errors import ConfigError
from hpcseg.files import make_folder
from hpcseg.runs.folder import RUNS


def bench(
    data: Data = DEFAULT_DATASET,
    width: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Channels of the first block; may be given again.", show_default="16"),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Tiles per training step.")] = 25,
    part: Annotated[
        list[str] | None,
        typer.Option(help="training, sweep, pack or startup; may be given again.", show_default="all"),
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option(help="What to measure.", show_default="a GPU where there is one")
    ] = None,
    job: Annotated[str | None, typer.Option(help="Say how long the cells of this job would take here.")] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="Seconds of a contender's turn.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contender.")] = 5,
    run: Annotated[Path, typer.Option(help="Folder in which runs, and this record, are kept.")] = RUNS,
    as_json: AsJson = False,
) -> None:
    """Measure this machine: trainer, sweep, pack and start-up, beside the hardware's peak.

    The record is what `hpcseg grid --dry-run` estimates its time from.
    """
    from hpcseg.bench.estimate import bench_file, estimate
    from hpcseg.bench.run import PARTS, run_bench
    from hpcseg.bench.table import as_markdown
    from hpcseg.data.store import read_info
    from hpcseg.jobfile import find_shipped, load_job
    from hpcseg.launch.environment import read_environment
    from hpcseg.learn.ranks import join
    from hpcseg.runs.record import write_json

    unknown = set(part or ()) - set(PARTS)
    if unknown:
        raise ConfigError(f'There is no part "{min(unknown)}" of a bench. There are {", ".join(PARTS)}.')
    cells = load_job(find_shipped("job", job)).cells if job else ()
    if cells and part and not {"training", "sweep"} <= set(part):
        raise ConfigError("How long a job takes is told from the parts training and sweep. Name both, or no part.")
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the contenders' processes inherit it
    environment = read_environment()
    if environment.world_size > 1:
        raise ConfigError("A bench measures one device. Run it in one process.")
    make_folder(run)
    with join(environment, run) as ranks:
        if device == "cuda" and ranks.device.type == "cpu":
            raise ConfigError("torch finds no GPU here. Leave --device out to measure the CPU.")
        record = run_bench(
            data,
            widths=width or [16],
            batch_size=batch_size,
            parts=part or PARTS,
            ranks=ranks,
            seconds=seconds,
            rounds=rounds,
            on_part=lambda text: console.stderr.print(f"measuring {text}"),
        )
    file = bench_file(run, record["provenance"]["device"])
    write_json(file, record)
    if cells:
        expected = estimate(cells, read_info(data), record)
        record["estimate"] = {"job": job, "cells": len(cells), "hours": expected.hours}
    console.stdout.print(json.dumps(record, indent=1) if as_json else as_markdown(record), end="")
    if cells and not as_json:
        console.stdout.print(f"\nThe job {job}: {expected.text(at_once=1)}")
    console.stderr.print(f"The record: {file}")
