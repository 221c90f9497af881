"""Runs a part: its commands one behind the other, each with its time limit, whatever becomes of the one before."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gpu_watch import gpu_watched
from parts import ROOT, Part, Phase

_TIMED_OUT = 124
_ENDED = 143  # with the whole part
# Of a cell, to the next step and with its checkpoint.
_SECONDS_TO_LEAVE = 20


def run(part: Part, device: str, site: Path) -> bool:
    """Run all phases of a part, whatever becomes of each; whether all went well.

    Args:
        part: writes into its `out` what the commands print, and phases.tsv.
        device: "cuda" or "cpu".
        site: folder with installed wheels, or none.
    """
    ends = time.monotonic() + part.size.patience * part.seconds
    for folder in (part.out, part.work / "runs"):
        folder.mkdir(parents=True, exist_ok=True)
    environment = _environment(device, site)
    if device == "cuda" and not _finds_gpu(environment):
        sys.exit("torch finds no GPU here. `--device cpu` shows in a minute whether the kit works.")
    # Not raised from where it may arrive, which may be between the start of a program and its name here.
    ended: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda which, _: ended.append(which))
    good = True
    for phase in part.phases():
        seconds = min(part.size.patience * phase.seconds, ends - time.monotonic())
        good &= _run_phase(phase, seconds, part, environment, ended) == 0
        if ended:
            sys.exit(_ENDED)
    return good


def _environment(device: str, site: Path) -> dict[str, str]:
    """What all commands run in."""
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(site)]),
        "MPLBACKEND": "Agg",
        "HPCSEG_TEST_DEVICE": device,
    }
    if device == "cpu":
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return environment


def _finds_gpu(environment: dict[str, str]) -> bool:
    asks = [sys.executable, "-c", "import torch; raise SystemExit(not torch.cuda.is_available())"]
    return subprocess.run(asks, env=environment).returncode == 0


def _run_phase(phase: Phase, seconds: float, part: Part, environment: dict[str, str], ended: list[int]) -> int:
    """The exit code of a phase, stopped when its time is up or a signal is in `ended`; with a line in phases.tsv."""
    started = time.monotonic()
    watched = gpu_watched(part.out / f"gpu-{phase.name}.txt") if phase.watched else contextlib.nullcontext()
    with watched:
        code = _exit_code(phase, seconds, part.out, environment, ended)
    line = f"{part.name}\t{phase.name}\t{code}\t{time.monotonic() - started:.1f}"
    with (part.out / "phases.tsv").open("a") as file:
        file.write(line + "\n")
    _show(line, part.out / phase.output)
    return code


def _exit_code(phase: Phase, seconds: float, out: Path, environment: dict[str, str], ended: list[int]) -> int:
    """Of its command, or why it was stopped, with all that it started."""
    ends = time.monotonic() + seconds
    with (out / phase.output).open("ab") as file:
        errors = None if phase.output.endswith(".json") else subprocess.STDOUT
        process = subprocess.Popen(
            phase.command, cwd=ROOT, env=environment, stdout=file, stderr=errors, start_new_session=True
        )
        while process.poll() is None and time.monotonic() < ends and not ended:
            time.sleep(0.05)
        if process.poll() is not None:
            return process.returncode
        # As Ctrl-C, so that a grid stops the cells that it has started.
        for number in (signal.SIGINT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS_TO_LEAVE)
        return _ENDED if ended else _TIMED_OUT


def _show(line: str, output: Path) -> None:
    """A phase's line, and the end of what it said."""
    print(f"=== {line}", flush=True)
    if output.suffix != ".json":
        print("\n".join(output.read_text(errors="replace").splitlines()[-25:]), flush=True)
