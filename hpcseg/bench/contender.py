"""A contender of the bench: a process, or one per rank, that does as many steps as the next line on stdin says.

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
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpcseg.bench.measure import Piece
from hpcseg.errors import HpcsegError

_SECONDS_TO_END = 60


@dataclass(frozen=True)
class Contender:
    """What to do, and in how many ranks."""

    build: str
    """Function that makes a context manager of the piece, as "module:name"; called in every rank."""
    arguments: Mapping[str, Any]
    """Of that function, as JSON has them."""
    world_size: int = 1


@contextlib.contextmanager
def started(contenders: Mapping[str, Contender]) -> Iterator[dict[str, Piece]]:
    """Start the contenders' processes, and end them; in between calling a piece is one turn.

    Raises:
        HpcsegError: a process has died; it has told why on stderr.
    """
    running = {
        name: [_start(contender, launch, rank) for rank in range(contender.world_size)]
        for name, contender, launch in ((name, contender, uuid.uuid4().hex) for name, contender in contenders.items())
    }
    try:
        yield {name: functools.partial(_turn, name, ranks) for name, ranks in running.items()}
    finally:
        everything = [process for ranks in running.values() for process in ranks]
        # All first: ranks leave together.
        for process in everything:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        for process in everything:
            assert process.stdout is not None
            try:
                process.wait(timeout=_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def _start(contender: Contender, launch: str, rank: int) -> subprocess.Popen[str]:
    size = str(contender.world_size)
    # As torchrun describes itself; without it, this process's own launcher would be inherited.
    ranks = {"TORCHELASTIC_RUN_ID": launch, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "RANK": str(rank)}
    return subprocess.Popen(
        [sys.executable, "-m", "hpcseg.bench.contender", contender.build, json.dumps(dict(contender.arguments))],
        env={**os.environ, **ranks, "LOCAL_RANK": str(rank)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _turn(name: str, ranks: Sequence[subprocess.Popen[str]], steps: int) -> float:
    """One piece of all ranks together; units per second."""
    answers = []
    with contextlib.suppress(BrokenPipeError):
        for process in ranks:
            assert process.stdin is not None
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
        for process in ranks:
            assert process.stdout is not None
            answers.append(process.stdout.readline())
    if not answers or not all(answers):
        raise HpcsegError(f'The contender "{name}" of the bench has died; what it said is above.')
    return float(answers[0])


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
