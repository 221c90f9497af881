"""How long cells take, worked out by hand from a bench's rates."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from hpcseg.bench.estimate import Estimate, bench_file, estimate, find_bench
from hpcseg.config import CellConfig, DataConfig, EvaluateConfig, TrainConfig
from hpcseg.jobfile import find_shipped, load_job

INFO = SimpleNamespace(shape=(500, 501, 501), numbers=np.arange(1, 501), alike_slices=41)


def _record(device="CPU of a test", time="2026-01-02T03:04:05+00:00", rate=10.0):
    return {
        "tile_size": 128,
        "provenance": {"device": device, "time": time},
        "training": {"16": {"tiles_per_second": {"ours": rate}}},
        "sweep": {"16": {"tiles_per_second": {"ours": 4 * rate}}},
    }


def _cells(**settings):
    return [
        cell
        for cell in load_job(find_shipped("job", "paper-cpu")).cells
        if cell.data.tiles == "large" and all(getattr(cell.train, k) == v for k, v in settings.items())
    ]


def test_seconds_are_tiles_by_rates():
    (swept, *_) = _cells(noise_fraction=0.5)
    cell = dataclasses.replace(swept, evaluate=EvaluateConfig(sweep_max=30_000, mixed_fraction=0.5))
    (seconds,) = estimate([cell], INFO, _record()).seconds
    epochs = cell.train.epochs
    # 4500 tiles: 70 % are trained on, 15 % validate each epoch, 15 % meet the 31 levels of the sweep and the mixed one.
    assert seconds == pytest.approx(epochs * 3150 / 10 + (epochs * 675 + 32 * 675) / 40)


def test_memory_grows_with_channels_pixels_and_tiles():
    (cell, *_) = _cells(noise_fraction=0.5)
    record = {**_record(), "batch_size": 32}
    record["training"]["16"]["memory_mib"] = {"host": {"base": 300, "peak": 700}}
    found = estimate([cell], INFO, record)
    # 3150 tiles of 128 x 128 pixels: 4 bytes of the image and 1 of the label.
    tiles = 3150 * 128**2 * 5 / 2**20
    scale = cell.train.width / 16 * cell.train.batch_size / 32
    assert found.memory_mib["host"] == pytest.approx(300 + 400 * scale + tiles)
    gib = found.memory_mib["host"] / 1024
    assert f"and about {gib:.1f} GiB of host memory a cell, going by" in found.text(at_once=1)
    record["training"]["16"]["memory_mib"]["gpu"] = {"base": 0, "peak": 2000}
    on_gpu = estimate([cell], INFO, record).memory_mib
    assert on_gpu["host"] == pytest.approx(700 + tiles), "no pass of the network is there"
    assert on_gpu["gpu"] == pytest.approx(2000 * scale + tiles)
    assert "GiB of host memory and" in estimate([cell], INFO, record).text(at_once=1)
    assert not estimate([cell], INFO, _record()).memory_mib, "of a bench of before"


def test_whole_slices_cost_as_their_pixels():
    blocked = DataConfig(tiles="large", split="blocked")
    with_and_without = [
        CellConfig(data=blocked, train=TrainConfig(width=16), evaluate=EvaluateConfig(whole_slices=whole))
        for whole in (True, False)
    ]
    both = estimate(with_and_without, INFO, _record()).seconds
    # 500 slices without three gaps of 41: 15 % of 377 are 57, and the rounding leaves 56 to the test set.
    assert both[0] - both[1] == pytest.approx(56 * 501 * 501 / 128**2 / 40)


def test_a_width_that_was_not_measured_costs_as_much_more_as_it_multiplies():
    (cell, *_) = _cells(noise_fraction=0.5)
    record = _record()
    for part in ("training", "sweep"):
        record[part] = {"32": record[part]["16"]}
    (at_16,) = estimate([cell], INFO, _record()).seconds
    (from_32,) = estimate([cell], INFO, record).seconds
    assert from_32 == pytest.approx(at_16 / 4)


def test_the_text_has_the_sum_the_longest_and_where_it_was_measured():
    cells = _cells(noise_fraction=0.5)
    assert len(cells) == 2
    found = estimate(cells, INFO, _record(rate=15.0))
    assert found.text(at_once=1) == (
        f"About {found.hours:.1f} hours for 2 cells ({found.hours:.2g} hours), and at most "
        f"{max(found.seconds) / 60:.0f} minutes a cell, going by the bench of 2026-01-02 (CPU of a test)."
    )
    on_gpu = estimate(cells, INFO, _record("NVIDIA y", rate=15.0)).text(at_once=8)
    assert f"{max(found.seconds) / 60:.0f} minutes with 2 at a time" in on_gpu and "GPU-hours" in on_gpu


@pytest.mark.parametrize(("hours", "said"), [(0.25, "0.25"), (9.96, "10"), (99.7, "100"), (232.0, "232")])
def test_hours_are_plain_numbers_however_many_they_are(hours, said):
    found = Estimate((3600 * hours,), "CPU of a test", "2026-01-02", {})
    assert f"for 1 cells ({said} hours)" in found.text(at_once=1)


def test_the_newest_bench_of_the_kind_is_found_and_others_are_passed_over(tmp_path):
    assert find_bench([tmp_path], gpu=False) is None
    records = {
        "old": _record("CPU x", "2026-01-01T00:00:00+00:00"),
        "new": _record("CPU x", "2026-01-03T00:00:00+00:00"),
        "gpu": _record("NVIDIA y", "2026-01-02T00:00:00+00:00"),
        "half": {"provenance": {"device": "CPU x", "time": "2027-01-01T00:00:00+00:00"}},
    }
    for name, record in records.items():
        (tmp_path / f"bench-{name}.json").write_text(json.dumps(record))
    (tmp_path / "bench-damaged.json").write_text("{")
    assert find_bench([tmp_path], gpu=False) == records["new"]
    assert find_bench([tmp_path], gpu=True) == records["gpu"]
    assert find_bench([tmp_path / "none", tmp_path], gpu=True) == records["gpu"]


def test_a_device_has_a_file_of_its_own(tmp_path):
    assert bench_file(tmp_path, "NVIDIA H200 (141 GB)").name == "bench-nvidia-h200-141-gb.json"


@pytest.mark.parametrize(
    ("seconds", "minutes", "cells"), [(10.0, 1440, 90), (10.0, 10, 42), (5000.0, 1440, 1), (0.001, 1440, 500)]
)
def test_a_job_takes_as_many_cells_as_a_quarter_of_an_hour_and_its_time_limit_hold(seconds, minutes, cells):
    assert Estimate((seconds, seconds), "CPU of a test", "2026-01-02", {}).cells_per_job(minutes) == cells
