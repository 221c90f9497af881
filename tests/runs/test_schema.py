"""Types of records: what is refused of a damaged one, in words, and that nothing of a good one is lost."""

from __future__ import annotations

import json
import math

import pytest

from hpcseg.runs.schema import Beat, EpochLine, EvaluatedSlice, Failed, as_record

BEAT = {
    "stage": "train",
    "epoch": 2,
    "epochs": 3,
    "step": 4,
    "steps_per_epoch": 10,
    "seconds_per_step": 0.5,
    "host": "node1",
    "pid": 17,
    "job_id": None,
    "time": 1e9,
    "note": "",
}


@pytest.mark.parametrize(
    ("kind", "content", "told"),
    [
        (Beat, {**BEAT, "epoch": "2"}, "^epoch is '2'$"),
        (Beat, {**BEAT, "epoch": 2.5}, "^epoch is 2.5$"),
        (Beat, {**BEAT, "epoch": True}, "^epoch is True$"),
        (Beat, {**BEAT, "time": None}, "^time is None$"),
        (Beat, {**BEAT, "time": 10**400}, "^time is 1000000"),
        (Beat, {key: value for key, value in BEAT.items() if key != "pid"}, "^it has no pid$"),
        (Beat, [BEAT], r"^it is \[\{'epoch"),
        (Beat, None, "^it is None$"),
        (
            EpochLine,
            {"epoch": 1, "train_loss": 1, "train_accuracy": 1, "validation_loss": 1},
            "no validation_confusion$",
        ),
        (
            EvaluatedSlice,
            {"slice": 1, "pixels": 2, "right": {}, "whole": [[1, 2], [3, "x"]]},
            r"^whole\[1\]\[1\] is 'x'$",
        ),
        (EvaluatedSlice, {"slice": 1, "pixels": 2, "right": {"a.b": None}}, "^right"),
        (Failed, {"error": ["x" * 1000]}, r"^error is \['x{5,20}\.\.\.x"),
    ],
)
def test_what_is_wrong_is_said_in_few_words(kind, content, told):
    with pytest.raises(ValueError, match=told) as refused:
        as_record(kind, content)
    assert len(str(refused.value)) < 200


def test_a_whole_number_does_for_another_and_unknown_keys_are_passed_over():
    beat = as_record(Beat, {**BEAT, "seconds_per_step": 1, "later": {}})
    assert (beat.steps_done, beat.steps, beat.seconds_left) == (14, 30, 16.0)
    assert as_record(Beat, beat.as_dict()) == beat and beat.as_dict().keys() == BEAT.keys()


def test_what_is_not_a_number_is_one():
    line = {"epoch": 1, "step": 1, "train_loss": math.nan, "train_accuracy": 0, "validation_loss": math.inf}
    read = as_record(EpochLine, {**json.loads(json.dumps(line)), "validation_confusion": [[1]]})
    assert math.isnan(read.train_loss) and read.validation_loss == math.inf
