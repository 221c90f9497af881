"""The commands and options that users type. A change here is a decision: put it into the changelog."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from hpcseg.cli.app import app

SURFACE = {
    "demo": {"folder"},
    "pack": {"folder", "output", "images", "labels", "grey_range", "classes", "force"},
    "info": {"file", "verify", "as_json"},
    "grid": {
        "job", "data", "run", "overrides", "dry_run", "local", "workers", "profile", "partition", "account", "qos",
        "constraint", "nodes", "gpus_per_node", "ranks_per_node", "cpus_per_task", "mem", "time", "setup", "exclude",
        "throttle", "tries", "resubmit", "as_json",
    },
    "doctor": {
        "job", "data", "run", "wait", "no_job", "as_json", "profile", "partition", "account", "qos", "constraint",
        "exclude", "nodes", "gpus_per_node", "ranks_per_node", "cpus_per_task", "mem", "time", "setup",
    },
    "bench": {"data", "width", "batch_size", "part", "device", "job", "seconds", "rounds", "run", "as_json"},
    "status": {"cells", "run", "watch", "as_json"},
    "logs": {"cells", "run", "rank", "stage", "failed", "follow", "lines", "as_json"},
    "retry": {"cells", "run", "dry_run", "mem", "time", "exclude", "as_json"},
    "cancel": {"cells", "run", "dry_run", "as_json"},
    "clean": {"cells", "run", "dry_run", "as_json"},
    "train": {"cell", "job", "data", "run", "overrides"},
    "export": {"cell", "output", "run", "data", "onnx", "force"},
    "predict": {
        "model", "volume", "output", "dataset", "range_", "percentiles", "ensemble", "flips", "probabilities",
        "uncertainty", "spread", "float16", "tile", "precision", "adapt_norm", "outside", "run", "data", "slurm",
        "parts", "dry_run", "profile", "partition", "account", "qos", "constraint", "exclude", "gpus_per_node",
        "cpus_per_task", "mem", "time", "setup", "throttle",
    },
    "follow-up": {"run"},
    "compare": {"runs", "out", "as_json"},
    "report": {"run", "out", "data", "publish", "as_json"},
}  # fmt: skip


def test_verbs_and_options_are_these():
    group = typer.main.get_command(app)
    found = {name: {parameter.name for parameter in verb.params} - {"help"} for name, verb in group.commands.items()}
    assert found == SURFACE


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["grid", "--job", "papre"],
            2,
            'There is no job "papre". Shipped jobs are demo, more-data, noise-models, paper, paper-cpu, readings, '
            "seeds, segment",
        ),
        (["grid", "--data", "nowhere.h5"], 3, "There is no packed data set nowhere.h5"),
        (["info", "nowhere.h5"], 3, "There is no packed data set nowhere.h5"),
        (["pack"], 2, "Name the folder that holds data/ and labels/"),
        (["pack", "nowhere"], 3, "There is no folder or TIFF stack nowhere/data"),
        (["status"], 5, "There is no run under runs/"),
        (["status", "--run", "nowhere"], 5, "nowhere/grid.json"),
        (["report"], 5, "There is no run under runs/"),
        (["report", "--run", "x" * 300], 5, "File name too long"),
        (["pack", "x", "-o", "x" * 300], 1, "File name too long"),
        (["logs"], 5, "There is no run under runs/"),
        (["retry"], 5, "There is no run under runs/"),
        (["cancel", "--run", "nowhere"], 5, "nowhere/grid.json"),
        (["clean", "--run", "nowhere"], 5, "nowhere/grid.json"),
        (["train", "small-*", "--data", "nowhere.h5"], 3, "There is no packed data set nowhere.h5"),
        (["export", "small-*"], 5, "There is no run under runs/"),
        (["predict", "small-*", "in", "-o", "out"], 5, "There is no run under runs/"),
        (["predict", "m.safetensors", "in", "-o", "out"], 5, "There is no model file m.safetensors"),
        (["predict", "x" * 300, "in", "-o", "out"], 5, "There is no run under runs/"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_an_exit_code(tmp_path, monkeypatch, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert (answer.exit_code, answer.exception.__class__) == (code, SystemExit), answer.output
    assert said in answer.output and "Traceback" not in answer.output
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_help_loads_neither_torch_nor_h5py_nor_submitit():
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom hpcseg.cli.app import app\n"
        "assert CliRunner().invoke(app, ['grid', '--help']).exit_code == 0\n"
        "print(sorted({'torch', 'h5py', 'submitit', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
