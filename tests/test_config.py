"""Settings have ranges, and ids follow what decides a trained model."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import re

import pytest

from hpcseg.config import CellConfig, DataConfig, EvaluateConfig, NeedsConfig, TrainConfig, digest
from hpcseg.errors import ConfigError
from hpcseg.sigma import Share
from hpcseg.tables import build_config, describes


@pytest.mark.parametrize(
    ("section", "setting", "value", "rule"),
    [
        (DataConfig, "tiles", "medium", '"small", "large", "cover" or a grid like "2x3"'),
        (DataConfig, "tiles", "0x3", '"small", "large", "cover" or a grid like "2x3"'),
        (DataConfig, "tile_size", 7, "at least 8 pixels"),
        (DataConfig, "split", "random", "one of shuffled, blocked"),
        (DataConfig, "split_seed", -1, "0 or more"),
        (DataConfig, "gap_slices", 0, '"auto", or at least 1'),
        (DataConfig, "slices", -1, "0 (all) or more"),
        (DataConfig, "normalise", "slice", "one of full-scale, tile, set"),
        (DataConfig, "label_share", 0.0, "over 0, and at most 1"),
        (DataConfig, "label_share", 1.5, "over 0, and at most 1"),
        (DataConfig, "context", 3, "0, 1 or 2 slices on each side"),
        (DataConfig, "context", -1, "0, 1 or 2 slices on each side"),
        (DataConfig, "out_of_range", "drop", "one of keep, clip, wrap"),
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
        (TrainConfig, "keep", "first", "one of last, best"),
        (TrainConfig, "order_seed", -1, '"auto", or 0 or more'),
        (TrainConfig, "seed", -1, "0 or more"),
        (TrainConfig, "precision", "fp8", "one of auto, fp32, tf32, bf16, fp16"),
        (EvaluateConfig, "table_sigma", -1.0, "0 counts or more"),
        (EvaluateConfig, "sweep_max", -1.0, "0 counts or more"),
        (EvaluateConfig, "sweep_step", 0.0, "above 0 counts"),
        (EvaluateConfig, "other_sigmas", "3000,10000", 'sigmas above 0 joined by "+"'),
        (EvaluateConfig, "other_sigmas", "3000+", 'sigmas above 0 joined by "+"'),
        (EvaluateConfig, "other_sigmas", "0", 'sigmas above 0 joined by "+"'),
        (EvaluateConfig, "other_sigmas", "inf", 'sigmas above 0 joined by "+"'),
        (EvaluateConfig, "other_sigmas", "12%+300 %", 'sigmas above 0 joined by "+"'),
        (EvaluateConfig, "batch_norm", "batch", "one of running, running+batch"),
        (EvaluateConfig, "batch_size", 0, "at least 1 tile"),
        (EvaluateConfig, "seed", -1, "0 or more"),
        (EvaluateConfig, "tile", -1, "0, or an edge in pixels"),
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


def test_neighbours_of_a_shuffled_split_are_refused_with_the_reason():
    with pytest.raises(
        ConfigError, match=r"data\.context is 1, .* in which neighbours .* are tested on, .*\"blocked\""
    ):
        DataConfig(context=1)
    assert [DataConfig(context=context, split="blocked").channels for context in (0, 1, 2)] == [1, 3, 5]


def test_grids_are_read_from_their_spec():
    assert [DataConfig(tiles=tiles).tile_grid(501, 501) for tiles in ("small", "large", "2x3", "10x1")] == [
        (1, 1),
        (3, 3),
        (2, 3),
        (10, 1),
    ]


@pytest.mark.parametrize(("size", "tiles"), [((501, 501), (4, 4)), ((128, 128), (1, 1)), ((129, 300), (2, 3))])
def test_a_cover_has_as_many_tiles_as_it_needs(size, tiles):
    assert DataConfig(tiles="cover").tile_grid(*size) == tiles


def test_sigmas_are_zero_the_tables_and_the_sweep_ascending_without_repeats():
    assert EvaluateConfig().sigmas() == (0, 5_000)
    assert EvaluateConfig(table_sigma=0).sigmas() == (0,)
    swept = EvaluateConfig(table_sigma=2_500, sweep_max=3_000, sweep_step=1_000)
    assert swept.sigmas() == (0, 1_000, 2_000, 2_500, 3_000)
    # 0.3 / 0.1 is below 3 in binary; the last point still belongs to the sweep.
    assert len(EvaluateConfig(table_sigma=0, sweep_max=0.3, sweep_step=0.1).sigmas()) == 4


@pytest.mark.parametrize("text", ["33 %", "33%", " 33.0 % ", "33.000 %"])
def test_a_share_is_written_in_one_way_and_stays_a_text_in_records_and_copies(text):
    share = Share(text)
    assert (share, share.per_cent) == ("33 %", 33)
    assert json.loads(json.dumps(share)) == share
    for again in (copy.deepcopy(share), pickle.loads(pickle.dumps(share))):
        assert isinstance(again, Share) and again == share


@pytest.mark.parametrize("text", ["33", "%", "-1 %", "1e2 %", "201 %", "a third", "33 % of it", "nan %", ""])
def test_a_text_that_is_no_share_is_refused_where_it_stands(text):
    with pytest.raises(ConfigError, match=r'^job: train: noise_sigma_max: ".*" is no sigma: .* such as "33 %"'):
        build_config(CellConfig, {"train": {"noise_sigma_max": text}}, "job")


def test_settings_of_a_job_may_be_shares_and_come_back_from_a_record_as_they_were():
    table = {
        "train": {"noise_sigma_max": "42%", "noise_fraction": 0.5},
        "evaluate": {"table_sigma": "21 %", "sweep_max": "84 %", "sweep_step": "42 %", "mixed_sigma_max": "42 %"},
    }
    cell = build_config(CellConfig, table, "job")
    assert cell.name() == "small-shuffled-p050-w64-s0-noise-sigma-max-42-per-cent"
    assert cell.evaluate.sigmas() == (0.0, "21 %", "42 %", "84 %")
    assert [level.key for level in cell.evaluate.levels()][1] == "gaussian-21 %"
    stored = json.loads(json.dumps(dataclasses.asdict(cell)))
    assert stored["train"]["noise_sigma_max"] == "42 %"
    assert build_config(CellConfig, stored, "record") == cell
    assert build_config(CellConfig, {"evaluate": {"table_sigma": "0 %"}}, "job").evaluate.sigmas() == (0.0,)


def test_a_sweep_has_one_unit():
    with pytest.raises(
        ConfigError, match=r"sweep_max is 84 % of the span .*sweep_step 1000 counts, but a sweep has one"
    ):
        EvaluateConfig(sweep_max=Share("84 %"))
    mixed = EvaluateConfig(sweep_max=Share("84 %"), sweep_step=Share("42 %"))
    assert mixed.sigmas() == (0.0, 5_000.0, "42 %", "84 %"), "the table's may have another"


OTHER = {
    "data": {
        "tiles": "2x2",
        "tile_size": 64,
        "split": "blocked",
        "split_seed": 5,
        "gap_slices": 3,
        "train_slices": 7,
        "label_share": 0.3,
        "context": 2,
        "slices": 9,
        "normalise": "tile",
        "out_of_range": "clip",
    },
    "train": {
        "width": 16,
        "depth": 3,
        "batch_norm": False,
        "epochs": 2,
        "epoch_steps": 50,
        "batch_size": 64,
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "noise_fraction": 0.5,
        "noise_sigma_max": 1.0,
        "noise_model": "uniform+poisson",
        "noise_each_epoch": True,
        "augment": "flips",
        "keep": "best",
        "order_seed": 1,
        "schedule": "cosine",
        "loss": "cross-entropy+dice",
        "class_weights": "frequency",
        "seed": 4,
        "precision": "fp32",
    },
    "evaluate": {
        "table_sigma": 1.0,
        "sweep_max": 10_000.0,
        "sweep_step": 10.0,
        "other_sigmas": "3000+10000",
        "other_noise": "uniform",
        "batch_norm": "running+batch",
        "batch_size": 4,
        "mixed_fraction": 0.5,
        "mixed_sigma_max": 1.0,
        "whole_slices": True,
        "tile": 64,
        "examples": True,
        "seed": 3,
    },
}


def settings():
    return [(section, name) for section, others in OTHER.items() for name in others]


def cell_with(section, name):
    types = {"data": DataConfig, "train": TrainConfig, "evaluate": EvaluateConfig}
    needed = {"split": "blocked"} if name in ("gap_slices", "context") else {}
    return CellConfig(**{section: types[section](**needed, **{name: OTHER[section][name]})})


def cell_id(cell, data="a" * 64, numerics=7):
    return cell.cell_id(data_sha256=data, numerics=numerics)


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


def test_other_data_and_another_numerics_number_change_the_id_but_not_the_name():
    ids = [cell_id(CellConfig()), cell_id(CellConfig(), data="c" * 64), cell_id(CellConfig(), numerics=8)]
    assert len(set(ids)) == 3
    assert {one.rsplit("-", 1)[0] for one in ids} == {CellConfig().name()}


def test_an_id_is_its_name_and_eight_hex_digits_and_stays_what_it_was():
    # Pinned: with another id, finished cells of existing run folders would be trained again.
    assert cell_id(CellConfig()) == "small-shuffled-p000-w64-s0-0bd700f6"
    # Planned when its gap of 2 was the default; only the name says more.
    blocked = CellConfig(data=DataConfig(split="blocked", gap_slices=2))
    assert cell_id(blocked) == "small-blocked-p000-w64-s0-gap-slices-2-9631abca"


def test_a_shuffled_split_has_no_gap_so_none_makes_another_cell_of_it():
    plain = CellConfig()
    for gap in (1, 2, 40, "auto"):
        cell = CellConfig(data=DataConfig(gap_slices=gap))
        assert cell == plain
        assert cell_id(cell) == cell_id(plain)
    blocked = [CellConfig(data=DataConfig(split="blocked", gap_slices=gap)) for gap in (1, 2, 40, "auto")]
    assert len({cell_id(cell) for cell in blocked}) == 4
    assert CellConfig(data=DataConfig(split="blocked")) == blocked[-1]
    assert blocked[-1].name() == "small-blocked-p000-w64-s0"


@pytest.mark.parametrize("gap", ["", "far", "AUTO", "2", 2.0, True, None, [2]])
def test_a_gap_that_is_neither_a_number_nor_auto_is_refused_where_it_stands(gap):
    with pytest.raises(ConfigError, match=r"^job: data: gap_slices must be a whole number.*, found"):
        build_config(CellConfig, {"data": {"split": "blocked", "gap_slices": gap}}, "job")


def test_the_levels_are_the_sweep_then_other_models_then_the_mixed_set():
    config = EvaluateConfig(sweep_max=2_000, other_noise="uniform+salt-and-pepper", mixed_fraction=0.5)
    assert [level.key for level in config.levels()] == [
        *("gaussian-0", "gaussian-1000", "gaussian-2000", "gaussian-5000"),
        *("uniform-5000", "salt-and-pepper-5000", "gaussian-10000-p0.5"),
    ]
    headlines = [level for level in config.levels() if level.key not in ("gaussian-1000", "gaussian-2000")]
    assert list(config.headline_levels()) == headlines


def test_further_sigmas_are_those_of_other_noise_too_and_each_stands_once():
    config = EvaluateConfig(other_sigmas="10000+3000+5000+12%", other_noise="offset", sweep_max=4_000)
    assert [level.key for level in config.levels()] == [
        *("gaussian-0", "gaussian-1000", "gaussian-2000", "gaussian-3000", "gaussian-4000", "gaussian-5000"),
        *("gaussian-10000", "gaussian-12 %", "offset-5000", "offset-10000", "offset-3000", "offset-12 %"),
    ]
    only_swept = {"gaussian-1000", "gaussian-2000", "gaussian-4000"}
    assert {level.key for level in config.levels()} - {level.key for level in config.headline_levels()} == only_swept
    assert dict(config.used_sigmas())["evaluate.table_sigma"] == 5_000
    assert [sigma for name, sigma in config.used_sigmas() if name == "evaluate.other_sigmas"] == [10_000, 3_000, "12 %"]


def test_statistics_of_batches_are_further_levels_of_all_that_tables_show():
    plain = EvaluateConfig(sweep_max=2_000, other_noise="offset", mixed_fraction=0.5)
    both = dataclasses.replace(plain, batch_norm="running+batch", batch_size=4)
    assert both.levels()[: len(plain.levels())] == plain.levels()
    again = ["gaussian-0", "gaussian-5000", "offset-5000", "gaussian-10000-p0.5"]
    keys = [level.key for level in both.levels()[len(plain.levels()) :]]
    assert keys == [f"{key}-batch-norm-4" for key in again]
    assert [level.key for level in both.headline_levels()] == [*again, *keys]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"data": {"normalise": "tile"}, "evaluate": {"whole_slices": True}},
            r'data\.normalise is "tile".*whole slice',
        ),
        ({"data": {"normalise": "set"}, "evaluate": {"whole_slices": True}}, r'data\.normalise is "set".*whole slice'),
        ({"train": {"batch_norm": False}, "evaluate": {"batch_norm": "running+batch"}}, "has no batch normalisation"),
        (
            {"data": {"tile_size": 16}, "evaluate": {"batch_norm": "running+batch"}},
            "tiles of 16 pixels .* 4 times are one pixel.*more than 16",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, told):
    with pytest.raises(ConfigError, match=rf"^job: .*{told}"):
        build_config(CellConfig, settings, "job")


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
    assert cell.name() == "large-blocked-p050-w16-s2-gap-slices-4-batch-norm-false-batch-size-64-learning-rate-0.01"
    assert CellConfig(train=TrainConfig(noise_fraction=1.0)).name() == "small-shuffled-p100-w64-s0"


def test_cells_that_differ_in_one_training_setting_have_other_names():
    changed = [cell_with(*setting) for setting in settings()]
    named = {cell.name() for cell in (CellConfig(), *changed)}
    assert len(named) == len({(cell.data, cell.train) for cell in (CellConfig(), *changed)})
    # Equal to six digits, to which %g rounds.
    near = [TrainConfig(learning_rate=0.001), TrainConfig(learning_rate=0.00100000001)]
    near += [TrainConfig(noise_fraction=0.5), TrainConfig(noise_fraction=0.50000001), TrainConfig(noise_fraction=0.07)]
    names = [CellConfig(train=train).name() for train in near]
    assert len(set(names)) == len(near)
    assert names[-1] == "small-shuffled-p007-w64-s0"


@pytest.mark.parametrize("weights", ["1 + 4", "1\n+4", "\u0661+4", "1_0+4", "-0+4", "1e308+1e308", "+4", "4+", "0.0+0"])
def test_weights_of_which_no_name_or_no_ratio_can_be_made_are_refused(weights):
    with pytest.raises(ConfigError, match="must be none, frequency, or numbers such as"):
        TrainConfig(class_weights=weights)


def test_a_cell_with_every_setting_changed_still_has_a_name_that_a_file_may_have():
    train = TrainConfig(**OTHER["train"] | {"class_weights": "+".join(["0.123456789"] * 9)})
    cell = CellConfig(data=DataConfig(**OTHER["data"]), train=train)
    cell_id = cell.cell_id(data_sha256="0" * 64, numerics=1)
    assert len(f".{cell_id}.safetensors.tmp") <= 255 and "-and-more-" in cell_id
    other = dataclasses.replace(cell, train=dataclasses.replace(train, precision="bf16"))
    assert other.cell_id(data_sha256="0" * 64, numerics=1) != cell_id


@pytest.mark.parametrize("setting", settings())
def test_names_are_fit_for_folders_and_slurm(setting):
    assert re.fullmatch(r"[a-z0-9.-]+", cell_with(*setting).name())


@pytest.mark.parametrize("setting", settings())
def test_a_stored_cell_comes_back_equal(setting):
    cell = cell_with(*setting)
    assert build_config(CellConfig, dataclasses.asdict(cell), "cell.json") == cell


def test_a_stored_cell_of_another_version_is_refused_with_its_place():
    stored = dataclasses.asdict(CellConfig())
    stored["train"]["dropout"] = 0.1
    with pytest.raises(ConfigError, match=r'cell.json: train: unknown key "dropout"'):
        build_config(CellConfig, stored, "cell.json")


def test_a_digest_does_not_depend_on_the_order_of_keys():
    # SHA-256 of {"a":1,"b":[2.5,null]} by sha256sum.
    expected = "fbb68c4db7e0dd9e9fbcbf26036734a369258770a834b80de564070cb402a13a"
    assert digest({"b": [2.5, None], "a": 1}) == expected
    assert digest({"a": 1, "b": [2.5, None]}) == expected
