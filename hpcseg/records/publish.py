"""The copy of a run's small records that is published."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hpcseg.errors import ConfigError
from hpcseg.files import write_bytes
from hpcseg.records.collect import Records
from hpcseg.runs.grid import read_plan
from hpcseg.runs.record import RunFolder


def copy_records(records: Records, target: RunFolder) -> None:
    """Copy grid.json and the code-*.diff that it names, baselines/*.json and cells/CELL/*.json(l).

    What the run no longer has goes there.

    Raises:
        ConfigError: the target is a run itself, or holds what was published of another job.
    """
    run, folder = records.run, target.path
    if folder.resolve() == run.path.resolve() or any(folder.glob("cells/*/*.pt")):
        raise ConfigError(f"{folder} is a run folder, and publishing would overwrite its records. Publish elsewhere.")
    job = records.plan["job"]
    there = read_plan(target)["job"] if target.grid_file.exists() else job
    if there != job:
        raise ConfigError(f'{folder} holds the job "{there}", but this run is of "{job}". Publish into another folder.')
    for row in records.rows:
        copies = target.cell(row.id).record_files()
        for source, copy in zip(row.cell.folder.record_files(), copies, strict=True):
            shown = source != row.cell.folder.extremes_file or "best_and_worst" in records.settings.figures
            if source.exists() and shown:
                write_bytes(copy, source.read_bytes())
            else:
                copy.unlink(missing_ok=True)
    for old in [*target.baselines.glob("*.json"), *folder.glob("code-*.diff")]:
        old.unlink()
    for source in [*_planned_diff(run, records.plan.get("diff_sha256")), *sorted(run.baselines.glob("*.json"))]:
        write_bytes(folder / source.relative_to(run.path), source.read_bytes())
    write_bytes(target.grid_file, run.grid_file.read_bytes())


def _planned_diff(run: RunFolder, sha256: str | None) -> list[Path]:
    """The file of what was changed in the checkout, where it is what the plan says; another could be anything."""
    file = run.diff_file(str(sha256))
    if sha256 is None or not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
        return []
    return [file]
