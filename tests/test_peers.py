"""What stands beside hpcseg in results/peers gets the same slices, and its page says what its records say."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import hpcseg.api as hs
from hpcseg.config import DataConfig
from hpcseg.data import store
from hpcseg.data.batches import open_source
from hpcseg.data.sample import write_sample
from hpcseg.data.splits import split_tiles

PEERS = Path(__file__).parents[1] / "results" / "peers"
sys.path.insert(0, str(PEERS))

import peers  # noqa: E402


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peers")
    write_sample(folder / "DATA", slices=40, size=48, seed=0)
    hs.pack(folder / "DATA", folder / "set.h5", on_note=[].append)
    return open_source(folder / "set.h5", DataConfig(tiles="cover", tile_size=24, split="blocked", gap_slices=2))


def record(tool: str, labelled: int, wrong: int, **other: object) -> dict[str, object]:
    confusion = [[600 - wrong, wrong], [0, 400]]
    return {
        "tool": tool,
        "labelled_slices": labelled,
        "minutes": 10,
        "threads": 2,
        "test_numbers": [1, 2, 3, 4],
        "training": {"seconds": 606.0, "process_seconds": 690.0, "peak_memory_mib": 2048},
        "prediction": {"0": 2.0, "5000": 6.0, "process_seconds": 20.0, "peak_memory_mib": 1536},
        "tests": {"0": {"confusion": confusion}, "5000": {"confusion": [[0, 600], [0, 400]]}},
        "provenance": {"device": "CPU", "processor": "P", "torch": "2", "command": "c", "time": "t", "commit": None},
        "packages": {"nnunetv2": "2.8.1"},
    } | other


def test_labelled_slices_are_at_equal_steps_over_all_that_may_be_learned_from():
    slices = np.arange(100, 364)
    chosen = peers.spread(slices, 10)
    assert len(chosen) == 10
    assert (chosen[0], chosen[-1]) == (100, 363)
    assert set(np.diff(chosen)) <= {29, 30}  # 263 / 9 = 29.2
    assert np.array_equal(peers.spread(slices, 0), slices)


@pytest.mark.parametrize("count", [3, 10, 50, 0])
def test_hpcseg_learns_from_the_labelled_slices_and_no_other(count):
    numbers, validation, test = np.r_[1:206, 442:501], np.arange(238, 295), np.arange(336, 392)
    labelled = peers.spread(numbers, count)
    more, seed = peers.beside(labelled, validation, test)
    assert set(more) <= {*validation, *test}
    given = np.sort(np.r_[labelled, more])
    tiles = np.column_stack([np.arange(len(given)), np.zeros((len(given), 2), dtype=int)])
    # With a gap of one, the least that data.gap_slices can be.
    split = split_tiles(tiles, numbers=given, policy="blocked", seed=seed, gap_slices=1)
    assert set(given[split.train]) == set(labelled)
    assert set(given[split.validation]) <= set(validation)
    assert set(given[split.test]) <= set(test)


def test_every_tool_gets_the_slices_of_the_training_block_and_noisy_ones_of_the_test_block(source, tmp_path):
    options = argparse.Namespace(minutes=2, threads=1, sigmas=[0, 500])
    test = source.test_slices()
    peers.prepare(tmp_path / "work", source, 5, test, options)
    task = json.loads((tmp_path / "work/task.json").read_text())
    rows = np.flatnonzero(np.isin(source.info.numbers, task["numbers"]))
    assert len(rows) == 5
    assert set(rows) <= set(source.tiles[source.split.train, 0])
    with np.load(tmp_path / "work/train.npz") as given:
        for row, image, label in zip(rows, given["images"], given["labels"], strict=True):
            images, labels = store.read_slices(source.info.path, row, row + 1)
            assert np.array_equal(image, images[0])
            assert np.array_equal(label, labels[0])
    clean, noisy = (np.load(tmp_path / f"work/test-{sigma}.npy").astype(float) for sigma in (0, 500))
    assert np.array_equal(clean[-1], store.read_slices(source.info.path, test[-1], test[-1] + 1)[0][0])
    # The standard error of a standard deviation of 2304 samples of each slice; none is near an end of the range.
    assert (noisy - clean).std() == pytest.approx(500, abs=4 * 500 / np.sqrt(2 * clean.size))
    assert task["seconds"] == 120


def test_the_table_has_a_row_for_each_tool_and_number_and_holes_for_what_is_missing():
    lines = peers.table([record("hpcseg", 10, 30), record("forest", 50, 60)]).splitlines()
    rows = {tuple(cell.strip() for cell in line.split("|")[1:3]): line for line in lines if line.startswith("|")}
    # 30 of 1000 wrong; IoU (570 / 600 + 400 / 430) / 2. With noise all are of the second class: 0.4 and (0 + 0.4) / 2.
    shown = "0.9700 | 0.9401 | 0.4000 | 0.2000 | 10.1 | 1.4 | 1.00 | 2.0 | 1.5"
    assert rows["hpcseg", "10"] == f"| hpcseg | 10 | {shown} |"
    assert rows["hpcseg", "50"].count("| - ") == 9
    assert len(rows) == 2 + 4 * 2


def test_what_a_run_takes_grows_with_the_minutes_and_the_test_slices():
    # 84 s round the training, 12 s round the prediction, 8 s for four slices.
    assert peers.estimate(record("hpcseg", 10, 0), 30, 56) == pytest.approx(30 + (84 + 12 + 8 * 14) / 60)


def test_records_of_other_minutes_are_no_part_of_the_same_table(tmp_path):
    for name, minutes in (("hpcseg-10", 10), ("forest-10", 5)):
        (tmp_path / f"{name}.json").write_text(json.dumps(record(name.split("-")[0], 10, 0, minutes=minutes)))
    with pytest.raises(SystemExit, match="other minutes"):
        peers.read_records(tmp_path)


def test_the_page_says_what_the_records_say(tmp_path):
    text, path = (PEERS / "README.md").read_text(), PEERS / "peers.json"
    records = json.loads(path.read_text()) if path.exists() else []
    assert peers.page(text, records) == text
    made = [record("hpcseg", 10, 30), record("hpcseg", 50, 20), record("forest", 10, 60)]
    assert peers.page(peers.page(text, made), records) == text
    peers.figure(made, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").stat().st_size > 10_000
