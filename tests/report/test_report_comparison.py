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
from hpcseg.report.differences import differences
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
train.seed = [0, 1, 2]
"""


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
        # What does not divide is in the first of them.
        rest = {level.key: right(cell.config, level.key) for level in cell.config.evaluate.levels()}
        counts = {key: one // len(slices) + (one % len(slices) if place == 0 else 0) for key, one in rest.items()}
        line = {"slice": number, "pixels": 1000 // len(slices), "right": counts}
        if whole:
            line["whole"] = matrix(whole[place])
        lines.append(json.dumps(line) + "\n")
    cell.folder.slices_file.write_text("".join(lines))
    sha256 = hashlib.sha256("".join(lines).encode()).hexdigest()
    change(cell.folder.evaluation_file, points=points, slices_sha256=sha256)


def observed(sheet: Sheet, **wanted: str) -> list[dict[str, str]]:
    return [line for line in csv.DictReader(io.StringIO(sheet.csv)) if wanted.items() <= line.items()]


def column(sheet: Sheet, head: str, block: int = 0) -> list[str]:
    place = sheet.blocks[block].head.index(head)
    return [line[place] for line in sheet.blocks[block].lines]


@pytest.fixture
def run(tmp_path):
    """0 %: 950, 952, 954 clean and 500, 502, 504 noisy; 50 %: 951, 955, 953 clean and 940, 942, 944 at every noise."""
    grid = plan(tmp_path / "run", JOB)

    def right(config, key):
        seed = config.train.seed
        if config.train.noise_fraction:
            return (951, 955, 953)[seed] if key == "gaussian-0" else 940 + 2 * seed
        return (950 if key == "gaussian-0" else 500) + 2 * seed

    for cell in grid.cells:
        finish_with_slices(cell, right)
    return grid.run


def half_of(*values: float) -> float:
    """Half of a 95 % interval of three: t of 2 degrees of freedom is 4.302653 at 97.5 %."""
    return float(4.302653 * np.std(values, ddof=1) / np.sqrt(3))


def test_levels_have_errors_with_an_interval_and_mark_what_is_shown_to_be_the_best(run):
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
    # 950, 952, 954 and 951, 955, 953 of 1000: means of 952 and 953, sd 2 each, the same in both halves of the pixels
    # but for the odd one: the two slices are 4 apart, so they are two blocks, and they say next to nothing else.
    assert [text[:4] for text in column(sheet, "clean")] == ["4.80", "4.70"], "none is better than the other"
    assert [text[:7] for text in column(sheet, "gaussian 5000")] == ["49.80 ±", "**5.80 "]
    (line,) = observed(sheet, group="small, shuffled, 0 % noise", column="clean")
    assert (line["mean"], line["sd"], line["repetitions"]) == ("0.952000", "0.002000", "3")
    # Both slices have the same share, so all of the interval is from the seeds.
    assert float(line["half_interval"]) == pytest.approx(half_of(0.950, 0.952, 0.954), abs=1e-6)


def test_differences_are_paired_by_seed_and_corrected_for_their_number(run):
    sheet = differences(collect(run))
    (noisy,) = observed(sheet, noise="gaussian-5000", against="small, shuffled, 0 % noise")
    assert noisy["group"] == "small, shuffled, 50 % noise"
    # Every seed has 440 of 1000 more, in both slices.
    assert (noisy["difference"], noisy["low"], noisy["high"]) == ("0.440000", "0.440000", "0.440000")
    assert (noisy["shown"], noisy["repetitions"]) == ("yes", "3")
    assert column(sheet, "gaussian 5000")[0] == "**+44.00 ± 0.00**"
    (clean,) = observed(sheet, noise="gaussian-0", against="small, shuffled, 0 % noise")
    assert clean["difference"] == "0.001000"
    # Seeds gain 1, 3 and -1 of 1000: t of 0.87, so zero is inside. The odd pixel, which is in one of the two slices,
    # makes the interval wider and never narrower.
    assert float(clean["high"]) - 0.001 >= half_of(0.001, 0.003, -0.001) - 1e-6
    assert float(clean["low"]) == pytest.approx(0.002 - float(clean["high"]), abs=1e-6)
    assert clean["shown"] == "no"
    bound = 100 * float(clean["high"])
    assert column(sheet, "clean")[0] == f"+0.10 (not shown, within ±{bound:.2f})"
    assert "for all 4 comparisons" in sheet.caption


def test_fewer_than_three_seeds_have_a_difference_but_no_interval(run):
    for row in collect(run).rows[2::3]:
        row.cell.folder.evaluation_file.unlink()
    sheet = differences(collect(run))
    assert column(sheet, "gaussian 5000") == ["+44.00 (n=2)"]
    (noisy,) = observed(sheet, noise="gaussian-5000")
    assert (noisy["difference"], noisy["low"], noisy["high"], noisy["shown"]) == ("0.440000", "", "", "")
    assert "Fewer than three repetitions have no interval" in sheet.caption
    assert column(levels(collect(run)), "gaussian 5000") == ["49.90", "5.90"], "nor does any become the best"


def test_a_trend_is_over_all_tiles_splits_and_seeds(tmp_path):
    job = JOB.replace('data.tiles = "small"', 'data.tiles = ["small", "large"]').replace(
        "[0.0, 0.5]", "[0.0, 0.5, 1.0]"
    )
    grid = plan(tmp_path / "run", job)
    for cell in grid.cells:
        # One line per tiles and seed, of 20, 22, 24 and of 30, 32, 34 right pixels less at 100 %.
        steep = (20 if cell.config.data.tiles == "small" else 30) + 2 * cell.config.train.seed
        right = 950 - round(steep * cell.config.train.noise_fraction)
        finish_with_slices(cell, lambda *_, right=right: right)
    sheet = differences(collect(grid.run))
    (trend,) = observed(sheet, group="100 % more noise", noise="gaussian-0")
    assert (trend["difference"], trend["repetitions"]) == ("-0.027000", "6")
    # Two kinds of tiles are few: 0.005 to either side of the mean, and t of 1 degree of freedom is 12.7.
    assert float(trend["low"]) < -0.027 - 0.005 * 12.7
    assert "Trend" in sheet.blocks[-1].heading and sheet.blocks[-1].lines[0][1].startswith("-2.70 (not shown")


def test_the_training_that_the_tables_show_is_what_others_are_compared_with(tmp_path):
    other = '[[grid]]\ndata.tiles = "small"\ntrain.weight_decay = 0.01\n'
    grid = plan(tmp_path / "run", JOB.replace("[[grid]]", f"{other}[[grid]]", 1))
    for cell in grid.cells:
        finish_with_slices(cell, lambda *_: 900)
    against = {line["against"] for line in observed(differences(collect(grid.run)))}
    assert against == {"small, shuffled, 0 % noise"}


def test_both_splits_stand_side_by_side_with_what_lies_between_them(tmp_path):
    job = JOB.replace('data.tiles = "small"', 'data.tiles = "small"\ndata.split = ["shuffled", "blocked"]')
    grid = plan(tmp_path / "run", job)
    for cell in grid.cells:
        # Seeds 0, 1, 2: 900, 902, 904 shuffled. Blocked, on slices of which one is the same: 20 less in all.
        right = 900 + 2 * cell.config.train.seed - (20 if cell.config.data.split == "blocked" else 0)
        slices = (7, 11) if cell.config.data.split == "blocked" else (3, 7)
        finish_with_slices(cell, lambda *_, right=right: right, slices=slices)
    sheet = splits(collect(grid.run))
    clean = next(block for block in sheet.blocks if block.heading == "clean")
    assert clean.head[1:4] == ("shuffled", "blocked", "blocked - shuffled")
    label, shuffled, blocked, gain, same = clean.lines[0]
    assert (label, shuffled[:6], blocked[:7]) == ("small, 0 % noise", "9.80 ±", "11.80 ±")
    assert gain == "**-2.00 ± 0.00**"
    # A single slice in common says nothing of others, so there is no interval.
    assert same == "-2.00 (n=3)"
    assert [line[0] for line in clean.lines] == ["small, 0 % noise", "small, 50 % noise"]
    assert clean.sources[0][1] != clean.sources[0][2], "each number leads to its own cells"
    (line,) = observed(sheet, group="small, 0 % noise", measure="clean")
    assert (line["shuffled"], line["blocked"], line["difference"]) == ("0.902000", "0.882000", "-0.020000")
    assert (line["same_slices_difference"], line["same_slices_low"]) == ("-0.020000", "")


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
    # 0 % clean, seeds 950, 952 and 954 right of 1000: class 0 has 600 pixels, of which 550, 552 and 554 are found.
    (recall,) = observed(sheet, group="small, shuffled, 0 % noise", column="recall 0, clean test set")
    assert float(recall["mean"]) == pytest.approx(552 / 600)
    # Class 128 has 300 pixels, all found, and takes the 50, 48 and 46 that class 0 lost.
    (iou,) = observed(sheet, group="small, shuffled, 0 % noise", column="IoU 128, clean test set")
    assert float(iou["mean"]) == pytest.approx((300 / 350 + 300 / 348 + 300 / 346) / 3, abs=1e-6)
    (dice,) = observed(sheet, group="small, shuffled, 0 % noise", column="Dice 255, noisy test set")
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
    assert [text[:4] for text in column(whole_slices(records), "all test slices")] == ["3.00", "3.00", "2.00"], (
        "by noise"
    )
    assert column(whole_slices(records), "worst slice") == ["4.00 ± 0.00", "4.00", "3.00 ± 0.00"]
    # Two slices, 0.01 from the mean, are two blocks: their variance is 0.01^2, with t of 1 degree of freedom.
    assert column(whole_slices(records), "all test slices")[0] == "3.00 ± 12.71"
    # One seed alone has no interval, so the best is not shown to be better than it.
    assert column(cost(records), "whole slices")[2] == "2.00 ± 12.71"
    assert column(cost(records), "seconds") == ["200", "200", "200"], "100 s of two ranks each"
    assert [line[0] for line in cost(records).blocks[0].lines][1] == "small, 0 % noise, train slices 10"
    report = build_report(grid.run, tmp_path / "out")
    assert {"cost.png", "learning_curve.svg", "cost.csv", "whole_slices.csv"} <= {path.name for path in report.written}
    assert report.holes == ()


def test_a_group_without_a_finished_cell_is_a_row_of_dashes_and_no_difference(run):
    for row in collect(run).rows[3:]:
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
data.gap_slices = 2
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
