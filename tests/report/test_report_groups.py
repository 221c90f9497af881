"""Groups side by side, and pairs of them: numbers follow from the records, and chance is shown as what it is."""

from __future__ import annotations

import csv
import hashlib
import io
import json

import numpy as np
import pytest
from test_report_records import change, finish, plan

from hpcseg import metrics
from hpcseg.records.collect import collect
from hpcseg.report.build import build_report
from hpcseg.report.figures import draw
from hpcseg.report.measures import at as at_level
from hpcseg.report.table import Table, number_text, table_csv
from hpcseg.report.tables import TABLES
from hpcseg.statistics import estimate

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


def observed(table: Table, **wanted: str) -> list[dict[str, str]]:
    return [line for line in csv.DictReader(io.StringIO(table_csv(table))) if wanted.items() <= line.items()]


def column(table: Table, head: str, block: int = 0) -> list[str]:
    place = table.blocks[block].columns.index(head)
    return [number_text(line.cells[place], {}) for line in table.blocks[block].lines]


def labels(table: Table, block: int = 0) -> list[str]:
    return [line.label.text for line in table.blocks[block].lines]


def marked(table: Table, head: str, block: int = 0) -> list[bool]:
    place = table.blocks[block].columns.index(head)
    return [line.cells[place].marked for line in table.blocks[block].lines]


levels, differences, splits, classes, whole_slices, cost, edges, calibration = (
    TABLES[name]
    for name in ("levels", "differences", "splits", "classes", "whole_slices", "cost", "edges", "calibration")
)


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


@pytest.mark.parametrize(
    ("axis", "freedom"),
    # Positions 0 and 2 test the same slices: two positions of three trainings have t of 1 degree of freedom, 12.706205
    # at 97.5 %, and one seed at two positions is two trainings, which have no interval.
    [("repetitions", 1), ("data.split_seed", None)],
)
def test_positions_that_test_the_same_slices_are_one_in_intervals_and_this_is_said(tmp_path, axis, freedom):
    job = f'[report]\ntables = ["axes"]\nfigures = []\n[[grid]]\ndata.split = "blocked"\n{axis} = [0, 1, 2]\n'
    grid = plan(tmp_path / "run", job)
    right = (900, 960, 900) if freedom is None else (900, 960, 906)
    for cell in grid.cells:
        position = cell.config.data.split_seed
        at = {"slices": (203, 207) if position == 1 else (3, 7)}
        finish_with_slices(cell, lambda *_, position=position: right[position], **at)
        change(cell.folder.training_file, split_sha256="other" if position == 1 else "same")
    records = collect(grid.run)
    assert [row.position for row in records.rows] == [0, 1, 0]
    told = "0 and 2 of data.split_seed have the same test slices, so they count as one position."
    assert any(note.startswith(told) for note in records.caveats)
    assert any("on 2 test slices at each position says little" in note for note in records.caveats)
    found = estimate(at_level(records, "gaussian-0")(records.groups[0]))
    if freedom is None:
        assert found.values == (0.900, 0.960) and found.half is None
        return
    # From the mean of 0.922 the two at one position are 0.038 below together, and so much is the other above. Of
    # positions with deviation 1 the mean has variance 4/9 + 1/9, and what is left of each 8/81.
    assert found.trainings == (pytest.approx((5 / 9 / (4 * (2 / 9) ** 2) * 2 * (0.038 / 3) ** 2, 1.0)),)


def half_of(*values: float) -> float:
    """Half of a 95 % interval of three: t of 2 degrees of freedom is 4.302653 at 97.5 %."""
    return float(4.302653 * np.std(values, ddof=1) / np.sqrt(3))


def test_levels_have_errors_with_an_interval_and_mark_what_is_shown_to_be_the_best(run):
    table = levels(collect(run))
    assert table.blocks[0].columns == (
        "validation",
        "clean",
        "gaussian 5000",
        "uniform 5000",
        "mixed: 50 % up to 10000",
    )
    assert labels(table) == ["0 % noise", "50 % noise"]
    # 950, 952, 954 and 951, 955, 953 of 1000: means of 952 and 953, sd 2 each, the same in both halves of the pixels
    # but for the odd one: the two slices are 4 apart, so they are two blocks, and they say next to nothing else.
    assert [text[:4] for text in column(table, "clean")] == ["4.80", "4.70"]
    assert marked(table, "clean") == [False, False], "none is better than the other"
    assert [text[:7] for text in column(table, "gaussian 5000")] == ["49.80 ±", "5.80 ± "]
    assert marked(table, "gaussian 5000") == [False, True]
    (line,) = observed(table, row="0 % noise", column="clean")
    assert (line["value"], line["sd"], line["repetitions"]) == ("0.952000", "0.002000", "3")
    assert line["values"] == "0.950000 0.952000 0.954000"
    # Both slices have the same share, so all of the interval is from the seeds.
    assert float(line["half_interval"]) == pytest.approx(half_of(0.950, 0.952, 0.954), abs=1e-6)


def test_differences_are_paired_by_seed_and_corrected_for_their_number(run):
    table = differences(collect(run))
    row = "50 % noise against 0 % noise"
    (noisy,) = observed(table, row=row, column="gaussian 5000")
    # Every seed has 440 of 1000 more, in both slices.
    assert (noisy["value"], noisy["half_interval"], noisy["marked"]) == ("0.440000", "0.000000", "yes")
    assert (noisy["repetitions"], column(table, "gaussian 5000")) == ("3", ["+44.00 ± 0.00"])
    (clean,) = observed(table, row=row, column="clean")
    assert (clean["value"], clean["marked"]) == ("0.001000", "no")
    # Seeds gain 1, 3 and -1 of 1000: t of 0.87, so zero is inside. The odd pixel, which is in one of the two slices,
    # makes the interval wider and never narrower.
    assert float(clean["half_interval"]) >= half_of(0.001, 0.003, -0.001) - 1e-6
    bound = 100 * (0.001 + float(clean["half_interval"]))
    assert column(table, "clean") == [f"+0.10, not shown (at most {bound:.2f})"]
    assert "corrected for their number (4)" in table.caption
    assert "To show a difference in four of five cases takes" in table.caption


def test_fewer_than_three_seeds_have_a_difference_but_no_interval(run):
    for row in collect(run).rows[2::3]:
        row.cell.folder.evaluation_file.unlink()
    table = differences(collect(run))
    assert column(table, "gaussian 5000") == ["+44.00 (n=2)"]
    (noisy,) = observed(table, column="gaussian 5000")
    assert (noisy["value"], noisy["half_interval"], noisy["p_value"], noisy["marked"]) == ("0.440000", "", "", "no")
    assert "corrected for their number (0)" in table.caption
    assert column(levels(collect(run)), "gaussian 5000") == ["49.90", "5.90"]
    assert not any(marked(levels(collect(run)), "gaussian 5000")), "nor does any become the best"


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
    table = differences(collect(grid.run))
    (trend,) = observed(table, row="100 % more noise", column="clean")
    assert (trend["value"], trend["repetitions"]) == ("-0.027000", "6")
    # That the two kinds of tiles differ is no chance: three seeds of sd 0.002, and t of 2 degrees of freedom is 4.303.
    assert float(trend["half_interval"]) == pytest.approx(4.3027 * 0.002 / 3**0.5, abs=2e-6)
    assert "Trend" in table.blocks[-1].heading
    assert column(table, "clean", block=-1) == ["-2.70 ± 0.50"]


def test_the_training_that_the_tables_show_is_what_others_are_compared_with(tmp_path):
    other = '[[grid]]\ndata.tiles = "small"\ntrain.weight_decay = 0.01\n'
    grid = plan(tmp_path / "run", JOB.replace("[[grid]]", f"{other}[[grid]]", 1))
    for cell in grid.cells:
        finish_with_slices(cell, lambda *_: 900)
    table = differences(collect(grid.run))
    assert labels(table) == ["0 % noise, weight decay 0.01 against 0 % noise", "50 % noise against 0 % noise"]


def split_run(folder, job=JOB):
    axes = 'data.tiles = "small"\ndata.split = ["shuffled", "blocked"]\ndata.gap_slices = 2'
    grid = plan(folder, job.replace('data.tiles = "small"', axes))
    for cell in grid.cells:
        # Seeds 0, 1, 2: 900, 902, 904 shuffled. Blocked, on slices of which one is the same: 20 less in all.
        right = 900 + 2 * cell.config.train.seed - (20 if cell.config.data.split == "blocked" else 0)
        slices = (7, 11) if cell.config.data.split == "blocked" else (3, 7)
        finish_with_slices(cell, lambda *_, right=right: right, slices=slices)
    return grid


def test_both_splits_stand_side_by_side_with_what_lies_between_them(tmp_path):
    table = splits(collect(split_run(tmp_path / "run").run))
    clean = [block.heading for block in table.blocks].index("clean")
    assert table.blocks[clean].columns[:3] == ("shuffled", "blocked", "blocked - shuffled")
    assert labels(table, clean) == ["small, 0 % noise", "small, 50 % noise"]
    assert column(table, "shuffled", clean)[0].startswith("9.80 ±")
    assert column(table, "blocked", clean)[0].startswith("11.80 ±")
    assert column(table, "blocked - shuffled", clean)[0] == "-2.00 ± 0.00"
    assert marked(table, "blocked - shuffled", clean) == [True, True]
    # A single slice in common says nothing of others, so there is no interval.
    assert column(table, "the same, on the same slices", clean)[0] == "-2.00 (n=3)"
    shuffled, blocked, *_ = table.blocks[clean].lines[0].cells
    assert shuffled.source != blocked.source, "each number leads to its own cells"
    (line,) = observed(table, row="small, 0 % noise", block="clean", column="blocked")
    assert line["value"] == "0.882000"


def test_how_far_a_blocked_split_is_from_its_training_is_said_and_never_that_there_is_no_neighbour(tmp_path):
    grid = split_run(tmp_path / "run")
    # Two slices are left out, so that the next one is the third.
    assert "at least 3 slices away from those of the training" in splits(collect(grid.run)).caption
    for cell in grid.cells:
        if cell.config.data.split == "blocked":
            change(cell.folder.training_file, gap_slices=40)
    caption = splits(collect(grid.run)).caption
    assert "at least 41 slices away" in caption and "no neighbour" not in caption


def test_changed_counts_of_slices_make_the_cell_a_hole(run):
    cell = collect(run).rows[0].cell
    cell.folder.slices_file.write_text(cell.folder.slices_file.read_text().replace("475", "476"))
    (hole,) = collect(run).holes
    assert "slices.jsonl is another one" in hole.reason
    cell.folder.slices_file.unlink()
    (hole,) = collect(run).holes
    assert "slices.jsonl: No such file" in hole.reason


def test_classes_have_iou_recall_and_precision_of_every_class_clean_and_noisy(run):
    table = classes(collect(run))
    assert [block.heading for block in table.blocks] == [
        f"small, shuffled split, {what}" for what in ("class 0", "class 128", "class 255", "mean of the classes")
    ]
    assert table.blocks[0].columns == tuple(
        f"{noise}: {name}" for noise in ("clean", "noisy") for name in ("IoU", "recall", "precision")
    )
    # 0 % clean, seeds 950, 952 and 954 right of 1000: class 0 has 600 pixels, of which 550, 552 and 554 are found.
    (recall,) = observed(table, block=table.blocks[0].heading, row="0 % noise", column="clean: recall")
    assert float(recall["value"]) == pytest.approx(552 / 600)
    # Class 128 has 300 pixels, all found, and takes the 50, 48 and 46 that class 0 lost.
    for name in ("IoU", "precision"):
        (ratio,) = observed(table, block=table.blocks[1].heading, row="0 % noise", column=f"clean: {name}")
        assert float(ratio["value"]) == pytest.approx((300 / 350 + 300 / 348 + 300 / 346) / 3, abs=1e-6)


def test_edges_say_where_the_errors_are_and_are_not_there_for_records_of_before(run):
    records = collect(run)
    assert [block.heading for block in edges(records).blocks] == ["small, shuffled split, phase fractions"]
    for row in records.rows:
        points = json.loads(row.cell.folder.evaluation_file.read_text())["points"]
        for point in points:
            wrong = point["confusion"][0][1]
            # Of 200 pixels within 1 and 300 within 2 of an edge, half and three quarters of the clean errors.
            near = {"1": (200, min(200, wrong // 2)), "2": (300, min(300, wrong * 3 // 4))}
            point["near_edge"] = {k: [[n - bad, bad, 0], [0, 0, 0], [0, 0, 0]] for k, (n, bad) in near.items()}
            point["interfaces"] = [[0, 30, 10], [0, 0, 5], [0, 0, 0]]
        change(row.cell.folder.evaluation_file, points=points, label_interfaces=[[0, 20, 10], [0, 0, 20], [0, 0, 0]])
    table = edges(collect(run))
    errors, phases = table.blocks
    assert errors.columns[:5] == tuple(
        f"clean: {what}" for what in ("within 1", "within 2", "away", "errors within 1", "errors within 2")
    )
    # 0 %, seed 0: 50 wrong of 1000, 25 within 1 (of 200 pixels), 37 within 2 (of 300), 13 of 700 away.
    first = [float(cell.found.values[0]) for cell in errors.lines[0].cells[:5]]
    assert first == pytest.approx([175 / 200, 263 / 300, 687 / 700, 25 / 50, 37 / 50])
    ratios = {head: cell.found.mean for head, cell in zip(phases.columns, phases.lines[0].cells, strict=True)}
    # Class 0 is 600 of 1000 pixels, and 552 of them on average are taken for it.
    assert (ratios["labels: 0"], ratios["clean: 0"]) == pytest.approx((0.6, 0.552))
    assert ratios["clean: interfaces"] == pytest.approx(45 / 50)
    # More pixels near an edge than there are: no record.
    points[0]["near_edge"]["1"][0][0] = 10**6
    change(records.rows[-1].cell.folder.evaluation_file, points=points)
    (hole,) = collect(run).holes
    assert "its evaluation.json is damaged" in hole.reason


def test_calibration_is_a_table_and_a_figure_and_not_there_for_records_of_before(run):
    records = collect(run)
    assert not calibration(records).blocks and draw("calibration", records).holes
    for row in records.rows:
        points = json.loads(row.cell.folder.evaluation_file.read_text())["points"]
        for point in points:
            pixels, right = np.sum(point["confusion"]), np.trace(point["confusion"])
            # All pixels in one bin, whose mean probability is a tenth above what is right.
            counts = np.zeros((metrics.SURE_BINS, 3), dtype=int)
            counts[40] = pixels, right, right * metrics.SURE_UNIT + pixels * metrics.SURE_UNIT // 10
            point |= {"probability": counts.tolist(), "uncertainty": counts.tolist()}
        change(row.cell.folder.evaluation_file, points=points)
    table = calibration(collect(run))
    assert {block.columns[:2] for block in table.blocks} == {("clean: error", "clean: too sure")}
    assert all(cell.found.mean == pytest.approx(0.1) for line in table.blocks[0].lines for cell in line.cells)
    assert draw("calibration", collect(run)).files.keys() == {"png", "svg"}
    # One more pixel than there is: no record.
    points[0]["uncertainty"][3][0] += 1
    change(records.rows[-1].cell.folder.evaluation_file, points=points)
    (hole,) = collect(run).holes
    assert "its uncertainty is of other pixels" in hole.reason


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
    assert "10 slices" not in whole_slices(records).blocks[0].columns, "there are two"
    assert column(whole_slices(records), "worst slice") == ["4.00 ± 0.00", "4.00", "3.00 ± 0.00"]
    # Two slices, 0.01 from the mean, are two blocks: their variance is 0.01^2, with t of 1 degree of freedom, 12.71.
    assert column(whole_slices(records), "all test slices")[0] == "3.00 (0.00 to 15.71)"
    # One seed alone has no interval, so the best is not shown to be better than it.
    assert column(cost(records), "whole slices")[2] == "2.00 (0.00 to 14.71)"
    assert not any(marked(cost(records), "whole slices"))
    assert column(cost(records), "seconds") == ["100"] * 3
    assert labels(cost(records))[1] == "small, 0 % noise, train slices 10"
    report = build_report(grid.run, tmp_path / "out")
    assert {"cost.png", "learning_curve.svg", "cost.csv", "whole_slices.csv"} <= {path.name for path in report.written}
    assert report.content.holes == ()


def test_a_group_without_a_finished_cell_has_no_row_and_no_difference(run):
    for row in collect(run).rows[3:]:
        row.cell.folder.evaluation_file.unlink()
        row.cell.folder.training_file.unlink()
    records = collect(run)
    (block,) = levels(records).blocks
    assert [line.label.text for line in block.lines] == ["0 % noise"]
    assert differences(records).blocks == ()
