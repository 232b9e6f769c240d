"""`lyra adapters`: which adapters a running stack has, while it runs."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.table import Table

from cli.connection import START_HINT, local_operator_token, local_services
from cli.console import note, out
from cli.failure import CommandFailed

if TYPE_CHECKING:
    from services.shared.pipeline.adapter_admin import AdapterClients
    from services.shared.rpc.credentials import ClientCredentials

app = typer.Typer(
    no_args_is_help=True,
    help="Load and unload LoRA adapters and their speech projectors while requests run. "
    "Calls the language model and the speech encoder directly, not the gateway, with the operator's token: that of the "
    "stack on this machine, or the one in the file that LYRA_OPERATOR_TOKEN_FILE names.",
)

NameArgument = Annotated[str, typer.Argument(help="Name of its folder in the services' adapters folder.")]
LanguageModelOption = Annotated[
    str | None,
    typer.Option(
        "--language-model",
        envvar="LYRA_LANGUAGE_MODEL_ADDRESS",
        help="host:port; by default the stack that runs on this machine.",
    ),
]
SpeechEncoderOption = Annotated[
    str | None,
    typer.Option(
        "--speech-encoder",
        envvar="LYRA_SPEECH_ENCODER_ADDRESS",
        help="host:port; by default the stack that runs on this machine.",
    ),
]

T = TypeVar("T")


@app.command("list")
def list_adapters(language_model: LanguageModelOption = None, speech_encoder: SpeechEncoderOption = None) -> None:
    """Show the adapters that requests can name, and those that can be loaded.

    \b
    Example:
      lyra adapters list
    """
    table = Table("adapter", "resident in", "can be loaded by", box=None, header_style="bold")
    for state in _ask(language_model, speech_encoder, lambda clients: clients.list()):
        table.add_row(state.name, _listed(state.resident), _listed(state.available))
    out.print(table)


@app.command()
def load(
    name: NameArgument, language_model: LanguageModelOption = None, speech_encoder: SpeechEncoderOption = None
) -> None:
    """Load an adapter; if one of the two services fails, it is unloaded from the other.

    \b
    Example:
      lyra adapters load long_speech
    """
    loaded = _ask(language_model, speech_encoder, lambda clients: clients.load(name))
    note(f"{name} is now resident in: {_listed(loaded)}")


@app.command()
def unload(
    name: NameArgument, language_model: LanguageModelOption = None, speech_encoder: SpeechEncoderOption = None
) -> None:
    """Unload an adapter once no request uses it.

    \b
    Example:
      lyra adapters unload long_speech
    """
    unloaded = _ask(language_model, speech_encoder, lambda clients: clients.unload(name))
    note(f"{name} is unloaded from: {_listed(unloaded)}")


def _ask(language_model: str | None, speech_encoder: str | None, work: Callable[["AdapterClients"], Awaitable[T]]) -> T:
    from services.shared.pipeline.adapter_admin import AdapterClients
    from services.shared.reloading_files import SecretFileError
    from services.shared.service_errors import ServiceError, Unavailable

    addresses = local_services()
    addresses |= {"language_model": language_model} if language_model else {}
    addresses |= {"speech_encoder": speech_encoder} if speech_encoder else {}
    if not {"language_model", "speech_encoder"} <= addresses.keys():
        raise CommandFailed(
            "no Lyra stack runs on this machine",
            "start one with `lyra serve`, or name both services with --language-model and --speech-encoder",
        )

    try:
        credentials = _operator(local=not (language_model or speech_encoder))
    except SecretFileError as error:
        raise CommandFailed(str(error), "name a file with LYRA_OPERATOR_TOKEN_FILE") from error

    async def call() -> T:
        clients = AdapterClients.open(addresses, credentials)
        try:
            return await work(clients)
        finally:
            await clients.close()

    try:
        return asyncio.run(call())
    except Unavailable as error:
        raise CommandFailed(str(error), START_HINT) from error
    except ServiceError as error:
        raise CommandFailed(str(error)) from error


def _operator(*, local: bool) -> "ClientCredentials":
    """Credentials with the operator's token, or with that of services, which is enough to list. Raises SecretFileError.

    The local stack's token is sent only to the local stack.
    """
    from services.shared.rpc.credentials import ClientCredentials
    from services.shared.rpc.tokens import TokenFile
    from services.shared.settings import ServiceAccessSettings

    known = ClientCredentials.from_settings(ServiceAccessSettings())
    path = os.environ.get("LYRA_OPERATOR_TOKEN_FILE") or (local_operator_token() if local else None)
    return replace(known, token=TokenFile(Path(path))) if path else known


def _listed(services: tuple[str, ...]) -> str:
    return ", ".join(service.replace("_", " ") for service in services)
