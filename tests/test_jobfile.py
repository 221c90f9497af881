"""Job files: what is wrong is told with its place and a way out; and the jobs that ship."""

from __future__ import annotations

import itertools
import re

import pytest

from hpcseg.errors import ConfigError
from hpcseg.jobfile import find_shipped, load_job


@pytest.fixture
def job(tmp_path):
    """Writes a job file and loads it."""

    def load(text, overrides=()):
        path = tmp_path / "study.toml"
        path.write_text(text, encoding="utf-8")
        return load_job(path, overrides)

    return load


def test_an_empty_job_is_one_cell_with_the_papers_settings(job):
    loaded = job("")
    assert (loaded.name, loaded.title) == ("study", "study")
    (cell,) = loaded.cells
    assert (cell.train.width, cell.train.depth, cell.train.epochs, cell.train.batch_size) == (64, 4, 15, 25)
    assert (cell.train.learning_rate, cell.train.noise_sigma_max) == (1e-3, 10_000)
    assert (cell.data.tiles, cell.data.tile_size, cell.data.split) == ("small", 128, "shuffled")
    assert cell.evaluate.table_sigma == 5_000


def test_a_grid_is_the_product_of_its_axes_over_the_shared_settings(job):
    cells = job(
        """
        [train]
        width = 8
        epochs = 3

        [[grid]]
        data.tiles = ["small", "large"]
        train.seed = [0, 1, 2]
        train.epochs = 4
        """
    ).cells
    assert [(cell.data.tiles, cell.train.seed) for cell in cells] == list(
        itertools.product(("small", "large"), (0, 1, 2))
    )
    assert {(cell.train.width, cell.train.epochs) for cell in cells} == {(8, 4)}


def test_repetitions_have_a_seed_and_a_position_of_the_split_each(job, tmp_path):
    text = '[[grid]]\nrepetitions = [0, 3]\ndata.split = "blocked"\ntrain.noise_fraction = [0.0, 0.5]'
    cells = job(text).cells
    assert [(cell.train.seed, cell.data.split_seed, cell.train.noise_fraction) for cell in cells] == [
        *((0, 0, 0.0), (0, 0, 0.5), (3, 3, 0.0), (3, 3, 0.5)),
    ]
    seeds = load_job(tmp_path / "study.toml", ["train.seed=[1, 2]"]).cells
    assert [(cell.train.seed, cell.data.split_seed) for cell in seeds] == [(1, 0), (2, 0), (1, 0), (2, 0)]


def test_grids_are_joined_in_order_and_do_not_see_each_others_settings(job):
    cells = job("[[grid]]\ntrain.width = 8\n[[grid]]\ntrain.seed = 1").cells
    assert [(cell.train.width, cell.train.seed) for cell in cells] == [(8, 0), (64, 1)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[train]\nwidht = 8", 'train: unknown key "widht". Did you mean "width"?'),
        ("[[grid]]\ntrain.noise_fractoin = [0, 1]", 'grid 1: train: unknown key "noise_fractoin". Did you mean'),
        ("[trian]\nwidth = 8", 'study.toml: unknown key "trian". Did you mean "train"?'),
        ("[[grid]]\nneeds.gpus = 1", 'grid 1: unknown key "needs". Valid keys are data, train, evaluate, repetitions.'),
        ("[needs]\ngpu = 1", '[needs]: unknown key "gpu". Did you mean "gpus"?'),
        ("[report]\ntable = []", '[report]: unknown key "table". Did you mean "tables"?'),
    ],
)
def test_an_unknown_key_is_told_with_its_place_and_the_nearest_known_one(job, text, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        job(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[train]\nwidth = 8.0", "train: width must be a whole number, found 8.0"),
        ("[train]\nwidth = true", "train: width must be a whole number, found True"),
        ('[train]\nlearning_rate = "1e-3"', "train: learning_rate must be a number, found '1e-3'"),
        ("[train]\nbatch_norm = 1", "train: batch_norm must be true or false, found 1"),
        ("[data]\ntiles = 3", "data: tiles must be a text, found 3"),
        (
            "[evaluate]\ntable_sigma = [1000, 2000]",
            "evaluate.table_sigma is a list, and a trained model has one evalua",
        ),
        ("[train]\nseed = [0, 1]", "train.seed is a list, and only a [[grid]] may have one. Write train.seed = [...]"),
        ('[report]\ntables = "table1"', "[report]: tables must be a list of texts, found 'table1'"),
        ("needs = 4", "[needs]: expected a table of settings, found 4"),
        ("[[grid]]\ntrain = 3", "grid 1: train must be a table"),
        ("grid = [1]", "grid 1: a grid is a table of settings, not 1"),
        ("[[grid]]\ntrain.seed = []", "grid 1: the axis train.seed is empty"),
        ("[[grid]]\nrepetitions = []", "grid 1: repetitions is empty"),
        ("[[grid]]\nrepetitions = [0.5]", "data: split_seed must be a whole number, found 0.5"),
        ("[[grid]]\nrepetitions = [0, 1]\ntrain.seed = 3", "grid 1: repetitions are values of train.seed, which is"),
        ("[[grid]]\nrepetitions = 2\ndata.split_seed = [3]", "grid 1: repetitions are values of data.split_seed"),
    ],
)
def test_a_value_of_the_wrong_type_is_told_with_its_place(job, text, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        job(text)


def test_a_whole_number_is_a_number(job):
    learning_rate = job("[train]\nlearning_rate = 1").cells[0].train.learning_rate
    assert learning_rate == 1.0
    assert isinstance(learning_rate, float)


def test_out_of_range_in_a_job_file_is_told_with_the_file_and_the_grid(job):
    with pytest.raises(ConfigError, match=r"study.toml, grid 2: train: train.width is 0"):
        job("[[grid]]\ntrain.width = 1\n[[grid]]\ntrain.width = [2, 0]")


@pytest.mark.parametrize(
    "text",
    [
        "[[grid]]\ntrain.seed = [1, 1]",
        "[[grid]]\ntrain.seed = [0, 1]\n[[grid]]\ntrain.seed = [1, 2]",
    ],
)
def test_a_cell_that_is_described_twice_is_refused_by_name(job, text):
    with pytest.raises(ConfigError, match=r"small-shuffled-p000-w64-s1 is described twice"):
        job(text)


@pytest.mark.parametrize(
    "text",
    [
        "[[grid]]\ntrain.seed = 1\nevaluate.table_sigma = [5000, 2000]",
        "[[grid]]\ntrain.seed = 1\n[[grid]]\ntrain.seed = 1\nevaluate.sweep_max = 1000",
    ],
)
def test_a_model_that_would_have_two_evaluations_is_refused_with_the_way_out(job, text):
    with pytest.raises(ConfigError, match=r"w64-s1 .* two evaluations, .*other_noise.*--set evaluate.SETTING=VALUE"):
        job(text)


def test_a_file_that_is_no_toml_is_told_with_the_line(job):
    with pytest.raises(ConfigError, match=r"study.toml is not valid TOML: .*line 2"):
        job("[train]\nwidth = \n")


def test_a_missing_job_is_told_with_the_shipped_names(tmp_path):
    with pytest.raises(ConfigError, match=r'no job "papr". Shipped jobs are .*paper.*smoke'):
        find_shipped("job", "papr")
    with pytest.raises(ConfigError, match=r"There is no job .*mine.toml"):
        find_shipped("job", str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(("name", "width"), [("paper", 64), ("paper-cpu", 16)])
def test_the_paper_is_eleven_cells_and_two_side_experiments(name, width):
    everything = load_job(find_shipped("job", name)).cells
    cells = [cell for cell in everything if cell.train.batch_norm and not cell.train.weight_decay]
    others = {cell.name() for cell in everything if cell not in cells}
    assert others == {
        f"small-shuffled-p000-w{width}-s0-batch-norm-false",
        f"large-shuffled-p000-w{width}-s0-batch-size-64-weight-decay-0.01",
    }
    described = {(cell.data.tiles, cell.data.split, cell.train.noise_fraction) for cell in cells}
    table_2 = itertools.product(("small", "large"), ("shuffled",), (0.0, 0.25, 0.5, 0.75, 1.0))
    assert described == {*table_2, ("large", "blocked", 0.5)}
    assert len(cells) == 11
    assert {cell.train.width for cell in cells} == {width}
    assert {(cell.train.depth, cell.train.epochs, cell.train.learning_rate) for cell in cells} == {(4, 15, 1e-3)}
    assert {(cell.data.tiles, cell.train.batch_size) for cell in cells} == {("small", 25), ("large", 64)}
    assert {cell.evaluate.table_sigma for cell in cells} == {5_000}


@pytest.mark.parametrize("name", ["paper", "paper-cpu"])
def test_figure_7s_cells_are_swept_to_30000_counts(name):
    for cell in load_job(find_shipped("job", name)).cells:
        if cell.data.tiles == "large" and cell.train.noise_fraction == 0.5:
            assert cell.evaluate.sigmas() == tuple(float(sigma) for sigma in range(0, 30_001, 1_000))
        else:
            assert {0.0, 5_000.0} <= set(cell.evaluate.sigmas())


def test_readings_are_the_small_row_with_one_thing_changed_in_each_block():
    cells = load_job(find_shipped("job", "readings")).cells
    changes = {}
    for cell in cells:
        changes.setdefault(cell.name().partition(f"-s{cell.train.seed}")[2], []).append(cell)
    rows = {(fraction, seed) for fraction in (0.0, 0.25, 0.5, 0.75, 1.0) for seed in (0, 1, 2)}
    assert all({(cell.train.noise_fraction, cell.train.seed) for cell in of} == rows for of in changes.values())
    assert set(changes) == {
        *("", "-noise-model-offset", "-normalise-tile", "-normalise-set", "-out-of-range-clip", "-out-of-range-wrap"),
        *("-keep-best", "-slices-50"),
    }
    assert {cell.data.tiles for cell in changes.pop("-slices-50")} == {"large"}
    assert {cell.data.tiles for of in changes.values() for cell in of} == {"small"}
    keys = {level.key for level in cells[0].evaluate.headline_levels()}
    for sigma in (3_000, 5_000, 10_000):
        assert {f"{model}-{sigma}{norm}" for model in ("gaussian", "offset") for norm in ("", "-batch-norm-8")} <= keys


def test_an_override_replaces_a_setting_in_shared_tables_and_in_every_grid(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(
        "[train]\nwidth = 64\n[[grid]]\ntrain.width = [32, 16]\ntrain.seed = [0, 1]\n[[grid]]\ndata.tiles = 'large'"
    )
    assert [cell.train.width for cell in load_job(path).cells] == [32, 32, 16, 16, 64]
    assert [cell.train.width for cell in load_job(path, ["train.width=8"]).cells] == [8, 8, 8]
    job = load_job(path, ["train.width=[4, 8]", "data.split=blocked", "needs.gpus = 0"])
    assert [(cell.train.width, cell.train.seed) for cell in job.cells] == [
        (4, 0),
        (4, 1),
        (8, 0),
        (8, 1),
        (4, 0),
        (8, 0),
    ]
    assert {cell.data.split for cell in job.cells} == {"blocked"}
    assert job.needs.gpus == 0


def test_an_override_counts_in_a_job_without_a_grid(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text("[train]\nwidth = 8\nepochs = 3")
    with pytest.raises(ConfigError, match=re.escape("--set 'train.learning_rate=[0.001, 0.01]'")):
        load_job(path, ["train.learning_rate=1e-3,1e-2"])
    (cell,) = load_job(path, ["train.epochs=30", "data.tiles=large"]).cells
    assert (cell.train.width, cell.train.epochs, cell.data.tiles) == (8, 30, "large")
    assert [cell.train.seed for cell in load_job(path, ["train.seed=[0, 1]"]).cells] == [0, 1]
    wrong = {"train.width=banana": "width must be a whole number", "train.foo=1": 'unknown key "foo"'}
    for override, told in wrong.items():
        with pytest.raises(ConfigError, match=told):
            load_job(path, [override])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.width", "must be SECTION.KEY=VALUE with a section of data, train, evaluate, needs"),
        ("width=8", "must be SECTION.KEY=VALUE"),
        ("grid.width=8", "must be SECTION.KEY=VALUE"),
        ("train.widht=8", 'unknown key "widht". Did you mean "width"?'),
        ("train.width=wide", "width must be a whole number, found 'wide'"),
        ("train.width=-1", "train.width is -1, but it must be between 1 and"),
        ("needs.gpu=1", 'unknown key "gpu". Did you mean "gpus"?'),
        (f"train.seed={'9' * 5000}", "Exceeds the limit"),
        (f"train.seed={'[' * 5000}", "maximum recursion depth"),
    ],
)
def test_a_wrong_override_is_refused_with_what_is_right(override, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_job(find_shipped("job", "smoke"), [override])


def test_the_smoke_job_is_two_tiny_cells():
    cells = load_job(find_shipped("job", "smoke")).cells
    assert [cell.train.noise_fraction for cell in cells] == [0.0, 0.5]
    assert all(cell.train.width <= 8 and cell.train.epochs <= 2 for cell in cells)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data = 3", "data must be a table of settings, found 3"),
        ("grid = 3", "grid must be a table"),
        ("grid = []", "grid must be a table"),
        ("[evaluate]\nsweep_max = inf", "sweep_max must be a finite number"),
        ("[train]\nnoise_fraction = nan", "noise_fraction must be a finite number"),
    ],
)
def test_values_that_are_no_settings_are_refused_by_name(tmp_path, text, said):
    path = tmp_path / "job.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_job(path)


def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = tmp_path / "job.toml"
    path.write_bytes(b"\xef\xbb\xbf[grid]\ntrain.seed = [0, 1]\n")
    assert len(load_job(path).cells) == 2


def test_a_grid_that_is_no_table_is_refused_beside_an_override_too(job):
    for overrides in ((), ("train.width=8",)):
        with pytest.raises(ConfigError, match=r"grid must be a table, or several as .*found 3"):
            job("grid = 3", overrides)
