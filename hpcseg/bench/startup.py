"""From the command to its first word, and to the first step of a training."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hpcseg.bench.measure import Rates, take_turns
from hpcseg.errors import HpcsegError
from hpcseg.runs.record import read_lines

HELP, FIRST_STEP = "hpcseg --help", "hpcseg train, to its first step"

_JOB = """
[data]
tile_size = {size}
[train]
width = 4
depth = 2
epochs = 1
[needs]
gpus = 0
[[grid]]
train.seed = 0
"""


def measure_startup(data: Path, *, tile_size: int, seconds: float, rounds: int) -> Rates:
    """How often per second a command could start: `HELP`, and `FIRST_STEP` with the data set on this machine's device.

    Args:
        data: the packed data set.
        tile_size: of the training that is started.
        seconds: of a piece.
        rounds: pieces of each.

    Raises:
        HpcsegError: a command fails.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "startup.toml").write_text(_JOB.format(size=tile_size))

        def first_step() -> float:
            run = folder / f"run-{time.monotonic_ns()}"
            started = time.time()
            _call("train", "*", "--job", str(folder / "startup.toml"), "--data", str(data), "--run", str(run))
            (cell,) = (run / "cells").iterdir()
            first = next(line for line in read_lines(cell / "events.jsonl") if line["event"] == "start")
            return float(first["time"] - started)

        def first_word() -> float:
            started = time.perf_counter()
            _call("--help")
            return time.perf_counter() - started

        starts = {HELP: first_word, FIRST_STEP: first_step}
        pieces = {name: functools.partial(_starts_per_second, start) for name, start in starts.items()}
        return take_turns(pieces, seconds=seconds, rounds=rounds)


def _starts_per_second(start: Callable[[], float], times: int) -> float:
    return times / sum(start() for _ in range(times))


def _call(*arguments: str) -> None:
    answer = subprocess.run([sys.executable, "-m", "hpcseg", *arguments], capture_output=True, text=True)
    if answer.returncode:
        raise HpcsegError(f"`hpcseg {' '.join(arguments)}` failed in the bench: {answer.stderr.strip()}")
