"""The `lyra` command: one module per group of commands; heavy modules are imported by the commands that need them."""

from importlib.metadata import version
from typing import Annotated

import typer

from cli import (
    adapters,
    ask,
    audio,
    cluster,
    data,
    demo,
    evaluate,
    jobs,
    keys,
    media,
    parity,
    serve,
    top,
    train,
    webhooks,
    weights,
)
from cli.failure import Commands

app = typer.Typer(
    name="lyra",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lyra {version('lyra-platform')}")
        raise typer.Exit


@app.callback()
def main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Lyra: text, pictures and speech in; text and speech out.

    \b
    Start here:
      lyra demo                     a spoken question about a picture, answered
      lyra serve                    the whole stack on this machine, until Ctrl-C
      lyra ask "Who are you?"       in a second terminal

    Every command has help: lyra COMMAND --help. Exit codes: 0 success, 1 failure, 2 usage error.
    """


app.command("serve", rich_help_panel="Run")(serve.serve)
app.command("demo", rich_help_panel="Run")(demo.demo)
app.command("ask", rich_help_panel="Use a running stack")(ask.ask)
app.command("transcribe", rich_help_panel="Use a running stack")(audio.transcribe)
app.command("speak", rich_help_panel="Use a running stack")(audio.speak)
app.command("top", rich_help_panel="Use a running stack")(top.top)
app.add_typer(media.app, name="media", rich_help_panel="Use a running stack")
app.add_typer(jobs.app, name="jobs", rich_help_panel="Use a running stack")
app.add_typer(weights.app, name="weights", rich_help_panel="Manage")
app.add_typer(adapters.app, name="adapters", rich_help_panel="Manage")
app.add_typer(keys.app, name="keys", rich_help_panel="Manage")
app.add_typer(webhooks.app, name="webhooks", rich_help_panel="Manage")
app.add_typer(cluster.app, name="cluster", rich_help_panel="Manage")
app.add_typer(data.app, name="data", rich_help_panel="Train and measure")
app.add_typer(train.app, name="train", rich_help_panel="Train and measure")
app.add_typer(evaluate.app, name="eval", rich_help_panel="Train and measure")
app.command("parity", rich_help_panel="Train and measure")(parity.parity)
