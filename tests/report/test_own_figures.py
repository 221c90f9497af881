"""Figures of any job: what is drawn is what the records say, and each training is a line or a point by itself."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from test_report_groups import finish_with_slices
from test_report_records import change, confusion, finish, plan

from hpcseg.records.collect import collect
from hpcseg.report.curves import losses_and_errors
from hpcseg.report.figures import FIGURES, draw
from hpcseg.report.own_figures import classes, levels, sweep

JOB = """
[train]
width = 8
epochs = 1
[evaluate]
sweep_max = 20000
sweep_step = 5000
[[grid]]
data.tiles = "small"
data.split = ["shuffled", "blocked"]
train.noise_fraction = [0.0, 0.5]
train.seed = [0, 1]
"""


def right(config, sigma):
    clean = 990 - config.train.seed
    return clean if not sigma else int(clean - sigma / (100 if config.train.noise_fraction else 40))


@pytest.fixture
def run(tmp_path):
    grid = plan(tmp_path / "run", JOB)
    for cell in grid.cells:
        finish(cell, right)
    return grid.run


def test_a_sweep_is_a_line_per_training_and_a_panel_per_split(run):
    figure = sweep(collect(run)).figure
    shuffled, blocked = figure.axes
    assert (shuffled.get_title(), blocked.get_title()) == ("small, shuffled", "small, blocked")
    for panel in figure.axes:
        lines = [line for line in panel.lines if len(line.get_xdata()) == 5]
        assert len(lines) == 4 and len({to_hex(line.get_color()) for line in lines}) == 2
        ends = sorted(round(1000 * float(line.get_ydata()[-1])) for line in lines)
        assert ends == [489, 490, 789, 790]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["0 % noise", "50 % noise"]


def test_a_sweep_has_the_cells_that_are_finished_and_no_others(run):
    records = collect(run)
    for row in records.rows:
        if row.config.data.split == "blocked" or row.config.train.seed:
            row.cell.folder.evaluation_file.unlink()
    figure = sweep(collect(run)).figure
    (panel,) = figure.axes
    assert sum(len(line.get_xdata()) == 5 for line in panel.lines) == 2
    for row in collect(run).rows:
        row.cell.folder.evaluation_file.unlink(missing_ok=True)
    drawn = sweep(collect(run))
    assert drawn.figure is None and "is finished" in drawn.holes[0].reason


def test_a_job_without_a_sweep_says_so(tmp_path):
    grid = plan(tmp_path / "run", JOB.replace("sweep_max = 20000\nsweep_step = 5000", ""))
    drawn = sweep(collect(grid.run))
    assert drawn.figure is None and "no cell has a sweep" in drawn.holes[0].reason


def test_classes_are_a_point_per_training_at_the_height_of_its_ratio(run):
    records = collect(run)
    # Class 1 has pixels of its own, of which a tenth is found.
    for row in records.rows:
        points = []
        for level in row.config.evaluate.levels():
            matrix = confusion(right(row.config, level.sigma))
            matrix[0] = [900, 0, 0]
            matrix[1] = [90, 10, 0]
            points.append({"sigma": level.sigma, "noise": level.model, "fraction": None, "confusion": matrix})
        change(row.cell.folder.evaluation_file, points=points)
    figure = classes(collect(run)).figure
    assert [axes.get_title() for axes in figure.axes[:3]] == ["class 0, clean", "class 128, clean", "class 255, clean"]
    found = np.concatenate([line.get_ydata() for line in figure.axes[1].lines]).round(6)
    # IoU 10 / 100, recall 10 / 100, precision 10 / 10, of two seeds in four settings.
    assert sorted(found.tolist()) == [0.1] * 16 + [1.0] * 8


def test_classes_of_cells_that_were_not_tested_are_a_hole(tmp_path):
    assert classes(collect(plan(tmp_path / "run", JOB).run)).holes


def test_levels_are_a_point_per_training_and_test_at_its_wrong_pixels(run):
    figure = levels(collect(run)).figure
    assert [axes.get_title() for axes in figure.axes] == ["small, shuffled", "small, blocked"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["0 % noise", "50 % noise"]
    colours = [to_hex(line.get_color()) for line in legend.get_lines()]
    heads = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    for panel in figure.axes:
        for noise, colour in zip((0.0, 0.5), colours, strict=True):
            points = [
                (heads[round(float(y))], round(float(x), 6))
                for line in panel.lines
                if to_hex(line.get_color()) == colour
                for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
            ]
            clean = [1.0, 1.1]
            assert sorted(one for head, one in points if head == "clean") == clean
            assert len([one for head, one in points if head == "validation"]) == 2
            wrong = sorted(one for head, one in points if head == "gaussian 5000")
            assert wrong == pytest.approx([one + (5 if noise else 12.5) for one in clean])


def test_no_wrong_pixel_is_drawn_at_the_end_of_the_scale(run):
    for row in collect(run).rows:
        points = [
            {"sigma": level.sigma, "noise": level.model, "fraction": None, "confusion": confusion(1000)}
            for level in row.config.evaluate.levels()
        ]
        change(row.cell.folder.evaluation_file, points=points)
    figure = levels(collect(run)).figure
    found = np.concatenate([line.get_xdata() for line in figure.axes[0].lines if len(line.get_xdata()) == 2])
    assert found.min() == 0.01


def test_epochs_in_which_all_is_right_are_drawn_at_the_end_of_the_scale(run):
    said = "A point at 0.01 % stands for that and less."
    assert all(said not in draw(name, collect(run)).caption for name in ("epochs", "figure3"))
    for row in collect(run).rows:
        finish(row.cell, lambda *_: 1000)
    records = collect(run)
    for name in ("epochs", "figure3"):
        errors = FIGURES[name](records).figure.axes[1]
        assert {float(line.get_ydata()[-1]) for line in errors.lines if line.get_label() != "train"} >= {0.01}, name
        assert said in draw(name, records).caption


def test_levels_of_cells_that_were_not_tested_are_a_hole(tmp_path):
    drawn = levels(collect(plan(tmp_path / "run", JOB).run))
    assert drawn.figure is None and "no cell has been tested" in drawn.holes[0].reason


@pytest.mark.parametrize("losses", [(1.05, 0.96), (0.34, 0.26), (1.1, 0.1)])
def test_an_axis_has_two_numbers_at_least(losses):
    axes = Figure().subplots(1, 2)
    for axis in axes:
        axis.plot((1, 2), losses)
    losses_and_errors(axes, "wrong pixels (%)")
    for axis in axes:
        low, high = axis.get_ylim()
        assert sum(low <= mark <= high for mark in axis.yaxis.get_majorticklocs()) >= 2


def test_a_figure_that_no_further_run_fills_says_so(tmp_path):
    job = JOB.replace("sweep_max = 20000\nsweep_step = 5000", "whole_slices = true")
    grid = plan(tmp_path / "run", job.replace("[0, 1]", "0"))
    for cell in grid.cells:
        finish_with_slices(cell, lambda *_: 900, whole=(950, 940))
    records = collect(grid.run)
    names = ("sweep", "learning_curve", "readings", "seeds_apart", "calibration", "figure1", "figure5", "figure9")
    for name in names:
        (hole,) = FIGURES[name](records).holes
        assert hole.remedy == "Choose a job that has one.", name
    grid.cells[0].folder.evaluation_file.unlink()
    remedies = {name: FIGURES[name](collect(grid.run)).holes[0].remedy for name in names}
    # A sweep and pictures are not in the job's settings, so its missing cell has none either.
    anew = {name for name, remedy in remedies.items() if "hpcseg grid" in remedy}
    assert anew == {"learning_curve", "readings", "seeds_apart", "calibration"}


@pytest.mark.parametrize(
    ("whole", "there"), [(False, {"figure4"}), (True, {"figure1", "figure4", "figure5", "figure9"})]
)
def test_pictures_of_slices_are_asked_of_cells_that_keep_them(tmp_path, whole, there):
    settings = f"examples = true\nwhole_slices = {str(whole).lower()}"
    grid = plan(tmp_path / "run", JOB.replace("sweep_max = 20000\nsweep_step = 5000", settings))
    holes = {name: FIGURES[name](collect(grid.run)).holes[0] for name in ("figure1", "figure4", "figure5", "figure9")}
    assert {name for name, hole in holes.items() if "hpcseg grid" in hole.remedy} == there


def test_tiles_with_grey_values_of_their_own_have_no_best_slice_and_no_hole(tmp_path):
    grid = plan(tmp_path / "run", JOB.replace("[[grid]]", '[[grid]]\ndata.normalise = "tile"', 1))
    assert FIGURES["best_and_worst"](collect(grid.run)).holes == ()
    for cell in grid.cells:
        finish(cell, right)
    drawn = FIGURES["best_and_worst"](collect(grid.run))
    assert (drawn.figure, drawn.holes) == (None, ())
