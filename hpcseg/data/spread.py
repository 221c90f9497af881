"""Work on a long list by several processes, with the answers in order.

    work and a share of the list -> stdin of a process
    its answers, one behind the other -> a pipe, which holds it back when it is full

For work that is Python's as much as that of codecs: threads would wait for each other's turn at the interpreter.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any, Generic, TypeVar

from hpcseg.errors import HpcsegError
from hpcseg.memory import keep_freed_memory

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def spread(work: Callable[[_In], _Out], items: Sequence[_In], *, processes: int) -> Iterator[_Out]:
    """`map(work, items)`, by so many processes if there are more than one.

    Args:
        work: can be pickled; its module is imported by each process, so a light one starts quickly.
        items: can be pickled; so can the answers.
        processes: each holds one item and its answer at a time, and what answers fit into a pipe.

    Raises:
        Exception: what `work` raises.
        HpcsegError: a process was ended by somebody else.
    """
    if processes < 2:
        yield from map(work, items)
        return
    with contextlib.ExitStack() as stack:
        helpers = [_Helper[_In, _Out]() for _ in range(processes)]
        for helper in helpers:
            stack.callback(helper.end)
        for first, helper in enumerate(helpers):
            helper.begin(work, items[first::processes])
        for index in range(len(items)):
            yield helpers[index % processes].answer()


class _Helper(Generic[_In, _Out]):
    """A process that works on a share of the list."""

    def __init__(self) -> None:
        self._answers, theirs = Pipe(duplex=False)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C is for the parent, which ends it
            )

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
        except EOFError:
            raise HpcsegError(
                f"A process that worked on the slices was ended ({_ending(self._process.wait())}). If the node ran out "
                "of memory, run it again with more."
            ) from None
        if error is not None:
            raise error
        return answer

    def end(self) -> None:
        """Whatever it does."""
        self._answers.close()
        self._process.kill()
        self._process.wait()


def _ending(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit code {status}"


def _help() -> None:
    """What a helper does."""
    keep_freed_memory()
    work, items = pickle.load(sys.stdin.buffer)
    with Connection(int(sys.argv[1]), readable=False) as answers:
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


if __name__ == "__main__":
    _help()
