"""One small training with its tiles on the device, in the memory of the host and in the packed file: seconds and bits.

python results/bench/places.py DATASET SCRATCH > results/bench/places.json
With a smaller --width it shows no more than that the bits are the same.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

from hpcseg.data.store import read_info
from hpcseg.learn.ranks import choose_device
from hpcseg.runs.execute import run_cell
from hpcseg.runs.finding import plan_run
from hpcseg.runs.grid import write_plan
from hpcseg.runs.machine import device_facts
from hpcseg.runs.provenance import collect
from hpcseg.runs.record import read_json

EPOCHS, TILE = 2, 128
JOB = """
[data]
tiles = "large"
[train]
width = {width}
epochs = {epochs}
noise_fraction = 0.5
noise_each_epoch = true
[evaluate]
sweep_max = 2000
[needs]
gpus = 0
[[grid]]
train.seed = 0
"""
ON_DEVICE, IN_MEMORY = "HPCSEG_TILES_ON_DEVICE", "HPCSEG_TILES_IN_MEMORY"


def main(data: Path, scratch: Path, width: int) -> None:
    """Print a JSON record; SCRATCH must be missing."""
    scratch.mkdir(parents=True)
    (scratch / "places.toml").write_text(JOB.format(width=width, epochs=EPOCHS))
    places: dict[str, dict[str, object]] = {}
    limits: dict[str, str] = {}
    for place, name in (("device", ""), ("host", ON_DEVICE), ("file", IN_MEMORY)):
        grid = plan_run(str(scratch / "places.toml"), data, scratch / place, ())
        write_plan(grid)
        folder = grid.cells[0].folder
        with environment({name: limits["quarter"]} if name else {}), contextlib.redirect_stdout(sys.stderr):
            for stage in ("train", "evaluate"):
                run_cell(folder, stage, should_stop=lambda: False)
        training, evaluation = read_json(folder.training_file), read_json(folder.evaluation_file)
        set_mib = training["train_tiles"] * TILE**2 * 5 / 2**20
        limits.setdefault("quarter", f"{set_mib / 4:.1f}")
        assert [start["tiles"] for start in training["starts"]] == [place]
        epochs = [
            line for line in map(json.loads, folder.events_file.read_text().splitlines()) if line["event"] == "epoch"
        ]
        places[place] = {
            "seconds of an epoch": [line["seconds"] for line in epochs],
            "seconds of the training": training["seconds"],
            "seconds of the evaluation": evaluation["seconds"],
            "model_sha256": training["model_sha256"],
            "slices_sha256": evaluation["slices_sha256"],
            "peak_memory_mib": training["peak_memory_mib"],
        }
    device = choose_device(0)
    provenance = collect(
        device=device_facts(device),
        command="results/bench/places.py DATASET SCRATCH",
        data_sha256=read_info(data).data_sha256,
    )
    content = {
        "width": width,
        "epochs": EPOCHS,
        "MiB of the training tiles": round(set_mib, 1),
        "MiB allowed": float(limits["quarter"]),
        "same bits": len({(one["model_sha256"], one["slices_sha256"]) for one in places.values()}) == 1,
        "places": places,
    }
    print(json.dumps({"provenance": provenance, **content}, indent=1))


@contextlib.contextmanager
def environment(variables: dict[str, str]):
    """With these variables in the block."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--width", type=int, default=8)
    main(**vars(parser.parse_args()))
