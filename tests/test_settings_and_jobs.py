"""What jobs and settings there are, and a job file of one's own, as the commands show and write them."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from pathlib import Path

import pytest
from slice_folder import hpcseg

from hpcseg import config
from hpcseg.cli.settings import all_settings
from hpcseg.cluster.profile import Profile
from hpcseg.jobfile import load_job, shipped_folder

JOBS = sorted(path.stem for path in shipped_folder("jobs").glob("*.toml"))
CLASSES = {
    "data": config.DataConfig,
    "train": config.TrainConfig,
    "evaluate": config.EvaluateConfig,
    "needs": config.NeedsConfig,
    "report": config.ReportConfig,
    "profile": Profile,
}


def test_settings_shows_every_key_with_its_default_and_the_words_of_the_source():
    shown = hpcseg("settings").stdout
    words = " ".join(shown.split())
    source = " ".join("".join(Path(config.__file__).read_text().split("\n    ")).split())
    for section, cls in CLASSES.items():
        for field in dataclasses.fields(cls):
            default = "" if field.default is None else f" = {json.dumps(field.default)}"
            assert f"\n{section}.{field.name}{default}  (" in f"\n{shown}"
    for setting in all_settings():
        assert setting.meaning.endswith(".") and setting.meaning in words
    assert "Edge of a tile in pixels." in words and "Edge of a tile in pixels." in source


def test_a_setting_that_is_a_number_says_of_what():
    units = (
        "pixels|[Tt]iles|slices?|numbers|counts|share|Share|[Ss]eed|[Cc]hannels|halves|Passes|step size|penalty|weights"
        "|[Ss]igma|GPUs|Nodes|minutes|GiB|Cores|Ranks|tasks|Jobs|cells"
    )
    for setting in all_settings():
        if "number" in setting.kind:
            assert re.search(units, setting.meaning), setting


def test_settings_of_a_section_of_a_key_and_of_a_part_of_one():
    assert set(re.findall(r"^(\w+)\.", hpcseg("settings", "needs").stdout, re.M)) == {"needs"}
    (one,) = re.findall(r"^(\S+)", hpcseg("settings", "train.width").stdout, re.M)
    assert one == "train.width"
    assert set(re.findall(r"^(\w+\.\w+)", hpcseg("settings", "batch_size").stdout, re.M)) == {
        "train.batch_size",
        "evaluate.batch_size",
    }
    assert "train.noise_model" in hpcseg("settings", "noise").stdout


def test_a_text_that_is_one_of_a_few_names_all_of_them():
    allowed = {
        "data.split": config.SPLITS,
        "data.normalise": config.NORMALISATIONS,
        "data.out_of_range": config.OUT_OF_RANGE,
        "train.noise_model": config.NOISE_MODELS,
        "train.augment": config.AUGMENTATIONS,
        "train.keep": config.KEPT_EPOCHS,
        "train.schedule": config.SCHEDULES,
        "train.loss": config.LOSSES,
        "train.precision": config.PRECISIONS,
        "evaluate.batch_norm": config.TEST_STATISTICS,
    }
    meanings = {setting.name: setting.meaning for setting in all_settings()}
    for name, values in allowed.items():
        missing = [value for value in values if f'"{value}"' not in meanings[name]]
        assert not missing, f"the text below {name} in hpcseg/config.py says nothing of {missing}"


def test_what_a_job_needs_and_reports_is_shown_as_its_other_settings_are():
    # Of the job that own slices are trained by, where none is named.
    assert "needs.minutes = 60  (whole number; in segment 120)" in hpcseg("settings", "needs.minutes").stdout
    assert '; in paper ["table1", ' in " ".join(hpcseg("settings", "report.tables", "--job", "paper").stdout.split())


def test_jobs_lists_each_shipped_job_with_its_question_its_cells_and_what_it_takes():
    told = {job["name"]: job for job in json.loads(hpcseg("jobs", "--json").stdout)["jobs"]}
    assert sorted(told) == JOBS
    for name in JOBS:
        path = shipped_folder("jobs") / f"{name}.toml"
        header = " ".join(line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
        assert told[name]["cells"] == len(load_job(path).cells)
        for key, heading in (("question", "Question"), ("takes", "Takes")):
            assert told[name][key] and f"{heading}   " in header and told[name][key][:40] in " ".join(header.split())
    shown = hpcseg("jobs").stdout
    assert all(f"\n{name}  {told[name]['cells']} cells\n" in f"\n{shown}" for name in JOBS)
    assert all(len(line) <= 80 for line in shown.splitlines()[:-1])


def test_the_job_for_own_slices_is_as_the_guide_describes_it():
    guide = " ".join((Path(__file__).parents[1] / "hpcseg/GUIDE.md").read_text().split())
    cells = load_job(shipped_folder("jobs") / "segment.toml").cells
    assert "# three models, each tested on other slices" in guide and len(cells) == 3
    assert len({cell.data.split_seed for cell in cells}) == len({cell.train.seed for cell in cells}) == 3
    (share,) = re.findall(r"`segment` adds noise to half of its training tiles, of a sigma of up to (\d+) %", guide)
    (steps,) = re.findall(r"epochs have (\d+) steps all the same \(`train.epoch_steps`\)", guide)
    for cell in cells:
        assert (cell.train.noise_fraction, cell.train.noise_sigma_max) == (0.5, f"{share} %")
        assert cell.train.epoch_steps == int(steps)


@pytest.mark.parametrize("job", JOBS)
def test_init_writes_a_file_that_loads_back_to_the_same_cells(job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = hpcseg("init", "--job", job, "mine.toml")
    assert written.exit_code == 0 and written.stdout.endswith("Next: hpcseg grid --job mine.toml --dry-run\n")
    shipped, mine = load_job(shipped_folder("jobs") / f"{job}.toml"), load_job(Path("mine.toml"))
    assert mine.cells == shipped.cells and mine.needs == shipped.needs and mine.report == shipped.report
    assert mine.title == shipped.title
    text = Path("mine.toml").read_text()
    for section in ("data", "train", "evaluate", "needs", "report"):
        table = text.partition(f"\n[{section}]\n")[2].partition("\n[")[0]
        for field in dataclasses.fields(CLASSES[section]):
            # Its meaning above it, and it may be changed where it stands.
            assert re.search(rf"^# .*\.\n(# )?{field.name} = ", table, re.M), field.name
    assert all(len(line) <= 100 for line in text.splitlines() if line.startswith("# "))


def test_every_line_that_init_comments_out_can_be_taken_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hpcseg("init", "mine.toml")
    text = Path("mine.toml").read_text()
    taken_in = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.M)
    assert taken_in != text
    assert tomllib.loads(taken_in)["train"]["seed"] == 0
    Path("mine.toml").write_text(taken_in)
    assert load_job(Path("mine.toml")).cells == load_job(shipped_folder("jobs") / "segment.toml").cells


def test_init_writes_over_a_file_only_when_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text("title = 'kept'")
    refused = hpcseg("init", "mine.toml")
    assert refused.exit_code == 2 and "exists already. Replace it with --force" in refused.stderr
    assert Path("mine.toml").read_text() == "title = 'kept'"
    assert hpcseg("init", "mine.toml", "--force").exit_code == 0
    assert len(load_job(Path("mine.toml")).cells) == 3
