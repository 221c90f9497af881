"""The verbs `status`, `logs` and `cancel` of a prediction: its parts where a run has cells."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpcseg.cli import console, state_table
from hpcseg.cli.watching import again, follow, one_to_follow
from hpcseg.errors import ConfigError, IncompleteError
from hpcseg.runs.finding import choose, listing
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.gate import require_own, why_foreign
from hpcseg.runs.state import State
from hpcseg.text import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hpcseg.cluster.parts import PartStatus, VolumeStatus
    from hpcseg.cluster.remembered import Remembered
    from hpcseg.predict.outcome import OutFolder

# What the same command is to be given besides, by what is done about such a failure of a cell.
_REMEDIES = {
    "more memory": "Give the same command a larger --mem.",
    "more time": "Give the same command a longer --time, or more --parts.",
    "other node": "Give the same command --exclude NODE.",
}


def find_prediction(run: Path | None, patterns: Sequence[str] | None, **only_of_runs: object) -> OutFolder | None:
    """The prediction in a folder that was named; None where it is none, and so a run or a mistake.

    Args:
        run: as it was named.
        patterns: of cells, or of parts.
        only_of_runs: options that were given, by their names, which a prediction does not have.

    Raises:
        ConfigError: it has not been named with --run, or such an option was given.
    """
    if run is None:
        for pattern in patterns or ():
            if RunFolder(Path(pattern)).is_prediction():
                raise ConfigError(f"{pattern} is a prediction. Name it with --run.")
        return None
    if not RunFolder(run).is_prediction():
        return None
    for option, value in only_of_runs.items():
        if value not in (None, False):
            raise ConfigError(f"{run} is a prediction, for which there is no --{option}. Leave it out.")
    from hpcseg.predict.outcome import OutFolder

    return OutFolder(run)


def status(folder: OutFolder, patterns: Sequence[str] | None, *, watching: bool, as_json: bool) -> None:
    """Show how many slices of each part are written, its job and its node."""
    from hpcseg.cluster.parts import volume_status

    if as_json:
        console.stdout.print(json.dumps(_as_json(_look(folder, patterns)), indent=1))
    elif watching:
        _look(folder, patterns)  # later a part may be gone, as the whole is where nobody is at it any more
        state_table.watch(
            again(lambda remembered: _chosen(volume_status(folder, remembered), patterns)),
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

    found = _look(folder, patterns)
    if not patterns and not failed:
        there = listing([part.part for part in found.parts])
        raise ConfigError(f"Name the parts whose logs you want, or give a pattern, or --failed. {there}")
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

    require_own(RunFolder(folder.path))
    found = _look(folder, patterns)
    with console.json_answer(as_json) as answer:
        cancelled = cancel_parts(found, dry_run=dry_run)
        answer.update({"prediction": str(folder.path), "dry_run": dry_run, "cancelled": cancelled})
        if console.tell_cancelled(cancelled, "parts", dry_run=dry_run):
            console.stdout.print("What is written stays.")
            _print_command(found, "It goes on with this, where it was given:")


def _look(folder: OutFolder, patterns: Sequence[str] | None) -> VolumeStatus:
    """The prediction with those of its parts that fit any of the patterns; without one all."""
    from hpcseg.cluster.parts import volume_status

    found = volume_status(folder)
    choose({part.part: part.part for part in found.parts}, patterns or ("*",), f"part of {folder.path}")
    return _chosen(found, patterns)


def _chosen(found: VolumeStatus, patterns: Sequence[str] | None) -> VolumeStatus:
    """The same with those parts alone, be there any or not."""
    some = (part for part in found.parts if any(fnmatch.fnmatchcase(part.part, one) for one in patterns or ("*",)))
    return dataclasses.replace(found, parts=tuple(some))


def _as_json(found: VolumeStatus) -> dict[str, object]:
    return {
        "prediction": str(found.folder.path),
        "slurm_answers": found.answered,
        "finished": found.finished,
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
    where = shlex.quote(str(found.folder.path))
    if found.finished and found.idle:
        console.stdout.print(f"Finished; all slices: hpcseg view {where}")
    elif found.finished:
        console.stdout.print(f"Finished, and jobs of it still wait or run. They end with: hpcseg cancel --run {where}")
    if found.finished:
        return
    failed = [part for part in found.parts if part.state is State.FAILED]
    if failed:
        console.stdout.print(f"Next: hpcseg logs --failed --run {where}")
    for remedy in dict.fromkeys(_REMEDIES[part.action] for part in failed if part.action in _REMEDIES):
        console.stdout.print(remedy)
    if not found.idle:
        return
    what = "What is missing" if found.written < found.slices else "All slices are written and not joined yet. That"
    _print_command(found, f"{what} is done by this, where it was given:")


def _print_command(found: VolumeStatus, words: str) -> None:
    """The command that goes on, to be given in the folder in which it was given before.

    Of a folder that somebody else may have written to none is proposed.
    """
    if found.command and not why_foreign(RunFolder(found.folder.path)):
        console.stdout.print(f"{words} {found.command}")


def _log_of(found: VolumeStatus, part: PartStatus) -> Path | None:
    """What rank 0 of its job has written, the only one."""
    return found.logs.get(part.job_id or "", {}).get(0)


def _follow(found: VolumeStatus, chosen: Sequence[PartStatus], *, as_json: bool) -> None:
    from hpcseg.cluster import logs
    from hpcseg.cluster.parts import volume_status

    part = one_to_follow(chosen, "part", as_json=as_json)
    log = _log_of(found, part)
    if log is None:
        raise IncompleteError(f"{part.part} of {found.folder.path} has written no log yet.")

    def look(remembered: Remembered) -> State:
        states = {one.part: one.state for one in volume_status(found.folder, remembered).parts}
        # A process that was at the whole is gone, or the volume is divided otherwise now.
        return states.get(part.part, State.STOPPED)

    follow(part.part, part.state, look, lambda goes_on: logs.follow(log, "", goes_on))
