"""What travels: wheels and the slices, in pieces, to a machine that has PyTorch alone, and from there a record."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from parts import ROOT

# What hpcseg needs and a machine for PyTorch may lack, for the Python of such a machine.
_WHEELS = ("submitit==1.5.4", "imagecodecs==2026.3.6", "msgspec==0.22.0")
_PYTHON = "3.12"
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64")
# The parts before the real slices are needed, each of which brings a piece of them; with the last they are whole.
_PIECES = ("A", "B", "C")
_MIB = 2**20
_MOST_MIB = 15.5
"""That come back of a machine in one file."""


def prepare(data: Path, carried: Path, *, megabytes: int, wheels: bool) -> None:
    """Make what the parts take along: `wheels/` with A, and a piece of the data with each of A, B and C.

    Args:
        data: folder with `data/` and `labels/`.
        carried: where it goes.
        megabytes: MiB that one call may copy, the checkout included.
        wheels: fetch them, which needs a package registry.
    """
    for piece in carried.glob("part-*"):
        piece.unlink()
    (carried / "wheels").mkdir(parents=True, exist_ok=True)
    if wheels:
        platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
        target = ["--python-version", _PYTHON, "--implementation", "cp", *platforms, "-d", str(carried / "wheels")]
        subprocess.run([*download, *target, *_WHEELS], check=True)
    travels = subprocess.run(
        ["git", "ls-files", "-z", "-t"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    # "S" is a file that a sparse checkout leaves out.
    tree = sum((ROOT / line[2:]).stat().st_size for line in travels if line and not line.startswith("S"))
    beside = sum(wheel.stat().st_size for wheel in (carried / "wheels").iterdir())
    with tempfile.TemporaryFile() as whole:
        with tarfile.open(fileobj=whole, mode="w") as archive:
            for name in ("data", "labels"):
                archive.add(data / name, name)
        left = whole.tell()
        whole.seek(0)
        for part in _PIECES:
            # A little is kept back for what a copy needs besides its files' sizes.
            room = int(0.99 * megabytes * _MIB) - tree - (beside if part == "A" else 0)
            piece = whole.read(max(0, min(room, left)))
            left -= len(piece)
            (carried / f"part-{part}").write_bytes(piece)
            print(f"part {part} takes along {len(piece) / _MIB:.1f} MiB: {carried / f'part-{part}'}")
    if left:
        sys.exit(
            f"{left / _MIB:.1f} MiB of the data do not fit into {len(_PIECES)} calls of {megabytes} MiB beside a "
            f"checkout of {tree / _MIB:.1f} MiB. `git sparse-checkout set --no-cone '/*' '!/results/*' "
            "'/results/bench/'` leaves the results out until `git sparse-checkout disable`; or copy the data "
            "otherwise, and name it with --data."
        )


def unpack(carried: Path, work: Path, site: Path) -> Path | None:
    """Install the carried wheels, and keep the carried piece of the data or make the whole of all pieces.

    Args:
        carried: what `prepare` has made, or as much of it as came along.
        work: outlives the part.
        site: the folder that wheels are installed into.

    Returns:
        The folder with the real slices, once they are whole.
    """
    wheels = sorted((carried / "wheels").glob("*.whl"))
    if wheels:
        install = (sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--upgrade")
        subprocess.run([*install, "--target", str(site), *map(str, wheels)], check=True)
    data, pieces = work / "data", work / "pieces"
    if not data.is_dir():
        pieces.mkdir(parents=True, exist_ok=True)
        for piece in carried.glob("part-*"):
            shutil.copy(piece, pieces)
        there = [pieces / f"part-{part}" for part in _PIECES]
        if all(piece.exists() for piece in there):
            _join(there, data)
    return data if data.is_dir() else None


def pack_records(run: Path, archive: Path) -> None:
    """A run's plan, baselines and finished cells, without their models; pictures only where they fit.

    Args:
        run: a run folder.
        archive: becomes a .tgz of at most `_MOST_MIB`.
    """
    cells = [file.parent for file in sorted(run.glob("cells/*/evaluation.json"))]
    files = [file for cell in cells for file in sorted(cell.iterdir()) if file.suffix in (".json", ".jsonl", ".npz")]
    files += [run / "grid.json", *sorted(run.glob("code-*.diff")), *sorted(run.glob("baselines/*.json"))]
    for pictures in (True, False):
        with tarfile.open(archive, "w:gz") as made:
            for file in files:
                if pictures or file.suffix != ".npz":
                    made.add(file, file.relative_to(run))
        size = archive.stat().st_size / _MIB
        if size <= _MOST_MIB:
            print(f"{len(cells)} finished cells, {size:.1f} MiB" + ("" if pictures else ", without pictures"))
            return
    sys.exit(f"The records of {run} take {size:.1f} MiB, more than the {_MOST_MIB} that come back.")


def unpack_records(archive: Path, run: Path) -> None:
    """Make a run folder of what `pack_records` has packed, or add it to one: its finished cells are left alone."""
    run.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as packed:
        _extract(packed, run)


def collect(folders: list[Path], into: Path, runs: Path) -> None:
    """Make one record of what the parts left in their $OUT: into INTO/GPU-DATE/, and of each job's records a run.

    Args:
        folders: one per part, or one for all; the one of part A or E among them.
        into: where records are.
        runs: where runs are; JOB-gpu must not be there yet.
    """
    files = sorted(file for folder in folders for file in folder.rglob("*") if file.is_file())
    facts = [json.loads(file.read_text()) for file in files if file.name == "facts.json"]
    if not facts:
        sys.exit("There is no facts.json of part A or E in " + ", ".join(map(str, folders)) + ".")
    name = re.sub(r"[^a-z0-9]+", "-", facts[0]["device"].lower()).strip("-")
    record = into / f"{name}-{facts[0]['time'][:10]}"
    record.mkdir(parents=True)
    phases = [file.read_text() for file in files if file.name == "phases.tsv"]
    (record / "phases.tsv").write_text("part\tphase\texit code\tseconds\n" + "".join(sorted(phases)))
    for file in files:
        if file.name.startswith("records-"):
            run = runs / f"{file.stem.removeprefix('records-')}-gpu"
            if run.exists():
                sys.exit(f"{run} is there already, and the records of {file} are to become it. Move it away.")
            unpack_records(file, run)
            print(f"wrote {run}: hpcseg report --run {run} --data DATASET --publish FOLDER")
        elif file.name != "phases.tsv":
            shutil.copy(file, record / file.name)
    print(f"wrote {record}")


def _extract(archive: tarfile.TarFile, folder: Path) -> None:
    """All of an archive, and nothing outside of the folder where Python can tell, as 3.11.2 of Debian 12 cannot."""
    archive.extraction_filter = getattr(tarfile, "data_filter", None)
    archive.extractall(folder)


def _join(pieces: list[Path], folder: Path) -> None:
    with tempfile.TemporaryFile() as whole:
        for piece in pieces:
            whole.write(piece.read_bytes())
        whole.seek(0)
        with tarfile.open(fileobj=whole) as archive:
            _extract(archive, folder)
    for piece in pieces:
        piece.unlink()
