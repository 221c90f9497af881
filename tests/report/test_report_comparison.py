"""Groups side by side, and pairs of them: numbers follow from the records, and chance is shown as what it is."""

from __future__ import annotations

import csv
import hashlib
import io
import json

import numpy as np
import pytest
from test_report_records import change, finish, plan

from hpcseg.report.build import build_report
from hpcseg.report.collect import collect
from hpcseg.report.comparison import classes, cost, group_label, levels, whole_slices
from hpcseg.report.differences import compare, differences
from hpcseg.report.sheet import Sheet
from hpcseg.report.splits import splits

JOB = """
[train]
width = 8
epochs = 1
[evaluate]
mixed_fraction = 0.5
other_noise = "uniform"
[report]
tables = ["levels", "differences", "classes"]
figures = []
[[grid]]
data.tiles = "small"
train.noise_fraction = [0.0, 0.5]
train.seed = [0, 1]
"""
KEYS = ("gaussian-0", "gaussian-5000", "uniform-5000", "gaussian-10000-p0.5")


def matrix(right: int) -> list[list[int]]:
    """1000 pixels of three classes: the wrong ones are of class 0 and taken for class 1."""
    return [[right - 400, 1000 - right, 0], [0, 300, 0], [0, 0, 100]]


def finish_with_slices(cell, right, *, slices=(3, 7), whole=()):
    """Records of a finished cell with right(config, key) pixels of 1000 in its points, shared out over its slices."""
    finish(cell, lambda *_: 900)
    points = [
        {
            "noise": level.model,
            "sigma": level.sigma,
            "fraction": level.fraction,
            "confusion": matrix(right(cell.config, level.key)),
        }
        for level in cell.config.evaluate.levels()
    ]
    lines = []
    for place, number in enumerate(slices):
        counts = {level.key: right(cell.config, level.key) // len(slices) for level in cell.config.evaluate.levels()}
        line = {"slice": number, "pixels": 1000 // len(slices), "right": counts}
        if whole:
            line["whole"] = matrix(whole[place])
        lines.append(json.dumps(line) + "\n")
    cell.folder.slices_file.write_text("".join(lines))
    sha256 = hashlib.sha256("".join(lines).encode()).hexdigest()
    change(cell.folder.evaluation_file, points=points, slices_sha256=sha256)


def observations(sheet: Sheet, **wanted: str) -> list[dict[str, str]]:
    return [line for line in csv.DictReader(io.StringIO(sheet.csv)) if wanted.items() <= line.items()]


def column(sheet: Sheet, head: str, block: int = 0) -> list[str]:
    place = sheet.blocks[block].head.index(head)
    return [line[place] for line in sheet.blocks[block].lines]


@pytest.fixture
def run(tmp_path):
    """0 %: 950, 952 clean and 500, 600 noisy; 50 %: 951, 955 clean and 940, 942 at every noise."""
    grid = plan(tmp_path / "run", JOB)

    def right(config, key):
        seed = config.train.seed
        if config.train.noise_fraction:
            return 951 + 4 * seed if key == "gaussian-0" else 940 + 2 * seed
        return 950 + 2 * seed if key == "gaussian-0" else 500 + 100 * seed

    for cell in grid.cells:
        finish_with_slices(cell, right)
    return grid.run


def test_levels_have_mean_and_spread_mark_the_best_and_what_the_seeds_cannot_tell_from_it(run):
    sheet = levels(collect(run))
    assert sheet.blocks[0].head == (
        "training",
        "validation",
        "clean",
        "gaussian 5000",
        "uniform 5000",
        "mixed: 50 % up to 10000",
    )
    assert [line[0] for line in sheet.blocks[0].lines] == ["0 % noise", "50 % noise"]
    # Clean: 0.951 and 0.953 with spreads of 0.001 and 0.003, so 0.002 apart and within; noisy: 0.55 and 0.941.
    assert column(sheet, "clean") == ["0.951 ± 0.001 ≈", "**0.953 ± 0.003**"]
    assert column(sheet, "gaussian 5000") == ["0.550 ± 0.071", "**0.941 ± 0.001**"]
    (line,) = observations(sheet, group="small, shuffled, 50 % noise", column="clean")
    assert (line["mean"], line["seeds"]) == ("0.953000", "2")
    assert float(line["spread"]) == pytest.approx(np.std([0.951, 0.955], ddof=1), abs=1e-6)


def test_differences_are_paired_by_seed_and_slice(run):
    sheet = differences(collect(run))
    (noisy,) = observations(sheet, noise="gaussian-5000")
    assert (noisy["group"], noisy["against"]) == ("small, shuffled, 50 % noise", "small, shuffled, 0 % noise")
    # Seeds: 940 - 500 = 440 and 942 - 600 = 342 of 1000.
    assert float(noisy["difference"]) == pytest.approx(0.391)
    assert float(noisy["seed_spread"]) == pytest.approx(np.std([0.440, 0.342], ddof=1), abs=1e-6)
    (clean,) = observations(sheet, noise="gaussian-0")
    # Seeds: 0 (950 // 2 and 951 // 2 are the same) and 0.002 (476 and 477 of 500 each).
    assert float(clean["difference"]) == pytest.approx(0.001)
    assert "≈" in column(sheet, "clean")[0]
    assert "≈" not in column(sheet, "gaussian 5000")[0]


@pytest.mark.parametrize(("alike", "slices"), [(1, 400), (20, 400)])
def test_the_interval_is_that_of_a_mean_over_slices_of_which_neighbours_are_alike(tmp_path, alike, slices):
    grid = plan(tmp_path / "run", JOB.replace("[0, 1]", "[0]"))
    numbers = tuple(range(slices))
    drawn = np.repeat(np.random.default_rng(5).normal(0, 5, slices // alike).round().astype(int), alike)
    for cell in grid.cells:
        finish_with_slices(cell, lambda *_: 900, slices=numbers)
        gains = drawn if cell.config.train.noise_fraction else np.zeros(slices, int)
        lines = [
            json.dumps({"slice": number, "pixels": 1000, "right": dict.fromkeys(KEYS, 900 + int(gain))}) + "\n"
            for number, gain in zip(numbers, gains, strict=True)
        ]
        cell.folder.slices_file.write_text("".join(lines))
        change(cell.folder.evaluation_file, slices_sha256=hashlib.sha256("".join(lines).encode()).hexdigest())
    records = collect(grid.run)
    found = compare(records.groups[1], records.groups[0], records.groups[0].config.evaluate.levels()[0])
    # Normal theory: 1.96 standard errors on either side, of a mean of as many as are independent. Blocks of 15 see
    # 15 / 20 to 20 / 20 of what runs of 20 share, and an interval from some tens of blocks is right to about a third.
    error = drawn.std() / 1000 / np.sqrt(slices / alike)
    width = (found.high - found.low) / (2 * 1.96 * error)
    assert 0.65 < width < 1.35
    assert found.mean == pytest.approx(drawn.mean() / 1000)
    assert found.low < found.mean < found.high
    assert found.seed_spread is None and not found.within_seeds


def test_the_training_that_the_tables_show_is_what_others_are_compared_with(tmp_path):
    other = '[[grid]]\ndata.tiles = "small"\ntrain.weight_decay = 0.01\n'
    grid = plan(tmp_path / "run", JOB.replace("[[grid]]", f"{other}[[grid]]", 1))
    for cell in grid.cells:
        finish_with_slices(cell, lambda *_: 900)
    against = {line["against"] for line in observations(differences(collect(grid.run)))}
    assert against == {"small, shuffled, 0 % noise"}


def test_both_splits_stand_side_by_side_with_what_lies_between_them(tmp_path):
    job = JOB.replace('data.tiles = "small"', 'data.tiles = "small"\ndata.split = ["shuffled", "blocked"]')
    grid = plan(tmp_path / "run", job)
    for cell in grid.cells:
        # Seeds 0 and 1: 900 and 910 shuffled, 880 and 890 blocked.
        right = 900 + 10 * cell.config.train.seed - (20 if cell.config.data.split == "blocked" else 0)
        finish_with_slices(cell, lambda *_, right=right: right)
    sheet = splits(collect(grid.run))
    clean = next(block for block in sheet.blocks if block.heading == "clean")
    assert clean.head == ("training", "shuffled", "blocked", "blocked - shuffled")
    assert clean.lines[0] == ("small, 0 % noise", "0.905 ± 0.007", "0.885 ± 0.007", "-0.020")
    assert [line[0] for line in clean.lines] == ["small, 0 % noise", "small, 50 % noise"]
    assert clean.sources[0][1] != clean.sources[0][2], "each number leads to its own cells"
    (line,) = observations(sheet, group="small, 0 % noise", measure="clean")
    assert (line["shuffled"], line["blocked"], line["difference"]) == ("0.905000", "0.885000", "-0.020000")


def test_other_test_slices_are_not_paired(run):
    grid = collect(run)
    cell = grid.rows[0].cell
    text = cell.folder.slices_file.read_text().replace('"slice": 3', '"slice": 4')
    cell.folder.slices_file.write_text(text)
    change(cell.folder.evaluation_file, slices_sha256=hashlib.sha256(text.encode()).hexdigest())
    (noisy,) = observations(differences(collect(run)), noise="gaussian-5000")
    assert noisy["seeds"] == "1"


def test_changed_counts_of_slices_make_the_cell_a_hole(run):
    cell = collect(run).rows[0].cell
    cell.folder.slices_file.write_text(cell.folder.slices_file.read_text().replace("475", "476"))
    (hole,) = collect(run).holes
    assert "slices.jsonl is another one" in hole.reason
    cell.folder.slices_file.unlink()
    (hole,) = collect(run).holes
    assert "slices.jsonl: No such file" in hole.reason


def test_classes_have_iou_dice_and_recall_of_every_class_clean_and_noisy(run):
    sheet = classes(collect(run))
    assert [block.heading for block in sheet.blocks] == [
        "small, shuffled split, clean test set",
        "small, shuffled split, noisy test set",
    ]
    # 0 % clean, seeds 950 and 952 right of 1000: class 0 has 600 pixels, of which 550 and 552 are found, none too many.
    (recall,) = observations(sheet, group="small, shuffled, 0 % noise", column="recall 0, clean test set")
    assert float(recall["mean"]) == pytest.approx((550 / 600 + 552 / 600) / 2)
    # Class 128 has 300 pixels, all found, and takes the 50 and 48 that class 0 lost.
    (iou,) = observations(sheet, group="small, shuffled, 0 % noise", column="IoU 128, clean test set")
    assert float(iou["mean"]) == pytest.approx((300 / 350 + 300 / 348) / 2, abs=1e-6)
    (dice,) = observations(sheet, group="small, shuffled, 0 % noise", column="Dice 255, noisy test set")
    assert float(dice["mean"]) == 1


def test_whole_slices_and_cost_take_the_slices_that_were_segmented(tmp_path):
    job = JOB.replace('other_noise = "uniform"', "whole_slices = true").replace(
        '["levels", "differences", "classes"]\nfigures = []',
        '["cost", "whole_slices"]\nfigures = ["cost", "learning_curve"]',
    )
    job += 'data.split = "blocked"\n[[grid]]\ndata.tiles = "small"\ndata.split = "blocked"\ndata.train_slices = 10\n'
    grid = plan(tmp_path / "run", job)
    for cell in grid.cells:
        finish_with_slices(cell, lambda *_: 900, whole=(990, 970) if cell.config.train.noise_fraction else (980, 960))
    records = collect(grid.run)
    assert column(whole_slices(records), "all test slices") == ["0.970 ± 0.000", "0.970", "0.980 ± 0.000"], "by noise"
    assert column(whole_slices(records), "worst slice") == ["0.960 ± 0.000", "0.960", "0.970 ± 0.000"]
    assert column(cost(records), "whole slices") == ["0.970 ± 0.000", "0.970", "**0.980 ± 0.000**"]
    assert column(cost(records), "seconds") == ["200", "200", "200"], "100 s of two ranks each"
    assert [line[0] for line in cost(records).blocks[0].lines][1] == "small, 0 % noise, train slices 10"
    report = build_report(grid.run, tmp_path / "out")
    assert {"cost.png", "learning_curve.svg", "cost.csv", "whole_slices.csv"} <= {path.name for path in report.written}
    assert report.holes == ()


def test_a_group_without_a_finished_cell_is_a_row_of_dashes_and_no_difference(run):
    for row in collect(run).rows[2:]:
        row.cell.folder.evaluation_file.unlink()
        row.cell.folder.training_file.unlink()
    records = collect(run)
    assert levels(records).blocks[0].lines[1] == ("50 % noise", "-", "-", "-", "-", "-")
    assert differences(records).blocks == ()


def test_rows_have_other_names_whichever_setting_their_cells_differ_in(tmp_path):
    axes = """
[[grid]]
data.tiles = "small"
data.split = "blocked"
data.gap_slices = [2, 4]
train.batch_size = [25, 64]
train.learning_rate = [0.001, 0.00100000001]
train.seed = [0, 1]
[[grid]]
data.tiles = "small"
data.split = "blocked"
train.seed = 2
evaluate.table_sigma = 4000
"""
    records = collect(plan(tmp_path, JOB.partition("[[grid]]")[0] + axes).run)
    names = [group_label(group, records) for group in records.groups]
    assert len(names) == 2 * 2 * 2 + 1 and len(set(names)) == len(names)
    assert names[0] == "small, blocked, 0 % noise"
    assert "small, blocked, 0 % noise, gap slices 4, batch size 64" in names
    assert names[-1] == "small, blocked, 0 % noise, evaluate.table sigma 4000"


def test_what_follows_from_a_rows_tiles_is_not_in_its_name(tmp_path):
    axes = """
[[grid]]
data.tiles = "small"
train.batch_size = 25
[[grid]]
data.tiles = "large"
train.batch_size = 64
"""
    records = collect(plan(tmp_path, JOB.partition("[[grid]]")[0] + axes).run)
    assert [group_label(group, records) for group in records.groups] == [
        "small, shuffled, 0 % noise",
        "large, shuffled, 0 % noise",
    ]
