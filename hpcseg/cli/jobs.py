"""The verb `jobs`: which jobs ship with hpcseg, which question each answers, and what it costs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hpcseg.cli import console
from hpcseg.cli.options import AsJson
from hpcseg.text import counted

_ENTRY = re.compile(r"# ([A-Z][a-z]+)\s+(\S.*)")


@dataclass(frozen=True)
class JobHeader:
    """What the comments at the top of a shipped job file say."""

    name: str
    cells: int
    question: str
    takes: str
    command: str


def jobs(as_json: AsJson = False) -> None:
    """List the jobs that ship with hpcseg: the question of each, how many cells it trains, and what they take."""
    from hpcseg.jobfile import shipped_folder

    found = [read_header(path) for path in sorted(shipped_folder("jobs").glob("*.toml"))]
    with console.json_answer(as_json) as answer:
        answer["jobs"] = [vars(job) for job in found]
        for job in found:
            console.stdout.print(job.name, style="bold", end="")
            console.stdout.print(f"  {counted(job.cells, 'cell')}")
            console.stdout.print(console.wrapped(job.question, indent=4))
            console.stdout.print(console.wrapped(f"Takes: {job.takes}", indent=4))
        console.stdout.print("Next: hpcseg grid --job NAME --dry-run, or hpcseg init --job NAME mine.toml for your own")


def read_header(path: Path) -> JobHeader:
    """The header of a shipped job file, and how many cells it has."""
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
    return JobHeader(path.stem, len(load_job(path).cells), entries["question"], entries["takes"], entries["command"])
