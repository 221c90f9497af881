"""The Typer application: which verbs there are, and how an error is shown."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from hpcseg import __version__
from hpcseg.cli import console
from hpcseg.cli.bench import bench
from hpcseg.cli.bundle import unbundled
from hpcseg.cli.cancel import cancel
from hpcseg.cli.clean import clean
from hpcseg.cli.compare import compare
from hpcseg.cli.demo import demo
from hpcseg.cli.doctor import doctor
from hpcseg.cli.examples import examples
from hpcseg.cli.export import export
from hpcseg.cli.follow_up import follow_up
from hpcseg.cli.grid import grid
from hpcseg.cli.info import info
from hpcseg.cli.init import init
from hpcseg.cli.jobs import jobs
from hpcseg.cli.logs import logs
from hpcseg.cli.pack import pack
from hpcseg.cli.predict import predict
from hpcseg.cli.report import report
from hpcseg.cli.retry import retry
from hpcseg.cli.settings import settings
from hpcseg.cli.status import status
from hpcseg.cli.suggest import suggest
from hpcseg.cli.tensorboard import tensorboard
from hpcseg.cli.train import train
from hpcseg.cli.view import view
from hpcseg.errors import HpcsegError

_AT_HOME = re.compile(r"(--[a-z-]+=|)(~)((?:/.*)?)", re.DOTALL)
_UsageError: Any = typer.BadParameter.__base__  # of click, which typer brings in one form or another
_MAY_BE_EMPTY = ("--setup", "--set")  # of these the second says itself what is wrong
_STOPPED = 130  # as a shell says of a program that Ctrl-C has ended


class ErrorsAsText(typer.core.TyperGroup):
    """Ends a command that meets an HpcsegError, or Ctrl-C, with one line on stderr and an exit code that says so."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """A ~ that the shell has left, as behind the = of an option, is the user's home; what is empty is refused."""
        for before, one in itertools.pairwise(["", *args]):
            option, equals, value = one.partition("=")
            named = option if equals and not value else before if not one else ""
            if (not one or named.startswith("--")) and named not in _MAY_BE_EMPTY:
                what = named if named.startswith("--") else "An argument"
                raise typer.BadParameter(f"{what} is empty. Is a variable of the shell not set?")
        parts = [(_AT_HOME.fullmatch(one), one) for one in args]
        args = [f"{of[1]}{os.path.expanduser(of[2] + of[3])}" if of else one for of, one in parts]
        with _errors_as_text():  # of --install-completion, which writes here
            found: list[str] = super().parse_args(ctx, args)
        return found

    def invoke(self, ctx: Any) -> Any:
        """Run the command; see the class. The context is click's."""
        with _errors_as_text():
            return super().invoke(ctx)


@contextlib.contextmanager
def _errors_as_text() -> Iterator[None]:
    try:
        yield
        return
    except HpcsegError as error:
        code, text = error.exit_code, str(error)
    except KeyboardInterrupt:
        code, text = _STOPPED, "stopped"
    except MemoryError as error:
        code, text = HpcsegError.exit_code, f"This takes more memory than there is. {error}".rstrip()
    except BrokenPipeError:
        raise
    except OSError as error:
        # Every name on a command line can be too long, a folder that nobody may enter, on a disk that is gone.
        way = "Name another file or folder, or see that it is there and yours."
        text = f"{error.filename}: {error.strerror}. {way}" if error.filename else str(error)
        code = HpcsegError.exit_code
    except _UsageError as error:
        if "unexpected extra argument" in error.message and error.ctx and error.ctx.info_name == "grid":
            error.message += ". The packed data set is named with --data."
        raise
    console.say(f"error: {text}", to=console.stderr, style="bold red")
    raise typer.Exit(code)


app = typer.Typer(
    name="hpcseg",
    cls=ErrorsAsText,
    # Alone it shows the help and ends with 2: a script that lost its arguments must not pass for one that ran.
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train U-Nets on labelled slices and segment volumes with them: pack the slices, run the grid, read the "
    "report, predict.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from hpcseg.runs.provenance import commit

        code = commit()
        console.stdout.print(f"hpcseg {__version__}" + (f" (commit {code})" if code else ""))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version, and the commit where it is known."
        ),
    ] = False,
) -> None:
    pass


def version() -> None:
    """Show the version, as --version does."""
    _version(True)


def help_(
    context: typer.Context,
    command: Annotated[str | None, typer.Argument(help="A command; without one, what there is.")] = None,
) -> None:
    """Show the help of a command, as `hpcseg COMMAND --help` does."""
    context.find_root().command.main([*([command] if command else []), "--help"], prog_name="hpcseg")


_PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Start": (demo, help_),
    "Data": (pack, info),
    "Experiment": (jobs, settings, init, grid, status, report, compare, tensorboard),
    "Use a model": (predict, view, suggest, export),
    "Operation": (doctor, bench, logs, retry, cancel, clean, train),
}
for _panel, _commands in _PANELS.items():
    for _command in _commands:
        _name = _command.__name__.rstrip("_")
        app.command(_name, rich_help_panel=_panel, epilog=examples(_name))(unbundled(_command))
for _command in (follow_up, version):
    app.command(hidden=True)(_command)


def main() -> None:
    """The console script `hpcseg`."""
    for stream in (sys.stdout, sys.stderr):
        # A file name need not be text in the terminal's encoding.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # No process that this one starts takes a module of the current folder for one of Python's or of ours.
    os.environ["PYTHONSAFEPATH"] = "1"
    app()
