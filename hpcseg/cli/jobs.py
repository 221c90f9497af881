"""The verb `jobs`: which jobs ship with hpcseg, which question each answers, and what it costs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hpcseg.cli import console
from hpcseg.cli.options import AsJson
from hpcseg.text import counted

_ENTRY = re.compile(r"# ([A-Z][a-z]+)\s+(\S.*)")


def jobs(as_json: AsJson = False) -> None:
    """List the jobs that ship with hpcseg: the question of each, how many cells it trains, and what they take."""
    from hpcseg.jobfile import shipped_folder

    found = [read_header(path) for path in sorted(shipped_folder("jobs").glob("*.toml"))]
    with console.json_answer(as_json) as answer:
        answer["jobs"] = found
        for job in found:
            console.stdout.print(job["name"], style="bold", end="")
            console.stdout.print(f"  {counted(job['cells'], 'cell')}")
            console.stdout.print(console.wrapped(job["question"], indent=4))
            console.stdout.print(console.wrapped(f"Takes: {job['takes']}", indent=4))
        console.stdout.print("Next: hpcseg grid --job NAME --dry-run, or hpcseg init --job NAME mine.toml for your own")


def read_header(path: Path) -> dict[str, Any]:
    """Name and number of cells of a shipped job, and what the comments at its top say: question, takes, command."""
    from hpcseg.jobfile import load_job

    entries: dict[str, str] = {}
    key = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if found := _ENTRY.fullmatch(line):
            key = found[1].lower()
            entries[key] = found[2]
        elif key:
            entries[key] += f" {line.removeprefix('#').strip()}"
    said = {key: entries[key] for key in ("question", "takes", "command")}
    return {"name": path.stem, "cells": len(load_job(path).cells), **said}
