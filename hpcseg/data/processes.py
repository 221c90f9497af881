"""Work on a long list by several processes of the standard library's pool; answers come in order, few ahead of time.

For work of many short calls, as packing a slice is: threads would wait for each other's turn at the interpreter, and in
HDF5. Answers are small: through a pipe a slice would take as long as its other work, so each process writes its own.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

from hpcseg.errors import HpcsegError
from hpcseg.memory import keep_freed_memory

_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # the processes are as many as the cores

_In = TypeVar("_In")
_Out = TypeVar("_Out")

_work: Callable[[Any], Any]


def in_processes(work: Callable[[_In], _Out], items: Sequence[_In], *, processes: int) -> Generator[_Out, None, None]:
    """`map(work, items)`, by so many processes if there are more than one; closing it ends them.

    Args:
        work: can be pickled, and is sent once; its module is imported by each process, so a light one starts quickly.
        items: can be pickled; so can the answers.
        processes: two items each are under way or wait to be taken.

    Raises:
        Exception: what `work` raises.
        HpcsegError: a process cannot be started, or was ended by somebody else.
    """
    if processes < 2:
        yield from map(work, items)
        return
    # Not forked: a thread of the parent may hold a lock then, of HDF5 or of the screen, that nobody opens in the child.
    context = multiprocessing.get_context("spawn")
    with _started():
        pool = ProcessPoolExecutor(min(processes, len(items)), context, _begin, (pickle.dumps(work),))
    under_way = collections.deque[Future[_Out]]()
    try:
        for item in items:
            with _started():
                under_way.append(pool.submit(_do, item))
            if len(under_way) == 2 * processes:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    except BrokenProcessPool:
        raise HpcsegError(
            "A process that worked on the slices was ended, or could not begin; what it said is above. Was there "
            'too little memory? A script of your own needs `if __name__ == "__main__":` round what it calls.'
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _started() -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        raise HpcsegError(f"A process that works on the slices cannot be started: {error.strerror}.") from None


def _begin(work: bytes) -> None:
    """What a process does first."""
    global _work
    os.environ.update(_ONE_THREAD)  # before numpy is imported
    _work = pickle.loads(work)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()


def _do(item: Any) -> Any:
    return _work(item)


def _end_with_parent() -> None:
    """A parent that was killed sends no end, and the pool's processes hold each other's pipes open."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    with contextlib.suppress(OSError):
        wait([parent.sentinel])
    os._exit(1)
