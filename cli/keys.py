"""`lyra keys`: who may use the gateway."""

import json
from typing import Annotated

import typer
from rich.table import Table

from cli.connection import lyra_home
from cli.console import note, out
from cli.failure import CommandFailed

app = typer.Typer(no_args_is_help=True, help="API keys of the gateway. Only their hashes are kept.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for; shown in the list.")],
    tenant: Annotated[str, typer.Option(help="Who is asked to wait, fairly, when there is a queue.")] = "default",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the bare key.")] = False,
) -> None:
    """Make a key and show it, this once.

    \b
    Examples:
      lyra keys create "web shop"
      export LYRA_API_KEY=$(lyra keys create laptop)
    """
    from services.gateway.keys import KeyStore

    if not tenant.strip():
        raise typer.BadParameter("must not be empty", param_hint="--tenant")
    key, secret = KeyStore(lyra_home()).create(tenant, name)
    if as_json:
        typer.echo(json.dumps({"id": key.id, "tenant": key.tenant, "name": key.name, "key": secret}))
        return
    note(f"{key.id} for tenant {key.tenant}. This is the only time that the key is shown:")
    typer.echo(secret)


@app.command("list")
def list_keys() -> None:
    """Show all keys, without the keys themselves.

    \b
    Example:
      lyra keys list
    """
    from services.gateway.keys import KeyStore, KeysUnreadable

    table = Table("id", "tenant", "name", "created", "revoked", box=None, header_style="bold")
    try:
        for key in KeyStore(lyra_home()).list():
            table.add_row(key.id, key.tenant, key.name, key.created, key.revoked or "no")
    except KeysUnreadable as error:
        raise CommandFailed(str(error)) from error
    if not table.row_count:
        note("no keys yet: make one with `lyra keys create NAME`")
        return
    out.print(table)


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="As `lyra keys list` shows it.")]) -> None:
    """End a key for good; a running gateway refuses it from the next request on.

    \b
    Example:
      lyra keys revoke key_3f9a1c0b7d52
    """
    from services.gateway.keys import KeyStore, UnknownKey

    try:
        key = KeyStore(lyra_home()).revoke(key_id)
    except UnknownKey as error:
        raise CommandFailed(str(error), "see `lyra keys list`") from error
    note(f"{key.id} ({key.name or key.tenant}) is revoked")
