"""`lyra webhooks`: signing secrets of callbacks."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cli.connection import lyra_home
from cli.console import note, out
from cli.failure import CommandFailed

if TYPE_CHECKING:
    from services.shared.webhooks.secrets import SecretStore, WebhookSecret

app = typer.Typer(no_args_is_help=True, help="Callbacks of jobs.")
secrets = typer.Typer(no_args_is_help=True, help="Secrets that callbacks are signed with.")
app.add_typer(secrets, name="secrets")

SecretId = Annotated[str, typer.Argument(metavar="ID", help="As `lyra webhooks secrets list` shows it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the bare secret.")]


@secrets.command()
def create(
    name: Annotated[str, typer.Argument(help="What the secret is for; shown in the list.")],
    tenant: Annotated[str, typer.Option(help="Tenant whose jobs may use it: that of their API key.")] = "default",
    as_json: AsJson = False,
) -> None:
    """Create a secret and show it. Jobs refer to it by id; the receiver verifies signatures with it.

    \b
    Example:
      lyra webhooks secrets create "web shop" --tenant shop
    """
    with _store() as store:
        try:
            _show(store.create(tenant, name), as_json)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--tenant") from error


@secrets.command("list")
def list_secrets() -> None:
    """List all secrets, without their values.

    \b
    Example:
      lyra webhooks secrets list
    """
    table = Table("id", "tenant", "name", "created", "signs with", "revoked", box=None, header_style="bold")
    now = datetime.now(UTC)
    with _store() as store:
        for each in store.list():
            revoked = _day(each.revoked) if each.revoked else "no"
            table.add_row(each.id, each.tenant, each.name, _day(each.created), _count(len(each.active(now))), revoked)
    if not table.row_count:
        note("no secrets yet: make one with `lyra webhooks secrets create NAME`")
        return
    out.print(table)


@secrets.command()
def rotate(
    secret_id: SecretId,
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Revoke the old secret now, for example if it was leaked.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Create a new secret under the same id and show it. For a day, callbacks are signed with the old one too.

    \b
    Example:
      lyra webhooks secrets rotate whk_3f9a1c0b7d52
    """
    from services.shared.webhooks.secrets import OVERLAP

    with _store() as store:
        _show(store.rotate(secret_id, timedelta() if at_once else OVERLAP), as_json)


@secrets.command()
def revoke(secret_id: SecretId) -> None:
    """Revoke a secret permanently. Pending callbacks that need it are not sent.

    \b
    Example:
      lyra webhooks secrets revoke whk_3f9a1c0b7d52
    """
    with _store() as store:
        revoked = store.revoke(secret_id)
    note(f"{revoked.id} ({revoked.name or revoked.tenant}) is revoked")


@contextmanager
def _store() -> Iterator["SecretStore"]:
    """The secret store of this machine; its errors become CommandFailed."""
    from services.shared.settings import load
    from services.shared.webhooks.secrets import SecretStore, SecretsUnreadable, UnknownSecret
    from services.shared.webhooks.settings import WebhookSettings

    store = SecretStore(load(WebhookSettings, "lyra webhooks", ()).secrets_path(lyra_home()))
    try:
        yield store
    except UnknownSecret as error:
        raise CommandFailed(str(error), "see `lyra webhooks secrets list`") from error
    except (SecretsUnreadable, OSError) as error:
        raise CommandFailed(f"{store.path}: {error}") from error


def _show(made: "WebhookSecret", as_json: bool) -> None:
    secret = made.signers[0].secret
    if as_json:
        typer.echo(json.dumps({"id": made.id, "tenant": made.tenant, "name": made.name, "secret": secret}))
        return
    note(f"{made.id} for tenant {made.tenant}. The secret is shown only once:")
    typer.echo(secret)


def _count(signers: int) -> str:
    return "1 secret" if signers == 1 else f"{signers} secrets"


def _day(time: datetime) -> str:
    return time.strftime("%Y-%m-%d")
