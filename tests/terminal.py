"""A command in a pseudo-terminal, the screens that its user sees, and what is left of its processes."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

# What rich writes: cursor up, erase the line, colours, and switches such as that of the cursor.
_SEQUENCE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])")


class Screen:
    """The lines of a terminal of so many columns, as far as rich uses one; raises ValueError for what it does not."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.lines = [""]
        self.wrapped = 0
        """How often a line was too long."""
        self._row = self._column = 0

    def feed(self, text: str) -> str:
        """Show text; returns the end of it that is a sequence not yet complete."""
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                found = _SEQUENCE.match(text, at)
                if found is None:
                    return text[at:]
                self._obey(found[1], found[2])
                at = found.end()
                continue
            self._put(text[at])
            at += 1
        return ""

    def _obey(self, value: str, letter: str) -> None:
        if letter == "A":
            self._row = max(0, self._row - int(value or 1))
        elif letter == "K" and value == "2":
            self.lines[self._row] = ""
        elif letter not in "mhl":
            raise ValueError(f"sequence {value}{letter}")

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._row += 1
        else:
            if self._column == self.columns:
                self._row, self._column, self.wrapped = self._row + 1, 0, self.wrapped + 1
            self._fill()
            line = self.lines[self._row].ljust(self._column)
            self.lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
            self._column += 1
        self._fill()

    def _fill(self) -> None:
        while len(self.lines) <= self._row:
            self.lines.append("")


def session(leader: int) -> list[str]:
    """The processes of a session that are alive, from /proc/PID/stat: "pid (name) state ppid pgrp session ..."."""
    alive = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == leader and state not in "ZX":
                alive.append(path.read_text())
    return alive


class Session:
    """A command that has run in a terminal of 80 columns."""

    def __init__(self, *command: str | Path, cwd: Path, columns: int = 80, timeout: float = 240) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        of_others = ("COLUMNS", "LINES", "NO_COLOR")
        environment = {name: value for name, value in os.environ.items() if name not in of_others}
        environment |= {"TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._screen, self.screens = Screen(columns), list[str]()
        process = subprocess.Popen(
            [*map(str, command)], cwd=cwd, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True
        )
        os.close(theirs)
        decoder, left, deadline = codecs.getincrementaldecoder("utf-8")(), "", time.monotonic() + timeout
        # A read from a terminal that nobody has any more is an error of the system's.
        with contextlib.suppress(OSError):
            while (chunk := os.read(ours, 65536)) and time.monotonic() < deadline:
                left = self._screen.feed(left + decoder.decode(chunk))
                self._look()
        os.close(ours)
        self.code = process.wait(max(1.0, deadline - time.monotonic()))

    @property
    def last(self) -> str:
        """All that was said and not taken away again."""
        return "\n".join(line.rstrip() for line in self._screen.lines)

    @property
    def wrapped(self) -> int:
        """Lines that were too long for the terminal."""
        return self._screen.wrapped

    def _look(self) -> None:
        if not self.screens or self.last != self.screens[-1]:
            self.screens.append(self.last)


def hpcseg_in_terminal(*arguments: str | Path, cwd: Path) -> Session:
    """`hpcseg ...` as a user types it."""
    return Session(sys.executable, "-m", "hpcseg", *arguments, cwd=cwd)
