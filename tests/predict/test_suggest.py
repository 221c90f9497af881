"""Which slices to label next: the least known, apart from each other and from those that have labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from slice_folder import hpcseg

from hpcseg.predict import mapping
from hpcseg.predict.suggest import pick


def test_picks_are_the_least_known_first_and_apart_from_each_other_and_from_labelled_slices():
    uncertainty = np.full(100, 0.1)
    uncertainty[40:50] = np.linspace(0.5, 0.9, 10)
    uncertainty[80] = 0.3
    chosen = pick(uncertainty, [52], 4)  # all five evenly spaced would be 20 apart
    assert chosen[:2] == [41, 80]  # 42 to 49 are within 10 of the labelled one
    places = sorted([52, *chosen])
    assert min(np.diff(places)) > 10


def test_where_no_slice_is_far_enough_nearer_ones_are_chosen():
    assert sorted(pick(np.arange(6.0), [0, 2], 4)) == [1, 3, 4, 5]


@pytest.fixture(scope="module")
def volume(tmp_path_factory, tiny_folder, tiny_dataset):
    """The slices that the cells were trained on, and as many that are noise below the right half."""
    folder = tmp_path_factory.mktemp("volume")
    files = sorted((tiny_folder / "data").iterdir())
    for number, file in enumerate(files, start=1):
        pixels = tifffile.imread(file)
        tifffile.imwrite(folder / f"scan{number:02}.tif", pixels)
        strange = pixels[::-1].copy()
        strange[:, number * pixels.shape[1] // (2 * len(files)) :] = pixels.min()
        tifffile.imwrite(folder / f"scan{number + len(files):02}.tif", strange)
    return folder


def test_the_command_ranks_slices_without_labels_by_what_the_models_do_not_know(cells, volume, tmp_path):
    run = cells[0].path.parents[1]
    answer = json.loads(hpcseg("suggest", "*", volume, "-n", "3", "--run", run, "--json").stdout)
    files = sorted(path.name for path in volume.iterdir())
    half = len(files) // 2
    assert answer["labelled"] == files[:half]  # by their pixels, whatever they are called
    assert len(answer["models"]) == 2
    picks = [pick["name"] for pick in answer["picks"]]
    assert len(set(picks)) == 3 and set(picks) <= set(files[half:])
    # The number is what predict writes, without a pixel that has no grey value.
    hpcseg("predict", cells[0].path, volume, "-o", tmp_path / "out", "--ensemble", cells[1].path, "--uncertainty",
           "--float16")  # fmt: skip
    for one in answer["picks"]:
        written = tifffile.imread(tmp_path / "out" / "uncertainty" / one["name"])
        assert one["uncertainty"] == pytest.approx(written.mean(dtype=np.float64), rel=1e-6)


def test_labelled_slices_between_every_third_count_as_well(cells, tiny_folder, tmp_path):
    run = cells[0].path.parents[1]
    folder = tmp_path / "longer"
    folder.mkdir()
    files = sorted((tiny_folder / "data").iterdir())
    for file in files:  # as they were packed, and behind them as many that were not
        (folder / file.name).write_bytes(file.read_bytes())
        pixels = tifffile.imread(file)
        number = int("".join(filter(str.isdigit, file.stem))) + 1000
        tifffile.imwrite(folder / f"slice{number}.tif", pixels[::-1])
    answer = json.loads(
        hpcseg("suggest", cells[0].path, folder, "-n", "1", "--every", "3", "--run", run, "--json").stdout
    )
    assert set(answer["labelled"]) == {file.name for file in files}


def test_pixels_without_a_grey_value_do_not_count(cells, volume, tmp_path):
    run = cells[0].path.parents[1]
    picture = tifffile.imread(sorted(volume.iterdir())[-1]).astype(np.float32)
    holed = picture.copy()
    holed[:30] = np.nan
    for folder, pixels in (("whole", picture), ("holed", holed)):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / "a1.tif", pixels)
    found = {
        folder: json.loads(
            hpcseg("suggest", cells[0].path, tmp_path / folder, "-n", "1", "--range", "0", "65535", "--run", run,
                   "--json").stdout
        )["picks"][0]["uncertainty"]
        for folder in ("whole", "holed")
    }  # fmt: skip
    assert found["holed"] == pytest.approx(found["whole"], abs=0.2)
    assert found["holed"] < 0.9


def test_percentiles_of_every_third_slice_are_of_the_whole_volume(cells, volume, tmp_path, monkeypatch):
    looked_at = []
    monkeypatch.setattr(mapping, "volume_percentiles", lambda of, *_, **__: (looked_at.append(of), (0.0, 1.0))[1])
    run = cells[0].path.parents[1]
    hpcseg("suggest", cells[0].path, volume, "-n", "1", "--every", "3", "--percentiles", 1, 99, "--run", run)
    assert list(map(len, looked_at)) == [len(list(volume.iterdir()))]


def test_it_says_what_cannot_be_chosen_and_what_it_does_not_know(cells, volume, tiny_folder, tmp_path):
    run = cells[0].path.parents[1]
    few = hpcseg("suggest", cells[0].path, volume, "-n", "99", "--run", run)
    half = len(list(volume.iterdir())) // 2
    assert f"no more than {half} slices of these {2 * half} have no labels" in few.stderr
    picked = [line for line in few.stdout.splitlines() if ".tif" in line]
    assert len(picked) == half
    assert few.stdout.rstrip().endswith("hpcseg pack DATA -o more.h5")  # these models need their file
    none = hpcseg("suggest", cells[0].path, tiny_folder / "data", "-n", "1", "--run", run)
    assert none.exit_code == 2
    assert "each slice has labels, so that there is none to choose" in none.stderr
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    last = sorted(volume.iterdir())[-1]
    (strangers / last.name).write_bytes(last.read_bytes())
    shown = hpcseg("suggest", cells[0].path, strangers, "-n", "1", "--run", run)
    assert "none of the slices looked at is one that the models were trained on" in shown.stderr
    assert last.name in shown.stdout
    (strangers / "average.tif").write_bytes(last.read_bytes())
    answer = json.loads(hpcseg("suggest", cells[0].path, strangers, "--run", run, "--json").stdout)
    assert [pick["number"] for pick in answer["picks"]] == [None, None], "which are places, and no numbers"
