"""Seconds of ten small cells on this machine: all in one process, and each in one of its own.

python results/bench/many_cells.py SCRATCH > results/bench/many_cells.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from hpcseg.data.sample import write_sample
from hpcseg.runs.machine import device_facts
from hpcseg.runs.provenance import collect
from hpcseg.runs.record import read_json

CELLS = 10
JOB = f"""
[data]
tile_size = 48
tiles = "2x2"
[train]
width = 4
depth = 2
epochs = 3
batch_size = 4
precision = "fp32"
[needs]
gpus = 0
[[grid]]
train.seed = {list(range(CELLS))}
"""


def main(scratch: Path) -> None:
    """Print a JSON record; SCRATCH must be missing."""
    scratch.mkdir(parents=True)
    write_sample(scratch / "small", slices=12, size=96, seed=0)
    hpcseg(scratch, "pack", "small", "-o", "small.h5")
    (scratch / "ten.toml").write_text(JOB)
    seconds: dict[str, list[float]] = {"one process": [], "ten processes": []}
    for turn in range(2):
        for name, cells in (("one process", CELLS), ("ten processes", 1)):
            run = f"{name.split()[0]}-{turn}"
            started = time.monotonic()
            options = ("--job", "ten.toml", "--data", "small.h5", "--run", run, "--cells-per-job", str(cells))
            hpcseg(scratch, "grid", "--local", *options)
            seconds[name].append(round(time.monotonic() - started, 2))
    hashes = [
        sorted(read_json(file)["model_sha256"] for file in (scratch / run / "cells").glob("*/training.json"))
        for run in ("one-0", "ten-0")
    ]
    provenance = collect(
        device=device_facts(torch.device("cpu")), command="results/bench/many_cells.py SCRATCH", data_sha256=""
    )
    share = min(seconds["one process"]) / min(seconds["ten processes"])
    content = {"seconds": seconds, "share": round(share, 3), "same models": hashes[0] == hashes[1]}
    print(json.dumps({"provenance": provenance, "cells": CELLS, **content}, indent=1))


def hpcseg(scratch: Path, *arguments: str) -> None:
    """Run a command; raises CalledProcessError where it fails."""
    command = [sys.executable, "-m", "hpcseg", *arguments]
    subprocess.run(command, cwd=scratch, env={**os.environ}, capture_output=True, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
