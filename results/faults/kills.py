"""Kills small commands at random moments, does them again, and counts: nothing lost, no other bit, nothing left.

    python results/faults/kills.py SCRATCH > results/faults/kills.json

A moment is drawn, from seed 0, out of the time that the command takes undisturbed; on another machine it is another.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hpcseg.data.sample import write_sample
from hpcseg.runs.machine import device_facts
from hpcseg.runs.provenance import collect
from hpcseg.runs.record import read_json
from hpcseg.slices.opening import open_source

JOB = """
[data]
tile_size = 48
tiles = "2x2"
[train]
width = 4
depth = 2
epochs = EPOCHS
batch_size = 4
precision = "fp32"
noise_fraction = 0.5
[evaluate]
table_sigma = "21 %"
sweep_max = "84 %"
sweep_step = "42 %"
whole_slices = true
examples = true
[needs]
gpus = 0
minutes = 5
memory_gib = 1
cpus_per_task = 1
[[grid]]
train.seed = SEEDS
"""
SAME = ("metrics.jsonl", "slices.jsonl")
"""Of a cell, those without times."""
EPOCHS = "cells/*/metrics.jsonl"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HPCSEG_CHECKPOINT_SECONDS": "0.3"}
moments = random.Random(0)

Strike = Callable[[subprocess.Popen[bytes]], None]


def main(scratch: Path) -> None:
    """Print a JSON record; SCRATCH must be empty or missing."""
    prepare(scratch, epochs=90, cells=1)
    parts = on_this_machine(scratch)
    provenance = collect(
        device=device_facts(torch.device("cpu")), command="results/faults/kills.py SCRATCH", data_sha256=""
    )
    print(json.dumps({"provenance": provenance, **parts}, indent=1))


def prepare(scratch: Path, *, epochs: int, cells: int) -> None:
    """A small packed data set, and a job of so many cells."""
    scratch.mkdir(parents=True, exist_ok=True)
    write_sample(scratch / "small", slices=12, size=96, seed=0)
    hpcseg(scratch, "pack", "small", "-o", "small.h5")
    text = JOB.replace("EPOCHS", str(epochs)).replace("SEEDS", str(list(range(cells))))
    (scratch / "job.toml").write_text(text)


def hpcseg(scratch: Path, *arguments: str) -> str:
    """What a command prints; raises CalledProcessError where it fails."""
    command = [sys.executable, "-m", "hpcseg", *arguments]
    done = subprocess.run(command, cwd=scratch, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        print(f"{scratch}: {arguments}\n{done.stdout}{done.stderr}", file=sys.stderr)
        done.check_returncode()
    return done.stdout


def on_this_machine(scratch: Path) -> dict[str, Any]:
    """What becomes of commands that are killed where they run."""
    write_sample(scratch / "large", slices=40, size=512, seed=1)
    write_sample(scratch / "many", slices=200, size=512, seed=2)
    found: dict[str, Any] = {}
    for ranks in (1, 2):
        alone, command = f"alone-{ranks}", partial(grid, ranks)
        seconds = timed(scratch, command(alone))
        idle = timed(scratch, command(alone))
        for strike in (kill_tree, kill_a_rank)[:ranks]:
            name = f"training of {ranks} ranks, {(strike.__doc__ or '').lower().rstrip('.')}"
            found[name] = trainings(scratch, command, alone, (seconds, idle), strike, runs=3, kills=3)
    found["pack"] = packs(scratch, times=12)
    for kind in ("tiff", "hdf5", "zarr"):
        found[f"predict to {kind}"] = predictions(scratch, kind, times=6)
    found["report"] = reports(scratch, times=7)
    return found


def grid(ranks: int, run: str) -> list[str]:
    """The command of a local run of one cell."""
    return ["grid", "--local", "--job", "job.toml", "--data", "small.h5", "--run", run, "--ranks-per-node", str(ranks)]


def trainings(
    scratch: Path,
    command: Callable[[str], list[str]],
    alone: str,
    seconds: tuple[float, float],
    strike: Strike,
    *,
    runs: int,
    kills: int,
) -> dict[str, int]:
    """Runs of one cell that are struck at random moments, begun again each time, and finished.

    SECONDS are those of the whole, and of the command where nothing is left to do: what a resumed run still
    needs shrinks with each moment, or most of them would come after its end.
    """
    counts = Counter(runs=runs)
    for number in range(runs):
        run = f"{alone}-{strike.__name__}-{number}"
        whole, idle = seconds
        for _ in range(kills):
            moment = moments.uniform(0.3 * idle, whole)
            alive = struck(scratch, command(run), moment, strike)
            whole -= max(0.0, moment - idle)
            counts["kills"] += alive
            counts["of those before the first record of an epoch"] += alive and not list((scratch / run).glob(EPOCHS))
        hpcseg(scratch, *command(run))
        counts["same to the bit"] += bits(scratch / run) == bits(scratch / alone)
        counts["files left aside"] += len(aside(scratch / run))
    return dict(counts)


def bits(run: Path) -> list[Any]:
    """All of a run's only cell that is no time and says nothing of the machine."""
    (cell,) = (run / "cells").iterdir()
    files = [hashlib.sha256((cell / name).read_bytes()).hexdigest() for name in SAME]
    evaluation = read_json(cell / "evaluation.json")
    return [read_json(cell / "training.json")["model_sha256"], evaluation["points"], *files]


def packs(scratch: Path, *, times: int) -> dict[str, int]:
    """Packings that are killed, terminated or interrupted, and then done."""
    seconds = timed(scratch, ["pack", "many", "-o", "many.h5"])
    wanted, counts = data_sha256(scratch / "many.h5"), Counter(runs=times)
    for number in range(times):
        name = f"struck-{number}.h5"
        command = ["pack", "many", "-o", name]
        counts["kills"] += struck(scratch, command, early(seconds), STRIKES[number % len(STRIKES)])
        if (scratch / name).exists():  # the moment came too late, or it is there and whole
            counts["there after the kill"] += 1
            counts["and whole"] += data_sha256(scratch / name) == wanted
            continue
        hpcseg(scratch, *command)
        counts["same data when done again"] += data_sha256(scratch / name) == wanted
    counts["files left aside"] = len(aside(scratch))
    return dict(counts)


def data_sha256(file: Path) -> str:
    """What `hpcseg info --verify` says of a packed file."""
    answer = json.loads(hpcseg(file.parent, "info", file.name, "--verify", "--json"))
    return str(answer["data_sha256"])


def predictions(scratch: Path, kind: str, *, times: int) -> dict[str, int]:
    """Predictions that are struck, and go on."""

    def command(out: str) -> list[str]:
        return ["predict", "*", "large/data", "-o", out, "--run", "alone-1", "--format", kind, "--probabilities"]

    alone = f"{kind}-alone"
    seconds = timed(scratch, command(alone))
    counts = Counter(runs=times)
    for number in range(times):
        out = f"{kind}-{number}"
        counts["kills"] += struck(scratch, command(out), early(seconds), STRIKES[number % len(STRIKES)])
        hpcseg(scratch, *command(out))
        counts["same pixels"] += pixels(scratch / out) == pixels(scratch / alone)
        counts["files left aside"] += len(aside(scratch / out))
    return dict(counts)


def pixels(out: Path) -> dict[str, str]:
    """A hash of what each output of a prediction shows."""
    found = {"fractions.csv": hashlib.sha256((out / "fractions.csv").read_bytes()).hexdigest()}
    for path in sorted(path for path in out.rglob("*") if path.suffix in (".tiff", ".tif", ".h5", ".zarr")):
        source = open_source(path)
        found[str(path.relative_to(out))] = hashlib.sha256(
            b"".join(source.read(i).tobytes() for i in range(len(source)))
        ).hexdigest()
    return found


def reports(scratch: Path, *, times: int) -> dict[str, int]:
    """Reports that are killed, and then made."""
    command = ["report", "--run", "alone-1"]
    seconds = timed(scratch, command)
    report = scratch / "alone-1" / "report"
    wanted = {path.name for path in report.iterdir()}
    counts = Counter(runs=times)
    for _ in range(times):
        counts["kills"] += struck(scratch, command, early(seconds), kill_tree)
        hpcseg(scratch, *command)
        counts["whole when made again"] += {path.name for path in report.iterdir()} >= wanted
        counts["files left aside"] += len(aside(report))
    return dict(counts)


def timed(scratch: Path, command: list[str]) -> float:
    """Seconds that a command takes undisturbed."""
    started = time.monotonic()
    hpcseg(scratch, *command)
    return time.monotonic() - started


def early(seconds: float) -> float:
    """A moment out of the first 0.8 of so many seconds: the next time the same command may be faster."""
    return moments.uniform(0.1, 0.8) * seconds


def struck(scratch: Path, command: list[str], seconds: float, strike: Strike) -> bool:
    """Start a command, and strike it after so many seconds; False where it had ended by then."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hpcseg", *command],
        cwd=scratch,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(seconds)
    alive = process.poll() is None
    if alive:
        strike(process)
    process.wait()
    return alive


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """All of its processes are killed."""
    for pid in (process.pid, *below(process.pid)):
        send(pid, signal.SIGKILL)


def kill_a_rank(process: subprocess.Popen[bytes]) -> None:
    """One of its ranks is killed."""
    ranks = [pid for pid in below(process.pid) if b"hpcseg.cluster.worker" in words(pid)]
    send(moments.choice(ranks or [process.pid]), signal.SIGKILL)


def terminate(process: subprocess.Popen[bytes]) -> None:
    """It is told to end."""
    process.terminate()


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C."""
    process.send_signal(signal.SIGINT)


STRIKES: tuple[Strike, ...] = (kill_tree, terminate, interrupt)


def send(pid: int, what: signal.Signals) -> None:
    """A signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, what)


def below(pid: int) -> list[int]:
    """All processes that a process has started, and those that they have, as far as their parents live."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            children.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
        except OSError:
            continue
    found = list(children.get(pid, []))
    for child in found:
        found += children.get(child, [])
    return found


def words(pid: int) -> list[bytes]:
    """The command line of a process; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def aside(folder: Path) -> list[Path]:
    """Files and folders that were being written when somebody was killed."""
    return [path for path in folder.rglob("*") if re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", path.name)]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
