"""Signals that end a command leave things as Ctrl-C does: temporary files removed, programs that were started ended."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def like_ctrl_c() -> Iterator[None]:
    """SIGTERM and SIGHUP as KeyboardInterrupt, unless the caller has other plans with them (nohup).

    A script's `hpcseg grid &` ignores SIGINT. Programs that it starts would inherit that, and could not be ended.
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
