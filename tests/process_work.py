"""Work that the tests of `hpcseg.data.processes` have done by other processes, which import it from here."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import tifffile


def with_process(number):
    return number, os.getpid()


def refuse_seven(number):
    if number == 7:
        raise ValueError("seven")
    return number


def be_killed_at_seven(number):
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def leave_a_trace(item):
    """Its answer fills a pipe many times over."""
    folder, number = item
    (Path(folder) / f"{number}-{os.getpid()}").touch()
    return np.zeros(2**20, np.uint8)


def wait_and_leave_a_trace(item):
    time.sleep(0.05)
    return leave_a_trace(item)


def where_tifffile_is(_):
    return tifffile.__file__
