"""`predict --adapt-norm`: the volume's own statistics, the same in every part, after every stop, in every model."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from finished_cells import planned
from slice_folder import hpcseg
from torch.optim.swa_utils import update_bn

from hpcseg.config import CellConfig, DataConfig, TrainConfig
from hpcseg.errors import DatasetError
from hpcseg.predict.norm import MOST_TILES, TILES_PER_BATCH, estimate, places
from hpcseg.predict.request import begin, part_of, read_request
from hpcseg.predict.volume import open_volume
from hpcseg.predict.work import finish, work
from hpcseg.runs.execute import run_cell
from hpcseg.runs.folder import CellFolder
from hpcseg.runs.record import read_json

AS_THEY_ARE = ("--range", 0, 65_535)


@pytest.fixture(scope="module")
def clean_cell(tiny_dataset, tmp_path_factory) -> CellFolder:
    """A cell that was trained without noise until it knows its phases."""
    config = CellConfig(
        data=DataConfig(tiles="4x4", tile_size=64),
        train=TrainConfig(width=8, depth=3, epochs=8, batch_size=16, learning_rate=0.003, precision="fp32"),
    )
    grid = planned(tmp_path_factory.mktemp("clean"), tiny_dataset, config)
    assert run_cell(grid.cells[0].folder, "train", should_stop=lambda: False) == "finished"
    return grid.cells[0].folder


@pytest.fixture(scope="module")
def noisy(tiny_folder, tmp_path_factory) -> Path:
    """The slices of the training with noise that it had not: sigma 5000, where its phases are 6500 apart."""
    folder, rng = tmp_path_factory.mktemp("noisy"), np.random.default_rng(0)
    for file in sorted((tiny_folder / "data").iterdir()):
        pixels = tifffile.imread(file) + rng.normal(0, 5_000, (128, 128))
        tifffile.imwrite(folder / file.name, pixels.clip(0, 65_535).astype(np.uint16))
    return folder


def predict(model: Path, volume: Path, out: Path, *options: object) -> None:
    answer = hpcseg("predict", model, volume, "-o", out, *AS_THEY_ARE, *options)
    assert answer.exit_code == 0, answer.output


def labels(out: Path) -> np.ndarray:
    return np.stack([tifffile.imread(file) for file in sorted((out / "labels").iterdir())])


def test_a_model_trained_without_noise_sees_through_noise(clean_cell, noisy, tiny_folder, tmp_path):
    true = np.stack([tifffile.imread(file) for file in sorted((tiny_folder / "labels").iterdir())])
    right = {}
    for name, volume, options in (
        *(("clean", tiny_folder / "data", ()), ("clean adapted", tiny_folder / "data", ("--adapt-norm",))),
        *(("noisy", noisy, ()), ("noisy adapted", noisy, ("--adapt-norm",))),
    ):
        predict(clean_cell.path, volume, tmp_path / name, *options)
        right[name] = float(np.mean(labels(tmp_path / name) == true))
    # Here 0.69 and 0.82; rounding and order of sums decide a few hundredths of so short a training.
    assert right["noisy adapted"] > right["noisy"] + 0.05, right
    assert right["clean adapted"] > right["clean"] - 0.02, right


def test_statistics_are_torchs_own_cumulative_average_over_batches(model):
    images = torch.rand(40, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    found = estimate(model.network, images)
    before = model.network.state_dict()
    expected = type(model.network)(classes=3, width=4, depth=2)
    expected.load_state_dict(before)
    # Three batches of every third tile: 14, 13 and 13.
    assert TILES_PER_BATCH == 16
    update_bn([images[start::3] for start in range(3)], expected)
    for name, tensor in expected.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            # The layouts differ, and with them the order of sums: ten layers, each with a rounding of some 2**-24.
            torch.testing.assert_close(found.pop(name), tensor, rtol=1e-4, atol=1e-5)
    assert not found
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.network.state_dict().items())


@pytest.mark.parametrize(
    ("shapes", "edge", "count"),
    [
        ([(128, 128)] * 16, 64, 64),
        ([(128, 128)] * 40, 64, MOST_TILES),
        ([(501, 501)] * 500, 128, MOST_TILES),
        ([(40, 30), (100, 200)], 64, 3),  # the first has no room
        ([(40, 30), (30, 40), (35, 36)], 64, 1),
        ([(20, 20)], 64, 1),
    ],
)
def test_tiles_lie_on_the_slices_evenly_and_are_no_more_than_fit(tiny_folder, shapes, edge, count):
    volume = dataclasses.replace(
        open_volume(tiny_folder / "data"), shapes=tuple(shapes), names=tuple(map(str, range(len(shapes))))
    )
    tries = places(volume, edge)
    assert len(tries) == count and tries == places(volume, edge)
    assert all(len({index for index, *_ in of}) == 1 for of in tries), "other places are in the same slice"
    found = [of[0] for of in tries]
    used = np.array([index for index, _, _ in found])
    # Equal numbers from every stretch of slices.
    largest = max(shapes, key=math.prod)
    alike = len(set(shapes)) == 1
    assert not alike or np.ptp(np.histogram(used, bins=min(4, len(shapes)), range=(0, len(shapes)))[0]) <= 1
    sizes = {(rows.stop - rows.start, columns.stop - columns.start) for of in tries for _, rows, columns in of}
    assert sizes == {(min(edge, largest[0]), min(edge, largest[1]))}
    for index, rows, columns in (one for of in tries for one in of):
        assert rows.start >= 0 and rows.stop <= shapes[index][0]
        assert columns.start >= 0 and columns.stop <= shapes[index][1]
    if count == MOST_TILES:
        middles = np.array([(rows.start, columns.start) for _, rows, columns in found])
        # All over the slice: the mean of even draws from 0 to L - edge, with the error of 128 draws by lot.
        room = shapes[0][0] - edge
        np.testing.assert_allclose(middles.mean(0), room / 2, atol=4 * room / np.sqrt(12 * count))


def test_parts_and_starts_take_the_statistics_that_were_estimated_once(clean_cell, noisy, tmp_path, monkeypatch):
    predict(clean_cell.path, noisy, tmp_path / "whole", "--adapt-norm")
    first = begin(
        dataclasses.replace(read_request(tmp_path / "whole"), out=tmp_path / "parts", models=(clean_cell.path,))
    )
    assert first.folder.norm_file.read_bytes() == (tmp_path / "whole" / "norm.safetensors").read_bytes()

    def twice(*_: object) -> None:
        raise AssertionError("estimated a second time")

    monkeypatch.setattr("hpcseg.predict.norm.estimate", twice)
    for part in (1, 0, 2):
        prediction = begin(read_request(tmp_path / "parts"))
        own = part_of(prediction.missing(), len(prediction.volume), part, 3)
        assert work(prediction, own, part=part)
    finish(begin(read_request(tmp_path / "parts")))
    np.testing.assert_array_equal(labels(tmp_path / "parts"), labels(tmp_path / "whole"))
    predict(clean_cell.path, noisy, tmp_path / "whole", "--adapt-norm")


def test_a_start_that_was_killed_before_it_had_statistics_makes_them(clean_cell, noisy, tmp_path, monkeypatch):
    predict(clean_cell.path, noisy, tmp_path / "whole", "--adapt-norm")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("hpcseg.predict.norm.estimate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        begin(dataclasses.replace(read_request(tmp_path / "whole"), out=tmp_path / "out", models=(clean_cell.path,)))
    assert not (tmp_path / "out" / "norm.safetensors").exists()
    predict(clean_cell.path, noisy, tmp_path / "out", "--adapt-norm")
    np.testing.assert_array_equal(labels(tmp_path / "out"), labels(tmp_path / "whole"))


def segmented(model: CellFolder, volume: np.ndarray, out: Path, *options: object) -> np.ndarray:
    out.mkdir()
    np.save(out / "in.npy", volume)
    predict(model.path, out / "in.npy", out / "out", *options)
    return tifffile.imread(out / "out" / "labels.tif")


def test_pixels_without_a_grey_value_are_in_no_statistic(clean_cell, noisy, tiny_folder, tmp_path):
    true = np.stack([tifffile.imread(file) for file in sorted((tiny_folder / "labels").iterdir())])
    volume = np.stack([tifffile.imread(file) for file in sorted(noisy.iterdir())]).astype(np.float32)
    down, across = np.mgrid[:128, :128] - 63.5
    inside = np.broadcast_to(down**2 + across**2 < 40**2, volume.shape).copy()  # no tile of 64 pixels is within
    inside[3] = False
    right = {}
    for name, pixels, options in (
        ("as it is", np.where(inside, volume, np.nan), ()),
        ("adapted", np.where(inside, volume, np.nan), ("--adapt-norm",)),
        ("all of it adapted", volume, ("--adapt-norm",)),
    ):
        found = segmented(clean_cell, pixels, tmp_path / name.replace(" ", "-"), *options)
        right[name] = float(np.mean(found[inside] == true[inside]))
    # Here 0.67, 0.72 and 0.81; with the pixels outside in the statistics it was 0.38.
    assert right["as it is"] + 0.02 < right["adapted"] < right["all of it adapted"], right
    norm = read_json(tmp_path / "adapted" / "out" / "prediction.json")["norm"]
    assert norm["shape"] == [64, 64] and norm["slices"] == 15, "the slice without any value gives no tile"


def test_a_border_that_is_left_out_is_in_no_statistic_either(clean_cell, noisy, tmp_path):
    volume = np.stack([tifffile.imread(file) for file in sorted(noisy.iterdir())])
    down, across = np.mgrid[:128, :128] - 63.5
    inside = down**2 + across**2 < 40**2
    for name, round_it in (("nan", np.where(inside, volume, np.nan).astype(np.float32)), ("0", volume * inside)):
        segmented(clean_cell, round_it, tmp_path / name, "--adapt-norm", "--border", "outside")
    files = [tmp_path / name / "out" / "norm.safetensors" for name in ("nan", "0")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_volume_that_is_hardly_there_has_no_statistics(clean_cell, tmp_path):
    volume = np.full((2, 80, 80), np.nan, np.float32)
    volume[:, :20] = 30_000
    np.save(tmp_path / "in.npy", volume)
    command = ("predict", clean_cell.path, tmp_path / "in.npy", "-o", tmp_path / "out", *AS_THEY_ARE)
    answer = hpcseg(*command, "--adapt-norm")
    assert answer.exit_code == 3 and "more than half of each that" in answer.output and "Leave it out" in answer.output
    assert hpcseg(*command).exit_code == 0, "which it does in the same folder"


def test_a_small_slice_among_others_decides_nothing(clean_cell, noisy, tmp_path):
    for file in sorted(noisy.iterdir()):
        (tmp_path / "all").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "all" / file.name, tifffile.imread(file))
    predict(clean_cell.path, tmp_path / "all", tmp_path / "before", "--adapt-norm")
    tifffile.imwrite(tmp_path / "all" / "sample0099.tiff", np.full((9, 11), 30_000, np.uint16))
    predict(clean_cell.path, tmp_path / "all", tmp_path / "after", "--adapt-norm")
    norms = [read_json(tmp_path / name / "prediction.json")["norm"] for name in ("before", "after")]
    assert norms[0] == norms[1]
    for file in sorted((tmp_path / "before" / "labels").iterdir()):
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "after" / "labels" / file.name), tifffile.imread(file))


@pytest.mark.parametrize("options", [("--percentiles", 1, 99), (*AS_THEY_ARE, "--adapt-norm")])
def test_a_start_that_was_killed_before_it_noted_what_it_read_begins_anew(
    clean_cell, noisy, tmp_path, monkeypatch, options
):
    volume = np.stack([tifffile.imread(file) for file in sorted(noisy.iterdir())]).astype(np.float32)
    np.save(tmp_path / "in.npy", volume)

    def command(out: str) -> tuple[object, ...]:
        return ("predict", clean_cell.path, tmp_path / "in.npy", "-o", tmp_path / out, *options)

    with monkeypatch.context() as patched:
        patched.setattr(
            "hpcseg.predict.outcome.OutFolder.note_read", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        assert hpcseg(*command("out")).exit_code == 130
    assert (tmp_path / "out" / "prediction.json").exists()
    np.save(tmp_path / "in.npy", volume * 0.5 + 9_000)
    for out in ("out", "fresh"):
        assert hpcseg(*command(out)).exit_code == 0
    records = [read_json(tmp_path / out / "prediction.json") for out in ("out", "fresh")]
    assert records[0]["mapping"] == records[1]["mapping"]
    np.testing.assert_array_equal(*(tifffile.imread(tmp_path / out / "labels.tif") for out in ("out", "fresh")))


def test_every_model_of_an_ensemble_has_statistics_of_its_own(model_files, noisy, tmp_path):
    predict(model_files[0], noisy, tmp_path / "both", "--adapt-norm", "--ensemble", model_files[1], "--probabilities")
    for number, file in enumerate(model_files):
        predict(file, noisy, tmp_path / f"one{number}", "--adapt-norm", "--probabilities", "--float16")
    parts = [
        np.stack([tifffile.imread(file) for file in sorted((tmp_path / f"one{number}" / "probability-0").iterdir())])
        for number in (0, 1)
    ]
    both = np.stack([tifffile.imread(file) for file in sorted((tmp_path / "both" / "probability-0").iterdir())])
    assert np.abs(parts[0] - parts[1]).max() > 0.01
    # A mean in 255 steps of probabilities with 11 binary digits.
    np.testing.assert_allclose(both / 255, (parts[0].astype(float) + parts[1]) / 2, atol=0.5 / 255 + 2**-11)


def test_the_record_says_it_and_a_prediction_without_it_is_another(model_file, noisy, tmp_path):
    predict(model_file, noisy, tmp_path / "out", "--adapt-norm")
    record = read_json(tmp_path / "out" / "prediction.json")
    assert record["asked"]["adapt_norm"] is True
    assert record["norm"] == {"tiles": 64, "tiles_per_batch": 16, "shape": [64, 64], "slices": 16}
    answer = hpcseg("predict", model_file, noisy, "-o", tmp_path / "out", *AS_THEY_ARE)
    assert answer.exit_code == 2 and "adapt_norm (true, now null)" in answer.output
    predict(model_file, noisy, tmp_path / "plain")
    assert read_json(tmp_path / "plain" / "prediction.json")["norm"] is None
    assert not (tmp_path / "plain" / "norm.safetensors").exists()
    assert (labels(tmp_path / "plain") != labels(tmp_path / "out")).any()


def test_damaged_statistics_are_told_and_made_again_once_they_are_gone(model_file, noisy, tmp_path):
    predict(model_file, noisy, tmp_path / "out", "--adapt-norm")
    file = tmp_path / "out" / "norm.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    answer = hpcseg("predict", model_file, noisy, "-o", tmp_path / "out", *AS_THEY_ARE, "--adapt-norm")
    assert answer.exit_code == 1 and "norm.safetensors does not hold the statistics of these models" in answer.output
    file.unlink()
    predict(model_file, noisy, tmp_path / "out", "--adapt-norm")
    assert file.read_bytes() == whole


def test_a_model_without_batch_normalisation_is_refused(tiny_dataset, tiny_folder, tmp_path):
    config = CellConfig(
        data=DataConfig(tiles="2x2", tile_size=64),
        train=TrainConfig(width=2, depth=1, epochs=1, batch_norm=False, precision="fp32"),
    )
    grid = planned(tmp_path / "run", tiny_dataset, config)
    cell = grid.cells[0].folder
    assert run_cell(cell, "train", should_stop=lambda: False) == "finished"
    answer = hpcseg("predict", cell.path, tiny_folder / "data", "-o", tmp_path / "out", "--adapt-norm")
    assert answer.exit_code == 2 and f"{cell.id} was trained with train.batch_norm = false" in answer.output
    assert not (tmp_path / "out").exists()


def test_a_tile_that_is_one_pixel_in_the_lowest_level_is_refused(model):
    with pytest.raises(DatasetError, match=r"more than the 1 tiles of 4 x 3 pixels"):
        estimate(model.network, torch.rand(1, 1, 4, 3))
