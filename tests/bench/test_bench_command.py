"""`hpcseg bench` as users call it, and what `grid --dry-run` makes of its record."""

from __future__ import annotations

import json

import pytest
from slice_folder import hpcseg

from hpcseg.bench.table import as_markdown

JOB = """
title = "two cells"
[data]
tiles = "large"
[train]
width = 4
epochs = 3
[needs]
gpus = 0
[[grid]]
train.seed = [0, 1]
"""


@pytest.fixture(scope="module")
def measured(bench_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    parts = [word for part in ("training", "sweep") for word in ("--part", part)]
    answer = hpcseg(
        "bench", "--data", bench_dataset, "--run", folder / "runs", "--width", 4, "--batch-size", 8,
        "--rounds", 1, "--seconds", 0.05, *parts, "--json",
    )  # fmt: skip
    assert answer.exit_code == 0, answer.output
    return folder, answer


def test_the_record_has_the_rates_the_share_of_the_peak_and_what_they_were_measured_on(measured):
    folder, answer = measured
    record = json.loads(answer.stdout)
    (file,) = (folder / "runs").glob("bench-*.json")
    assert json.loads(file.read_text()) == record
    assert str(file) in answer.stderr
    assert record["provenance"]["commit"]
    training, sweep = record["training"]["4"], record["sweep"]["4"]
    rates = training["tiles_per_second"]
    assert training["against no data work"] == pytest.approx(rates["ours"] / rates["resident batch"])
    peak = max(record["hardware"]["operations_per_second"].values())
    assert training["share of the peak"] == pytest.approx(rates["ours"] * training["operations_per_tile"] / peak)
    # A step goes forward and backward, an evaluation forward alone.
    assert 2.5 < training["operations_per_tile"] / sweep["operations_per_tile"] <= 3
    assert "pack" not in record


def test_people_get_tables(measured):
    folder, _ = measured
    (file,) = (folder / "runs").glob("bench-*.json")
    text = as_markdown(json.loads(file.read_text()))
    assert (
        "| training: tiles trained per second | ours | resident batch | ours / resident batch | of the peak |" in text
    )
    assert text.count("Width 4 waits for ") == 2


def test_a_dry_run_says_how_long_the_cells_take_once_the_machine_is_measured(measured, bench_dataset, tmp_path):
    folder, answer = measured
    (tmp_path / "two.toml").write_text(JOB)
    (file,) = (folder / "runs").glob("bench-*.json")
    here = tmp_path / "here"
    here.mkdir()
    call = ("grid", "--job", tmp_path / "two.toml", "--data", bench_dataset, "--dry-run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        before = hpcseg(*call)
        assert "`hpcseg bench` on this machine will tell" in before.stdout
        record = json.loads(file.read_text())
        for part in ("training", "sweep"):
            # The estimate must not depend on how busy the machine of the test is.
            record[part]["4"]["tiles_per_second"]["ours"] = 100.0
        (here / "runs").mkdir()
        (here / "runs" / file.name).write_text(json.dumps(record))
        after = hpcseg(*call)
    assert after.exit_code == 0, after.output
    assert "About 1 minute for 2 cells" in after.stdout
    assert json.loads(answer.stdout)["provenance"]["device"] in after.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--part", "espresso"), 'There is no part "espresso" of a bench. There are training, sweep, pack, startup.'),
        (("--device", "cuda"), "torch finds no GPU here. Leave --device out"),
        (("--data", "none.h5"), "There is no packed data set none.h5"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    answer = hpcseg("bench", *arguments)
    assert answer.exit_code in (2, 3)
    assert message in answer.stderr
