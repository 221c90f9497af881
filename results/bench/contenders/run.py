"""hpcseg beside what users would otherwise take, per training step and per whole cell.

    pip install -r results/bench/contenders/requirements.txt
    python results/bench/contenders/run.py DATASET --width 16 > record.json
    python results/bench/contenders/table.py record.json > record.md

The README beside this file says what is measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

_FOLDER = Path(__file__).resolve().parent
sys.path[0] = str(_FOLDER.parent)

from contenders.contender import CONTENDERS, check, describe, network_of  # noqa: E402
from contenders.work import Work  # noqa: E402
from hpcseg.bench.contender import Contender, started  # noqa: E402
from hpcseg.bench.measure import Rates, take_turns  # noqa: E402
from hpcseg.bench.training import network  # noqa: E402
from hpcseg.errors import HpcsegError  # noqa: E402
from hpcseg.launch.environment import read_environment  # noqa: E402
from hpcseg.learn.ranks import choose_device  # noqa: E402
from hpcseg.runs.machine import device_facts  # noqa: E402
from hpcseg.runs.provenance import collect, command_line  # noqa: E402
from hpcseg.runs.record import read_json, read_lines  # noqa: E402

SCHEMA = 1
HPCSEG = "hpcseg"
# Of the noise on the test tiles, in counts: what Table 2 has, and on both sides of it.
SIGMAS = (0.0, 5_000.0, 10_000.0)
_JOB = """
[data]
tiles = "{work.tiles}"
slices = {work.slices}
[train]
width = {work.width}
batch_size = {work.batch_size}
epochs = {epochs}
noise_fraction = 0.5
noise_each_epoch = true
[evaluate]
table_sigma = {sigmas[1]}
sweep_max = {sigmas[2]}
sweep_step = {sigmas[1]}
[needs]
gpus = 0
[[grid]]
train.seed = 0
"""


def main() -> None:
    """Parse the command line, measure, and print the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="a packed data set whose slices hold 3 x 3 tiles of 128 x 128")
    parser.add_argument("--width", type=int, default=16, help="channels of the first block")
    parser.add_argument("--batch-size", type=int, default=64, help="tiles per step")
    parser.add_argument("--seconds", type=float, default=4, help="of a turn of steps")
    parser.add_argument("--rounds", type=int, default=5, help="of such turns")
    parser.add_argument("--tiles", default="large", help="of a cell: as data.tiles")
    parser.add_argument("--slices", type=int, default=0, help="of a cell: as data.slices")
    parser.add_argument("--epochs", type=int, default=15, help="of a cell")
    parser.add_argument("--cell-rounds", type=int, default=2, help="how often everyone does a cell")
    parser.add_argument(
        "--contender", action="append", choices=list(CONTENDERS), help="beside hpcseg; again for more (default: all)"
    )
    options = parser.parse_args()
    try:
        print(json.dumps(measure(options, options.contender or list(CONTENDERS)), indent=1))
    except HpcsegError as error:
        sys.exit(f"error: {error}")


def measure(options: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    """The record of all that is measured."""
    check(names)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH", "")]))
    torch.set_num_threads(read_environment().threads)
    data = str(options.dataset.resolve())
    steps = Work(data, options.width, options.batch_size)
    cell = dataclasses.replace(steps, tiles=options.tiles, slices=options.slices)
    source = steps.source()
    packages = sorted({package for name in names for package in CONTENDERS[name].packages})
    ours = network(source, steps.config)
    networks = {HPCSEG: ours, **{name: network_of(name, steps) for name in names}}
    started_at, load = time.monotonic(), os.getloadavg()[0]
    record = {
        "schema": SCHEMA,
        "provenance": collect(
            device=device_facts(choose_device(0)), command=_command(data), data_sha256=source.info.data_sha256
        ),
        "packages": {package: importlib.metadata.version(package) for package in packages},
        "width": options.width,
        "batch_size": options.batch_size,
        "tile_size": source.size,
        "networks": {name: describe(model, source.size) for name, model in networks.items()},
        "steps": measure_steps(names, steps, seconds=options.seconds, rounds=options.rounds),
        "cell": measure_cells(names, cell, epochs=options.epochs, rounds=options.cell_rounds),
    }
    # Of the minute before and of the whole: whether other work ran beside it.
    return {**record, "load_before": load, "minutes": (time.monotonic() - started_at) / 60}


def measure_steps(names: list[str], work: Work, *, seconds: float, rounds: int) -> dict[str, Any]:
    """Tiles trained per second, in turns of processes that are there all the time."""
    ours = {key: value for key, value in dataclasses.asdict(work).items() if key in ("data", "width", "batch_size")}
    contenders = {HPCSEG: Contender("hpcseg.bench.training:our_piece", ours)}
    for name in names:
        contenders[name] = Contender("contenders.contender:piece", {"name": name, **dataclasses.asdict(work)})
    print("measuring steps", file=sys.stderr)
    with started(contenders) as pieces:
        rates = take_turns(pieces, seconds=seconds, rounds=rounds)
    return {
        "tiles_per_second": {name: rates.median(name) for name in rates.rounds},
        "spread": {name: rates.quartile_distance(name) for name in rates.rounds},
        "against": {name: rates.ratio(HPCSEG, name) for name in names},
        "rounds": rates.rounds,
    }


def measure_cells(names: list[str], work: Work, *, epochs: int, rounds: int) -> dict[str, Any]:
    """Seconds of whole processes: start, data, epochs with a validation after each, a test at each sigma."""
    everyone = [HPCSEG, *names]
    seconds: dict[str, list[float]] = {name: [] for name in everyone}
    found = {}
    for number in range(rounds):
        first = number % len(everyone)
        for name in everyone[first:] + everyone[:first]:
            print(f"measuring a cell of {name}", file=sys.stderr)
            began = time.perf_counter()
            found[name] = _our_cell(work, epochs) if name == HPCSEG else _cell(name, work, epochs)
            seconds[name].append(time.perf_counter() - began)
    rates = Rates({name: tuple(1 / taken for taken in each) for name, each in seconds.items()})
    split = work.source().split
    return {
        "tiles": {name: len(getattr(split, name)) for name in ("train", "validation", "test")},
        "epochs": epochs,
        "sigmas": SIGMAS,
        "seconds": {name: 1 / rates.median(name) for name in everyone},
        "against": {name: rates.ratio(HPCSEG, name) for name in names},
        "rounds": seconds,
        "found": found,
    }


def _cell(name: str, work: Work, epochs: int) -> dict[str, Any]:
    task = {"name": name, "epochs": epochs, "sigmas": SIGMAS, **dataclasses.asdict(work)}
    return json.loads(_call("contenders.contender", json.dumps(task)))


def _our_cell(work: Work, epochs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cell.toml").write_text(_JOB.format(work=work, epochs=epochs, sigmas=SIGMAS))
        job = ("--job", str(folder / "cell.toml"), "--data", work.data, "--run", str(folder / "run"))
        began = time.time()
        _call("hpcseg", "train", "*", *job)
        (cell,) = (folder / "run" / "cells").iterdir()
        points = {point["sigma"]: point["confusion"] for point in read_json(cell / "evaluation.json")["points"]}
        at = {line["event"]: line["time"] for line in read_lines(cell / "events.jsonl")}
        return {
            # The rest is its end.
            "seconds": {
                "to the first step": at["start"] - began,
                "training and validation": at["trained"] - at["start"],
                "evaluation": at["evaluated"] - at["trained"],
            },
            "validation": [_accuracy(line["validation_confusion"]) for line in read_lines(cell / "metrics.jsonl")],
            "test": [_accuracy(points[sigma]) for sigma in SIGMAS],
            "precision": read_json(cell / "evaluation.json")["precision"],
        }


def _call(module: str, *arguments: str) -> str:
    answer = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)
    if answer.returncode:
        raise HpcsegError(f"`python -m {module} {' '.join(arguments)}` failed: {answer.stderr.strip()}")
    return answer.stdout


def _accuracy(confusion: list[list[int]]) -> float:
    return sum(row[index] for index, row in enumerate(confusion)) / sum(map(sum, confusion))


def _command(data: str) -> str:
    """What was typed, without a path of this machine."""
    return command_line().replace(sys.argv[1] if len(sys.argv) > 1 else data, "DATASET")


if __name__ == "__main__":
    main()
