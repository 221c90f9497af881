"""Work on a long list by several processes, for answers that are small; they come in order.

    work and a share of the list -> stdin of a process
    its answers, one behind the other -> a pipe, which holds it back when it is full

For work of many short calls, as packing a slice is: threads would wait for each other's turn at the interpreter.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any, Generic, TypeVar

from hpcseg.errors import HpcsegError
from hpcseg.memory import keep_freed_memory

# With the parent's path: a console script does not look for modules in the current folder, and a notebook adds to it.
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from hpcseg.data import processes; processes.help_out()"
)
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # the processes are as many as the cores

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def in_processes(work: Callable[[_In], _Out], items: Sequence[_In], *, processes: int) -> Generator[_Out, None, None]:
    """`map(work, items)`, by so many processes if there are more than one; closing it ends them.

    Args:
        work: can be pickled; its module is imported by each process, so a light one starts quickly.
        items: can be pickled; so can the answers.
        processes: each holds one item and its answer at a time, and what answers fit into a pipe.

    Raises:
        Exception: what `work` raises.
        HpcsegError: a process cannot be started, or was ended by somebody else.
    """
    if processes < 2:
        yield from map(work, items)
        return
    with contextlib.ExitStack() as stack:
        helpers: list[_Helper[_In, _Out]] = []
        for _ in range(processes):
            helpers.append(_Helper())
            stack.callback(helpers[-1].end)
        for first, helper in enumerate(helpers):
            helper.begin(work, items[first::processes])
        for index in range(len(items)):
            yield helpers[index % processes].answer()


class _Helper(Generic[_In, _Out]):
    """A process that works on a share of the list."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as stack:
            try:
                answers, theirs = map(stack.enter_context, Pipe(duplex=False))
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _START, json.dumps([*map(str, sys.path)]), str(theirs.fileno())],
                    stdin=subprocess.PIPE,
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, **_ONE_THREAD},
                    process_group=0,  # Ctrl-C is for the parent, which ends it
                )
            except OSError as error:
                raise HpcsegError(f"A process that works on the slices cannot be started: {error.strerror}.") from None
            theirs.close()
            stack.pop_all()
        self._answers = answers

    def begin(self, work: Callable[[_In], _Out], items: Sequence[_In]) -> None:
        """Hand over the work, and all that it is to be done on."""
        assert self._process.stdin is not None
        # One that has ended already says so when it is asked for an answer.
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            pickle.dump((work, items), stdin)

    def answer(self) -> _Out:
        """The next; raises what the work raised, or HpcsegError if the process was ended."""
        answer: _Out
        try:
            answer, error = self._answers.recv()
        except (EOFError, OSError):  # between two answers, or in the middle of one
            raise HpcsegError(f"A process that worked on the slices was ended: {self._ending()}.") from None
        if error is not None:
            raise error
        return answer

    def end(self) -> None:
        """Whatever it does."""
        assert self._process.stdin is not None
        self._answers.close()
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def _ending(self) -> str:
        status = self._process.wait()
        if status >= 0:
            return f"exit code {status}; what it said is above"
        killed = "; was there too little memory?" if status == -signal.SIGKILL else ""
        return f"{signal.Signals(-status).name}{killed}"


def help_out() -> None:
    """What a process does that `in_processes` has started."""
    keep_freed_memory()
    try:
        work, items = pickle.load(sys.stdin.buffer)
    except (EOFError, pickle.UnpicklingError):
        return  # the parent ended while it was telling
    with Connection(int(sys.argv[2]), readable=False) as answers:
        for item in items:
            answer: tuple[Any, Exception | None]
            try:
                answer = work(item), None
            except Exception as error:
                error.add_note(traceback.format_exc())  # what is pickled has none
                answer = None, error
            try:
                answers.send(answer)
            except BrokenPipeError:  # nobody waits for it any more
                os._exit(1)
