"""Changes one byte of one record of a finished run, again and again, and looks whether status and report notice.

    python results/faults/mutations.py results/faults/mutations.json [NUMBER [SEED]]      # 10,000 with seed 0

A change is noticed where a hole, a note or a failed cell says so that was not there before, or where the command ends
with a sentence instead of an answer; it is without effect where all numbers are the same. What is left is silent, and
there must be none; nor a traceback. Every change meets the functions behind the two commands, and one in fifty also the
commands themselves: all that `hpcseg status --json` prints, and every byte of the files that `hpcseg report` writes.

These fields only describe the machine, so a change of theirs is no change of a number; they have no checksum:

    submissions.jsonl   time, host, user, command and numbers of jobs: status shows job and node, and how many jobs a
                        cell was given; the report adds up the hours in the queue
    events.jsonl        all of it: when a cell started and stopped, and where
    progress.json, failure.json, resources.json, logs/      of cells that are not finished
"""

from __future__ import annotations

import collections
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from hpcseg.cli.app import app
from hpcseg.cluster.states import run_status
from hpcseg.data.sample import write_sample
from hpcseg.errors import HpcsegError
from hpcseg.records.cells import cells_csv
from hpcseg.records.collect import collect
from hpcseg.records.origin import origin
from hpcseg.report import baselines
from hpcseg.report.answers import answers
from hpcseg.report.table import table_csv
from hpcseg.report.tables import TABLES
from hpcseg.runs.epochs import validation_accuracy
from hpcseg.runs.folder import RunFolder

JOB = """
title = "Two small cells"
[data]
tiles = "2x2"
tile_size = 24
split = "blocked"
[train]
width = 2
depth = 2
epochs = 2
precision = "fp32"
[evaluate]
whole_slices = true
examples = true
[report]
tables = ["table2", "levels", "classes", "resources"]
figures = []
cells = ["data.tile_size=24"]
[[grid]]
train.noise_fraction = [0.0, 0.5]
"""
RECORDS = ("grid.json", "submissions.jsonl", "baselines/*.json", "cells/*/*.json", "cells/*/*.jsonl", "cells/*/*.npz")

Seen = tuple[Any, frozenset[str]]
"""What a command shows: its numbers, and what it says about them."""


def small_run(folder: Path) -> RunFolder:
    """A finished run of two small cells in a folder, with its baselines."""
    (folder / "small.toml").write_text(JOB)
    write_sample(folder, slices=16, size=50, seed=0)
    for arguments in (
        ("-m", "hpcseg", "pack", ".", "-o", "dataset.h5"),
        ("-m", "hpcseg", "grid", "--job", "small.toml", "--data", "dataset.h5", "--local"),
        ("-m", "hpcseg", "report", "--run", "runs/small", "--data", "dataset.h5"),
    ):
        subprocess.run([sys.executable, *arguments], cwd=folder, check=True, capture_output=True)
    return RunFolder(folder / "runs" / "small")


def status(run: RunFolder) -> Seen:
    """The columns of `hpcseg status` that are no description of a machine, and its notes."""
    found = run_status(run)
    numbers = [(one.cell, one.state, one.epoch, one.epochs, one.validation_accuracy) for one in found.status]
    return numbers, frozenset([*found.notes, *(one.note for one in found.status)])


def report(run: RunFolder) -> Seen:
    """Every number of `hpcseg report`, and its holes and notes."""
    records = collect(run)
    numbers: list[Any] = [cells_csv(records), origin(records), [one.text for one in answers(records)]]
    numbers += [table_csv(TABLES[name](records)) for name in records.settings.tables]
    notes = [*map(str, records.holes), *records.notes, *records.caveats, str(baselines.hole(records))]
    for row in records.rows:
        if row.training and not row.epochs:
            notes.append(f"{row.id}: epochs")
        numbers += [
            (one.train_loss, one.train_accuracy, one.validation_loss, validation_accuracy(one)) for one in row.epochs
        ]
        for extremes in (False, True):
            if (pictures := row.pictures(extremes=extremes)) is None:
                notes.append(f"{row.id}: pictures {extremes}")
            else:
                content = b"".join(name.encode() + pictures[name].tobytes() for name in sorted(pictures))
                numbers.append(hashlib.sha256(content).hexdigest())
    return numbers, frozenset(notes)


def hpcseg(*arguments: object) -> Any:
    """A command as a user types it; raises what would be a traceback, and HpcsegError where it ends with a sentence."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code:
        raise HpcsegError(result.stderr)
    return result


def whole_status(run: RunFolder) -> Seen:
    """All that `hpcseg status --json` prints of cells but their jobs and nodes, and its notes."""
    found = json.loads(hpcseg("status", "--json", "--run", run.path).stdout)
    described = ("job_id", "node", "tries", "note")
    cells = [{key: value for key, value in cell.items() if key not in described} for cell in found["cells"]]
    return [found["counts"], cells], frozenset([*found["notes"], *(cell["note"] for cell in found["cells"])])


def whole_report(run: RunFolder) -> Seen:
    """The files that `hpcseg report` writes, and what it prints."""
    out = run.path.parent / "out"
    said = hpcseg("report", "--run", run.path, "--out", out, "--data", run.path.parents[1] / "dataset.h5")
    files = {file.name: file.read_bytes() for file in out.iterdir()}
    shutil.rmtree(out)
    return files, frozenset(said.output.splitlines())


COMMANDS: dict[str, Callable[[RunFolder], Seen]] = {"status": status, "report": report}
WHOLE: dict[str, Callable[[RunFolder], Seen]] = {"hpcseg status": whole_status, "hpcseg report": whole_report}
EVERY = 50
"""One change in so many meets the commands themselves."""


def changed_bytes(content: bytes, rng: random.Random) -> bytes:
    """The same with another byte at one place; a digit becomes another digit half of the time."""
    place = rng.randrange(len(content))
    old = content[place]
    digits = [one for one in b"0123456789" if one != old]
    new = rng.choice(digits) if chr(old).isdigit() and rng.random() < 0.5 else (old + rng.randrange(1, 256)) % 256
    return content[:place] + bytes([new]) + content[place + 1 :]


def judge(command: Callable[[RunFolder], Seen], run: RunFolder, before: Seen) -> str:
    """What became of a command after a change: "same", "noticed", "sentence", "silent" or "traceback"."""
    try:
        numbers, notes = command(run)
    except HpcsegError:
        return "sentence"
    except Exception:
        traceback.print_exc()
        return "traceback"
    if notes - before[1]:
        return "noticed"
    return "same" if numbers == before[0] else "silent"


def mutate(run: RunFolder, number: int, seed: int) -> Iterator[tuple[str, str, str, bytes]]:
    """Change the records so many times, each time back again.

    Yields:
        Name of the file, command, outcome as `judge` calls it, and the changed content.
    """
    rng = random.Random(seed)
    files = sorted(file for pattern in RECORDS for file in run.path.glob(pattern))
    before = {name: command(run) for name, command in (COMMANDS | WHOLE).items()}
    for change in range(number):
        file = rng.choice(files)
        content = file.read_bytes()
        changed = changed_bytes(content, rng)
        file.write_bytes(changed)
        try:
            for name, command in (COMMANDS if change % EVERY else COMMANDS | WHOLE).items():
                kind = "baseline" if file.parent == run.baselines else file.name
                yield kind, name, judge(command, run, before[name]), changed
        finally:
            file.write_bytes(content)


def main(out: Path, number: int, seed: int) -> int:
    """Write the counts; 1 where anything was silent or a traceback."""
    counts: dict[str, dict[str, collections.Counter[str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for file, command, outcome, _ in mutate(small_run(Path(folder)), number, seed):
            counts.setdefault(command, {}).setdefault(file, collections.Counter())[outcome] += 1
    totals = {command: dict(sum(of.values(), collections.Counter())) for command, of in counts.items()}
    command = f"python results/faults/mutations.py {out} {number} {seed}"
    content = {"command": command, "changes": number, "seed": seed, "totals": totals, "by_file": counts}
    out.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    print(json.dumps(totals))
    return int(any(of.get(bad) for of in totals.values() for bad in ("silent", "traceback")))


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), *map(int, [*sys.argv[2:], *("10000", "0")[len(sys.argv) - 2 :]])))
