"""What needs no network, on the test tiles of a run: a blur with grey thresholds."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from finished_cells import finished_run
from scipy import ndimage
from slice_folder import hpcseg

from hpcseg import metrics
from hpcseg.config import CellConfig, DataConfig, EvaluateConfig, NoiseLevel
from hpcseg.data import noisy_tiles
from hpcseg.data.batches import open_source
from hpcseg.data.classes import Classes
from hpcseg.data.pack import pack
from hpcseg.report.build import publish
from hpcseg.runs import baseline
from hpcseg.runs.baseline import make_baselines
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import planned_cells, read_plan
from hpcseg.runs.record import read_baseline, read_baselines, read_json, write_record
from hpcseg.runs.schema import Baseline, BaselinePoint
from hpcseg.runs.tested import _test_sets
from hpcseg.sigma import Share

LARGE = DataConfig(tiles="2x2", tile_size=64)
EVALUATE = EvaluateConfig(
    sweep_max=2000, other_noise="poisson+salt-and-pepper", mixed_fraction=0.5, mixed_sigma_max=Share("42 %")
)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_dataset) -> RunFolder:
    made = finished_run(tmp_path_factory.mktemp("baseline"), tiny_dataset, CellConfig(data=LARGE, evaluate=EVALUATE))
    assert make_baselines(made) == ()
    return made


@pytest.fixture(scope="module")
def record(run) -> Baseline:
    (found,) = read_baselines(run)
    return found


@pytest.fixture(scope="module")
def source(tiny_dataset):
    return open_source(tiny_dataset, LARGE)


def points(record: Baseline) -> dict[NoiseLevel, BaselinePoint]:
    return {point.level: point for point in record.points}


def ahead(point: BaselinePoint) -> float:
    """How much more is right than by always answering the class that most of these pixels have."""
    confusion = np.array(point.confusion)
    return metrics.accuracy(confusion) - float(confusion.sum(1).max() / confusion.sum())


def test_it_stands_at_every_level_of_the_evaluation(record, source):
    found = points(record)
    assert list(found) == list(EVALUATE.levels()) and {point.baseline for point in record.points} == {"filter"}
    assert all(np.sum(point.confusion) == len(source.split.test) * 64 * 64 for point in found.values())
    assert record.split_sha256 == source.split.sha256()
    assert DataConfig(**record.data) == LARGE and record.evaluate_seed == 0


def test_the_filter_is_ahead_of_the_commonest_class_at_every_level(record):
    for level, point in points(record).items():
        # Noise of a third of the distance between two phases; the sample's shading is a half of it.
        assert ahead(point) > 0.2, level


def test_the_recorded_blur_and_thresholds_give_the_counts_on_the_evaluations_own_noisy_tiles(record, source):
    tiles = noisy_tiles.noisy_set(
        source, source.split.test, levels=EVALUATE.levels(), seed=0, device=torch.device("cpu")
    )
    order = record.filter["choices"][0]["classes_from_dark"]
    for choice in record.filter["choices"]:
        (level,) = [one for one in EVALUATE.levels() if one.as_record().items() <= choice.items()]
        images, labels = tiles.take(slice(None), level)
        counts = images[:, 0].numpy().astype(np.float64) * 65_535
        blur = choice["blur"]
        smooth = ndimage.gaussian_filter(counts, (0, blur, blur)) if blur else counts
        first, second = choice["thresholds"]
        predicted = np.array(order)[(smooth >= first).astype(int) + (smooth >= second)]
        expected = np.zeros((3, 3), dtype=np.int64)
        np.add.at(expected, (labels.numpy(), predicted), 1)
        moved = np.abs(np.array(points(record)[level].confusion) - expected).sum()
        # Values of float32 and of float64 lie on two sides of a threshold for one in ten thousand pixels.
        assert moved <= 2e-4 * expected.sum(), level


def test_the_number_of_threads_decides_no_number(record, tmp_path, tiny_dataset):
    made = finished_run(tmp_path, tiny_dataset, CellConfig(data=LARGE, evaluate=EVALUATE))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 2)
        assert make_baselines(made) == ()
        assert torch.get_num_threads() == before + 2
    finally:
        torch.set_num_threads(before)
    (anew,) = read_baselines(made)
    assert all(getattr(anew, key) == getattr(record, key) for key in ("filter", "points"))


def test_what_is_there_is_kept_and_needs_no_data(run, record, tmp_path):
    file = next(run.baselines.iterdir())
    before = file.read_bytes()
    assert make_baselines(run, tmp_path / "gone.h5") == ()
    assert file.read_bytes() == before


def test_a_file_of_before_a_setting_of_the_data_came_is_one_though_its_name_is_another(run, tmp_path):
    earlier = RunFolder(tmp_path / "run")
    shutil.copytree(run.path, earlier.path)
    (file,) = earlier.baselines.iterdir()
    content = json.loads(file.read_text())
    later = {name: value for name, value in content["data"].items() if name != "context"}
    file.unlink()
    write_record(file.with_name("2x2-shuffled-00000000.json"), {**content, "data": later})
    assert make_baselines(earlier, tmp_path / "gone.h5") == ()
    write_record(file.with_name("2x2-shuffled-00000000.json"), {**content, "evaluate_seed": 1})
    assert len(make_baselines(earlier, tmp_path / "gone.h5")) == 1


def test_a_level_more_or_a_damaged_file_is_made_anew(tmp_path, tiny_dataset):
    cell = CellConfig(data=LARGE)
    few = finished_run(tmp_path / "run", tiny_dataset, cell)
    make_baselines(few)
    assert {point.sigma for point in read_baselines(few)[0].points} == {0.0, 5000.0}
    more = EvaluateConfig(table_sigma=Share("20 %"))
    # Another evaluation of the same cell: the same test tiles with the same seed.
    finished_run(tmp_path / "run", tiny_dataset, dataclasses.replace(cell, evaluate=more))
    assert make_baselines(few) == ()
    (anew,) = read_baselines(few)
    assert {point.sigma for point in anew.points} == {0.0, "20 %"}
    file = next(few.baselines.iterdir())
    whole = file.read_text()
    for damaged in (whole[:-100], whole.replace('"confusion"', '"conf"'), "[]", '{"schema": 1}'):
        file.write_text(damaged)
        assert read_baselines(few) == []
        assert make_baselines(few) == ()
        assert read_baselines(few)[0].points == anew.points


def test_a_file_of_before_with_what_nothing_reads_any_more_is_kept(run, record, tmp_path):
    content = read_json(next(run.baselines.iterdir()))
    others = [{**point, "baseline": "commonest class"} for point in content["points"]]
    points = [{**point, "near_edge": {"1": point["confusion"]}} for point in [*others, *content["points"]]]
    slices = [{"slice": 1, "pixels": 2, "right": {}}]
    write_record(tmp_path / "one.json", {**content, "points": points, "commonest_class": 1, "slices": slices})
    found = read_baseline(tmp_path / "one.json")
    assert [point for point in found.points if point.baseline == "filter"] == record.points
    (wanted,) = _test_sets(planned_cells(run, read_plan(run)), content["data_sha256"])
    assert wanted.is_in(found)


def test_settings_that_decide_no_test_tiles_share_a_file_and_others_do_not(tmp_path, tiny_dataset):
    cell = CellConfig(data=LARGE)
    seeds = [dataclasses.replace(cell, train=dataclasses.replace(cell.train, seed=seed)) for seed in (0, 1)]
    blocked = CellConfig(data=dataclasses.replace(LARGE, split="blocked", gap_slices=1))
    made = finished_run(tmp_path / "run", tiny_dataset, *seeds, blocked)
    assert make_baselines(made) == ()
    assert [found.data["split"] for found in read_baselines(made)] == ["blocked", "shuffled"]


def test_a_cell_alone_on_its_tiles_whose_plan_cannot_be_read_ends_no_report(tmp_path, tiny_dataset):
    blocked = CellConfig(data=dataclasses.replace(LARGE, split="blocked", gap_slices=1))
    made = finished_run(tmp_path / "run", tiny_dataset, CellConfig(data=LARGE), blocked)
    (broken,) = (cell for cell in made.cell_folders() if "blocked" in cell.id)
    broken.config_file.write_text("{")
    said = hpcseg("report", "--run", made.path, "--data", tiny_dataset)
    assert said.exit_code == 0, said.output
    assert "shuffled" in [found.data["split"] for found in read_baselines(made)]


def test_without_the_data_or_with_other_data_it_says_so_and_makes_nothing(tmp_path, tiny_dataset):
    cells = [CellConfig(data=dataclasses.replace(LARGE, split_seed=seed)) for seed in (0, 1)]
    made = finished_run(tmp_path / "run", tiny_dataset, *cells)
    other = two_phases(tmp_path, np.float32)
    (gone,) = make_baselines(made, tmp_path / "gone.h5")
    assert gone == (
        "There are no baselines for 2x2 shuffled: there is no packed file gone.h5 where the run was planned. Name one "
        "with --data."
    )
    (wrong,) = make_baselines(made, other)
    assert "two.h5 holds other data than the run was planned for" in wrong
    (none,) = make_baselines(made, tmp_path / ("x" * 300))
    assert "There are no baselines" in none
    assert not made.baselines.exists()


def two_phases(folder: Path, dtype: type, *, values: tuple[float, float] = (-20.0, -50.0)) -> Path:
    """A packed file of 8 slices with two phases, of which the first is the brighter one; one pixel is hot."""
    rng = np.random.default_rng(4)
    labels = np.kron(rng.integers(2, size=(8, 6, 6)), np.ones((1, 8, 8), dtype=np.int64))
    grey = np.array(values)[labels] + rng.normal(0, 3, labels.shape)
    grey[0, 0, 0] = 1e6
    for name, pixels in (("data", grey.astype(dtype)), ("labels", labels.astype(np.uint8))):
        (folder / name).mkdir()
        for number, pixel in enumerate(pixels):
            tifffile.imwrite(folder / name / f"two{number}.tif", pixel)
    pack(folder / "data", folder / "labels", folder / "two.h5", command="test")
    return folder / "two.h5"


def test_two_phases_of_negative_floats_are_told_apart_with_the_noise_of_a_share(tmp_path):
    dataset = two_phases(tmp_path, np.float32)
    evaluate = EvaluateConfig(table_sigma=Share("50 %"), other_noise="uniform")
    cell = CellConfig(data=DataConfig(tiles="cover", tile_size=24), evaluate=evaluate)
    made = finished_run(tmp_path / "run", dataset, cell)
    assert make_baselines(made) == ()
    (record,) = read_baselines(made)
    # 30 between the phases and a deviation of 3: the middle is five deviations away.
    assert metrics.accuracy(np.array(points(record)[NoiseLevel(0.0)].confusion)) > 0.999
    assert all(ahead(point) > 0.2 for point in record.points)
    assert -50 < record.filter["choices"][0]["thresholds"][0] < -20
    assert record.filter["choices"][0]["classes_from_dark"] == [1, 0]


def test_of_large_sets_and_fine_sweeps_some_are_taken_evenly(tmp_path, tiny_dataset, monkeypatch):
    monkeypatch.setattr(baseline, "_TRAINING_PIXELS", 5 * 32 * 32)
    monkeypatch.setattr(baseline, "_TEST_PIXELS", 7 * 32 * 32)
    monkeypatch.setattr(baseline, "_PIXELS_AT_ONCE", 2 * 32 * 32)
    data = DataConfig(tiles="4x4", tile_size=32)
    cell = CellConfig(data=data, evaluate=EvaluateConfig(sweep_max=10_000, sweep_step=1))
    made = finished_run(tmp_path / "run", tiny_dataset, cell)
    assert make_baselines(made) == ()
    (record,) = read_baselines(made)
    assert (record.training_tiles, record.test_tiles) == (5, 7)
    sigmas = [level.sigma for level in points(record)]
    assert len(sigmas) == 48 + 2 and {0.0, 1.0, 5000.0, 10_000.0} <= set(sigmas) and sigmas == sorted(sigmas)
    assert all(np.sum(point.confusion) == 7 * 32 * 32 for point in record.points)
    assert make_baselines(made, tmp_path / "gone.h5") == (), "a fine sweep is no reason to make it anew"


def test_of_tiles_that_have_few_labels_those_are_taken_that_have_one(tmp_path, tiny_folder, monkeypatch):
    for kind in ("data", "labels"):
        (tmp_path / kind).mkdir()
        for file in sorted((tiny_folder / kind).iterdir()):
            pixels = tifffile.imread(file)
            if kind == "labels":
                pixels[:36] = pixels[60:] = pixels[:, :36] = pixels[:, 60:] = 77  # one tile of sixteen has some
            tifffile.imwrite(tmp_path / kind / file.name, pixels)
    pack(tmp_path / "data", tmp_path / "labels", tmp_path / "few.h5", command="test", class_map=Classes(ignored=(77,)))
    cell = CellConfig(data=DataConfig(tiles="4x4", tile_size=32), evaluate=EvaluateConfig(sweep_max=2000))
    none = CellConfig(data=DataConfig(tiles="1x1", tile_size=32), evaluate=cell.evaluate)
    made = finished_run(tmp_path / "run", tmp_path / "few.h5", cell, none)
    monkeypatch.setattr(baseline, "_TRAINING_PIXELS", 3 * 32 * 32)
    (missing,) = make_baselines(made)
    assert "no training tile of few.h5 has a labelled pixel" in missing
    (record,) = read_baselines(made)
    assert record.training_tiles == 3
    filtered = points(record)[NoiseLevel(0.0)]
    assert metrics.accuracy(np.array(filtered.confusion)) > 0.9


def test_the_command_makes_them_before_the_report_and_publishes_them(tmp_path, tiny_dataset, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asks = '[report]\ntables = ["table2"]\n'
    Path("tiny.toml").write_text(asks + '[train]\nwidth = 2\ndepth = 1\nepochs = 1\n[[grid]]\ndata.tiles = "small"\n')
    command = ("train", "*", "--job", "tiny.toml", "--data", tiny_dataset)
    assert hpcseg(*command).exit_code == 0
    made = RunFolder(Path("runs/tiny"))
    assert "There are no baselines" in hpcseg("report", "--data", "gone.h5").output
    answer = hpcseg("report", "--publish", "published")
    assert answer.exit_code == 0 and "no baselines" not in answer.output, answer.output
    (file,) = made.baselines.iterdir()
    published = RunFolder(Path("published"))
    assert published.baseline_file(file.stem).read_bytes() == file.read_bytes()
    (cell,) = made.cell_folders()
    evaluated, without = (json.loads(path.read_text()) for path in (cell.evaluation_file, file))
    for network, simple in zip(evaluated["points"], without["points"], strict=False):
        assert np.sum(network["confusion"], axis=1).tolist() == np.sum(simple["confusion"], axis=1).tolist()
    file.unlink()
    publish(made, published.path)
    assert not list(published.baselines.iterdir()), "what the run no longer has"
