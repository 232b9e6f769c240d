"""Finding the gateway: by options, by the environment, or the stack that runs on this machine."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from cli.failure import CommandFailed
from services.shared.private_files import FolderNotPrivate, make_private

START_HINT = (
    "start a stack with `lyra serve` in another terminal, or name one with LYRA_URL and LYRA_API_KEY (or --url, --key)"
)

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="LYRA_URL", help="Address of the gateway; by default the stack that runs on this machine."
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option("--key", envvar="LYRA_API_KEY", help="API key; without it, the local stack's development key."),
]


@dataclass(frozen=True, slots=True)
class Connection:
    """Address and key of a gateway."""

    url: str
    key: str


def lyra_home() -> Path:
    """The folder of weights, keys and run state: $LYRA_HOME, or ~/.cache/lyra."""
    return Path(os.environ.get("LYRA_HOME") or Path.home() / ".cache" / "lyra")


def private_home() -> Path:
    """`lyra_home()`, created if missing and made private, unless it belongs to another user."""
    with suppress(FolderNotPrivate):
        make_private(lyra_home())
    return lyra_home()


def find_gateway(url: str | None, key: str | None) -> Connection:
    """The gateway to use.

    Args:
        url, key: From options or the environment; missing values are taken from the running local stack.

    Raises:
        CommandFailed: no gateway is given and no local stack runs.
    """
    if url:
        return Connection(url.rstrip("/"), key or "")
    local = _local_stack()
    if local is None:
        raise CommandFailed("no Lyra stack runs on this machine", START_HINT)
    return Connection(local.url, key or local.key)


def local_services() -> dict[str, str]:
    """host:port of each model service of the running local stack, by name; empty if none runs."""
    state = local_state()
    try:
        return {str(name): str(service["address"]) for name, service in state["services"].items()} if state else {}
    except (KeyError, TypeError, AttributeError):
        return {}


def local_operator_token() -> Path | None:
    """File of the operator's token of the running local stack; None if none runs."""
    state = local_state()
    return Path(str(state["operator_token_file"])) if state and "operator_token_file" in state else None


def _local_stack() -> Connection | None:
    state = local_state()
    try:
        return Connection(str(state["url"]).rstrip("/"), str(state["key"])) if state else None
    except KeyError:
        return None


def local_state() -> dict[str, Any] | None:
    """The state file of `lyra serve`, if that process still runs."""
    try:
        state: dict[str, Any] = json.loads((lyra_home() / "run" / "stack.json").read_text())
        return state if psutil.pid_exists(int(state["pid"])) else None
    except (FileNotFoundError, json.JSONDecodeError, KeyError, ValueError):
        return None
