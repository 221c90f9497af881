"""The verb `report`: the records of a run become tables and figures."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpcseg.cli import console
from hpcseg.cli.options import AsJson
from hpcseg.cli.state_table import in_words
from hpcseg.cli.watching import look, looks
from hpcseg.errors import ConfigError
from hpcseg.runs.finding import find_run
from hpcseg.runs.gate import belongs_to_user, place_inside
from hpcseg.signals import like_ctrl_c
from hpcseg.text import counted

if TYPE_CHECKING:
    from hpcseg.cluster.states import RunStatus
    from hpcseg.report.build import Report
    from hpcseg.runs.folder import RunFolder

# What a page of some dozen cells takes to build, several times.
_SECONDS_BETWEEN_PAGES = 60


def report(
    run: Annotated[
        Path | None, typer.Option(help="Folder of the run, or a published one.", show_default="the newest in runs/")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where the report goes.", show_default="RUN/report")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="The packed data set, for the baselines.", show_default="where the run was planned"),
    ] = None,
    publish: Annotated[
        Path | None, typer.Option(help="Also copy the cells' small records and the report here.", show_default=False)
    ] = None,
    live: Annotated[
        bool,
        typer.Option("--live", help="Build it again and again until all cells have ended; the page reloads itself."),
    ] = False,
    every: Annotated[
        int, typer.Option(min=1, metavar="SECONDS", help="Seconds between two pages of --live, at least.")
    ] = _SECONDS_BETWEEN_PAGES,
    as_json: AsJson = False,
) -> None:
    """Build the tables and figures of a run from its records, and one page of them all, also while it runs."""
    if live and publish:
        raise ConfigError(
            "--live is for a run that goes on, and --publish for one that has ended. Leave one of them out."
        )
    from hpcseg.cli.next_step import after_report
    from hpcseg.records.cells import cells_of_report
    from hpcseg.report.build import build_report
    from hpcseg.report.build import publish as publish_records
    from hpcseg.runs.tested import missing_baselines

    folder = find_run(run)
    with console.json_answer(as_json) as answer:
        out = out or place_inside(folder, folder.report)
        others = cells_of_report(out)
        if live:
            _follow(folder, out, every)
        missing = _make_baselines(folder, data) if missing_baselines(folder) else ()
        unfinished = any(not cell.evaluation_file.exists() for cell in folder.cell_folders())
        built = build_report(folder, out, under_way=_under_way(look(folder)) if unfinished else ())
        if others - {row.id for row in built.content.records.rows}:
            console.note(
                f"the report that was in {out} had cells of other settings, and this one "
                "replaces it. To keep both, give --out; `hpcseg compare` sets them side by side."
            )
        written = list(built.written)
        if publish:
            written += publish_records(folder, publish).written
            _say_what_is_published(folder, publish)
        answer["run"] = str(folder.path)
        show_report(built, missing, written, answer)
        for line in after_report(built.content.records).splitlines():
            console.stdout.print(line)


def _follow(run: RunFolder, out: Path, seconds: int) -> None:
    """Build the report again and again while cells run or wait; what it leaves is a page that says nothing of that."""
    from hpcseg.report.build import build_report, end_page
    from hpcseg.report.page import Live

    built, told = None, ""
    try:
        with like_ctrl_c():
            for found in looks(run, seconds=seconds):
                if found.idle:
                    continue
                cells = in_words(found.counts())
                now = Live(time.strftime("%Y-%m-%d %H:%M:%S %Z"), cells, seconds)
                built = build_report(run, out, now, _under_way(found))
                if not told:
                    page = out / "report.html"
                    console.stdout.print(f"{page} is written every {seconds} seconds until all cells have ended.")
                if cells != told:
                    console.stdout.print(told := cells)
    except KeyboardInterrupt:
        raise console.stopped() from None
    finally:
        if built is not None:
            end_page(built, out)


def _under_way(found: RunStatus) -> frozenset[str]:
    """Ids of the cells that run or wait for it."""
    return frozenset(cell.cell for cell in found.status if not cell.state.idle)


def _make_baselines(run: RunFolder, data: Path | None) -> tuple[str, ...]:
    if not belongs_to_user(run.path) or run.baselines.is_symlink():
        return (f"There are no baselines: {run.baselines} is not yours, so nothing is written to it.",)
    # Takes torch, which a report that has them all does without.
    from hpcseg.runs.baseline import make_baselines

    with console.progress_bar() as bar:
        task = bar.add_task("baselines", total=None)
        return make_baselines(run, data, lambda done, of: bar.update(task, completed=done, total=of))


def _say_what_is_published(run: RunFolder, folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    console.say(
        f"Published in {folder}: {counted(len(files), 'file')}, {_size(files)}. They say with which settings, which "
        "commands, when and on which hosts the cells ran; no weights, no logs, no --setup lines.",
        to=console.stderr,
    )
    diffs = {path.name for path in folder.glob("code-*.diff")}
    for path in sorted(run.path.glob("code-*.diff")):
        if path.name in diffs:
            said = f"{path.name} is published ({_size([path])}): what was changed in the checkout. Look into it first."
        else:
            said = f"{path.name} is not published, since it is not what grid.json names."
        console.note(said)


def _size(files: Sequence[Path]) -> str:
    return f"{sum(path.stat().st_size for path in files) / 1000:,.0f} kB"


def show_report(built: Report, missing: Sequence[str], written: Sequence[Path], answer: dict[str, Any]) -> None:
    """Print what a report says, what it lacks (`missing` beside its own notes), and the files that were written.

    `answer` gets the same for a script.
    """
    answer |= {
        "answers": [dataclasses.asdict(one) for one in built.content.answers],
        "headlines": built.headlines,
        "notes": [*built.content.notes, *missing],
        "holes": [dataclasses.asdict(hole) for hole in built.content.holes],
        "planned_with": built.content.planned_with,
        "written": [str(path) for path in written],
    }
    for one in built.content.answers:
        console.say(f"{one.question} {one.text}".strip())
    for line in built.headlines:
        console.stdout.print(line)
    if built.headlines:
        console.stdout.print("(in brackets: the paper)")
    for note in (*built.content.notes, *missing):
        console.say(f"Note: {note}")
    told = built.content.told
    if told:
        console.stdout.print(f"{counted(sum(map(len, told.values())), 'hole')}:")
    for remedy, of in told.items():
        console.say(f"  {remedy}")
        for hole in of:
            console.say(f"    {hole}")
    if built.content.planned_with:
        console.stdout.print(f"The run was planned with: {built.content.planned_with}")
    for path in written:
        console.stdout.print(f"wrote {path}")
