"""A record of run.py as Markdown.

python results/bench/contenders/table.py record.json > record.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def as_markdown(record: dict[str, Any]) -> str:
    """What was measured on what, the networks, steps and cells."""
    return "\n".join(_lines(record)) + "\n"


def _lines(record: dict[str, Any]) -> Iterator[str]:
    of, steps, cell = record["provenance"], record["steps"], record["cell"]
    machine = ", ".join(filter(None, [of["device"], of.get("processor")]))
    versions = ", ".join(f"{package} {version}" for package, version in record["packages"].items())
    yield f"{machine}, {of['cores']} cores, torch {of['torch']}, hpcseg {of['commit']}{versions and ', '}{versions}."
    beside = f"{record['minutes']:.0f} minutes, with a load of {record['load_before']:.1f} before them"
    yield f"`{of['command']}`, {of['time']}, {beside}."
    yield ""
    yield "| network | parameters | GFLOP per tile, evaluation | GFLOP per tile, step | precision |"
    yield "|---|---|---|---|---|"
    for name, of_it in record["networks"].items():
        operations = f"{of_it['evaluation'] / 1e9:.2f} | {of_it['step'] / 1e9:.2f}"
        yield f"| {name} | {of_it['parameters']:,} | {operations} | {cell['found'][name]['precision']} |"
    yield ""
    rounds = len(next(iter(steps["rounds"].values())))
    yield f"Width {record['width']}, batches of {record['batch_size']} tiles, medians of {rounds} rounds:"
    yield ""
    yield "| steps | tiles per second | hpcseg is as fast, times | quartiles apart | GFLOP/s |"
    yield "|---|---|---|---|---|"
    for name, rate in steps["tiles_per_second"].items():
        flops = rate * record["networks"][name]["step"] / 1e9
        yield f"| {name} | {rate:.1f} | {_against(steps, name)} | {steps['spread'][name]:.0%} | {flops:.0f} |"
    yield ""
    tiles = cell["tiles"]
    yield (
        f"{cell['epochs']} epochs of {tiles['train']} tiles, each with a validation on {tiles['validation']}, then "
        f"{tiles['test']} test tiles at {len(cell['sigmas'])} noise levels; medians of "
        f"{len(next(iter(cell['rounds'].values())))} rounds:"
    )
    yield ""
    sigmas = " | ".join(f"right at sigma {sigma:.0f}" for sigma in cell["sigmas"])
    yield f"| whole cell | seconds | hpcseg is as fast, times | {sigmas} |"
    yield "|---" * (3 + len(cell["sigmas"])) + "|"
    for name, seconds in cell["seconds"].items():
        right = " | ".join(f"{share:.3f}" for share in cell["found"][name]["test"])
        yield f"| {name} | {seconds:.1f} | {_against(cell, name)} | {right} |"
    if "seconds" in cell["found"]["hpcseg"]:
        yield ""
        parts = ", ".join(f"{seconds:.1f} s {part}" for part, seconds in cell["found"]["hpcseg"]["seconds"].items())
        yield f"Of the last cell of hpcseg: {parts}."


def _against(part: dict[str, Any], name: str) -> str:
    return f"{part['against'][name]:.2f}" if name in part["against"] else ""


if __name__ == "__main__":
    print(as_markdown(json.loads(Path(sys.argv[1]).read_text())), end="")
