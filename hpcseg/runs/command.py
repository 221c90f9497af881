"""The plan of a run in, the command that goes on with it out."""

from __future__ import annotations

import itertools
import os.path
import shlex
from pathlib import Path

from hpcseg.runs.folder import RUNS, RunFolder
from hpcseg.runs.schema import CellPlan, Plan


def command_that_runs(run: RunFolder, plan: Plan | CellPlan) -> str:
    """The command that runs the cells of a run, or a cell of other settings: that which planned it, or with the options
    of `hpcseg train`, which planned them all and runs one; of a notebook's the call; of others one of the same job.

    It names this folder where that is another one by now, as a copy is. A published run has no ledger, and goes on in a
    folder that its reader makes: there the command is as it was.
    """
    try:
        words, job = shlex.split(plan.command or ""), plan.job or ""
    except ValueError:  # of a damaged config.json
        words, job = [], plan.job or ""
    if words[:2] == ["hpcseg", "train"]:
        # All of its options have a value, behind them or behind a "="; what is left is the cell.
        options = (
            word
            for before, word in itertools.pairwise(words)
            if word.startswith("--") or (before.startswith("--") and "=" not in before)
        )
        words = ["hpcseg", "grid", *options]
    elif words == ["hpcseg.api"]:  # which settings it gave stands nowhere
        return "hpcseg.api.train(...)"
    elif words[:2] != ["hpcseg", "grid"]:
        words = ["hpcseg", "grid", "--job", job]
    said, others = RUNS / job, list[str]()
    for before, word in itertools.pairwise(["", *words]):
        if before == "--run" or word.startswith("--run="):
            said = Path(word.removeprefix("--run="))
        elif word not in ("--run", "--json"):
            others.append(word)
    if run.submissions_file.exists() and os.path.realpath(said) != os.path.realpath(run.path):
        words = [*others, "--run", str(run.path)]
    return shlex.join(word for word in words if word != "--json")
