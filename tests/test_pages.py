"""What the pages say of the code is true of it: the schema, the layers, and the functions that they name."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import socket
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import hpcseg
import hpcseg.api as hs
from hpcseg.cluster import ledger
from hpcseg.data import store
from hpcseg.data.sample import write_sample
from hpcseg.data.store import read_info
from hpcseg.errors import DatasetError, IncompleteError
from hpcseg.jobfile import find_shipped, load_job
from hpcseg.numerics import NUMERICS
from hpcseg.predict import card
from hpcseg.records.collect import collect
from hpcseg.runs import record, schema
from hpcseg.runs.baseline import make_baselines
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.record import STOPS, read_baseline, read_lines, write_json, write_record
from hpcseg.runs.schema import as_record

ROOT = Path(__file__).parents[1]
SCHEMA = (ROOT / "hpcseg/SCHEMA.md").read_text()
SETTINGS = {"train.width": 2, "train.depth": 2, "train.epochs": 1, "train.precision": "fp32", "train.seed": 0}
SETTINGS |= {"data.tile_size": 24, "evaluate.examples": True, "evaluate.tile": 24}
RECORDS = {
    "grid.json": schema.Plan,
    "config.json": schema.CellPlan,
    "training.json": schema.Trained,
    "evaluation.json": schema.Evaluated,
    "baselines/NAME.json": schema.Baseline,
}
KINDS = {**RECORDS, "metrics.jsonl": schema.EpochLine, "slices.jsonl": schema.EvaluatedSlice}


def said(heading: str) -> dict[str, str]:
    """The table below a heading of the schema's page: MUST or MAY, by name."""
    table = SCHEMA.partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    assert table, heading
    rows = re.findall(r"^\| (`[^|]+) \| (MUST|MAY) \|", table, re.MULTILINE)
    return {name: word for names, word in rows for name in re.findall(r"`([^`]+)`", names)}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a packed file of everything that there may be, and a run of one cell with its baselines."""
    folder = tmp_path_factory.mktemp("schema")
    write_sample(folder / "DATA", slices=12, size=48, seed=0)
    hs.pack(folder / "DATA", folder / "whole.h5", on_note=[].append)
    volume = np.stack([hs.open_source(folder / "DATA/data").read(index) for index in range(12)])
    with h5py.File(folder / "scan.h5", "w") as file:
        file.create_dataset("scan", data=volume).attrs["element_size_um"] = [0.65, 0.65, 0.65]
    parts = {"images": folder / "scan.h5", "labels": folder / "DATA/labels"}
    hs.pack(None, folder / "set.h5", **parts, ignore=[255], on_note=[].append)
    hs.train(folder / "whole.h5", out=folder / "run", settings=SETTINGS)
    assert make_baselines(RunFolder(folder / "run")) == ()
    return folder


def parts_of(path: Path) -> dict[str, set[str]]:
    """What a packed file has, by the page's headings."""
    with h5py.File(path) as file:
        return {"data sets": set(file) - {"table"}, "table": set(file["table"]), "attributes": set(file.attrs)}


@pytest.mark.parametrize("heading", ["data sets", "table", "attributes"])
def test_the_page_has_every_part_of_a_packed_file_and_says_without_which_it_is_refused(made, tmp_path, heading):
    packed = made / "set.h5"
    assert parts_of(packed)[heading] == set(said(heading))
    for name, word in said(heading).items():
        shutil.copy(packed, tmp_path / "less.h5")
        with h5py.File(tmp_path / "less.h5", "a") as file:
            parent = file["table"] if heading == "table" else file
            del (parent.attrs if heading == "attributes" else parent)[name]
        assert is_refused(lambda: read_info(tmp_path / "less.h5")) == (word == "MUST"), name


def is_refused(read: Callable[[], object]) -> bool:
    try:
        read()
    except (DatasetError, IncompleteError):
        return True
    return False


def record_file(run: Path, name: str) -> Path:
    (found,) = run.glob(name.replace("NAME", "*") if "/" in name else f"**/{name}")
    return found


def refuses(run: Path, name: str, content: dict) -> bool:
    """Whether a report refuses what it would have taken of a record with this content."""
    path = record_file(run, name)
    write = write_record if "content_sha256" in content else write_json
    write(path, content)
    if "/" in name:
        return read_baseline(path) is None
    return is_refused(lambda: collect(RunFolder(run))) or bool(collect(RunFolder(run)).holes)


@pytest.mark.parametrize("name", RECORDS)
def test_the_page_has_every_key_of_a_record_and_says_without_which_it_is_refused(made, tmp_path, name):
    shutil.copytree(made / "run", tmp_path / "run")
    content = json.loads(record_file(tmp_path / "run", name).read_text())
    assert set(content) == set(said(name))
    assert not refuses(tmp_path / "run", name, content)
    for key, word in said(name).items():
        less = {other: value for other, value in content.items() if other != key}
        assert refuses(tmp_path / "run", name, less) == (word == "MUST"), key
    if points := content.get("points"):
        below = f"a point of {name}"
        assert set().union(*points) == set(said(below))
        for key, word in said(below).items():
            less = [{other: value for other, value in point.items() if other != key} for point in points]
            assert refuses(tmp_path / "run", name, {**content, "points": less}) == (word == "MUST"), key


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_a_record_is_read_into_its_type_key_for_key(made, name, kind):
    objects = read_lines(record_file(made / "run", name)) if name.endswith("l") else []
    for content in objects or [json.loads(record_file(made / "run", name).read_text())]:
        stored = {key: value for key, value in content.items() if key != "content_sha256"}
        assert json.loads(json.dumps(as_record(kind, content).as_dict())) == stored


def test_a_training_says_all_of_where_it_comes_from_and_it_is_this_process(made):
    told = json.loads(record_file(made / "run", "training.json").read_text())["provenance"]
    of_older_records, of_gpus = {"code_sha256"}, {"cuda", "driver"}
    assert set(told) == set(schema.Provenance.__struct_fields__) - of_older_records - of_gpus
    expected = {"torch": str(torch.__version__), "numpy": np.__version__, "host": socket.gethostname()}
    expected |= {"python": platform.python_version(), "hpcseg_version": hpcseg.__version__, "numerics": NUMERICS}
    expected |= {"data_sha256": read_info(made / "whole.h5").data_sha256, "system": platform.platform()}
    assert {name: told[name] for name in expected} == expected
    assert told["device"].startswith("CPU") and told["cores"] == len(os.sched_getaffinity(0))
    assert re.fullmatch("[0-9a-f]{64}", told["package_sha256"]) and "hpcseg" in told["command"]
    age = datetime.now(UTC) - datetime.fromisoformat(told["time"])
    assert -5 < age.total_seconds() < 3600


@pytest.mark.parametrize("name", ["metrics.jsonl", "slices.jsonl"])
def test_the_page_has_every_key_of_a_line(made, name):
    assert {frozenset(line) for line in read_lines(record_file(made / "run", name))} == {frozenset(said(name))}


def kinds(heading: str) -> dict[str, set[str]]:
    """What the page says that lines of each event, or files of arrays, have."""
    table = SCHEMA.partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    rows = re.findall(r"^\| (`.+`) \| (`.+`) \|$", table, re.MULTILINE)
    return {
        kind: set(re.findall(r"`([^`]+)`", keys)) for kinds, keys in rows for kind in re.findall(r"`([^`]+)`", kinds)
    }


def test_the_page_has_every_kind_of_line_of_events_and_of_the_ledger(made, tmp_path):
    run = RunFolder(tmp_path / "run")
    token = ledger.announce(run, "cells", [["one"]])
    ledger.book(run, token, "cells", [["one"]], "17")
    ledger.withdraw(run, token)
    ledger.book_local(run, ["one"], "18")
    ledger.book_cancelled(run, ["one"])
    booked = {line.pop("event"): set(line) - {"time"} for line in read_lines(run.submissions_file)}
    assert booked == kinds("submissions.jsonl")
    lines = read_lines(record_file(made / "run", "events.jsonl"))
    happened = {line.pop("event"): set(line) - {"time"} for line in lines}
    assert {"start", "epoch", "trained", "evaluate", "evaluated"} == happened.keys()
    assert {"resume", "damaged", *STOPS.values()} == kinds("events.jsonl").keys() - happened.keys()
    assert happened == {event: kinds("events.jsonl")[event] for event in happened}


def test_the_page_has_every_array_of_the_pictures(made):
    arrays = {name: set(np.load(record_file(made / "run", name))) for name in ("examples.npz", "extremes.npz")}
    assert arrays == kinds("examples.npz and extremes.npz")


def test_the_picture_of_the_layers_is_the_contract_that_is_checked():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one["name"] == "data flows one way")
    picture = (ROOT / "hpcseg/ARCHITECTURE.md").read_text().partition("```text\n")[2].partition("```")[0]
    drawn = [re.split(r" {2,}", line.strip())[0] for line in picture.splitlines()]
    assert drawn == [layer.replace("hpcseg.", "") for layer in layers]
    there = {
        path.stem for path in (ROOT / "hpcseg").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert there - {"__init__", "__main__"} == {name for line in drawn for name in line.split(" | ")}


@pytest.mark.parametrize("page", ["hpcseg/ARCHITECTURE.md", "hpcseg/SCHEMA.md", "hpcseg/README.md", "CONTRIBUTING.md"])
def test_what_a_page_names_in_a_file_of_code_is_there(page):
    text = " ".join((ROOT / page).read_text().split())
    found = re.findall(r"((?:`\w+`(?:, | and )?)+) in \[[^\]]+\]\(([^)#]+\.\w+)\)", text)
    assert found
    for names, target in found:
        code = ((ROOT / page).parent / target).read_text()
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"\b(def|class) {name}\b|^{name}\b|^    {name}\b", code, re.MULTILINE), (name, target)


def test_version_numerics_and_schemas_are_those_that_the_changelog_and_the_citation_say():
    newest, text = re.split(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), maxsplit=2, flags=re.MULTILINE)[1:3]
    assert newest in ("Unreleased", hpcseg.__version__)
    schemas = f"packed files of schema {store.SCHEMA_VERSION}, records of schema {record.SCHEMA}, model files of schema"
    assert f"Numerics {NUMERICS}; {schemas} {card.SCHEMA}" in " ".join(text.split())
    assert f"\nversion: {hpcseg.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_versions_of_torch_and_python_that_are_said_to_be_tested_are_those():
    tested = (ROOT / "CONTRIBUTING.md").read_text().partition("## What is tested")[2].partition("\n## ")[0]
    pinned, twin, oldest = (
        re.search(pattern, (ROOT / file).read_text(), re.MULTILINE)[1]
        for file, pattern in (
            ("constraints.txt", r"^torch==(\d+\.\d+)"),
            ("tests/run", r"/torch==(\d+\.\d+)"),
            ("pyproject.toml", r'"torch>=(\d+\.\d+)"'),
        )
    )
    assert f"| torch | {pinned} for CPUs, {twin} for CUDA, {oldest} (the oldest allowed)" in tested
    least = re.search(r'requires-python = ">=(.*)"', (ROOT / "pyproject.toml").read_text())[1]
    assert f"| Python | {least} (constraints.txt), 3.12 |" in tested


def test_the_sentences_to_quote_have_the_numbers_of_their_folders():
    page = ROOT / "results" / "README.md"
    section = page.read_text().partition("## In ten sentences")[2].partition("\n\n**How")[0].partition("\n1. ")[2]
    sentences = re.split(r"\n\d+\. ", section)
    assert len(sentences) == 10
    for sentence in sentences:
        words = " ".join(sentence.split())
        records = "".join((page.parent / link).read_text() for link in re.findall(r"\]\(([^)]+)\)", words))
        numbers = re.findall(r"\d+\.\d+(?: ± \d+\.\d+)?", re.sub(r"\]\([^)]+\)", "", words))
        assert numbers and all(number in records for number in numbers), (numbers, words)


def test_numbers_with_an_interval_in_the_guide_stand_in_a_published_table():
    numbers = re.findall(r"\d+\.\d+ ± \d+\.\d+", " ".join((ROOT / "hpcseg/GUIDE.md").read_text().split()))
    tables = [path.read_text() for path in (ROOT / "results").rglob("tables.md")]
    assert numbers
    assert [number for number in numbers if not any(f"| {number} |" in table for table in tables)] == []


def test_the_readme_counts_the_models_of_the_paper():
    (models,) = re.findall(r"`hpcseg grid --job paper` trains its (\d+) models", (ROOT / "README.md").read_text())
    assert int(models) == len(load_job(find_shipped("job", "paper")).cells)


def test_the_picture_of_the_readme_is_of_results_and_its_caption_says_what_it_shows():
    picture, caption, table = re.search(
        r"!\[[^]]*\]\((results/[^)]+)\)\s+\*(.*?)\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text(), re.DOTALL
    ).groups()
    folder = (ROOT / picture).parent
    assert (ROOT / picture).name == "figure9.png" and (ROOT / table).parent == folder
    (shown,) = folder.glob("cells/large-blocked-p000-*-s0-*/examples.npz")
    right, width, apart = re.search(r"here (0\.\d+) .* width (\d+) .* nearer than (\d+)", caption, re.DOTALL).groups()
    kept = np.load(shown)
    assert right == f"{np.mean(kept['slice_label'] == kept['slice_prediction']):.3f}"
    assert f"-w{width}-" in shown.parent.name
    assert f"at least {apart} slices away" in (ROOT / table).read_text()
    assert "Model: large, blocked, 0 % noise, seed 0" in (ROOT / table).read_text().partition("## Figure 9")[2]
