"""Noise that can mean nothing on a data set is refused before anything runs, with what to write instead."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from slice_folder import hpcseg

from hpcseg.config import CellConfig, DataConfig, EvaluateConfig, TrainConfig
from hpcseg.data.grey import GreyScale
from hpcseg.data.noise_check import check_noise
from hpcseg.data.store import DatasetInfo, read_info
from hpcseg.errors import ConfigError, DatasetError
from hpcseg.sigma import Share


@pytest.fixture
def info(tiny_dataset) -> DatasetInfo:
    return read_info(tiny_dataset)


def spanning(info: DatasetInfo, low: float, high: float) -> DatasetInfo:
    return dataclasses.replace(info, grey=GreyScale(low, high, (low, high)))


def cells(train: dict[str, object] | None = None, **evaluate: object) -> tuple[CellConfig, ...]:
    return (CellConfig(train=TrainConfig(**(train or {})), evaluate=EvaluateConfig(**evaluate)),)


NOISY = {"noise_fraction": 0.5}
IN_SHARES = {"table_sigma": Share("21 %")}


def test_the_papers_counts_are_taken_on_data_like_the_papers(info):
    check_noise(cells(NOISY, sweep_max=30_000.0, mixed_fraction=0.5), info)


def test_counts_of_other_data_are_refused_with_the_shares_that_are_as_strong_on_the_papers(info):
    with pytest.raises(ConfigError) as error:
        check_noise(cells(NOISY, sweep_max=30_000.0, mixed_fraction=0.5), spanning(info, 77.0, 169.0))
    told = str(error.value)
    assert "train.noise_sigma_max is 10000 counts and evaluate.table_sigma is 5000 counts" in told
    assert "tiny.h5 span 92 (77 to 169 at 0.1 and 99.9 %)" in told
    # 10000 of 43421 - 19624 counts, the paper's quantiles, are 42 %.
    for instead in (
        *('train.noise_sigma_max = "42 %"', 'evaluate.table_sigma = "21 %"', 'evaluate.sweep_max = "126 %"'),
        *('evaluate.sweep_step = "4.2 %"', 'evaluate.mixed_sigma_max = "42 %"'),
    ):
        assert instead in told


def test_all_cells_are_told_of_at_once(info):
    job = (*cells(table_sigma=300.0), *cells(table_sigma=400.0), *cells(table_sigma=300.0))
    with pytest.raises(ConfigError, match=r"table_sigma is 300 counts and evaluate\.table_sigma is 400 counts, but"):
        check_noise(job, spanning(info, 77.0, 169.0))


def test_twice_the_span_is_the_limit_and_what_is_not_used_is_not_looked_at(info):
    check_noise(cells(table_sigma=200.0), spanning(info, 0.0, 100.0))
    with pytest.raises(ConfigError, match="table_sigma is 201 counts"):
        check_noise(cells(table_sigma=201.0), spanning(info, 0.0, 100.0))


def test_shares_fit_every_span_that_is_known(info):
    shares = {**NOISY, "noise_sigma_max": Share("42 %")}
    check_noise(cells(shares, **IN_SHARES), spanning(info, 1e-6, 2e-6))
    with pytest.raises(DatasetError, match="hpcseg pack --force"):
        check_noise(cells(shares, **IN_SHARES), dataclasses.replace(info, grey=GreyScale(0.0, 65_535.0)))


def test_counts_on_slices_of_before_there_were_quantiles_are_taken_as_before(info):
    check_noise(cells(NOISY), dataclasses.replace(info, grey=GreyScale(0.0, 1.0)))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (
            cells({**NOISY, "noise_sigma_max": Share("42 %"), "noise_model": "gaussian+poisson"}, **IN_SHARES),
            "noise_model",
        ),
        (cells(other_noise="poisson", **IN_SHARES), "other_noise"),
    ],
)
def test_shot_noise_needs_grey_values_of_0_or_more(info, settings, name):
    check_noise(settings, info)
    darkest = np.where(np.arange(16) == 4, -0.5, 0.0)
    with pytest.raises(ConfigError, match=rf"{name} is .*poisson.*sample0005\.tiff in tiny\.h5 has -0\.5"):
        check_noise(settings, dataclasses.replace(info, grey_min=darkest))
    # By --grey-range; a sigma at a middle of 0 is none.
    with pytest.raises(ConfigError, match=rf"{name} is .*poisson.*middle is above 0, .* tiny\.h5 is -65535 to 65535"):
        check_noise(settings, spanning(info, -65_535.0, 65_535.0))


def test_pixels_without_a_grey_value_are_no_photons_below_0(info):
    below = dataclasses.replace(spanning(info, -1.0, 9.0), dtype="float32")
    settings = cells({**NOISY, "noise_sigma_max": Share("42 %"), "noise_model": "poisson"}, **IN_SHARES)
    check_noise(settings, below)
    some = np.where(np.arange(16) == 4, 9, 0)
    check_noise(settings, dataclasses.replace(spanning(info, 0.0, 9.0), dtype="float32", ignored_pixels=some))
    with pytest.raises(ConfigError, match=r"poisson.*\(NaN\) get the lower end .* in tiny\.h5 is -1\. .*--grey-range"):
        check_noise(settings, dataclasses.replace(below, ignored_pixels=some))


def test_further_sigmas_are_looked_at_as_the_tables_is(info):
    with pytest.raises(ConfigError) as error:
        check_noise(cells(table_sigma=100.0, other_sigmas="150+250+300"), spanning(info, 0.0, 100.0))
    assert "evaluate.other_sigmas is 250 counts and evaluate.other_sigmas is 300 counts, but" in str(error.value)


@pytest.mark.parametrize("rule", ["clip", "wrap"])
def test_floats_have_no_range_to_leave(info, rule):
    cell = CellConfig(data=DataConfig(out_of_range=rule))
    check_noise([cell], info)
    with pytest.raises(ConfigError, match=rf'data\.out_of_range is "{rule}", but tiny\.h5 holds float32 grey values'):
        check_noise([cell], dataclasses.replace(info, dtype="float32"))


def test_grid_and_train_refuse_before_anything_is_written(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("job.toml").write_text("[data]\ntile_size = 64\n[evaluate]\ntable_sigma = 60000\n")
    hpcseg("pack", tiny_folder)
    for verb in (("grid", "--local"), ("train", "*")):
        result = hpcseg(*verb, "--job", "job.toml")
        assert result.exit_code == 2 and 'evaluate.table_sigma = "200 %"' in result.stderr
    assert not Path("runs").exists()
