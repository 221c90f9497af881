"""The commands and options that users type. A change here is a decision: put it into the changelog."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import typer
from slice_folder import write_image
from typer.testing import CliRunner

from hpcseg import __version__
from hpcseg.cli.app import app
from hpcseg.cli.examples import commands

SURFACE = {
    "demo": {"folder"},
    "view": {"path"},
    "pack": {
        "folder", "output", "images", "labels", "grey_range", "classes", "ignore", "force", "number", "first", "pixels",
        "shape", "dtype", "label_dtype", "byteorder", "header", "allow_external",
    },
    "info": {
        "file", "verify", "as_json", "number", "first", "pixels", "shape", "dtype", "byteorder", "header",
        "allow_external",
    },
    "grid": {
        "job", "data", "run", "overrides", "dry_run", "local", "submit_with", "workers", "profile", "partition",
        "account", "qos", "constraint", "nodes", "gpus_per_node", "ranks_per_node", "cpus_per_task", "mem", "time",
        "setup", "exclude", "throttle", "tries", "cells_per_job", "resubmit", "as_json",
    },
    "doctor": {
        "job", "data", "run", "wait", "no_job", "as_json", "profile", "partition", "account", "qos", "constraint",
        "exclude", "nodes", "gpus_per_node", "ranks_per_node", "cpus_per_task", "mem", "time", "setup",
    },
    "bench": {"data", "width", "batch_size", "part", "device", "job", "seconds", "rounds", "run", "as_json"},
    "status": {"cells", "run", "watch", "as_json"},
    "logs": {"cells", "run", "rank", "failed", "follow", "lines", "as_json"},
    "retry": {"cells", "run", "dry_run", "mem", "time", "exclude", "as_json"},
    "cancel": {"cells", "run", "others", "dry_run", "as_json"},
    "clean": {"cells", "run", "dry_run", "as_json"},
    "train": {"cell", "job", "data", "run", "overrides"},
    "export": {"cell", "output", "run", "data", "onnx", "bioimageio", "author", "license_", "force"},
    "predict": {
        "model", "volume", "output", "dataset", "range_", "percentiles", "ensemble", "flips", "probabilities",
        "uncertainty", "spread", "float16", "tile", "every", "slices", "precision", "adapt_norm",
        "outside", "border", "run", "data", "on_slurm", "parts", "number", "pixels", "shape", "dtype", "byteorder",
        "header",
        "allow_external", "format_", "dry_run", "profile", "partition", "account", "qos", "constraint", "exclude",
        "gpus_per_node", "cpus_per_task", "mem", "time", "setup", "throttle",
    },
    "suggest": {
        "cell", "volume", "count", "dataset", "range_", "percentiles", "every", "run", "data", "number", "pixels",
        "shape", "dtype", "byteorder", "header", "allow_external", "as_json",
    },
    "follow-up": {"run"},
    "help": {"command"},
    "version": set(),
    "jobs": {"as_json"},
    "settings": {"which", "job"},
    "init": {"file", "job", "force"},
    "compare": {"runs", "out", "as_json"},
    "tensorboard": {"run", "out"},
    "report": {"run", "out", "data", "publish", "live", "every", "as_json"},
}  # fmt: skip


def test_verbs_and_options_are_these():
    group = typer.main.get_command(app)
    found = {name: {parameter.name for parameter in verb.params} - {"help"} for name, verb in group.commands.items()}
    assert found == SURFACE


def test_the_page_names_all_verbs_that_answer_in_json():
    (said,) = re.findall(
        r"((?:`[a-z-]+`(?:, | and |\s))+)take\s`--json`", (Path(__file__).parents[1] / "hpcseg/README.md").read_text()
    )
    assert set(re.findall(r"`([a-z-]+)`", said)) == {name for name, options in SURFACE.items() if "as_json" in options}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["grid", "--job", "papre"],
            2,
            'There is no job "papre". Shipped jobs are context, correlated-noise, demo, label-share, more-data, '
            "noise-models, paper, paper-cpu, rare-phase, readings, seeds, segment, smoke, training, weights-order, "
            "width",
        ),
        (["grid", "--data", "nowhere.h5"], 3, "There is no packed data set nowhere.h5"),
        (["info", "nowhere.h5"], 3, "There is no packed data set nowhere.h5"),
        (["pack"], 2, "Name the folder that holds data/ and labels/"),
        (["pack", "nowhere"], 3, "There is no folder nowhere."),
        (["status"], 5, "There is no run under runs/"),
        (["status", "--run", "nowhere"], 5, "There is no run nowhere"),
        (["report"], 5, "There is no run under runs/"),
        (["report", "--run", "x" * 300], 5, "There is no run xxx"),
        (["pack", "--images", "x", "--labels", "x", "-o", "x" * 300], 1, "File name too long"),
        (["logs"], 5, "There is no run under runs/"),
        (["retry"], 5, "There is no run under runs/"),
        (["cancel", "--run", "nowhere"], 5, "There is no run nowhere"),
        (["clean", "--run", "nowhere"], 5, "There is no run nowhere"),
        (["settings", "lerning_rate"], 2, 'There is no setting "lerning_rate". Did you mean "learning_rate"?'),
        (["settings", "nowhere"], 2, "Sections are data, train, evaluate, needs, report, profile"),
        (["init", "mine"], 2, "mine must end in .toml"),
        (["init", "--job", "papre", "mine.toml"], 2, 'There is no job "papre"'),
        (["help", "gird"], 2, "No such command 'gird'"),
        (["train", "small-*", "--data", "nowhere.h5"], 3, "There is no packed data set nowhere.h5"),
        (["export", "small-*"], 5, "There is no run under runs/"),
        (["predict", "small-*", ".", "-o", "out"], 5, "There is no run under runs/"),
        (["predict", "m.safetensors", ".", "-o", "out"], 5, "There is no model file m.safetensors"),
        (["predict", "x" * 300, ".", "-o", "out"], 5, "There is no run under runs/"),
        (["predict", "small-*", "mistyped", "-o", "out"], 3, "mistyped"),
        (["grid", "--local", "--run", ""], 2, "--run is empty. Is a variable of the shell not set?"),
        (["grid", "--local", "--run="], 2, "--run is empty. Is a variable of the shell not set?"),
        (["predict", "small-*", "", "-o", "out"], 2, "An argument is empty. Is a variable of the shell not set?"),
        (["status", "--watch", "--json"], 2, "--watch is for a screen, and --json says how it is now"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_an_exit_code(tmp_path, monkeypatch, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert (answer.exit_code, answer.exception.__class__) == (code, SystemExit), answer.output
    assert said in answer.output and "Traceback" not in answer.output
    assert not list(tmp_path.iterdir()), "nothing is left behind"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("prediction.json", "{} is a prediction: `hpcseg status --run {}` shows it, `hpcseg view {}` its slices."),
        ("grid.json", "{} is a run: `hpcseg status --run {}` shows its cells."),
        ("config.json", "{} is a cell of a run: `hpcseg export {} -o FILE.safetensors` makes a file of it."),
    ],
)
def test_info_names_the_verb_for_what_hpcseg_writes_itself(tmp_path, file, said):
    (tmp_path / file).write_text("{}")
    answer = CliRunner().invoke(app, ["info", str(tmp_path)], env={"COLUMNS": "500"})
    assert answer.exit_code == 2 and said.replace("{}", str(tmp_path)) in answer.output


@pytest.mark.parametrize("file", ["grid.json", "config.json"])
def test_info_shows_slices_beside_which_another_program_has_such_a_file(tmp_path, file):
    for number in range(3):
        write_image(tmp_path, number)
    (tmp_path / "data" / file).write_text("{}")
    answer = CliRunner().invoke(app, ["info", str(tmp_path / "data")], env={"COLUMNS": "500"})
    assert answer.exit_code == 0 and "3 of 40 x 48 pixels" in answer.output


def test_what_is_asked_of_slurm_alone_is_no_wish_for_this_machine(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["--account", "beam", "--mem", "64G", "--gpus-per-node", "0"]
    for options, said in ((asked, "--account, --gpus-per-node, --mem are"), (["--parts", "4"], "--parts is")):
        answer = CliRunner().invoke(
            app,
            ["predict", "m.safetensors", str(tiny_folder / "data"), "-o", "out", *options],
            env={"COLUMNS": "500"},
        )
        assert answer.exit_code == 2 and f"{said} asked of Slurm, and this runs here" in answer.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["suggest", "{}", "data"], ["export", "{}", "-o", "out.safetensors"]])
def test_a_model_file_is_told_from_a_cell(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path, 1)
    for place in ("here.safetensors", "sub/there.safetensors"):
        file = tmp_path / place
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
        words = [word.format(place) for word in command]
        answer = CliRunner().invoke(app, words, env={"COLUMNS": "500"})
        assert answer.exit_code != 0 and f"{place} is a file, and this takes a cell" in answer.output


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("folder", 2, "is no folder of a prediction"),
        ("mine.safetensors", 2, "is no packed file and no folder of a prediction"),
        ("OUT", 2, "is no packed file and no folder of a prediction"),
        ("gone.h5", 3, "There is no packed data set"),
    ],
)
def test_view_says_of_something_else_what_it_takes(tmp_path, name, code, said):
    (tmp_path / "folder" / "labels").mkdir(parents=True)
    (tmp_path / "mine.safetensors").write_bytes(b"")
    answer = CliRunner().invoke(app, ["view", str(tmp_path / name)], env={"COLUMNS": "500"})
    assert answer.exit_code == code and said in answer.output and f"-o {tmp_path / 'OUT'}" not in answer.output


COMMANDS = sorted(SURFACE.keys() - {"follow-up"})


def parsed(command: str):
    """A command line as typed, parsed by its verb and not run."""
    group = typer.main.get_command(app)
    program, verb, *arguments = shlex.split(command)
    assert program == "hpcseg"
    return group.commands[verb].make_context(verb, arguments)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text_and_every_command_examples_that_can_be_typed(name):
    command = typer.main.get_command(app).commands[name]
    assert command.help
    for option in command.params:
        assert getattr(option, "help", None), f"{name} {option.name}"
    typed = commands(name)
    for line in typed:
        assert line.split()[:2] == ["hpcseg", name]
        parsed(line)
    shown = " ".join(CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "300"}).output.split())
    assert all(line in shown for line in typed)


def test_too_little_memory_is_a_sentence_too(monkeypatch, tmp_path):
    def find_run(run):
        raise MemoryError("Unable to allocate 1.82 TiB for an array")

    monkeypatch.setattr("hpcseg.cli.status.find_run", find_run)
    answer = CliRunner().invoke(app, ["status"])
    assert answer.exit_code == 1 and "Traceback" not in answer.output
    assert "error: This takes more memory than there is. Unable to allocate 1.82 TiB" in answer.output


def test_an_option_that_is_a_number_says_of_what():
    units = (
        "GiB|Bytes|minutes|[Ss]econds|[Cc]ells|Nodes|GPUs|CPUs|Ranks?|Cores|Jobs|tasks|Parts|Channels|[Tt]iles|[Ll]ines|Turns"
        "|slice|Label"
    )
    for name, command in typer.main.get_command(app).commands.items():
        for option, hint in typing.get_type_hints(command.callback).items():
            if {int, float} & {hint, *typing.get_args(hint)}:
                (text,) = (parameter.help for parameter in command.params if parameter.name == option)
                assert re.search(units, text), f"{name} {option}: {text}"


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_asked_for_in_three_ways_with_one_answer(name):
    words = [name] if name else []
    asked = [[*words, "-h"], [*words, "--help"], ["help", *words]]
    answers = [CliRunner().invoke(app, words, prog_name="hpcseg") for words in asked]
    assert [answer.exit_code for answer in answers] == [0, 0, 0]
    assert len({answer.output for answer in answers}) == 1
    assert f"Usage: hpcseg {name}".strip() in answers[0].output


@pytest.mark.parametrize(("typed", "answer"), [("hpcseg gri", "grid"), ("hpcseg grid --parti", "--partition")])
def test_a_shell_is_told_how_a_word_goes_on(typed, answer):
    asked = {"_HPCSEG_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    assert CliRunner().invoke(app, [], prog_name="hpcseg", env=asked).output.split() == [answer]


def test_alone_it_shows_the_help_and_does_not_pass_for_success():
    answer = CliRunner().invoke(app, [], prog_name="hpcseg")
    assert answer.exit_code == 2 and "Usage: hpcseg" in answer.output


def test_the_version_has_the_commit_of_the_checkout(monkeypatch):
    from hpcseg.runs import provenance

    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    told = CliRunner().invoke(app, ["--version"]).output
    assert told.startswith(f"hpcseg {__version__}")
    assert head.returncode or f"(commit {head.stdout.strip()}" in told
    monkeypatch.setattr(provenance, "commit", lambda: None)
    assert CliRunner().invoke(app, ["--version"]).output == f"hpcseg {__version__}\n"


def test_a_home_that_cannot_be_written_to_takes_no_completion_and_is_named():
    script = f"{sys.executable} -m hpcseg --install-completion; exit $?"  # a shell has to be its parent
    environment = {**os.environ, "HOME": "/proc/none"}
    answer = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert answer.returncode == 1 and answer.stderr.startswith("error: /proc/none")


def test_help_loads_neither_torch_nor_h5py_nor_submitit():
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom hpcseg.cli.app import app\n"
        "assert CliRunner().invoke(app, ['grid', '--help']).exit_code == 0\n"
        "print(sorted({'torch', 'h5py', 'submitit', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
