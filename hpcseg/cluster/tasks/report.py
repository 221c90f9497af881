"""What the job behind all cells of a submission runs. It starts hpcseg's own commands, and imports nothing of them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import submitit


@dataclass(frozen=True)
class ReportTask(submitit.helpers.Checkpointable):
    """What follows when all cells of a submission have ended: another try for some, and the report."""

    run: str
    """Absolute path of the run's folder."""

    def __call__(self) -> None:
        """Runs `hpcseg follow-up`, then `hpcseg report`; raises CalledProcessError when the report fails."""
        # A site may forbid a job to submit jobs. That is said in the log; what is missing is a hole in the report.
        self._hpcseg("follow-up")
        self._hpcseg("report").check_returncode()

    def _hpcseg(self, verb: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([sys.executable, "-P", "-m", "hpcseg", verb, "--run", self.run], check=False)
