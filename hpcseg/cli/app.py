"""The Typer application: which verbs there are, and how an error is shown."""

from __future__ import annotations

import io
import sys
from typing import Annotated, Any

import typer

from hpcseg import __version__
from hpcseg.cli import console
from hpcseg.cli.bench import bench
from hpcseg.cli.cancel import cancel
from hpcseg.cli.clean import clean
from hpcseg.cli.compare import compare
from hpcseg.cli.demo import demo
from hpcseg.cli.doctor import doctor
from hpcseg.cli.export import export
from hpcseg.cli.follow_up import follow_up
from hpcseg.cli.grid import grid
from hpcseg.cli.logs import logs
from hpcseg.cli.pack import info, pack
from hpcseg.cli.predict import predict
from hpcseg.cli.report import report
from hpcseg.cli.retry import retry
from hpcseg.cli.status import status
from hpcseg.cli.train import train
from hpcseg.errors import HpcsegError

_STOPPED = 130  # as a shell says of a program that Ctrl-C has ended


class ErrorsAsText(typer.core.TyperGroup):
    """Ends a command that meets an HpcsegError, or Ctrl-C, with one line on stderr and an exit code that says so."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; see the class. The context is click's, which typer brings in one form or another."""
        try:
            return super().invoke(ctx)
        except HpcsegError as error:
            code, text = error.exit_code, str(error)
        except KeyboardInterrupt:
            code, text = _STOPPED, "stopped"
        except BrokenPipeError:
            raise
        except OSError as error:
            # Every name on a command line can be too long, a folder that nobody may enter, on a disk that is gone.
            code, text = HpcsegError.exit_code, f"{error.filename}: {error.strerror}" if error.filename else str(error)
        console.stderr.print(f"error: {text}", style="bold red")
        raise typer.Exit(code)


app = typer.Typer(
    name="hpcseg",
    cls=ErrorsAsText,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="U-Net segmentation experiments on X-ray slices: pack the data, run the grid, read the report.",
)


def _version(wanted: bool) -> None:
    if wanted:
        console.stdout.print(f"hpcseg {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


app.command(rich_help_panel="Start")(demo)
app.command(rich_help_panel="Data")(pack)
app.command(rich_help_panel="Data")(info)
app.command(rich_help_panel="Experiment")(grid)
app.command(rich_help_panel="Experiment")(status)
app.command(rich_help_panel="Experiment")(report)
app.command(rich_help_panel="Experiment")(compare)
app.command(rich_help_panel="Use a model")(predict)
app.command(rich_help_panel="Use a model")(export)
app.command(rich_help_panel="Operation")(doctor)
app.command(rich_help_panel="Operation")(bench)
app.command(rich_help_panel="Operation")(logs)
app.command(rich_help_panel="Operation")(retry)
app.command(rich_help_panel="Operation")(cancel)
app.command(rich_help_panel="Operation")(clean)
app.command(rich_help_panel="Operation")(train)
app.command(hidden=True)(follow_up)


def main() -> None:
    """The console script `hpcseg`."""
    for stream in (sys.stdout, sys.stderr):
        # A file name need not be text in the terminal's encoding.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()
