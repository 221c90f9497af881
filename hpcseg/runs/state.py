"""Where a cell stands: the one list of words for it, in plans, files, Slurm's answers, tables and JSON."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

Stage = Literal["train", "evaluate"]
"""The two halves of a cell."""


class State(StrEnum):
    """Where a cell stands.

    The files alone tell MISSING, STARTED, TRAINED, FINISHED and FAILED (`Cell.state`); with Slurm's and the heartbeat's
    word STARTED becomes one of the others (`cluster.states`). A start of a cell ends as FINISHED, STOPPED, CANCELLED
    or BUSY (`run_cell`).
    """

    MISSING = "missing"
    """Nothing of it has begun."""
    QUEUED = "queued"
    """Its job waits in Slurm; the note has Slurm's reason."""
    RUNNING = "running"
    """It trains."""
    EVALUATING = "evaluating"
    """It is trained, and meets the test sets."""
    SUSPENDED = "suspended"
    """Slurm holds its processes still, and will let them go on."""
    UNKNOWN = "unknown"
    """Slurm has no word for its job, or none that is known here; the note says which. It is not taken for an end."""
    BUSY = "busy"
    """Another process has it: what a second start of a cell is told."""
    STARTED = "started"
    """It has begun, and its files do not tell whether it still runs."""
    STOPPED = "stopped"
    """It was ended before it was done, and goes on from its checkpoint when it is started again."""
    TRAINED = "trained"
    """Its training is finished and its evaluation has not begun."""
    FINISHED = "finished"
    """All of it is done and recorded."""
    FAILED = "failed"
    """Its last attempt ended in an error; the note says which."""
    CANCELLED = "cancelled"
    """The user, or an administrator, has ended its job or taken it out of the queue."""

    @property
    def idle(self) -> bool:
        """Whether nothing of the cell is known or suspected to run or to wait."""
        return self in _IDLE


class Standing(abc.ABC):
    """Where each of several stands, as far as their files and Slurm tell."""

    answered: bool
    """Slurm has answered, or was not needed."""

    @property
    @abc.abstractmethod
    def states(self) -> Sequence[State]:
        """Of each."""

    def counts(self) -> dict[State, int]:
        """How many there are of each state, sorted."""
        return {state: self.states.count(state) for state in sorted(set(self.states))}

    @property
    def idle(self) -> bool:
        """Whether nothing of them is known or suspected to run or to wait."""
        return all(state.idle for state in self.states)


_IDLE = frozenset({State.MISSING, State.STOPPED, State.TRAINED, State.FINISHED, State.FAILED, State.CANCELLED})
