"""`lyra keys`: API keys of the gateway."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cli.connection import lyra_home, private_home
from cli.console import note, out
from cli.failure import CommandFailed

if TYPE_CHECKING:
    from services.gateway.http.keys import Key

app = typer.Typer(no_args_is_help=True, help="API keys of the gateway. Only their hashes are stored.")

_DURATION = re.compile(r"(\d{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SOON = timedelta(days=14)
_DAY = len("2027-01-31")  # the date of an ISO time


def _duration(text: str) -> timedelta:
    """`90d` -> 90 days."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not int(match[1]):
        raise typer.BadParameter(f"{text!r} is not a duration; write 90d, 12h or 4w")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _time(text: str) -> datetime:
    """ISO 8601; without a time zone it is UTC."""
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time; write 2027-01-31 or 2027-01-31T12:00:00+01:00") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for; shown in the list.")],
    tenant: Annotated[str, typer.Option(help="Requests are queued fairly between tenants.")] = "default",
    expires_in: Annotated[
        timedelta | None,
        typer.Option(parser=_duration, metavar="TIME", help="How long it is valid: 90d, 12h, 4w. By default forever."),
    ] = None,
    expires_at: Annotated[
        datetime | None,
        typer.Option(parser=_time, metavar="TIME", help="Until when it is valid: ISO 8601, UTC without a time zone."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the bare key.")] = False,
) -> None:
    """Create a key and show it once.

    \b
    Examples:
      lyra keys create "web shop"
      lyra keys create "web shop" --expires-in 90d
      export LYRA_API_KEY=$(lyra keys create laptop)
    """
    from services.gateway.http.keys import KeyStore

    if not tenant.strip():
        raise typer.BadParameter("must not be empty", param_hint="--tenant")
    if expires_in is not None and expires_at is not None:
        raise typer.BadParameter("cannot be combined with --expires-in", param_hint="--expires-at")
    if expires_in is not None:
        try:
            expires_at = datetime.now(UTC) + expires_in
        except OverflowError:
            raise typer.BadParameter("is too far in the future", param_hint="--expires-in") from None
    with _failures("the key could not be stored, so it was not created"):
        try:
            key, secret = KeyStore(private_home()).create(tenant, name, expires_at)
        except ValueError as error:
            raise CommandFailed(str(error)) from error
    if as_json:
        kept = {"id": key.id, "tenant": key.tenant, "name": key.name, "expires": key.expires or None}
        typer.echo(json.dumps({**kept, "key": secret}))
        return
    until = f" It expires on {_when(key.expires_at)}." if key.expires_at else ""
    note(f"{key.id} for tenant {key.tenant}.{until} The key is shown only once:")
    typer.echo(secret)


@app.command("list")
def list_keys() -> None:
    """List all keys, without their values.

    \b
    Example:
      lyra keys list
    """
    from services.gateway.http.keys import KeyStore

    with _failures("the keys cannot be read"):
        keys = KeyStore(lyra_home()).list()
    if not keys:
        note("no keys yet: create one with `lyra keys create NAME`")
        return
    table = Table(box=None, header_style="bold")
    for title in ("id", "tenant", "name", "created", "expires", "revoked"):
        table.add_column(title, no_wrap=title not in ("tenant", "name"))
    for key in keys:
        table.add_row(key.id, key.tenant, key.name, key.created[:_DAY], _expiry(key), key.revoked[:_DAY] or "no")
    out.print(table)
    if soon := _expire_soon(keys):
        note(f"{soon} within {_SOON.days} days: create new ones with `lyra keys create NAME --expires-in 90d`")


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="As `lyra keys list` shows it.")]) -> None:
    """Revoke a key permanently; a running gateway refuses it from the next request on.

    \b
    Example:
      lyra keys revoke key_3f9a1c0b7d52
    """
    from services.gateway.http.keys import KeyStore, UnknownKey

    with _failures(f"{key_id} could not be revoked and is still valid"):
        try:
            key = KeyStore(lyra_home()).revoke(key_id)
        except UnknownKey as error:
            raise CommandFailed(str(error), "see `lyra keys list`") from error
    note(f"{key.id} ({key.name or key.tenant}) is revoked")


@contextmanager
def _failures(what: str) -> Iterator[None]:
    """Turns a full disk, a read-only folder and a damaged file into CommandFailed; the message starts with `what`."""
    from services.gateway.http.keys import KeyStore, KeysUnreadable

    try:
        yield
    except KeysUnreadable as error:
        raise CommandFailed(f"{what}: {error}", f"repair or remove {KeyStore(lyra_home()).path}") from error
    except OSError as error:
        hint = f"check the disk and the permissions of {lyra_home()}, or set LYRA_HOME to another folder"
        raise CommandFailed(f"{what}: {error.strerror or error}", hint) from error


def _expiry(key: "Key") -> str:
    return _when(key.expires_at) if key.expires_at else "never"


def _when(time: datetime) -> str:
    """`2027-01-31 (in 90 days)`, in UTC."""
    left = time - datetime.now(UTC)
    if left <= timedelta():
        distance = "expired"
    elif left < timedelta(hours=2):
        distance = f"in {max(1, round(left.total_seconds() / 60))} min"
    elif left < timedelta(days=2):
        distance = f"in {round(left.total_seconds() / 3600)} hours"
    else:
        distance = f"in {round(left.total_seconds() / 86400)} days"
    return f"{time.astimezone(UTC).date()} ({distance})"


def _expire_soon(keys: "tuple[Key, ...]") -> str:
    """`2 keys expire`, or an empty string."""
    from services.gateway.http.keys import KeyState

    now = datetime.now(UTC)
    ending = [key for key in keys if key.state(now) is KeyState.GOOD and key.state(now + _SOON) is KeyState.EXPIRED]
    return "" if not ending else "1 key expires" if len(ending) == 1 else f"{len(ending)} keys expire"
