"""What the parts are: their commands, and how much each does on a GPU and on a CPU. Runs nothing."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

KIT = Path(__file__).resolve().parent
ROOT = KIT.parents[2]
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
    """Arguments of pytest for tests on the CPU of such a machine, with its versions of everything."""
    width: int
    """Of the network whose training is measured with batches of `batch` tiles."""
    batch: int
    wide: tuple[str, ...]
    """Parts of the bench at `width`."""
    narrow: tuple[str, ...]
    """Of the one at width 16."""
    rounds: int
    """Of a bench."""
    turn: float
    """Seconds of a contender's turn in a bench."""
    cell: tuple[str, ...]
    """Of a contender's whole cell, as arguments of its bench."""
    places: tuple[str, ...]
    """Of the cell whose tiles are in one place after the other, as arguments of places.py."""
    job: str
    patience: float
    """By which all time limits are multiplied."""


ON_GPU = Size(
    slices=100,
    edge=501,
    probe=("--width", "64", "--batch", "25", "64", "--tile", "128"),
    # Those whose results depend on torch's and NumPy's arithmetic; no file is worth a GPU machine's minutes.
    tests=("-n", "16", "--maxfail", "20", "tests/learn", "tests/segment", "tests/predict", "tests/runs"),
    width=64,
    batch=64,
    wide=("training", "sweep"),
    narrow=("training", "startup"),
    rounds=3,
    turn=1.5,
    cell=("--tiles", "large", "--epochs", "15"),
    places=(),
    job="paper",
    patience=1,
)
ON_CPU = Size(
    slices=16,
    edge=400,
    probe=("--width", "4", "--batch", "2", "--tile", "32"),
    tests=("tests/learn/test_checkpoint.py",),
    width=4,
    batch=8,
    # Each once: a contender is a process, which takes seconds to start.
    wide=("training",),
    narrow=("startup",),
    rounds=1,
    turn=0.05,
    cell=("--tiles", "1x1", "--slices", "16", "--epochs", "1"),
    places=("--width", "2"),
    job="smoke",
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


@dataclass(frozen=True, kw_only=True)
class Job:
    """What part E runs."""

    name: str
    """Of a shipped job, or the path of a job file."""
    settings: tuple[str, ...]
    """As hpcseg grid's --set."""
    processes: int
    """That take one cell after the other."""

    @property
    def stem(self) -> str:
        """Its name in those of files."""
        return Path(self.name).stem


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part on one machine."""

    name: str
    """A, B, C, D or E."""
    seconds: float
    """For all phases together: those that come when it is used up are stopped at once."""
    job: Job | None
    """Of E alone."""
    size: Size
    work: Path
    """Outlives the part: data, runs, installed wheels."""
    out: Path
    data: Path | None
    """Folder with the real slices; None: they are not here, or not all of them yet."""

    def phases(self) -> list[Phase]:
        """The commands of this part, in their order."""
        phases = {
            "A": self._facts_and_steps,
            "B": self._tests_and_bench,
            "C": self._grid,
            "D": self._compared,
            "E": self._job,
        }
        return phases[self.name]()

    def _facts_and_steps(self) -> list[Phase]:
        probe = (sys.executable, str(KIT / "probe.py"), str(self.out), "--seconds", "160", *self.size.probe)
        return [
            self._facts(),
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
                seconds=150,
                command=(*pytest, "-m", "gpu", "--junitxml", found, "-o", "junit_family=xunit1", "tests/gpu"),
                output="gpu-tests.txt",
            ),
            *self._synthetic(),
            Phase(
                name="bench",
                seconds=110,
                command=self._bench(self.work / "synthetic.h5", self.size.width, self.size.batch, self.size.wide),
                output=f"bench-width-{self.size.width}.json",
            ),
            Phase(
                name="tests",
                seconds=200,
                # One thread each: 16 processes with 16 threads each would wait for each other.
                command=("env", "OMP_NUM_THREADS=1", *pytest, "-m", "not slurm and not gpu", *self.size.tests),
                output="tests.txt",
            ),
        ]

    def _grid(self) -> list[Phase]:
        run = self._run_of("1-process")
        return [
            *self._packed(),
            self._whole_job(processes=1, seconds=200),
            # Before the report, which may take too long: it can be built from them anywhere.
            self._records(run, self.size.job),
            Phase(name="report", seconds=90, command=_hpcseg("report", "--run", str(run)), output="report.txt"),
            self._whole_job(processes=2, seconds=200),
        ]

    def _compared(self) -> list[Phase]:
        bench = self._bench(self._dataset, min(16, self.size.width), min(25, self.size.batch), self.size.narrow)
        script = (sys.executable, str(KIT.parent / "places.py"))
        places = (*script, str(self._dataset), str(self.work / "places"), *self.size.places)
        return [
            self._whole_job(processes=1, seconds=200, graphs=False),
            self._whole_job(processes=3, seconds=200),
            Phase(name="places", seconds=60, command=places, output="places.json"),
            self._contenders(),
            Phase(name="bench", seconds=100, command=bench, output="bench-narrow.json"),
        ]

    def _contenders(self) -> Phase:
        """Those of them that a machine with PyTorch alone has, per step and per whole cell."""
        command = (
            sys.executable, str(KIT.parent / "contenders" / "run.py"), str(self._dataset),
            "--width", str(self.size.width), "--batch-size", str(self.size.batch),
            "--rounds", str(self.size.rounds), "--seconds", str(self.size.turn),
            *self.size.cell, "--cell-rounds", "1", "--contender", "plain loop", "--contender", "tuned loop",
        )  # fmt: skip
        return Phase(name="contenders", seconds=240, command=command, output="contenders.json")

    def _job(self) -> list[Phase]:
        assert self.job is not None
        name = self.job.stem
        # Its cells are told to stop before its time is up, and some of the part's is left for the records.
        own = max(0.1, self.size.patience * (self.seconds - 90))
        command = (
            "timeout",
            "--signal=INT",
            f"{own:.1f}",
            *self._cells(self.job.name, self.job_run, self.job.processes),
        )
        settings = [word for setting in self.job.settings for word in ("--set", setting)]
        return [
            self._facts(),
            *self._packed(),
            Phase(
                name=name,
                seconds=int(self.seconds - 50),
                command=(*command, *settings),
                output=f"{name}.txt",
                watched=True,
            ),
            self._records(self.job_run, name),
        ]

    @property
    def job_run(self) -> Path:
        """The run of part E."""
        assert self.job is not None
        return self.work / "runs" / f"{self.job.stem}-E"

    def _facts(self) -> Phase:
        command = (sys.executable, str(KIT / "facts.py"), str(self.out / "facts.json"))
        return Phase(name="facts", seconds=30, command=command, output="facts.txt")

    def _packed(self) -> list[Phase]:
        if self._dataset.exists():
            return []
        command = _hpcseg("pack", str(self._slices()), "--output", str(self._dataset))
        return [Phase(name="pack", seconds=60, command=command, output="pack.txt")]

    def _records(self, run: Path, job: str) -> Phase:
        script = (sys.executable, str(KIT / "session.py"), "records", str(run))
        command = (*script, str(self.out / f"records-{job}.tgz"))
        return Phase(name="records", seconds=20, command=command, output="pack.txt")

    @property
    def _dataset(self) -> Path:
        return self.work / "dataset.h5"

    def _slices(self) -> Path:
        """The real slices, or on a CPU the synthetic ones."""
        if self.data is None and self.size is ON_GPU:
            sys.exit(f"There are no slices: neither --data, nor what `prepare` carries along, in {self.work}.")
        return self.data or self.work / "synthetic"

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

    def _bench(self, data: Path, width: int, batch: int, parts: tuple[str, ...]) -> tuple[str, ...]:
        return _hpcseg(
            "bench", "--data", str(data), "--run", str(self.work / "runs"), "--json",
            "--rounds", str(self.size.rounds), "--seconds", str(self.size.turn),
            "--width", str(width), "--batch-size", str(batch),
            *(word for part in parts for word in ("--part", part)),
        )  # fmt: skip

    def _whole_job(self, *, processes: int, seconds: int, graphs: bool = True) -> Phase:
        name = f"{processes}-process" + ("es" if processes > 1 else "") + ("" if graphs else "-no-graphs")
        command = self._cells(self.size.job, self._run_of(name), processes)
        if not graphs:
            command = ("env", "HPCSEG_GRAPHS=0", *command)
        return Phase(name=name, seconds=seconds, command=command, output=f"{name}.txt", watched=True)

    def _cells(self, job: str, run: Path, processes: int) -> tuple[str, ...]:
        """All cells of a job, each process with one after the other."""
        grid = ("grid", "--local", "--job", job, "--data", str(self._dataset), "--run", str(run))
        return _hpcseg(*grid, "--workers", str(processes))

    def _run_of(self, name: str) -> Path:
        return self.work / "runs" / f"{self.size.job}-{name}"


def _hpcseg(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "hpcseg", *arguments)
