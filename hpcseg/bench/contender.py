"""A contender of the bench: a process that does as many steps as the next line on stdin says.

Processes of their own, so that what one does to its memory allocator or its threads is nothing to the others.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hpcseg.bench.measure import Piece, Rates, take_turns
from hpcseg.errors import HpcsegError

_SECONDS_TO_END = 60


@dataclass(frozen=True)
class Contender:
    """What to do."""

    build: str
    """Function that makes a context manager of the piece, as "module:name"."""
    arguments: Mapping[str, Any]
    """Of that function, as JSON has them."""


@contextlib.contextmanager
def started(contenders: Mapping[str, Contender]) -> Iterator[dict[str, Piece]]:
    """Start the contenders' processes, and end them; in between calling a piece is one turn.

    Raises:
        HpcsegError: a process has died; it has told why on stderr.
    """
    running = {name: _start(contender) for name, contender in contenders.items()}
    try:
        yield {name: functools.partial(_turn, name, process) for name, process in running.items()}
    finally:
        for process in running.values():
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(timeout=_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def compare(builds: Mapping[str, str], work: Mapping[str, Any], *, seconds: float, rounds: int) -> Rates:
    """Units per second of contenders that take turns.

    Args:
        builds: by their names, as of `Contender`.
        work: what all of them are given.
        seconds: of a piece.
        rounds: pieces of each.
    """
    with started({name: Contender(build, work) for name, build in builds.items()}) as pieces:
        return take_turns(pieces, seconds=seconds, rounds=rounds)


def _start(contender: Contender) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hpcseg.bench.contender", contender.build, json.dumps(dict(contender.arguments))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _turn(name: str, process: subprocess.Popen[str], steps: int) -> float:
    """One piece; units per second."""
    assert process.stdin is not None and process.stdout is not None
    answer = ""
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(f"{steps}\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    if not answer:
        raise HpcsegError(f'The contender "{name}" of the bench has died; what it said is above.')
    return float(answer)


def _serve(build: str, arguments: Mapping[str, Any]) -> None:
    module, _, function = build.partition(":")
    # What the work prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with getattr(importlib.import_module(module), function)(**arguments) as piece:
        for steps in sys.stdin:
            print(piece(int(steps)), file=answers, flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], json.loads(sys.argv[2]))
