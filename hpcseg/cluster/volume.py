"""A prediction in, a Slurm array of its parts and a job that joins them out.

Every part is a run of slices. All write into the files of the one prediction, each slice to its own place, and each
has a journal of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses

from hpcseg.cluster import ledger
from hpcseg.cluster.missing import unfollowed
from hpcseg.cluster.parts import division_of, part_name
from hpcseg.cluster.profile import Resources
from hpcseg.cluster.sender import NoRoomError, Sender, Submission, tidy_up
from hpcseg.cluster.submit import require_slurm, send_all
from hpcseg.cluster.tasks.predict import JoinTask, PredictTask
from hpcseg.errors import ConfigError
from hpcseg.predict.request import Prediction, part_of
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.frozen import freeze

NO_SLURM = "Leave --slurm, --partition and --profile out, and it is predicted on this machine."
"""What a user can do where there is no Slurm."""


def submit_parts(prediction: Prediction, resources: Resources, *, parts: int, dry_run: bool) -> Submission:
    """Submit the parts that have missing slices and are not in Slurm already, and the job that joins them.

    Args:
        prediction: from `begin`.
        resources: of one part.
        parts: into which the whole volume is divided, in the order of its slices.
        dry_run: build everything, submit nothing, write nothing.

    Raises:
        ConfigError: jobs of another division are in Slurm.
        SchedulerError: there is no Slurm here, it does not answer, or sbatch refused.
    """
    submission = Submission(dry_run, no_report=True, again="the same command")
    submission.no_slurm = require_slurm(NO_SLURM, dry_run=dry_run)
    run = RunFolder(prediction.folder.path)
    # A part is one process with one GPU.
    resources = dataclasses.replace(resources, nodes=1, ranks_per_node=1, gpus_per_node=min(1, resources.gpus_per_node))
    with contextlib.nullcontext() if dry_run else ledger.locked(run):
        if not dry_run:
            tidy_up(run)
        _submit(prediction, run, resources, parts, submission)
    return submission


def _submit(prediction: Prediction, run: RunFolder, resources: Resources, parts: int, submission: Submission) -> None:
    out = resources.on_nodes(str(prediction.folder.path.resolve()))
    missing, slices = prediction.missing(), len(prediction.volume)
    parts = min(parts, slices)
    wanted = {
        part_name(part, parts): PredictTask(out, part, parts)
        for part in range(parts)
        if part_of(missing, slices, part, parts)
    }
    alive, unfollowed_jobs = _alive(run)
    for part_id, (_, state) in alive.items():
        if division_of(part_id) != parts:
            raise ConfigError(
                f"{part_id} of {run.path} is in Slurm ({state}), so the volume cannot be divided into {parts} parts "
                "now. Give the same --parts as before, or wait."
            )
        submission.left_alone[part_id] = state
        wanted.pop(part_id, None)
    if not (wanted or unfollowed_jobs):
        return
    sender = Sender(run, freeze(run, write=not submission.dry_run), resources, "hpcseg-predict", submission)
    try:
        send_all(
            sender,
            list(wanted),
            lambda some: sender.send("predict", {(part_id,): wanted[part_id] for part_id in some}),
        )
    except NoRoomError as error:
        # What is in the queue runs; the same command submits the rest.
        submission.no_room = str(error)
    # Also for those that were submitted before, and run; without others where their join is gone, or had no room.
    behind = sorted({job for job, _ in alive.values() if job}) if submission.sent else unfollowed_jobs
    if not (behind or submission.sent):
        return
    try:
        sender.send_last(JoinTask(out), name="-join", behind=behind)
    except NoRoomError as error:
        # The same command joins them.
        submission.no_room = str(error)


def _alive(run: RunFolder) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """Parts whose jobs wait or run: the job without its task, and what Slurm says about it; and `unfollowed` of them.

    Where Slurm is silent, all that were submitted or may have been, and no job: whether one can still be waited for is
    not known.
    """
    booked = ledger.read(run)
    # `tidy_up` has taken back what the queue shows, so where some are left it shows nothing.
    doubtful = frozenset[str]().union(*booked.unanswered.values())
    if doubtful:
        said = "may have been submitted: neither sbatch nor squeue has answered"
        return {part: ("", said) for part in doubtful | booked.slurm_jobs().keys()}, []
    jobs = booked.slurm_jobs()
    states = booked.ask([*jobs.values(), *booked.reports]) if jobs else {}
    if states is None:
        why = "submitted as job {}, and Slurm does not answer"
        return {part: ("", why.format(job_id)) for part, job_id in jobs.items()}, []
    found = {part_id: states.get(job_id) for part_id, job_id in jobs.items()}
    alive = {
        part_id: ("" if state.hidden else jobs[part_id].split("_")[0], f"is job {jobs[part_id]}, {state.state}")
        for part_id, state in found.items()
        if state is not None and not state.ended
    }
    return alive, unfollowed(jobs.values(), booked, states)
