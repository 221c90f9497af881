"""The session for a GPU machine (results/bench/gpu) runs from end to end, on a CPU and at a small size."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from slice_folder import hpcseg

# Answers as nvidia-smi dmon does, of a GPU that has work half of the time.
NVIDIA_SMI = """#!/bin/sh
echo "#Time        gpu     sm    mem"
echo "#HH:MM:SS    Idx      %      %"
while :; do echo " 12:00:00      0     50     20"; sleep 1; done
"""
ROOT = Path(__file__).parents[2]
BENCH = ROOT / "results" / "bench"
SESSION = BENCH / "gpu" / "session.py"
sys.path.insert(0, str(BENCH))

from contenders import table  # noqa: E402

JOB = ("--job", "smoke", "--set", "train.epochs=1", "--processes", 1)


def session(*arguments: object, **added: str) -> subprocess.CompletedProcess[str]:
    # The tests of part B must not take over what pytest says of this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")} | added
    # -S: installed packages are out of sight, and it needs none.
    command = [sys.executable, "-S", SESSION, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)


def run_part(part: str, folder: Path, *arguments: object) -> Path:
    """The files of a part that went well."""
    out, path = folder / part, os.environ["PATH"]
    if part == "D":
        path = f"{folder}{os.pathsep}{path}"
    answer = session(part, "--device", "cpu", "--work", folder / "work", *arguments, OUT=str(out), PATH=path)
    assert answer.returncode == 0, answer.stdout[-6000:] + answer.stderr[-3000:]
    (folder / f"said-by-{part}").write_text(answer.stdout)
    return out


def phases(out: Path) -> list[tuple[str, str]]:
    rows = [line.split("\t") for line in (out / "phases.tsv").read_text().splitlines()]
    return [(name, code) for _, name, code, _ in rows]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("session")


@pytest.fixture(scope="module")
def parts(folder, bench_dataset) -> dict[str, Path]:
    """What each part left, run one behind the other as on a GPU machine, with the data in pieces."""
    data, carried = bench_dataset.parent, folder / "carried"
    size = sum(file.stat().st_size for name in ("data", "labels") for file in (data / name).iterdir())
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tree = sum((ROOT / name).stat().st_size for name in listed.split("\0") if name)
    # So much that a call has room for half of the data.
    megabytes = math.ceil((tree + size / 2) / 0.99 / 2**20)
    prepared = session("prepare", data, "--carried", carried, "--megabytes", megabytes, "--no-wheels")
    assert prepared.returncode == 0, prepared.stderr
    assert (carried / "part-B").stat().st_size > 0
    (folder / "nvidia-smi").write_text(NVIDIA_SMI)
    (folder / "nvidia-smi").chmod(0o755)
    left = {}
    for part in "ABCDE":
        taken = folder / f"taken-{part}"
        taken.mkdir()
        if part in "ABC":
            shutil.copy(carried / f"part-{part}", taken)
        left[part] = run_part(part, folder, "--carried", taken, *(JOB if part == "E" else ()))
    return left


def test_data_that_does_not_fit_into_the_calls_is_refused(bench_dataset, tmp_path):
    answer = session("prepare", bench_dataset.parent, "--carried", tmp_path, "--megabytes", 1, "--no-wheels")
    assert answer.returncode == 1
    assert "do not fit into 3 calls of 1 MiB" in answer.stderr and "--data" in answer.stderr


def test_part_a_tells_what_the_machine_is_and_what_a_step_does_on_it(parts):
    out = parts["A"]
    assert phases(out) == [(name, "0") for name in ("facts", "probe", "synthetic", "pack synthetic")]
    facts, probe = (json.loads((out / f"{name}.json").read_text()) for name in ("facts", "probe"))
    assert {"torch", "cudnn", "nccl", "python", "numpy"} <= set(facts["versions"])
    for part in ("ceilings", "steps", "profile", "bits", "evaluation", "layers"):
        assert isinstance(probe[part], dict) and "failed" not in probe[part], probe[part]
    assert set(probe["steps"]) == {f"batch 2, {name}" for name in ("default", "deterministic", "benchmark")}
    for row in probe["steps"].values():
        assert row["TFLOP/s"] > 0 and row["tiles/s"] == pytest.approx(2e3 / row["eager ms"])
    assert probe["bits"]["deterministic: eager = eager again"] == {"weights and moments": True, "and losses": True}
    assert probe["evaluation"]["counts agree"]


def test_part_b_runs_the_tests_of_a_gpu_and_a_bench(parts):
    out = parts["B"]
    assert phases(out) == [(name, "0") for name in ("gpu-tests", "bench", "tests")]
    assert "relative errors of gradients" in (out / "gpu-tests.xml").read_text()
    assert " passed" in (out / "gpu-tests.txt").read_text() and " skipped" not in (out / "gpu-tests.txt").read_text()
    bench = json.loads((out / "bench-width-4.json").read_text())
    assert bench["training"]["4"]["tiles_per_second"]["ours"] > 0


def test_part_c_runs_a_whole_job_in_one_process_and_in_two(parts):
    out = parts["C"]
    assert phases(out) == [(name, "0") for name in ("pack", "1-process", "records", "report", "2-processes")]
    with tarfile.open(out / "records-smoke.tgz") as archive:
        names = archive.getnames()
    assert sum(name.endswith("evaluation.json") for name in names) == 2, "smoke has two cells"
    assert "grid.json" in names and not any(name.endswith(".pt") for name in names)
    assert "tables.md" in (out / "report.txt").read_text()
    for name in ("1-process", "2-processes"):
        assert "2 cells finished, 0 failed" in (out / f"{name}.txt").read_text()


def test_part_d_compares_ways_of_running_the_job_and_watches_the_gpu(parts, folder):
    out = parts["D"]
    assert " 12:00:00      0     50     20" in (out / "gpu-3-processes.txt").read_text()
    assert "the GPU had work for 50 % of " in (folder / "said-by-D").read_text()
    beside = ("contenders", "bench")
    assert phases(out) == [(name, "0") for name in ("1-process-no-graphs", "3-processes", "places", *beside)]
    assert "2 cells finished, 0 failed" in (out / "1-process-no-graphs.txt").read_text()
    assert json.loads((out / "places.json").read_text())["same bits"]
    assert json.loads((out / "bench-narrow.json").read_text())["startup"]


def test_part_d_measures_contenders_by_one_command_whose_record_becomes_tables(parts, folder):
    said = (parts["D"] / "contenders.json").read_text()
    assert str(folder) not in said
    record = json.loads(said)
    names = ["hpcseg", "plain loop", "tuned loop"]
    assert record["networks"]["plain loop"] == record["networks"]["hpcseg"]
    for part, rates in (("steps", "tiles_per_second"), ("cell", "seconds")):
        assert list(record[part][rates]) == names
        assert set(record[part]["against"]) == set(names[1:])
        assert min(record[part][rates].values()) > 0
    seconds = record["cell"]["seconds"]
    text = table.as_markdown(record)
    for name in names[1:]:
        assert record["cell"]["against"][name] == pytest.approx(seconds[name] / seconds["hpcseg"])
        assert f"| {name} | {record['steps']['tiles_per_second'][name]:.1f} |" in text
        assert f"| {name} | {seconds[name]:.1f} |" in text
    for name in names:
        assert len(record["cell"]["found"][name]["test"]) == 3


def test_part_e_runs_another_job_whose_records_come_back_and_goes_on_from_them(parts, bench_dataset, tmp_path):
    out = parts["E"]
    assert phases(out) == [(name, "0") for name in ("facts", "smoke", "records")]
    assert "2 cells finished, 0 failed" in (out / "smoke.txt").read_text()
    # As if the time had been up after the first of the cells.
    archive, first = tmp_path / "records-smoke.tgz", tmp_path / "first"
    with tarfile.open(out / "records-smoke.tgz") as packed:
        packed.extraction_filter = getattr(tarfile, "data_filter", None)  # which some Python 3.11 lack
        packed.extractall(first)
    kept, lost = sorted((first / "cells").iterdir())
    (lost / "evaluation.json").unlink()
    assert session("records", first, archive).returncode == 0
    with tarfile.open(archive) as packed:
        assert not [name for name in packed.getnames() if lost.name in name], "without its model it begins anew"
    data = bench_dataset.parent
    again = run_part("E", tmp_path, "--data", data, *JOB, "--records", archive, "--carried", tmp_path)
    assert phases(again) == [(name, "0") for name in ("facts", "pack", "smoke", "records")]
    with tarfile.open(again / "records-smoke.tgz") as packed:
        packed.extraction_filter = getattr(tarfile, "data_filter", None)  # which some Python 3.11 lack
        packed.extractall(tmp_path / "second")
    after = {cell.name: (cell / "training.json").read_bytes() for cell in (tmp_path / "second" / "cells").iterdir()}
    assert set(after) == {kept.name, lost.name}
    assert after[kept.name] == (kept / "training.json").read_bytes()
    assert after[lost.name] != (lost / "training.json").read_bytes()


def test_pictures_stay_behind_where_they_would_be_too_much_and_nothing_is_cut(tmp_path):
    cell = tmp_path / "run" / "cells" / "one"
    cell.mkdir(parents=True)
    for name in ("evaluation.json", "training.json", "model.pt", "../../grid.json"):
        (cell / name).write_text("{}")
    (cell / "examples.npz").write_bytes(os.urandom(16 * 2**20))
    answer = session("records", tmp_path / "run", tmp_path / "small.tgz")
    assert answer.returncode == 0 and "without pictures" in answer.stdout
    with tarfile.open(tmp_path / "small.tgz") as packed:
        assert set(packed.getnames()) == {"grid.json", "cells/one/evaluation.json", "cells/one/training.json"}
    (cell / "slices.jsonl").write_bytes(os.urandom(16 * 2**20))
    answer = session("records", tmp_path / "run", tmp_path / "large.tgz")
    assert answer.returncode == 1 and "more than the 15.5 that come back" in answer.stderr


def test_a_part_that_is_ended_has_a_line_for_the_phase_that_ran(bench_dataset, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-S", SESSION, "E", "--device", "cpu", "--work", tmp_path / "work", "--job", "smoke"]
    environment = {**os.environ, "OUT": str(out)}
    started = subprocess.Popen(
        [*command, "--data", bench_dataset.parent, "--carried", tmp_path, "--set", "train.epochs=5000"],
        env=environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    while not (out / "smoke.txt").exists():
        assert started.poll() is None
        time.sleep(0.1)
    started.terminate()
    assert started.wait(120) == 143
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            assert str(tmp_path) not in (process / "cmdline").read_text(), "it goes on"
    assert phases(out) == [("facts", "0"), ("pack", "0"), ("smoke", "143")]


def test_time_that_a_part_has_not_is_not_given_to_its_phases(bench_dataset, tmp_path):
    out = tmp_path / "out"
    data = ("--data", bench_dataset.parent, "--carried", tmp_path)
    answer = session("E", "--device", "cpu", "--work", tmp_path / "work", *data, *JOB, "--seconds", 0, OUT=str(out))
    assert answer.returncode == 1
    assert [code for _, code in phases(out)] == ["124"] * 4


def test_what_comes_back_is_few_small_files_and_becomes_a_record(parts, tmp_path):
    for out in parts.values():
        files = [file for file in out.rglob("*") if file.is_file()]
        assert len(files) <= 8 and all(file.parent == out for file in files), files
    answer = session("collect", *parts.values(), "--into", tmp_path / "records", "--runs", tmp_path / "runs")
    assert answer.returncode == 1 and "is there already" in answer.stderr, "C and E ran the same job"
    shutil.rmtree(tmp_path)
    parts = {name: out for name, out in parts.items() if name != "E"}
    answer = session("collect", *parts.values(), "--into", tmp_path / "records", "--runs", tmp_path / "runs")
    assert answer.returncode == 0, answer.stderr
    (record,) = (tmp_path / "records").iterdir()
    assert record.name.startswith("cpu-20")
    lines = (record / "phases.tsv").read_text().splitlines()
    assert [line[0] for line in lines[1:]] == sorted("AAAABBBCCCCCDDDDD")
    assert (record / "probe.json").exists() and not list(record.glob("*.tgz"))
    said = hpcseg("report", "--run", tmp_path / "runs" / "smoke-gpu")
    assert said.exit_code == 0, said.output
    assert (tmp_path / "runs" / "smoke-gpu" / "report" / "tables.md").exists()
