"""What a GPU machine is to tell, in four parts, each a list of commands with a time limit of its own.

    python3 results/bench/gpu/session.py prepare DATA        before: wheels and data into .gpu/, in pieces that travel
    python3 results/bench/gpu/session.py A                   on the machine; then B, C and D, one behind the other
    python3 results/bench/gpu/session.py collect FOLDER...   after: what came back becomes a record in this folder

The machine needs PyTorch and nothing else: no network, no Slurm, no installed hpcseg. The README beside this file says
what the parts do and what to look at. Needs the standard library alone. A part writes into $OUT: few files, none large.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KIT = Path(__file__).resolve().parent
ROOT = KIT.parents[2]
# What hpcseg needs and a machine for PyTorch may lack, for the Python of such a machine.
_WHEELS = ("submitit==1.5.4", "imagecodecs==2026.3.6")
_PYTHON = "3.12"
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64")
# The calls before the real slices are needed, each of which brings a piece of them.
_PIECES = ("A", "B", "C")
_MIB = 2**20
_TIMED_OUT = 124
_SECONDS_TO_LEAVE = 10
_SYNTHETIC = (
    "import sys; from pathlib import Path; from hpcseg.data.sample import write_sample; "
    "write_sample(Path(sys.argv[1]), slices=int(sys.argv[2]), size=int(sys.argv[3]), seed=0)"
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much a part does: all of it on a GPU, and on a CPU as much as shows that every command works."""

    slices: int
    """Synthetic slices."""
    edge: int
    """Their height and width in pixels."""
    probe: tuple[str, ...]
    tests: tuple[str, ...]
    """Arguments of pytest for the tests that do not need a GPU but meet one."""
    width: int
    """Of the network whose training is measured with batches of `batch` tiles."""
    batch: int
    rounds: int
    """Of a bench."""
    turn: float
    """Seconds of a contender's turn in a bench."""
    job: str
    workers: int
    """Cells at a time of `hpcseg grid`."""
    patience: float
    """By which the time limits of the phases are multiplied."""


ON_GPU = Size(
    slices=100,
    edge=501,
    probe=("--width", "64", "--batch", "25", "64", "--tile", "128"),
    tests=("-n", "8", "--maxfail", "20", "tests/learn", "tests/data", "tests/predict", "tests/runs"),
    width=64,
    batch=64,
    rounds=3,
    turn=1.5,
    job="paper",
    workers=4,
    patience=1,
)
ON_CPU = Size(
    slices=16,
    edge=400,
    probe=("--width", "4", "--batch", "2", "--tile", "32"),
    tests=("tests/learn/test_unet.py",),
    width=4,
    batch=8,
    rounds=1,
    turn=0.05,
    job="smoke",
    workers=2,
    patience=10,  # it may be busy with other tests
)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One command of a part."""

    name: str
    seconds: int
    """After which it is stopped."""
    command: tuple[str, ...]
    output: str
    """File in $OUT: what the command prints; of a .json file what it prints to stdout alone."""
    watched: bool = False
    """With a line per second of what the GPU does, in gpu-NAME.txt."""


@dataclass(frozen=True)
class Session:
    """One part on one machine."""

    part: str
    size: Size
    device: str
    work: Path
    """Outlives the part: data, runs, installed wheels."""
    out: Path
    carried: Path
    """What `prepare` has made: wheels, and the data in pieces."""
    data: Path | None
    """Folder with the real slices; None: they are carried along."""

    def phases(self) -> list[Phase]:
        """The commands of this part, in their order."""
        phases = {"A": self._facts_and_steps, "B": self._tests_and_bench, "C": self._grid, "D": self._one_process}
        return phases[self.part]()

    def _facts_and_steps(self) -> list[Phase]:
        probe = (sys.executable, str(KIT / "probe.py"), str(self.out), "--seconds", "160", *self.size.probe)
        return [
            Phase(
                name="facts",
                seconds=30,
                command=(sys.executable, str(KIT / "facts.py"), str(self.out / "facts.json")),
                output="facts.txt",
            ),
            Phase(name="probe", seconds=200, command=probe, output="probe.txt"),
            *self._synthetic(),
        ]

    def _tests_and_bench(self) -> list[Phase]:
        # Warnings of other versions than CI's are read afterwards and are no reason to fail here.
        pytest = (sys.executable, "-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider")
        found = str(self.out / "gpu-tests.xml")
        return [
            Phase(
                name="gpu-tests",
                seconds=120,
                command=(*pytest, "-m", "gpu", "--junitxml", found, "-o", "junit_family=xunit1", "tests/gpu"),
                output="gpu-tests.txt",
            ),
            *self._synthetic(),
            Phase(
                name="bench",
                seconds=90,
                command=self._bench(self.work / "synthetic.h5", self.size.width, self.size.batch, "training", "sweep"),
                output=f"bench-width-{self.size.width}.json",
            ),
            Phase(
                name="tests",
                seconds=120,
                command=(*pytest, "-m", "not slurm and not realdata and not gpu", *self.size.tests),
                output="tests.txt",
            ),
        ]

    def _grid(self) -> list[Phase]:
        run = self.work / "runs" / self.size.job
        grid = ("grid", "--job", self.size.job, "--data", str(self._dataset), "--run", str(run))
        published = self.work / "published"
        return [
            Phase(
                name="pack",
                seconds=60,
                command=_hpcseg("pack", str(self._slices()), "--output", str(self._dataset)),
                output="pack.txt",
            ),
            Phase(
                name="grid",
                seconds=300,
                command=_hpcseg(*grid, "--local", "--workers", str(self.size.workers)),
                output="grid.txt",
                watched=True,
            ),
            Phase(
                name="report",
                seconds=60,
                command=_hpcseg("report", "--run", str(run), "--publish", str(published)),
                output="report.txt",
            ),
            Phase(
                name="records",
                seconds=30,
                command=("tar", "-C", str(published), "-czf", str(self.out / "published.tgz"), "."),
                output="report.txt",
            ),
            self._warm(processes=2, seconds=150),
        ]

    def _one_process(self) -> list[Phase]:
        bench = self._bench(self._dataset, min(16, self.size.width), min(25, self.size.batch), "training", "startup")
        return [
            self._warm(processes=1, seconds=240),
            Phase(name="bench", seconds=120, command=bench, output="bench-narrow.json"),
        ]

    @property
    def _dataset(self) -> Path:
        return self.work / "dataset.h5"

    def _slices(self) -> Path:
        """The real slices: from where they are, joined from what was carried, or on a CPU the synthetic ones."""
        if self.data is not None:
            return self.data
        folder, pieces = self.work / "data", sorted((self.work / "pieces").glob("part-*"))
        if pieces:
            with tempfile.TemporaryFile() as whole:
                for piece in pieces:
                    whole.write(piece.read_bytes())
                whole.seek(0)
                with tarfile.open(fileobj=whole) as archive:
                    archive.extractall(folder, filter="data")
            for piece in pieces:
                piece.unlink()
        if not folder.is_dir():
            if self.size is ON_GPU:
                sys.exit(f"There are no slices: neither --data, nor what `prepare` carries along, in {folder.parent}.")
            return self.work / "synthetic"
        return folder

    def _synthetic(self) -> list[Phase]:
        """For the calls before the real slices are whole."""
        folder, packed = self.work / "synthetic", self.work / "synthetic.h5"
        if packed.exists():
            return []
        write = (sys.executable, "-c", _SYNTHETIC, str(folder), str(self.size.slices), str(self.size.edge))
        return [
            Phase(name="synthetic", seconds=60, command=write, output="synthetic.txt"),
            Phase(
                name="pack synthetic",
                seconds=60,
                command=_hpcseg("pack", str(folder), "--output", str(packed)),
                output="synthetic.txt",
            ),
        ]

    def _bench(self, data: Path, width: int, batch: int, *parts: str) -> tuple[str, ...]:
        return _hpcseg(
            "bench", "--data", str(data), "--run", str(self.work / "runs"), "--json",
            "--rounds", str(self.size.rounds), "--seconds", str(self.size.turn),
            "--width", str(width), "--batch-size", str(batch),
            *(word for part in parts for word in ("--part", part)),
        )  # fmt: skip

    def _warm(self, *, processes: int, seconds: int) -> Phase:
        run = self.work / "runs" / f"{self.size.job}-{processes}"
        script = (sys.executable, str(KIT / "warm_grid.py"), self.size.job, str(self._dataset), str(run))
        name = f"{processes}-process" + ("es" if processes > 1 else "")
        command = (*script, "--processes", str(processes))
        return Phase(name=name, seconds=seconds, command=command, output=f"{name}.txt", watched=True)

    def run(self) -> bool:
        """Run all phases, whatever becomes of each; whether all went well."""
        environment = self._environment()
        if self.device == "cuda" and not _finds_gpu(environment):
            sys.exit("torch finds no GPU here. `--device cpu` shows in a minute whether the kit works.")
        good = True
        for phase in self.phases():
            started = time.monotonic()
            watched = _gpu_watched(self.out / f"gpu-{phase.name}.txt") if phase.watched else contextlib.nullcontext()
            with watched:
                code = _run(phase, self.size.patience * phase.seconds, self.out, environment)
            line = f"{self.part}\t{phase.name}\t{code}\t{time.monotonic() - started:.1f}"
            with (self.out / "phases.tsv").open("a") as file:
                file.write(line + "\n")
            _show(line, self.out / phase.output)
            good &= code == 0
        return good

    def _environment(self) -> dict[str, str]:
        """What all commands run in; installs the carried wheels and takes the carried data along."""
        for folder in (self.out, self.work / "runs", self.work / "pieces"):
            folder.mkdir(parents=True, exist_ok=True)
        site = self.work / "site"
        wheels = sorted((self.carried / "wheels").glob("*.whl"))
        if wheels and self.data is None:
            install = (sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--upgrade")
            subprocess.run([*install, "--target", str(site), *map(str, wheels)], check=True)
        for piece in self.carried.glob("part-*"):
            if self.data is None and not (self.work / "data").is_dir():
                shutil.copy(piece, self.work / "pieces")
        environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(site)]),
            "MPLBACKEND": "Agg",
            "HPCSEG_TEST_DEVICE": self.device,
        }
        if self.device == "cpu":
            environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        return environment


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
            # A tenth is kept back for what a copy needs besides its files' sizes.
            room = int(0.9 * megabytes * _MIB) - tree - (beside if part == "A" else 0)
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


def collect(folders: list[Path], into: Path, paper: Path) -> None:
    """Make one record of what the parts left in their $OUT: into INTO/GPU-DATE/, and the tables of the job into PAPER.

    Args:
        folders: one per part, or one for all; the one of part A among them.
        into: where records are.
        paper: gets the published records of the job; must not exist yet.
    """
    files = sorted(file for folder in folders for file in folder.rglob("*") if file.is_file())
    facts = [json.loads(file.read_text()) for file in files if file.name == "facts.json"]
    if not facts:
        sys.exit("There is no facts.json of part A in " + ", ".join(map(str, folders)) + ".")
    name = re.sub(r"[^a-z0-9]+", "-", facts[0]["device"].lower()).strip("-")
    record = into / f"{name}-{facts[0]['time'][:10]}"
    record.mkdir(parents=True)
    phases = [file.read_text() for file in files if file.name == "phases.tsv"]
    (record / "phases.tsv").write_text("part\tphase\texit code\tseconds\n" + "".join(sorted(phases)))
    for file in files:
        if file.name == "published.tgz":
            paper.mkdir(parents=True)
            with tarfile.open(file) as archive:
                archive.extractall(paper, filter="data")
            print(f"wrote {paper}")
        elif file.name != "phases.tsv":
            shutil.copy(file, record / file.name)
    print(f"wrote {record}")


def _hpcseg(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "hpcseg", *arguments)


def _finds_gpu(environment: dict[str, str]) -> bool:
    asks = [sys.executable, "-c", "import torch; raise SystemExit(not torch.cuda.is_available())"]
    return subprocess.run(asks, env=environment).returncode == 0


def _run(phase: Phase, seconds: float, out: Path, environment: dict[str, str]) -> int:
    """The exit code of a phase, stopped with all that it started when its time is up."""
    with (out / phase.output).open("ab") as file:
        errors = None if phase.output.endswith(".json") else subprocess.STDOUT
        process = subprocess.Popen(
            phase.command, cwd=ROOT, env=environment, stdout=file, stderr=errors, start_new_session=True
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            # As Ctrl-C, so that a grid stops the cells that it has started.
            for number in (signal.SIGINT, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_SECONDS_TO_LEAVE)
            return _TIMED_OUT


def _show(line: str, output: Path) -> None:
    """A phase's line, and the end of what it said."""
    print(f"=== {line}", flush=True)
    if output.suffix != ".json":
        print("\n".join(output.read_text(errors="replace").splitlines()[-25:]), flush=True)


@contextlib.contextmanager
def _gpu_watched(file: Path) -> Iterator[None]:
    """A line per second of what the GPU does meanwhile, and at the end how busy it was on the average."""
    if shutil.which("nvidia-smi") is None:
        yield
        return
    query = "--query-gpu=timestamp,utilization.gpu,memory.used,power.draw,clocks.sm"
    commands = (
        ["nvidia-smi", "dmon", "-s", "pucm", "-d", "1", "-o", "T"],
        # For where dmon is not to be had: no column for memory's bandwidth.
        ["nvidia-smi", query, "--format=csv", "-l", "1"],
    )
    with file.open("w") as lines:
        for command in commands:
            watcher = subprocess.Popen(command, stdout=lines, stderr=subprocess.STDOUT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                watcher.wait(2)  # one that is not to be had here ends at once
            if watcher.poll() is None:
                break
        try:
            yield
        finally:
            watcher.kill()
            watcher.wait()
    if busy := _busy(file.read_text(errors="replace")):
        print(f"{file.name}: the GPU had work for {sum(busy) / len(busy):.0f} % of {len(busy)} s")


def _busy(dmon: str) -> list[float]:
    """The column `sm` of nvidia-smi dmon: per cent of a second in which there was a kernel, however small."""
    found: list[float] = []
    names: list[str] = []
    for words in (line.split() for line in dmon.splitlines()):
        if words and words[0].startswith("#"):
            names = words if "sm" in words else names
        elif "sm" in names and len(words) == len(names) and words[names.index("sm")].isdigit():
            found.append(float(words[names.index("sm")]))
    return found


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for part in ("A", "B", "C", "D"):
        verb = verbs.add_parser(part)
        verb.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: everything at a small size")
        verb.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "hpcseg-gpu")
        verb.add_argument("--carried", type=Path, default=ROOT / ".gpu", help="what `prepare` has made")
        verb.add_argument("--data", type=Path, help="folder with the real slices, where they need not be carried")
    verb = verbs.add_parser("prepare")
    verb.add_argument("data", type=Path)
    verb.add_argument("--megabytes", type=int, default=64, help="MiB that one call may copy, the checkout included")
    verb.add_argument("--carried", type=Path, default=ROOT / ".gpu", help="where it goes")
    verb.add_argument("--no-wheels", dest="wheels", action="store_false")
    verb = verbs.add_parser("collect")
    verb.add_argument("folders", type=Path, nargs="+")
    verb.add_argument("--into", type=Path, default=KIT)
    verb.add_argument("--paper", type=Path, default=ROOT / "results" / "paper-gpu")
    asked = parser.parse_args()
    if asked.verb == "prepare":
        prepare(asked.data, asked.carried, megabytes=asked.megabytes, wheels=asked.wheels)
    elif asked.verb == "collect":
        collect(asked.folders, asked.into, asked.paper)
    else:
        work = asked.work.resolve()
        out = Path(os.environ.get("OUT") or work / "out" / asked.verb).resolve()
        size = ON_GPU if asked.device == "cuda" else ON_CPU
        data = asked.data.resolve() if asked.data else None
        raise SystemExit(not Session(asked.verb, size, asked.device, work, out, asked.carried, data).run())


if __name__ == "__main__":
    main()
