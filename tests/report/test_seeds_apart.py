"""Weights and order with seeds of their own: how alike trainings are that share one, and what a report says of it."""

from __future__ import annotations

import numpy as np
import pytest
from test_report_groups import finish_with_slices, labels
from test_report_records import plan

from hpcseg.records.collect import collect
from hpcseg.report.build import build_report
from hpcseg.report.figures import draw
from hpcseg.report.seeds_apart import crossed, which_seed
from hpcseg.report.tables import TABLES
from hpcseg.statistics import likeness

JOB = """
[train]
width = 8
epochs = 1
[report]
questions = ["which_seed"]
tables = ["seeds_apart"]
figures = ["seeds_apart"]
[[grid]]
data.tiles = "small"
train.seed = [0, 1, 2, 3]
train.order_seed = [0, 1, 2, 3, 4]
"""
RATINGS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float)
"""Six targets, four judges: Shrout and Fleiss, Psychological Bulletin 86, 1979, table 2."""


def right_by_weights(config, key):
    """On noisy tiles what the weights say, but for a pixel or two; on clean ones neither weights nor order."""
    seed, order = config.train.seed, config.train.order_seed
    if key == "gaussian-0":
        return 950 + (7 * seed + 5 * order + 3 * seed * order) % 11
    return 500 + 100 * seed + (seed * order) % 3


@pytest.fixture
def run(tmp_path):
    grid = plan(tmp_path / "run", JOB)
    for cell in grid.cells:
        finish_with_slices(cell, right_by_weights)
    return grid.run


def test_likeness_of_published_ratings():
    # ICC(3,1), its F of 11.03 and its interval, as Shrout and Fleiss and many after them have them.
    found = likeness(RATINGS)
    assert found.mean == pytest.approx(0.7148, abs=5e-5)
    assert (found.low, found.high) == pytest.approx((0.3425, 0.9459), abs=5e-5)
    assert found.p_value == pytest.approx(0.000135, abs=5e-7)


def test_an_interval_of_likeness_holds_the_truth_in_95_of_100():
    rng, truth, held = np.random.default_rng(1), 0.6, 0
    for _ in range(2000):
        rows = rng.standard_normal((5, 1)) * np.sqrt(truth)
        found = likeness(rows + rng.standard_normal((1, 5)) * 3 + rng.standard_normal((5, 5)) * np.sqrt(1 - truth))
        held += found.low <= truth <= found.high
    assert 0.94 <= held / 2000 <= 0.96


@pytest.mark.parametrize("values", [np.ones((5, 5)), np.eye(2), np.ones((2, 5)) * [[1], [2]]])
def test_of_one_value_or_of_two_weights_nothing_is_said(values):
    assert likeness(values) is None


def test_what_the_weights_decide_is_marked_and_what_nothing_decides_is_not(run):
    records = collect(run)
    table = TABLES["seeds_apart"](records)
    assert labels(table) == ["validation", "clean", "gaussian 5000"]
    _, clean, noisy = ({head: cell for head, cell in zip(table.blocks[0].columns, line.cells, strict=True)}
                       for line in table.blocks[0].lines)  # fmt: skip
    assert noisy["same weights: alike"].found.mean > 0.99 and noisy["same weights: alike"].marked
    assert noisy["same order: alike"].found.mean < 0.3 and not noisy["same order: alike"].marked
    assert not clean["same weights: alike"].marked and not clean["same order: alike"].marked
    assert (noisy["least"].found.mean, noisy["most"].found.mean) == (0.5, 0.8)
    said = which_seed(records)
    assert "gaussian 5000: the same weights 1.00 (" in said and "not shown" in said


def test_weights_that_were_not_trained_in_each_order_are_left_out_and_too_few_are_a_hole(run):
    records = collect(run)
    for row in records.rows:
        if (row.config.train.seed, row.config.train.order_seed) in ((1, 2), (3, 0)):
            row.cell.folder.evaluation_file.unlink()
            row.cell.folder.slices_file.unlink()
    tested = [one for one in crossed(collect(run)) if one.level == "clean"]
    assert [one.weights for one in tested] == []
    assert [one.weights for one in crossed(collect(run))] == [(0, 1, 2, 3)], "of the validation all are there"


def test_the_report_has_table_figure_and_answer(run, tmp_path):
    build_report(run, tmp_path / "report")
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"seeds_apart.csv", "seeds_apart.png", "seeds_apart.svg"} <= names
    assert "Is it the initial weights" in (tmp_path / "report" / "tables.md").read_text()


def test_a_job_without_orders_has_a_hole_in_place_of_the_figure(tmp_path):
    grid = plan(tmp_path / "run", JOB.replace("train.order_seed = [0, 1, 2, 3, 4]\n", ""))
    for cell in grid.cells:
        finish_with_slices(cell, lambda *_: 900)
    records = collect(grid.run)
    assert draw("seeds_apart", records).holes and not TABLES["seeds_apart"](records).blocks
    assert which_seed(records) is None
