"""Work on a long list by several processes of the standard library's pool; answers come in order, few ahead of time.

For work of many short calls, as packing a slice is: threads would wait for each other's turn at the interpreter, and in
HDF5. Large arrays go by memory that all share, since through a pipe a slice takes as long as its other work.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import mmap
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
_LEAST_BYTES_SHARED = 256 * 1024

_In = TypeVar("_In")
_Out = TypeVar("_Out")

_Answer = tuple[bytes, list[slice]]
"""Pickled, and where in the shared memory its large arrays are."""

_work: Callable[[Any], Any]
_memory: mmap.mmap | None = None


def in_processes(
    work: Callable[[_In], _Out], items: Sequence[_In], *, processes: int, shared_bytes: int = 0
) -> Generator[_Out, None, None]:
    """`map(work, items)`, by so many processes if there are more than one; closing it ends them.

    Args:
        work: can be pickled, and is sent once; its module is imported by each process, so a light one starts quickly.
        items: can be pickled; so can the answers.
        processes: two items each are under way or wait to be taken.
        shared_bytes: of the large arrays of an answer, which are there only until the next one is asked for.

    Raises:
        Exception: what `work` raises.
        HpcsegError: a process cannot be started, or was ended by somebody else.
    """
    if processes < 2:
        yield from map(work, items)
        return
    # Not forked: a thread of the parent may hold a lock then, of HDF5 or of the screen, that nobody opens in the child.
    context = multiprocessing.get_context("spawn")
    slots = 2 * processes + 1  # also one for the answer that was taken last
    with _shared(shared_bytes * slots) as (file, memory):
        with _started():
            pool = ProcessPoolExecutor(min(processes, len(items)), context, _begin, (pickle.dumps(work), file))
        under_way = collections.deque[Future[_Answer]]()

        def next_answer() -> _Out:
            pickled, places = under_way.popleft().result()
            answer: _Out = pickle.loads(pickled, buffers=[memory[place] for place in places])
            return answer

        try:
            for item, slot in zip(items, itertools.cycle(range(slots))):
                with _started():
                    under_way.append(pool.submit(_do, item, slot * shared_bytes, shared_bytes))
                if len(under_way) == 2 * processes:
                    yield next_answer()
            while under_way:
                yield next_answer()
        except BrokenProcessPool:
            raise HpcsegError(
                "A process that worked on the slices was ended, or could not begin; what it said is above. Was there "
                'too little memory? A script of your own needs `if __name__ == "__main__":` round what it calls.'
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _shared(size: int) -> Generator[tuple[int | None, memoryview], None, None]:
    """So many bytes of memory and their descriptor; None where there is no room, or no need, and all is sent.

    It has no name in a file system, so nothing of it is left, however the processes end.
    """
    file, memory = None, memoryview(b"")
    try:
        with contextlib.suppress(OSError, AttributeError):  # of a system that has no such memory
            file = os.memfd_create("slices") if size else None
            if file is not None:
                os.posix_fallocate(file, 0, size)  # else a process would be killed where memory ends
                memory = memoryview(mmap.mmap(file, size))
        yield file if memory else None, memory
    finally:
        if file is not None:
            os.close(file)


@contextlib.contextmanager
def _started() -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        raise HpcsegError(f"A process that works on the slices cannot be started: {error.strerror}.") from None


def _begin(work: bytes, file: int | None) -> None:
    """What a process does first; `file` is the parent's descriptor of the shared memory."""
    global _work, _memory
    os.environ.update(_ONE_THREAD)  # before numpy is imported
    _work = pickle.loads(work)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    if file is not None:
        with contextlib.suppress(OSError), open(f"/proc/{os.getppid()}/fd/{file}", "r+b") as opened:
            _memory = mmap.mmap(opened.fileno(), 0)


def _do(item: Any, start: int, room: int) -> _Answer:
    end, places = start + room, list[slice]()

    def keep(buffer: pickle.PickleBuffer) -> bool:
        """Whether it goes with the rest."""
        nonlocal start
        pixels = buffer.raw()
        if _memory is None or not _LEAST_BYTES_SHARED <= pixels.nbytes <= end - start:
            return True
        places.append(slice(start, start + pixels.nbytes))
        _memory[places[-1]] = pixels
        start += pixels.nbytes
        return False

    return pickle.dumps(_work(item), protocol=5, buffer_callback=keep), places


def _end_with_parent() -> None:
    """A parent that was killed sends no end, and the pool's processes hold each other's pipes open."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    with contextlib.suppress(OSError):
        wait([parent.sentinel])
    os._exit(1)
