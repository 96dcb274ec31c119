"""The command `recall-evals`: one subcommand an activity, each in a module of its own, imported when it runs."""

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from .. import __version__

app = typer.Typer(
    help="How well language models use what stands in their context, and what that costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"recall-evals {__version__}")
        raise typer.Exit()


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """How well language models use what stands in their context, and what that costs."""


class _HandedOn(TyperCommand):
    """A command that parses none of its arguments, `--help` and `--` included."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.args = args
        return args


@app.command(cls=_HandedOn, options_metavar="[LM-EVAL'S FLAGS]")
def run(context: typer.Context) -> None:
    """Evaluate a model: `lm-eval run` with its own flags, and with our models and tasks wherever they are installed."""
    from .run import run as run_lm_eval

    raise typer.Exit(run_lm_eval(context.args))


@app.command()
def check(
    source: Annotated[str, typer.Argument(help="A folder with config.json and weights, or a hub id.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag, commit or refs/pr/N of a hub id.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64.")] = "float32",
) -> None:
    """The gate before a score: does this model, on this machine, answer a request the same whatever surrounds it?

    Prints a line a check with the largest difference and its bound. Exit 1: a check failed; 2: it could not run.
    """
    from .check import check as run_gate

    try:
        passed = run_gate(source, revision, device, dtype)
    except (ValueError, OSError) as error:
        typer.echo(f"recall-evals check: {error}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(0 if passed else 1)
