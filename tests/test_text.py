"""Control characters in texts from elsewhere: none reaches a job's script, and a terminal is given none."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.progress import Progress, TextColumn
from rich.table import Table
from typer.testing import CliRunner

from hpcseg.cli import console
from hpcseg.cli.app import app
from hpcseg.cluster.executor import cell_executor, report_executor
from hpcseg.cluster.profile import Profile, load_profile, resolve
from hpcseg.cluster.retry import read_resources
from hpcseg.config import NeedsConfig
from hpcseg.errors import ConfigError, IncompleteError
from hpcseg.jobfile import find_shipped, load_job
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import plan, read_plan, write_plan
from hpcseg.runs.record import write_json, write_record
from hpcseg.text import for_terminal

EVIL = "x\ntouch pwned #"
TEXTS = ("partition", "account", "qos", "constraint", "exclude")


@pytest.mark.parametrize("name", TEXTS)
def test_no_option_and_no_profile_puts_a_line_into_a_jobs_script(tmp_path, name):
    site = tmp_path / "site.toml"
    site.write_text(f"{name} = {json.dumps(EVIL)}")
    with pytest.raises(ConfigError, match=f"{name} is 'x.ntouch pwned #', and must have no line end"):
        resolve(NeedsConfig(), load_profile(str(site)), Profile())
    with pytest.raises(ConfigError, match=name):
        resolve(NeedsConfig(), Profile(), Profile(**{name: EVIL}))


@pytest.mark.parametrize("name", TEXTS)
def test_nor_does_what_a_run_asked_for_last(tmp_path, name):
    run, good = RunFolder(tmp_path), resolve(NeedsConfig(), Profile(), Profile())
    write_json(run.resources_file, {**asdict(good), name: EVIL})
    with pytest.raises(ConfigError, match=rf"resources\.json: {name} is"):
        read_resources(run)


@pytest.mark.parametrize("wanted", ["name", "comment", "dependency"])
@pytest.mark.parametrize("character", ["\n", "\r", "\x1b", "\x00", "\x85", "\u2028"])
def test_nor_does_anything_that_an_executor_is_given(tmp_path, wanted, character):
    given = {"name": "job", "comment": "token", "dependency": "afterok:1"}
    resources = resolve(NeedsConfig(), Profile(), Profile())
    with pytest.raises(ConfigError, match="no line end and no other control character"):
        report_executor(tmp_path, tmp_path, resources, **{**given, wanted: f"a{character}b"})


def test_nor_does_the_name_of_a_job_file_or_of_a_folder(tmp_path):
    (job := tmp_path / f"{EVIL}.toml").write_text("")
    with pytest.raises(ConfigError, match="The name of a job file"):
        load_job(job)
    resources = resolve(NeedsConfig(), Profile(), Profile())
    with pytest.raises(ConfigError, match="The folder of the logs"):
        cell_executor(tmp_path / EVIL, tmp_path, resources, name="job", comment="token")


def spoilt(folder: Path, **values: object) -> RunFolder:
    run = RunFolder(folder)
    write_plan(plan(load_job(find_shipped("job", "smoke")), run, folder / "data.h5", "0" * 64))
    content = json.loads(run.grid_file.read_text())
    if "id" in values:
        content["cells"][0]["id"] = values.pop("id")
    write_record(run.grid_file, {**content, **values})
    return run


@pytest.mark.parametrize(
    "cell_id", ["x $(touch pwned)", "a\nb", "a\n", "a\0b", "\x1b]0;title\x07", "a b", "ä", "a" * 256, "", ".", ".."]
)
def test_a_cells_id_has_letters_digits_dots_and_lines(tmp_path, cell_id):
    with pytest.raises(IncompleteError, match=r"grid\.json is damaged: .* is no id of a cell"):
        read_plan(spoilt(tmp_path, id=cell_id))


def test_a_plan_whose_job_is_two_lines_is_damaged(tmp_path):
    with pytest.raises(IncompleteError, match=r"grid\.json is damaged: its job is 'x.ntouch"):
        read_plan(spoilt(tmp_path, job=EVIL))


@pytest.mark.parametrize("text", ["\x1b]0;owned\x07", "\x9b31m", "\u202egnp.exe", "a\rb", "\x08", "\x7f", "\u2066x"])
def test_what_a_terminal_would_obey_is_left_out(text):
    found = for_terminal(f"before\t{text}\nafter")
    assert found.startswith("before\t") and found.endswith("\nafter")
    assert not set(found) & set("\x1b\x07\x9b\u202e\r\x08\x7f\u2066")


def test_texts_of_any_script_stay_as_they_are():
    text = "Läufe: µ-CT 試料 نموذج 🪨\n\tnext"
    assert for_terminal(text) == text


def test_the_console_shows_the_texts_and_keeps_its_own_styles(capfd):
    terminal = type(console.stdout)(force_terminal=True, color_system="standard", markup=False, width=80)
    table = Table(title="\x1b]0;a\x07")
    table.add_column("\x1b]0;b\x07")
    table.add_row("\x1b]0;c\x07")
    terminal.print("\x1b]0;d\x07", style="bold", highlight=False)
    terminal.print(table)
    with Progress(TextColumn("{task.description}"), console=terminal) as bar:
        bar.add_task("\x1b]0;e\x07", total=None)
    shown = capfd.readouterr().out
    assert "\x1b]" not in shown and "\x07" not in shown
    assert all(f"]0;{letter}" in shown for letter in "abcde")
    assert "\x1b[1m" in shown and "\x1b[?25l" in shown, "bold, and the cursor that a progress bar hides"


@pytest.mark.parametrize("verb", ["status", "report", "logs"])
def test_no_verb_passes_on_an_escape_sequence_of_a_record(tmp_path, verb):
    run = spoilt(tmp_path / "run", title="\x1b]0;title\x07", command="\x1b]0;command\x07")
    first = json.loads(run.grid_file.read_text())["cells"][0]["id"]
    write_json(run.cell(first).failure_file, {"error": "\x1b]0;error\x07", "time": 1.0})
    more = {"report": ["-o", str(tmp_path / "out")], "logs": ["--failed"], "status": []}[verb]
    said = CliRunner().invoke(app, [verb, "--run", str(run.path), *more])
    assert said.exit_code == 0, said.output
    assert "error" in said.output and "\x1b" not in said.output and "\x07" not in said.output
