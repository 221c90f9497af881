"""What the jobs of a prediction run: one part of the volume each, and the join behind them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import submitit

from hpcseg.cluster.tasks.stop import StopFlag


@dataclass(frozen=True)
class PredictTask(submitit.helpers.Checkpointable):
    """Segments a part of a volume and goes on after a requeue; its journal says which slices are written."""

    out: str
    """Absolute path of the prediction's folder."""
    part: int
    """From 0."""
    parts: int
    """Of the volume."""

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


@dataclass(frozen=True)
class JoinTask(submitit.helpers.Checkpointable):
    """What follows when all parts of a prediction have ended: the files get their names, the fractions are added up."""

    out: str
    """Absolute path of the prediction's folder."""

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
