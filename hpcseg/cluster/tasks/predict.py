"""What the jobs of a prediction run: one part of the volume each, and the join behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import submitit

from hpcseg.cluster.tasks.stop import StopFlag


class PredictTask:
    """Segments a part of a volume and goes on after a requeue.

    Args:
        out: absolute path of the prediction's folder.
        part: from 0.
        parts: of the volume.
    """

    def __init__(self, out: str, part: int, parts: int) -> None:
        self.out = out
        self.part = part
        self.parts = parts

    def __call__(self) -> str:
        """Write the slices of the part that are missing; returns "finished"."""
        from hpcseg.predict.request import begin, part_of, read_request
        from hpcseg.predict.work import work

        stop = StopFlag()
        prediction = begin(read_request(Path(self.out)))
        own = part_of(prediction.missing(), len(prediction.volume), self.part, self.parts)
        if not work(prediction, own, part=self.part, should_stop=stop):
            stop.hand_over()
        stop.no_more()
        return "finished"

    def checkpoint(self) -> Any:
        """The same: its journal says which slices are written."""
        return submitit.helpers.DelayedSubmission(self)


class JoinTask:
    """What follows when all parts of a prediction have ended: the files get their names, the fractions are added up.

    Args:
        out: absolute path of the prediction's folder.
    """

    def __init__(self, out: str) -> None:
        self.out = out

    def __call__(self) -> None:
        """Finish the prediction; raises IncompleteError where slices are missing."""
        from hpcseg.errors import IncompleteError
        from hpcseg.predict.request import begin, read_request
        from hpcseg.predict.work import finish

        prediction = begin(read_request(Path(self.out)))
        missing = prediction.missing()
        if missing:
            raise IncompleteError(
                f"{len(missing)} slices of {self.out} are missing: see the logs of the parts in {self.out}/logs. The "
                "same `hpcseg predict` submits what is missing."
            )
        finish(prediction)

    def checkpoint(self) -> Any:
        """It starts again."""
        return submitit.helpers.DelayedSubmission(self)
