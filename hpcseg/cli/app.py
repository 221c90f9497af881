"""The Typer application: which verbs there are, and how an error is shown."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hpcseg import __version__
from hpcseg.cli import console
from hpcseg.cli.demo import demo
from hpcseg.cli.grid import grid
from hpcseg.cli.pack import info, pack
from hpcseg.cli.report import report
from hpcseg.cli.status import status
from hpcseg.cli.train import train
from hpcseg.errors import HpcsegError


class ErrorsAsText(typer.core.TyperGroup):
    """Ends a command that meets an HpcsegError with one line on stderr and the error's exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; see the class. The context is click's, which typer brings in one form or another."""
        try:
            return super().invoke(ctx)
        except HpcsegError as error:
            console.stderr.print(f"error: {error}", style="bold red")
            raise typer.Exit(error.exit_code) from None


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
app.command(rich_help_panel="Experiment")(train)
app.command(rich_help_panel="Experiment")(report)


def main() -> None:
    """The console script `hpcseg`."""
    app()
