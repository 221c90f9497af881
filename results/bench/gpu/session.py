"""What a GPU machine is to tell, in five parts, each a list of commands with a time limit of its own.

    python3 results/bench/gpu/session.py prepare DATA        before: wheels and data into .gpu/, in pieces that travel
    python3 results/bench/gpu/session.py A                   on the machine; then B, C and D, one behind the other
    python3 results/bench/gpu/session.py E --job readings    there, for a job of many cells; again, it goes on
    python3 results/bench/gpu/session.py collect FOLDER...   after: what came back becomes a record in this folder

The machine needs PyTorch and nothing else: no network, no Slurm, no installed hpcseg. The README beside this file says
what the parts do and what to look at. Needs the standard library alone. A part writes into $OUT: few files, none large.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from parts import KIT, ON_CPU, ON_GPU, ROOT, Job, Part
from running import run
from travel import collect, pack_records, prepare, unpack, unpack_records


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for part in ("A", "B", "C", "D", "E"):
        verb = verbs.add_parser(part)
        verb.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: everything at a small size")
        verb.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "hpcseg-gpu")
        verb.add_argument("--carried", type=Path, default=ROOT / ".gpu", help="what `prepare` has made")
        verb.add_argument("--data", type=Path, help="folder with the real slices, where they need not be carried")
        verb.add_argument("--seconds", type=float, default=570, help="for the whole part")
        if part == "E":
            verb.add_argument("--job", default="readings")
            verb.add_argument("--set", action="append", default=[], help="as hpcseg grid's")
            verb.add_argument("--processes", type=int, default=5)
            verb.add_argument("--records", type=Path, help="records-JOB.tgz of an earlier session, to go on from there")
    verb = verbs.add_parser("bring", help="only keep the piece of the data that came along")
    verb.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "hpcseg-gpu")
    verb.add_argument("--carried", type=Path, default=ROOT / ".gpu")
    verb = verbs.add_parser("records", help="a run's finished cells, without models, in one archive")
    verb.add_argument("run", type=Path)
    verb.add_argument("archive", type=Path)
    verb = verbs.add_parser("prepare")
    verb.add_argument("data", type=Path)
    verb.add_argument("--megabytes", type=int, default=64, help="MiB that one call may copy, the checkout included")
    verb.add_argument("--carried", type=Path, default=ROOT / ".gpu", help="where it goes")
    verb.add_argument("--no-wheels", dest="wheels", action="store_false")
    verb = verbs.add_parser("collect")
    verb.add_argument("folders", type=Path, nargs="+")
    verb.add_argument("--into", type=Path, default=KIT)
    verb.add_argument("--runs", type=Path, default=ROOT / "runs", help="where runs of the jobs' records go")
    asked = parser.parse_args()
    if asked.verb == "prepare":
        prepare(asked.data, asked.carried, megabytes=asked.megabytes, wheels=asked.wheels)
    elif asked.verb == "collect":
        collect(asked.folders, asked.into, asked.runs)
    elif asked.verb == "bring":
        unpack(asked.carried, asked.work.resolve(), asked.work.resolve() / "site")
    elif asked.verb == "records":
        pack_records(asked.run, asked.archive)
    else:
        raise SystemExit(not _run_part(asked))


def _run_part(asked: argparse.Namespace) -> bool:
    """Whether all went well."""
    work = asked.work.resolve()
    site = work / "site"
    carried = unpack(asked.carried, work, site)
    of_e = asked.verb == "E"
    part = Part(
        name=asked.verb,
        seconds=asked.seconds,
        job=Job(name=asked.job, settings=tuple(asked.set), processes=asked.processes) if of_e else None,
        size=ON_GPU if asked.device == "cuda" else ON_CPU,
        work=work,
        out=Path(os.environ.get("OUT") or work / "out" / asked.verb).resolve(),
        data=asked.data.resolve() if asked.data else carried,
    )
    if of_e and asked.records:
        unpack_records(asked.records, part.job_run)
    return run(part, asked.device, site)


if __name__ == "__main__":
    main()
