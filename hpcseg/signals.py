"""Signals that end a command: as an interruption that leaves nothing half done, or as a wish that the work asks for."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

# One key on a terminal may reach a process twice: torchrun passes on to its ranks what they have got themselves.
_SECONDS_TO_BE_ANOTHER = 1.0


@contextlib.contextmanager
def like_ctrl_c() -> Iterator[None]:
    """SIGTERM and SIGHUP as KeyboardInterrupt, unless the caller has other plans with them (nohup).

    So temporary files are removed, and programs that were started are ended. A script's `hpcseg grid &` ignores SIGINT.
    Programs that it starts would inherit that, and could not be ended.
    """
    inherited = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    taken = [number for number, handler in inherited.items() if handler is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    for number in taken:
        signal.signal(number, signal.default_int_handler)
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        # As deaf as before, but a handler, unlike SIG_IGN, does not outlive the start of another program.
        signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


class Stop:
    """Whether the user has asked a long work to stop: by Ctrl-C, SIGTERM or a closed terminal (SIGHUP), in its block.

    The work asks where it can stop. A second time, a moment later, is a KeyboardInterrupt wherever it stands. What the
    caller ignores (nohup, a script's `hpcseg grid &`) stays ignored.
    """

    def __init__(self) -> None:
        self._asked: float | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Whether it has to stop."""
        return self._asked is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._asked is None:
            self._asked = now
        elif now - self._asked > _SECONDS_TO_BE_ANOTHER:
            raise KeyboardInterrupt


@contextlib.contextmanager
def out_of_reach() -> Iterator[None]:
    """What is started in the block never gets Ctrl-C or SIGHUP of the terminal: who has started it passes them on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
