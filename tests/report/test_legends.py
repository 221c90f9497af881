"""A figure of many settings names each of them, whole and in a colour of its own."""

from __future__ import annotations

import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from test_report_records import OWN_JOB, tiny_run

from hpcseg.records.collect import collect
from hpcseg.report.own_figures import epochs

LONG = """
[[grid]]
train.noise_fraction = 0.5
train.noise_model = ["uniform", "poisson+salt-and-pepper", "gaussian+uniform+poisson+salt-and-pepper"]
train.augment = ["symmetries", "exposure", "flips"]
"""
SHORT = "[[grid]]\ntrain.batch_size = [2, 3, 4, 5, 6, 7, 8, 9, 10]\n"


@pytest.mark.parametrize(("settings", "columns"), [(LONG, 1), (SHORT, 2)])
def test_a_legend_of_nine_settings_is_inside_of_its_figure_and_has_nine_colours(tmp_path, settings, columns):
    job = OWN_JOB.split("[[grid]]")[0] + settings
    figure = epochs(collect(tiny_run(tmp_path / "run", job).run)).figure
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert len(texts) == len(set(texts)) == 9
    assert len({line.get_color() for line in legend.get_lines()}) == 9
    assert legend._ncols == columns
    inside = figure.bbox
    for text in legend.get_texts():
        box = text.get_window_extent()
        assert box.x0 >= inside.x0 and box.x1 <= inside.x1 and box.y1 <= inside.y1, text.get_text()
    # Nor does a high legend press the curves together.
    assert all(axes.get_window_extent().height > 2 * figure.dpi for axes in figure.axes)
    boxes = [text.get_window_extent() for text in legend.get_texts()]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
