"""Tiny cells in, the numbers that decide what every cell ends in out; and how far they may be from the expected ones.

Each cell differs from the first in the one setting that its name says. Slices are made of integers alone, so that they
are the same on every machine.

Why the tolerances hold on every processor and number of threads, and are small enough to see a change:

exact     splits, orders, symmetries, precisions and counts of tiles are integers from Philox; nothing rounds in them.
draws     the noisy tiles. NumPy's arithmetic on single values is IEEE's; log and exp, which the tails of the normal
          distribution and Poisson's take, are the C library's and right to a few units in the last place (6e-8). Sums
          are in float64, and the noise is looked at without the tiles under it, of whose values it has one unit in the
          last place left (6e-8 of 0.05). So 1e-5 is generous, and a sigma that is off by 1e-5 is seen.
losses    a float32 sum of n terms is off by sqrt(n) units in the last place as a rule, and n is 1e4 pixels here: 6e-6.
          Where two values of a pooling tie, or a gradient is nearly zero, which Adam divides by its size, rounding
          decides a whole step, and every further step makes more of it. So the first epoch is held to more than the
          later ones. With and without AVX2, with oneDNN's and MKL's oldest kernels, the first epoch was off by 6e-6,
          the later ones by 1.1e-3; bf16, whose unit is 4e-3, by no more. There is one thread, so the number of cores
          does not matter. With torch 2.11 in place of 2.13, whose kernels round elsewhere, a later one was off by
          2.1e-2, and in one cell, "noise-mixture", a first one by 2.0e-4: that cell has a tolerance of its own,
          since those of the others see a learning rate that is off by a hundredth (1.1e-4 to 6.6e-4). The tolerances
          are about five times the most that was seen, and of half precisions, which processors round after different
          parts of a sum, fifty times.
pixels    a class changes where two scores are nearly equal: this share of a matrix's pixels may be counted elsewhere.
          Measured as above: 4e-3, and 1.2e-2 in bf16.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tifffile
import torch

from hpcseg import config
from hpcseg.config import CellConfig, DataConfig, EvaluateConfig, NeedsConfig, ReportConfig, TrainConfig
from hpcseg.data.batches import epoch_order, epoch_symmetries, open_source
from hpcseg.data.noisy_tiles import noisy_set
from hpcseg.data.pack import pack
from hpcseg.data.store import read_info
from hpcseg.data.training_tiles import TrainingTiles
from hpcseg.jobfile import JobConfig
from hpcseg.numerics import NUMERICS
from hpcseg.runs.execute import run_cell
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Cell, plan, write_plan
from hpcseg.runs.record import read_json, read_lines

EXPECTED = Path(__file__).with_name("expected.json")
HOW = "raise NUMERICS in hpcseg/numerics.py and run `python tests/golden/make.py`"

# The first cells had no more, and keep their numbers; a later model has a cell of its own.
_FIRST_MODELS = ("gaussian", "uniform", "poisson", "salt-and-pepper")
_DRAWS = 1e-5
# By the number format of the products (of tf32 a CPU knows nothing and takes fp32): losses relative, pixels as a share.
_FIRST_LOSSES = {"fp32": 1e-4, "tf32": 1e-4, "bf16": 1e-2, "fp16": 1e-2}
# A cell in which rounding decides a step in its first epoch already: as many times as much there.
_EARLY = {"noise-mixture": 10}
_LATER_LOSSES = {"fp32": 1e-1, "tf32": 1e-1, "bf16": 2e-1, "fp16": 2e-1}
_PIXELS = {"fp32": 6e-2, "tf32": 6e-2, "bf16": 1.5e-1, "fp16": 1.5e-1}


def cells() -> dict[str, CellConfig]:
    """The cells by the setting in which they differ from the first."""
    grid: dict[str, Any] = {"tiles": "large", "tile_size": 16}
    data = DataConfig(**grid)
    train = TrainConfig(
        width=2,
        depth=2,
        epochs=3,
        batch_size=8,
        learning_rate=0.01,
        noise_fraction=0.5,
        noise_sigma_max=5_000.0,
        precision="fp32",
    )
    everything = EvaluateConfig(
        table_sigma=3_000.0,
        sweep_max=4_000.0,
        sweep_step=2_000.0,
        other_noise="+".join(_FIRST_MODELS[1:]),
        mixed_fraction=0.5,
        mixed_sigma_max=5_000.0,
        whole_slices=True,
    )
    evaluate = EvaluateConfig(table_sigma=3_000.0)
    of_train: dict[str, dict[str, Any]] = {
        **{f"noise-{model}": {"noise_model": model} for model in config.NOISE_MODELS},
        "noise-mixture": {"noise_model": "+".join(_FIRST_MODELS)},
        "noise-each-epoch": {"noise_each_epoch": True},
        **{f"augment-{name}": {"augment": name} for name in config.AUGMENTATIONS},
        # "auto" is one of the others, by what the hardware has, and no CPU computes in tf32.
        **{f"precision-{name}": {"precision": name} for name in config.PRECISIONS if name not in ("auto", "tf32")},
        "weight-decay": {"weight_decay": 0.01},
        "no-batch-norm": {"batch_norm": False},
        "keep-best": {"keep": "best"},
        "order-seed": {"order_seed": 1},
        "epoch-steps": {"epoch_steps": 9},
        **{f"schedule-{name}": {"schedule": name} for name in config.SCHEDULES},
        **{f"loss-{name}": {"loss": name} for name in config.LOSSES},
        **{f"class-weights-{name}": {"class_weights": name} for name in ("frequency", "1+3+2")},
    }
    of_data: dict[str, dict[str, Any]] = {
        **{f"normalise-{name}": {"normalise": name} for name in config.NORMALISATIONS},
        **{f"out-of-range-{name}": {"out_of_range": name} for name in config.OUT_OF_RANGE},
        "slices": {"slices": 9},
        "label-share": {"label_share": 0.3},
        "context": {"context": 1, "split": "blocked", "gap_slices": 1},
    }
    described = {
        "evaluated-with-everything": (data, train),
        **{f"split-{name}": (DataConfig(**grid, split=name, gap_slices=1), train) for name in config.SPLITS},
        **{name: (data, dataclasses.replace(train, **settings)) for name, settings in of_train.items()},
        **{name: (dataclasses.replace(data, **settings), train) for name, settings in of_data.items()},
    }
    # Beyond the range of the type noise brings few values, unless it is strong.
    readings = EvaluateConfig(
        table_sigma=3_000.0,
        other_sigmas="9000",
        other_noise="offset",
        mixed_fraction=0.5,
        batch_norm="running+batch",
        batch_size=5,
    )
    evaluations = dict.fromkeys((*of_data, "noise-offset"), readings)
    evaluations["noise-blurred"] = EvaluateConfig(table_sigma=3_000.0, other_noise="blurred+stripes")
    return {
        # Cells that are the first one by another name have its evaluation too.
        name: CellConfig(
            data=of[0],
            train=of[1],
            evaluate=everything if of == (data, train) else evaluations.get(name, evaluate),
        )
        for name, of in described.items()
    }


def measure(folder: Path) -> dict[str, Any]:
    """What expected.json holds, of the code that runs. Writes into an empty folder."""
    dataset = _pack(folder)
    described = cells()
    # Some settings are the first cell's own, and one cell is enough for both.
    configs = tuple(dict.fromkeys(described.values()))
    job = JobConfig(name="golden", title="Golden", cells=configs, needs=NeedsConfig(), report=ReportConfig())
    grid = plan(job, RunFolder(folder / "run"), dataset, read_info(dataset).data_sha256)
    write_plan(grid)
    with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):
        found = {cell.config: _numbers(cell, dataset) for cell in grid.cells}
    return {"numerics": NUMERICS, "cells": {name: found[config] for name, config in described.items()}}


def complaint(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str | None:
    """What is wrong with the numbers of the code, and what to do, in one sentence; None: nothing."""
    where = f"tests/golden/{EXPECTED.name}"
    if found["numerics"] != expected["numerics"]:
        return (
            f"{where} is of numerics {expected['numerics']} but hpcseg/numerics.py says {found['numerics']}: run "
            "`python tests/golden/make.py`."
        )
    if set(found["cells"]) != set(expected["cells"]):
        odd = ", ".join(sorted(set(found["cells"]) ^ set(expected["cells"])))
        return f"{where} has not the cells of tests/golden/golden.py ({odd}): run `python tests/golden/make.py`."
    changed = [
        f"{name} ({difference})"
        for name, numbers in found["cells"].items()
        for difference in list(_differences(numbers, expected["cells"][name], _EARLY.get(name, 1)))[:1]
    ]
    if not changed:
        return None
    return (
        f"Numbers have changed and NUMERICS is still {NUMERICS}; if that is meant, {HOW}, and if not, undo it: "
        + "; ".join(changed)
    )


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any], early: float) -> Iterator[str]:
    precision = expected["exact"]["precision"]
    for kind in expected:
        if set(found[kind]) != set(expected[kind]):
            yield f"{kind} has other names: {', '.join(sorted(set(found[kind]) ^ set(expected[kind])))}"
    for name, value in found["exact"].items():
        if value != expected["exact"].get(name):
            yield f"{name} is {value}, not {expected['exact'].get(name)}"
    for kind, tolerance in (
        ("draws", _DRAWS),
        ("first losses", early * _FIRST_LOSSES[precision]),
        ("later losses", _LATER_LOSSES[precision]),
    ):
        for name, values in found[kind].items():
            off = _off(values, expected[kind].get(name, []))
            if not off <= tolerance:  # NaN is neither
                yield f"{name} is off by {off:.1e}, more than {tolerance:.0e}"
    for name, matrix in found["pixels"].items():
        one, other = np.array(matrix), np.array(expected["pixels"].get(name, [[0]]))
        # Each pixel that is counted elsewhere is missing from one number and too many in another.
        moved = np.abs(one - other).sum() / 2 if one.shape == other.shape else np.inf
        if moved > _PIXELS[precision] * one.sum():
            yield f"{name} has {moved:g} of {one.sum()} pixels elsewhere"


def _off(values: list[float], expected: list[float]) -> float:
    """The largest difference of two lists, relative to the expected value."""
    if len(values) != len(expected):
        return np.inf
    one, other = np.array(values), np.array(expected)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(np.where(one == other, 0.0, np.abs(one - other) / np.abs(other))))


def _numbers(cell: Cell, dataset: Path) -> dict[str, Any]:
    for stage in ("train", "evaluate"):
        assert run_cell(cell.folder, stage, should_stop=lambda: False) == "finished"
    training, evaluation = read_json(cell.folder.training_file), read_json(cell.folder.evaluation_file)
    epochs = read_lines(cell.folder.metrics_file)
    slices = [line["whole"] for line in read_lines(cell.folder.slices_file) if "whole" in line]
    levels = [level.key for level in cell.config.evaluate.levels()]
    points = {level: point["confusion"] for level, point in zip(levels, evaluation["points"], strict=True)}
    exact, draws = _draws(cell.config, dataset)
    return {
        "exact": {
            **{name: training[name] for name in ("precision", "split_sha256", "steps", "parameters", "train_tiles")},
            "test_tiles": evaluation["test_tiles"],
            **exact,
        },
        "draws": draws,
        "first losses": {"train_loss": [epochs[0]["train_loss"]]},
        "later losses": {
            "train_loss": [line["train_loss"] for line in epochs[1:]],
            "validation_loss": [line["validation_loss"] for line in epochs],
        },
        "pixels": {
            "training": [[round(line["train_accuracy"] * 16**2 * training["train_tiles"]) for line in epochs]],
            "validation": training["validation_confusion"],
            **points,
            **({"whole slices": np.sum(slices, axis=0).tolist()} if slices else {}),
        },
    }


def _draws(cell: CellConfig, dataset: Path) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """What is drawn by lot: integers as hashes, and the tiles with their noise as sums."""
    source, cpu, train = open_source(dataset, cell.data), torch.device("cpu"), cell.train
    tiles, clean = (
        TrainingTiles(source, source.split.train, settings, cpu)
        for settings in (train, dataclasses.replace(train, noise_fraction=0.0))
    )
    exact, sums = {}, {}
    for epoch in range(train.epochs):
        exact[f"order of epoch {epoch}"] = _sha256(epoch_order(len(tiles), seed=train.order, epoch=epoch))
        if train.moves:
            moves = epoch_symmetries(len(tiles), augment=train.moves, seed=train.seed, epoch=epoch)
            exact[f"symmetries of epoch {epoch}"] = _sha256(moves)
        images, without = tiles.of_epoch(epoch).images, clean.of_epoch(epoch).images
        sums[f"training tiles of epoch {epoch}"] = _sums(without)
        sums[f"training noise of epoch {epoch}"] = _squares(images - without)
    levels = cell.evaluate.levels()
    tests = noisy_set(source, source.split.test, levels=levels, seed=cell.evaluate.seed, device=cpu)
    for level in levels:
        if level.sigma and not level.norm_tiles:
            noise = tests.take(slice(0, len(tests)), level)[0] - tests.clean.images
            sums[f"test noise at {level.key}"] = _squares(noise)
    sums["test tiles"] = _sums(tests.clean.images)
    return exact, sums


def _sums(images: torch.Tensor) -> list[float]:
    """Mean, mean square, and a mean that knows where each value stands."""
    values = images.numpy().astype(np.float64).ravel()
    place = np.arange(len(values)) % 1009 / 1009
    return [float(mean) for mean in (values.mean(), (values**2).mean(), (values * place).mean())]


def _squares(noise: torch.Tensor) -> list[float]:
    """Mean square, and one that knows where each value stands: means of noise are nearly 0, and so is what is left."""
    return _sums(noise**2)[::2]


def _sha256(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<i8").tobytes()).hexdigest()


def _pack(folder: Path) -> Path:
    """A packed file of 12 slices of 48 x 48 pixels: blocks of three phases with noise, in integers."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([16])))
    for name in ("data", "labels"):
        (folder / name).mkdir(parents=True)
    phases = np.kron(rng.integers(3, size=(12, 8, 8)), np.ones((1, 6, 6), dtype=np.int64))
    grey = 6_000 + 26_000 * phases + rng.integers(-1_500, 1_501, size=phases.shape)
    for index in range(len(phases)):
        tifffile.imwrite(folder / "data" / f"golden{index:02d}.tif", grey[index].astype(np.uint16))
        tifffile.imwrite(folder / "labels" / f"golden{index:02d}.tif", phases[index].astype(np.uint8))
    pack(folder / "data", folder / "labels", folder / "golden.h5", command="golden")
    return folder / "golden.h5"


def read_expected() -> dict[str, Any]:
    """The committed numbers."""
    expected: dict[str, Any] = json.loads(EXPECTED.read_text(encoding="utf-8"))
    return expected
