"""The copy of a run's small records that is published."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from hpcseg.errors import ConfigError
from hpcseg.files import read_regular, write_bytes
from hpcseg.records.collect import Records
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import read_plan
from hpcseg.runs.record import MOST_BYTES_OF_LINES


def copy_records(records: Records, target: RunFolder) -> None:
    """Copy grid.json, the diff that it names, baselines/*.json and cells/CELL/*.json(l), regular files all of them.

    What the run no longer has goes there.

    Raises:
        ConfigError: the target is a run itself, or holds what was published of another job; the diff is not the one
            that was planned with; a file is a link or no regular file.
    """
    run, folder = records.run, target.path
    if folder.resolve() == run.path.resolve() or any(folder.glob("cells/*/*.pt")):
        raise ConfigError(f"{folder} is a run folder, and publishing would overwrite its records. Publish elsewhere.")
    job = records.plan.job
    there = read_plan(target).job if target.grid_file.exists() else job
    if there != job:
        raise ConfigError(f'{folder} holds the job "{there}", but this run is of "{job}". Publish into another folder.')
    for row in records.rows:
        copies = target.cell(row.id).record_files()
        for source, copy in zip(row.cell.folder.record_files(), copies, strict=True):
            shown = source != row.cell.folder.extremes_file or "best_and_worst" in records.settings.figures
            if source.exists() and shown:
                write_bytes(copy, _content(source))
            else:
                copy.unlink(missing_ok=True)
    ours = {row.id for row in records.rows}
    for cell in target.cell_folders():
        if cell.id not in ours and not cell.path.is_symlink():
            for old in cell.record_files():
                old.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # what is not ours stays
                cell.path.rmdir()
    for old in [*target.baselines.glob("*.json"), *folder.glob("code-*.diff")]:
        old.unlink()
    for source in sorted(run.baselines.glob("*.json")):
        write_bytes(folder / source.relative_to(run.path), _content(source))
    planned = records.plan.diff_sha256
    if planned and run.diff_file(planned).exists():
        changes = _content(run.diff_file(planned))
        if hashlib.sha256(changes).hexdigest() != planned:
            raise ConfigError(f"{run.diff_file(planned)} is not the diff that the run was planned with. Remove it.")
        write_bytes(target.diff_file(planned), changes)
    write_bytes(target.grid_file, _content(run.grid_file))


def _content(file: Path) -> bytes:
    try:
        return read_regular(file, MOST_BYTES_OF_LINES)
    except OSError as error:
        raise ConfigError(f"{file} cannot be published: {error.strerror}.") from None
