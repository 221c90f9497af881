"""A figure of many settings names each of them, whole and in a colour of its own."""

from __future__ import annotations

import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from test_report_groups import finish_with_slices
from test_report_records import OWN_JOB, plan, tiny_run

from hpcseg.records.collect import collect
from hpcseg.report.curves import cost, name_settings
from hpcseg.report.figures import draw
from hpcseg.report.own_figures import epochs
from hpcseg.report.table import caption

LONG = """
[[grid]]
train.noise_fraction = 0.5
train.noise_model = ["uniform", "poisson+salt-and-pepper", "gaussian+uniform+poisson+salt-and-pepper"]
train.augment = ["symmetries", "exposure", "flips"]
"""
SHORT = "[[grid]]\ntrain.batch_size = [2, 3, 4, 5, 6, 7, 8, 9, 10]\n"
MORE = f"[[grid]]\ntrain.batch_size = {list(range(2, 38))}\n"
MORE_LONG = LONG.replace("0.5", "[0.25, 0.5]")


@pytest.mark.parametrize(
    ("settings", "columns", "number"), [(LONG, 1, 9), (SHORT, 2, 9), (MORE, 2, 36), (MORE_LONG, 1, 18)]
)
def test_a_legend_is_inside_of_its_figure_and_names_every_setting(tmp_path, settings, columns, number):
    job = OWN_JOB.split("[[grid]]")[0] + settings
    records = collect(tiny_run(tmp_path / "run", job).run)
    figure = epochs(records).figure
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert len(texts) == len(set(texts)) == number
    assert len({line.get_color() for line in legend.get_lines()}) == min(number, 12)
    assert ("after 12 names the legend begins" in draw("epochs", records).caption) is (number > 12)
    assert legend._ncols == columns
    inside = figure.bbox
    for text in legend.get_texts():
        box = text.get_window_extent()
        assert box.x0 >= inside.x0 and box.x1 <= inside.x1 and box.y1 <= inside.y1, text.get_text()
    # Nor does a high legend press the curves together.
    assert all(axes.get_window_extent().height > 2 * figure.dpi for axes in figure.axes)
    boxes = [text.get_window_extent() for text in legend.get_texts()]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_the_points_of_many_settings_have_as_much_room_as_those_of_few(tmp_path):
    job = OWN_JOB.replace("[evaluate]", "[evaluate]\nwhole_slices = true").split("[[grid]]")[0]
    heights = []
    for number in (4, 36):
        grid = plan(tmp_path / str(number), f"{job}[[grid]]\ntrain.batch_size = {list(range(2, 2 + number))}\n")
        for cell in grid.cells:
            finish_with_slices(cell, lambda *_: 900, whole=(950, 940))
        records = collect(grid.run)
        figure = cost(records).figure
        FigureCanvasAgg(figure).draw()
        heights.append(figure.axes[0].get_window_extent().height)
        assert len(figure.legends[0].get_texts()) == number
        assert ("after 35 names" in draw("cost", records).caption) is (number > 35)
    # For six rows the figure does not grow, of which the first legend has two; one is less than 0.2 inches high.
    assert heights[1] > heights[0] - 4 * 0.2 * figure.dpi


def test_settings_that_no_legend_has_room_for_are_counted(tmp_path):
    job = OWN_JOB.split("[[grid]]")[0] + f"[[grid]]\ntrain.batch_size = {list(range(2, 123))}\n"
    records = collect(plan(tmp_path / "run", job).run)
    figure = Figure()
    axes = figure.subplots()
    for group in records.groups:
        axes.plot([1], [1], label=group.id)
    assert name_settings(figure, axes, 12) == {"unnamed": 121} and not figure.legends
    assert "These are 121 settings, too many" in caption("figures", "epochs", {"unnamed": 121})
