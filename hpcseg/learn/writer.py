"""Files of a training are written by a thread, in the order in which that is asked for, while the steps go on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Writer:
    """One thread that writes; where the block ends all is written, and what that has failed of is raised.

    Where an error ends the block, what was asked for is still written.
    """

    def __init__(self) -> None:
        self._writes: deque[Future[None]] = deque()

    def __enter__(self) -> Writer:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()

    def begin(self, write: Callable[..., None], *arguments: Any) -> None:
        """Ask for a call of `write`, whose arguments are the thread's from now on; returns at once."""
        self._writes.append(self._thread.submit(write, *arguments))

    def look(self) -> None:
        """Raise what a write that has ended has failed of; returns at once."""
        while self._writes and self._writes[0].done():
            self._writes.popleft().result()

    def wait(self) -> None:
        """Wait until all that was asked for is written; raises what that has failed of."""
        while self._writes:
            self._writes.popleft().result()
