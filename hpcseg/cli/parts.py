"""The verbs `status`, `logs` and `cancel` of a prediction: its parts where a run has cells."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hpcseg.cli import console, state_table
from hpcseg.cli.watching import GoesOn, again
from hpcseg.errors import ConfigError
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.state import State
from hpcseg.text import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hpcseg.cluster.parts import PartStatus, VolumeStatus
    from hpcseg.cluster.remembered import Remembered
    from hpcseg.predict.outcome import OutFolder


def find_prediction(run: Path | None) -> OutFolder | None:
    """The prediction in a folder that was named; None where it is none, and so a run or a mistake."""
    if run is None or RunFolder(run).grid_file.exists():
        return None
    from hpcseg.predict.outcome import OutFolder

    found = OutFolder(run)
    return found if found.record_file.is_file() else None


def status(folder: OutFolder, patterns: Sequence[str] | None, *, watching: bool, as_json: bool) -> None:
    """Show how many slices of each part are written, its job and its node."""
    if as_json:
        console.stdout.print(json.dumps(_as_json(_look(folder, patterns)), indent=1))
    elif watching:
        state_table.watch(
            again(lambda remembered: _look(folder, patterns, remembered)),
            _table,
            lambda found: _summary(found) if console.stdout.is_terminal else _show(found),
        )
    else:
        _show(_look(folder, patterns))


def logs(
    folder: OutFolder, patterns: Sequence[str] | None, *, failed: bool, following: bool, last: int, as_json: bool
) -> None:
    """Show the last lines of what the jobs of parts have written."""
    from hpcseg.cluster.logs import tail

    found = _look(folder, patterns if patterns or not failed else None)
    if not patterns and not failed:
        raise ConfigError(f"Name the parts whose logs you want, or give a pattern, or --failed. {_listing(found)}")
    chosen = [part for part in found.parts if not failed or part.state is State.FAILED]
    if following:
        _follow(found, chosen, as_json=as_json)
        return
    with console.json_answer(as_json) as answer:
        answer.update({"prediction": str(folder.path), "parts": []})
        for part in chosen:
            log = _log_of(found, part)
            lines = tail(log, "")[-last:] if log else []
            console.stdout.print(f"== {part.part}{f', job {part.job_id}' if part.job_id else ''}", style="bold")
            if part.note:
                console.stdout.print(part.note)
            console.stdout.print("\n".join(lines) if lines else "Nothing is written yet.")
            answer["parts"].append({**dataclasses.asdict(part), "log": str(log) if log else None, "lines": lines})
        if not chosen:
            console.stdout.print("No part has failed.")


def cancel(folder: OutFolder, patterns: Sequence[str] | None, *, dry_run: bool, as_json: bool) -> None:
    """End the jobs of parts, and without a pattern that of the join."""
    from hpcseg.cluster.parts import cancel_parts
    from hpcseg.runs.gate import require_own

    require_own(RunFolder(folder.path))
    found = _look(folder, patterns)
    with console.json_answer(as_json) as answer:
        cancelled = cancel_parts(found, [part.part for part in found.parts], dry_run=dry_run)
        answer.update({"prediction": str(folder.path), "dry_run": dry_run, "cancelled": cancelled})
        for part, what in cancelled.items():
            console.stdout.print(f"  {part}: {what}")
        if not cancelled:
            console.stdout.print("None of these parts waits or runs, nothing to do.")
        elif dry_run:
            console.stdout.print("Nothing was cancelled (--dry-run).")
        elif found.command:
            console.stdout.print(f"What is written stays, and this goes on there: {found.command}")


def _look(folder: OutFolder, patterns: Sequence[str] | None, remembered: Remembered | None = None) -> VolumeStatus:
    """The prediction with those of its parts that fit any of the patterns; without one all."""
    from hpcseg.cluster.parts import volume_status

    found = volume_status(folder, remembered) if remembered else volume_status(folder)
    fitting = {
        pattern: {part.part for part in found.parts if fnmatch.fnmatchcase(part.part, pattern)}
        for pattern in patterns or ("*",)
    }
    for pattern, some in fitting.items():
        if not some:
            raise ConfigError(f'No part of {folder.path} fits "{pattern}". {_listing(found)}')
    chosen = frozenset[str]().union(*fitting.values())
    return dataclasses.replace(found, parts=tuple(part for part in found.parts if part.part in chosen))


def _listing(found: VolumeStatus) -> str:
    from hpcseg.runs.finding import listing

    return listing([part.part for part in found.parts])


def _as_json(found: VolumeStatus) -> dict[str, object]:
    return {
        "prediction": str(found.folder.path),
        "slurm_answers": found.answered,
        "finished": found.finished is not None,
        "slices": found.slices,
        "written": found.written,
        "counts": found.counts(),
        "parts": [dataclasses.asdict(part) for part in found.parts],
    }


def _columns(found: VolumeStatus) -> state_table.Columns:
    return state_table.with_texts(
        {
            "Part": [part.part for part in found.parts],
            "State": [part.state for part in found.parts],
            "Slices": [f"{part.written}/{part.slices}" if part.slices else "" for part in found.parts],
            "Job": [part.job_id or "" for part in found.parts],
            "Node": [part.node or "" for part in found.parts],
            "Note": [part.note for part in found.parts],
        }
    )


def _table(found: VolumeStatus) -> RenderableType:
    return state_table.table(str(found.folder.path), _columns(found))


def _show(found: VolumeStatus) -> None:
    state_table.show(str(found.folder.path), _columns(found))
    _summary(found)


def _summary(found: VolumeStatus) -> None:
    if not found.answered:
        console.stderr.print("Slurm does not answer; this is what the files say.")
    if found.ledger.note:
        console.stderr.print(found.ledger.note)
    console.stdout.print(f"{found.written} of {counted(found.slices, 'slice')} written")
    if found.finished:
        console.stdout.print(f"Finished; all slices: hpcseg view {shlex.quote(str(found.folder.path))}")
        return
    if any(part.state is State.FAILED for part in found.parts):
        console.stdout.print(f"Next: hpcseg logs --failed --run {shlex.quote(str(found.folder.path))}")
    if found.idle and found.command:
        console.stdout.print(f"What is missing is done by what began it: {found.command}")


def _log_of(found: VolumeStatus, part: PartStatus) -> Path | None:
    """What rank 0 of its job has written, the only one."""
    return found.logs.get(part.job_id or "", {}).get(0)


def _follow(found: VolumeStatus, chosen: Sequence[PartStatus], *, as_json: bool) -> None:
    from hpcseg.cluster.logs import follow
    from hpcseg.cluster.parts import volume_status

    if as_json or len(chosen) != 1:
        raise ConfigError(
            "--follow has no end that --json could wait for. Leave one of them out."
            if as_json
            else f"--follow needs one part, but these are {len(chosen)}. Name one."
        )
    (part,) = chosen

    def look(remembered: Remembered) -> State:
        return {one.part: one.state for one in volume_status(found.folder, remembered).parts}[part.part]

    goes_on = GoesOn(part.state, look)
    try:
        for lines in follow(_log_of(found, part), "", goes_on):
            for line in lines:
                console.stdout.print(line)
        console.stdout.print(f"{part.part}: {goes_on.state}")
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
