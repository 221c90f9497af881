"""Job files: what is wrong is told with its place and a way out, and ids follow what decides a trained model."""

from __future__ import annotations

import dataclasses
import itertools
import re

import pytest

from hpcseg.config import (
    CellConfig,
    DataConfig,
    EvaluateConfig,
    NeedsConfig,
    TrainConfig,
    cell_from_dict,
    describes,
    digest,
)
from hpcseg.errors import ConfigError
from hpcseg.jobfile import find_job, load_job


@pytest.fixture
def job(tmp_path):
    """Writes a job file and loads it."""

    def load(text):
        path = tmp_path / "study.toml"
        path.write_text(text, encoding="utf-8")
        return load_job(path)

    return load


# --- job files


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


def test_grids_are_joined_in_order_and_do_not_see_each_others_settings(job):
    cells = job("[[grid]]\ntrain.width = 8\n[[grid]]\ntrain.seed = 1").cells
    assert [(cell.train.width, cell.train.seed) for cell in cells] == [(8, 0), (64, 1)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[train]\nwidht = 8", 'train: unknown key "widht". Did you mean "width"?'),
        ("[[grid]]\ntrain.noise_fractoin = [0, 1]", 'grid 1: train: unknown key "noise_fractoin". Did you mean'),
        ("[trian]\nwidth = 8", 'study.toml: unknown key "trian". Did you mean "train"?'),
        ("[[grid]]\nneeds.gpus = 1", 'grid 1: unknown key "needs". Valid keys are data, train, evaluate.'),
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
        ('[report]\ntables = "table1"', "[report]: tables must be a list of texts, found 'table1'"),
        ("needs = 4", "[needs]: expected a table of settings, found 4"),
        ("[[grid]]\ntrain = 3", "grid 1: train must be a table"),
        ("grid = [1]", "grid 1: a grid is a table of settings, not 1"),
        ("[[grid]]\ntrain.seed = []", "grid 1: the axis train.seed is empty"),
    ],
)
def test_a_value_of_the_wrong_type_is_told_with_its_place(job, text, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        job(text)


def test_a_whole_number_is_a_number(job):
    learning_rate = job("[train]\nlearning_rate = 1").cells[0].train.learning_rate
    assert learning_rate == 1.0
    assert isinstance(learning_rate, float)


@pytest.mark.parametrize(
    ("section", "setting", "value", "rule"),
    [
        (DataConfig, "tiles", "medium", '"small", "large", "cover" or a grid like "2x3"'),
        (DataConfig, "tiles", "0x3", '"small", "large", "cover" or a grid like "2x3"'),
        (DataConfig, "tile_size", 7, "at least 8 pixels"),
        (DataConfig, "split", "random", "one of shuffled, blocked"),
        (DataConfig, "split_seed", -1, "0 or more"),
        (DataConfig, "gap_slices", 0, "at least 1"),
        (TrainConfig, "width", 0, "between 1 and 4096 channels"),
        (TrainConfig, "width", 4097, "between 1 and 4096 channels"),
        (TrainConfig, "depth", 0, "between 1 and 8"),
        (TrainConfig, "depth", 9, "between 1 and 8"),
        (TrainConfig, "epochs", 0, "at least 1"),
        (TrainConfig, "batch_size", 0, "at least 1 tile"),
        (TrainConfig, "learning_rate", 0.0, "above 0"),
        (TrainConfig, "learning_rate", float("nan"), "above 0"),
        (TrainConfig, "weight_decay", -0.1, "0 or more"),
        (TrainConfig, "noise_fraction", -0.1, "between 0 and 1"),
        (TrainConfig, "noise_fraction", float("nan"), "between 0 and 1"),
        (TrainConfig, "noise_sigma_max", -1.0, "0 counts or more"),
        (TrainConfig, "seed", -1, "0 or more"),
        (TrainConfig, "precision", "fp16", "one of auto, fp32, bf16"),
        (EvaluateConfig, "table_sigma", -1.0, "0 counts or more"),
        (EvaluateConfig, "sweep_max", -1.0, "0 counts or more"),
        (EvaluateConfig, "sweep_step", 0.0, "above 0 counts"),
        (EvaluateConfig, "seed", -1, "0 or more"),
        (NeedsConfig, "gpus", -1, "0 or more"),
        (NeedsConfig, "nodes", 0, "at least 1"),
        (NeedsConfig, "minutes", 0, "at least 1"),
        (NeedsConfig, "cpus_per_task", 0, "at least 1"),
        (NeedsConfig, "memory_gib", 0.0, "above 0"),
    ],
)
def test_a_value_out_of_its_range_is_told_with_its_name_and_the_range(section, setting, value, rule):
    with pytest.raises(ConfigError) as error:
        section(**{setting: value})
    assert setting in str(error.value)
    assert rule in str(error.value)


def test_per_cent_in_place_of_a_share_is_told_with_the_share():
    with pytest.raises(ConfigError, match=r"noise_fraction is 25, but .* between 0 and 1. For per cent write 0.25."):
        TrainConfig(noise_fraction=25.0)


def test_out_of_range_in_a_job_file_is_told_with_the_file_and_the_grid(job):
    with pytest.raises(ConfigError, match=r"study.toml, grid 2: train: train.width is 0"):
        job("[[grid]]\ntrain.width = 1\n[[grid]]\ntrain.width = [2, 0]")


@pytest.mark.parametrize(
    "text",
    [
        "[[grid]]\ntrain.seed = [1, 1]",
        "[[grid]]\ntrain.seed = [0, 1]\n[[grid]]\ntrain.seed = [1, 2]",
        # Only the evaluation differs: the same trained model would have two evaluations.
        "[[grid]]\ntrain.seed = 1\n[[grid]]\ntrain.seed = 1\nevaluate.sweep_max = 1000",
    ],
)
def test_a_cell_that_is_described_twice_is_refused_by_name(job, text):
    with pytest.raises(ConfigError, match=r"small-shuffled-p000-w64-s1 is described twice"):
        job(text)


def test_a_file_that_is_no_toml_is_told_with_the_line(job):
    with pytest.raises(ConfigError, match=r"study.toml is not valid TOML: .*line 2"):
        job("[train]\nwidth = \n")


def test_a_missing_job_is_told_with_the_shipped_names(tmp_path):
    with pytest.raises(ConfigError, match=r'no job "papr". Shipped jobs are .*paper.*smoke'):
        find_job("papr")
    with pytest.raises(ConfigError, match=r"There is no job file .*mine.toml"):
        find_job(str(tmp_path / "mine.toml"))


# --- the jobs that ship


@pytest.mark.parametrize(("name", "width"), [("paper", 64), ("paper-cpu", 16)])
def test_the_paper_is_eleven_cells_and_two_side_experiments(name, width):
    everything = load_job(find_job(name)).cells
    cells = [cell for cell in everything if cell.train.batch_norm and not cell.train.weight_decay]
    others = {cell.name() for cell in everything if cell not in cells}
    assert others == {
        f"small-shuffled-p000-w{width}-s0-batch-norm-false",
        f"large-shuffled-p000-w{width}-s0-weight-decay-0.01",
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
    for cell in load_job(find_job(name)).cells:
        if cell.data.tiles == "large" and cell.train.noise_fraction == 0.5:
            assert cell.evaluate.sigmas() == tuple(float(sigma) for sigma in range(0, 30_001, 1_000))
        else:
            assert {0.0, 5_000.0} <= set(cell.evaluate.sigmas())


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
    ],
)
def test_a_wrong_override_is_refused_with_what_is_right(override, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_job(find_job("smoke"), [override])


def test_the_smoke_job_is_two_tiny_cells():
    cells = load_job(find_job("smoke")).cells
    assert [cell.train.noise_fraction for cell in cells] == [0.0, 0.5]
    assert all(cell.train.width <= 8 and cell.train.epochs <= 2 for cell in cells)


# --- one setting at a time


def test_grids_are_read_from_their_spec():
    assert [DataConfig(tiles=tiles).grid(501, 501) for tiles in ("small", "large", "2x3", "10x1")] == [
        (1, 1),
        (3, 3),
        (2, 3),
        (10, 1),
    ]


@pytest.mark.parametrize(("size", "tiles"), [((501, 501), (4, 4)), ((128, 128), (1, 1)), ((129, 300), (2, 3))])
def test_a_cover_has_as_many_tiles_as_it_needs(size, tiles):
    assert DataConfig(tiles="cover").grid(*size) == tiles


def test_sigmas_are_zero_the_tables_and_the_sweep_ascending_without_repeats():
    assert EvaluateConfig().sigmas() == (0, 5_000)
    assert EvaluateConfig(table_sigma=0).sigmas() == (0,)
    swept = EvaluateConfig(table_sigma=2_500, sweep_max=3_000, sweep_step=1_000)
    assert swept.sigmas() == (0, 1_000, 2_000, 2_500, 3_000)
    # 0.3 / 0.1 is below 3 in binary; the last point still belongs to the sweep.
    assert len(EvaluateConfig(table_sigma=0, sweep_max=0.3, sweep_step=0.1).sigmas()) == 4


# --- names and ids

OTHER = {
    "data": {"tiles": "2x2", "tile_size": 64, "split": "blocked", "split_seed": 5, "gap_slices": 3, "train_slices": 7},
    "train": {
        "width": 16,
        "depth": 3,
        "batch_norm": False,
        "epochs": 2,
        "batch_size": 64,
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "noise_fraction": 0.5,
        "noise_sigma_max": 1.0,
        "noise_model": "uniform+poisson",
        "noise_each_epoch": True,
        "augment": "flips",
        "seed": 4,
        "precision": "fp32",
    },
    "evaluate": {
        "table_sigma": 1.0,
        "sweep_max": 10_000.0,
        "sweep_step": 10.0,
        "other_noise": "uniform",
        "mixed_fraction": 0.5,
        "mixed_sigma_max": 1.0,
        "whole_slices": True,
        "examples": True,
        "seed": 3,
    },
}


def settings():
    return [(section, name) for section, others in OTHER.items() for name in others]


def cell_with(section, name):
    types = {"data": DataConfig, "train": TrainConfig, "evaluate": EvaluateConfig}
    return CellConfig(**{section: types[section](**{name: OTHER[section][name]})})


def cell_id(cell, data="a" * 64, code="b" * 64):
    return cell.cell_id(data_sha256=data, code_sha256=code)


def test_the_table_of_other_values_has_every_setting_of_a_cell():
    fields = {
        (part.name, item.name)
        for part in dataclasses.fields(CellConfig)
        for item in dataclasses.fields(getattr(CellConfig(), part.name))
    }
    assert fields == set(settings())


def test_every_setting_of_data_and_training_has_an_id_of_its_own():
    ids = {cell_id(cell_with(*setting)) for setting in settings() if setting[0] != "evaluate"}
    assert len(ids | {cell_id(CellConfig())}) == len(OTHER["data"]) + len(OTHER["train"]) + 1


@pytest.mark.parametrize("name", OTHER["evaluate"])
def test_evaluation_settings_do_not_change_the_id_of_a_trained_model(name):
    assert cell_id(cell_with("evaluate", name)) == cell_id(CellConfig())


def test_other_data_and_other_code_change_the_id_but_not_the_name():
    ids = [cell_id(CellConfig()), cell_id(CellConfig(), data="c" * 64), cell_id(CellConfig(), code="c" * 64)]
    assert len(set(ids)) == 3
    assert {one.rsplit("-", 1)[0] for one in ids} == {CellConfig().name()}


def test_an_id_is_its_name_and_eight_hex_digits_and_stays_what_it_was():
    # Pinned: with another id, finished cells of existing run folders would be trained again.
    assert cell_id(CellConfig()) == "small-shuffled-p000-w64-s0-d5ed4254"


def test_the_levels_are_the_sweep_then_other_models_then_the_mixed_set():
    config = EvaluateConfig(sweep_max=2_000, other_noise="uniform+salt-and-pepper", mixed_fraction=0.5)
    assert [level.key for level in config.levels()] == [
        *("gaussian-0", "gaussian-1000", "gaussian-2000", "gaussian-5000"),
        *("uniform-5000", "salt-and-pepper-5000", "gaussian-10000-p0.5"),
    ]
    headlines = [level for level in config.levels() if level.key not in ("gaussian-1000", "gaussian-2000")]
    assert list(config.headline_levels()) == headlines


@pytest.mark.parametrize("models", ["", "pink", "gaussian+", "uniform+uniform", "gaussian, poisson"])
def test_a_model_of_noise_that_is_none_is_refused_with_those_that_are(models):
    with pytest.raises(ConfigError, match=r"train\.noise_model is .* gaussian, uniform, poisson, salt-and-pepper"):
        TrainConfig(noise_model=models)


def test_a_stored_table_describes_a_config_whether_or_not_it_has_the_settings_that_came_later():
    stored = dataclasses.asdict(TrainConfig(width=8))
    assert describes(stored, TrainConfig(width=8))
    assert not describes(stored, TrainConfig(width=9))
    older = {key: value for key, value in stored.items() if key != "noise_model"}
    assert describes(older, TrainConfig(width=8))
    assert not describes(older, TrainConfig(width=8, noise_model="poisson"))
    assert not describes({**stored, "unheard_of": 1}, TrainConfig(width=8))
    assert not describes(None, TrainConfig(width=8))


def test_names_show_the_axes_of_the_paper_and_what_else_differs_from_the_default():
    assert CellConfig().name() == "small-shuffled-p000-w64-s0"
    cell = CellConfig(
        data=DataConfig(tiles="large", split="blocked", gap_slices=4),
        train=TrainConfig(width=16, noise_fraction=0.5, seed=2, batch_size=64, learning_rate=0.01, batch_norm=False),
    )
    # The batch size never shows: the paper's two grids differ in it anyhow.
    assert cell.name() == "large-blocked-p050-w16-s2-gap-slices-4-batch-norm-false-learning-rate-0.01"
    assert CellConfig(train=TrainConfig(noise_fraction=1.0)).name() == "small-shuffled-p100-w64-s0"


@pytest.mark.parametrize("setting", settings())
def test_names_are_fit_for_folders_and_slurm(setting):
    assert re.fullmatch(r"[a-z0-9.-]+", cell_with(*setting).name())


@pytest.mark.parametrize("setting", settings())
def test_a_stored_cell_comes_back_equal(setting):
    cell = cell_with(*setting)
    assert cell_from_dict(dataclasses.asdict(cell), "cell.json") == cell


def test_a_stored_cell_of_another_version_is_refused_with_its_place():
    stored = dataclasses.asdict(CellConfig())
    stored["train"]["dropout"] = 0.1
    with pytest.raises(ConfigError, match=r'cell.json: train: unknown key "dropout"'):
        cell_from_dict(stored, "cell.json")


def test_a_digest_does_not_depend_on_the_order_of_keys():
    # SHA-256 of {"a":1,"b":[2.5,null]} by sha256sum.
    expected = "fbb68c4db7e0dd9e9fbcbf26036734a369258770a834b80de564070cb402a13a"
    assert digest({"b": [2.5, None], "a": 1}) == expected
    assert digest({"a": 1, "b": [2.5, None]}) == expected


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
