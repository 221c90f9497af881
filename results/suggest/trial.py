"""Does `hpcseg suggest` choose better slices to label than a lot, or than even spacing?

    python results/suggest/trial.py DATA SCRATCH > results/suggest/trial.json

DATA is the folder with the 500 real slices in data/ and labels/. Slices 1 to 340 are the stack of a user who has
labelled ten of them, drawn by lot, and has time for ten more; every second one from 401 to 500 is segmented
afterwards, and compared with its label. Everything is done by the commands that a user would type; job trial.toml is
trained on each choice with two seeds, and `suggest` goes by both models of the first ten. SCRATCH is resumed from.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import tifffile
import torch

from hpcseg.runs.machine import device_facts
from hpcseg.runs.provenance import collect

_STACK, _TEST = range(1, 341), range(401, 501, 2)
_COUNT = 10
_LOTS = 3
_JOB = Path(__file__).with_name("trial.toml")


def main(data: Path, scratch: Path) -> None:
    """Print a JSON record."""
    stack, test = scratch / "stack", scratch / "test"
    _link(data / "data", stack, _STACK)
    _link(data / "data", test, _TEST)
    truth = np.stack([tifffile.imread(_file(data / "labels", number)) for number in _TEST])
    tried = []
    for lot in range(_LOTS):
        drawn = np.random.default_rng(lot).permutation(_STACK)
        first = sorted(drawn[:_COUNT].tolist())
        run, before = _accuracy(data, scratch, f"{lot}-first", first, truth)
        answer = json.loads(_hpcseg("suggest", "*", stack, "-n", _COUNT, "--run", run, "--json"))
        assert len(answer["labelled"]) == _COUNT, answer["labelled"]
        choices = {
            "suggest": [pick["number"] for pick in answer["picks"]],
            "lot": drawn[_COUNT : 2 * _COUNT].tolist(),
            "evenly": _evenly(first),
        }
        after = {}
        for name, more in choices.items():
            _, accuracy = _accuracy(data, scratch, f"{lot}-{name}", sorted([*first, *more]), truth)
            after[name] = {"slices": sorted(more), "accuracy": accuracy}
        tried.append({"first": first, "accuracy": before, "ten more": after, "suggested": answer["picks"]})
    provenance = collect(
        device=device_facts(torch.device("cpu")), command="results/suggest/trial.py DATA SCRATCH", data_sha256=""
    )
    means = {name: round(float(np.mean([one["ten more"][name]["accuracy"] for one in tried])), 5) for name in choices}
    print(json.dumps({"provenance": provenance, "mean accuracy": means, "lots": tried}, indent=1))


def _accuracy(data: Path, scratch: Path, name: str, numbers: list[int], truth: np.ndarray) -> tuple[Path, list[float]]:
    """Train on these slices with two seeds: the run, and of each model the share of right pixels on the test slices."""
    labels, packed, run = scratch / f"labels-{name}", scratch / f"{name}.h5", scratch / "runs" / name
    _link(data / "labels", labels, numbers)
    if not packed.exists():
        _hpcseg("pack", "--images", scratch / "stack", "--labels", labels, "-o", packed)
    _hpcseg("grid", "--job", _JOB, "--data", packed, "--run", run, "--local", "--workers", 2)
    found = []
    for seed in (0, 1):
        out = scratch / "out" / f"{name}-{seed}"
        _hpcseg("predict", f"*-s{seed}-*", scratch / "test", "-o", out, "--run", run)
        predicted = np.stack([tifffile.imread(_file(out / "labels", number)) for number in _TEST])
        found.append(round(float(np.mean(predicted == truth)), 5))
    print(name, found, file=sys.stderr, flush=True)
    return run, found


def _evenly(first: list[int]) -> list[int]:
    """Ten slices at equal steps; where one is labelled already, its next neighbour."""
    taken = set(first)
    for place in np.linspace(_STACK[0], _STACK[-1], 2 * _COUNT + 1)[1::2]:
        taken.add(min((number for number in _STACK if number not in taken), key=lambda number: abs(number - place)))
    return sorted(taken - set(first))


def _link(folder: Path, to: Path, numbers: object) -> None:
    to.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        source = _file(folder, number)
        if not (to / source.name).exists():
            (to / source.name).symlink_to(source.resolve())


def _file(folder: Path, number: int) -> Path:
    (file,) = folder.glob(f"*{number:03}.*")
    return file


def _hpcseg(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "hpcseg", *map(str, arguments)], stdout=subprocess.PIPE, check=True, text=True
    )
    return done.stdout


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
