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
    from services.shared.pipeline.adapter_admin import AdapterServices
    from services.shared.rpc.credentials import ClientCredentials

app = typer.Typer(
    no_args_is_help=True,
    help="Adapters of the language model and their speech projectors: loaded and unloaded while requests run. "
    "Speaks to the two services themselves, not to the gateway, with the operator's token: that of the stack on this "
    "machine, or the file that LYRA_OPERATOR_TOKEN_FILE names.",
)

NameArgument = Annotated[str, typer.Argument(help="Name of its folder in the services' folder of adapters.")]
LanguageModelOption = Annotated[
    str | None,
    typer.Option(
        "--language-model",
        envvar="LYRA_LANGUAGE_MODEL_ADDRESS",
        help="host:port; without it, the stack that runs on this machine.",
    ),
]
SpeechEncoderOption = Annotated[
    str | None,
    typer.Option(
        "--speech-encoder",
        envvar="LYRA_SPEECH_ENCODER_ADDRESS",
        help="host:port; without it, the stack that runs on this machine.",
    ),
]

T = TypeVar("T")


@app.command("list")
def list_adapters(language_model: LanguageModelOption = None, speech_encoder: SpeechEncoderOption = None) -> None:
    """Show the adapters that requests may name, and those that could be loaded.

    \b
    Example:
      lyra adapters list
    """
    table = Table("adapter", "resident in", "can be loaded by", box=None, header_style="bold")
    for state in _ask(language_model, speech_encoder, lambda services: services.list()):
        table.add_row(state.name, _words(state.resident), _words(state.available))
    out.print(table)


@app.command()
def load(
    name: NameArgument, language_model: LanguageModelOption = None, speech_encoder: SpeechEncoderOption = None
) -> None:
    """Make an adapter resident; where one of the two services fails, the other forgets it again.

    \b
    Example:
      lyra adapters load long_speech
    """
    loaded = _ask(language_model, speech_encoder, lambda services: services.load(name))
    note(f"{name} is resident now in: {_words(loaded)}")


@app.command()
def unload(
    name: NameArgument, language_model: LanguageModelOption = None, speech_encoder: SpeechEncoderOption = None
) -> None:
    """Take an adapter out of memory, after the requests that run with it.

    \b
    Example:
      lyra adapters unload long_speech
    """
    unloaded = _ask(language_model, speech_encoder, lambda services: services.unload(name))
    note(f"{name} is gone from: {_words(unloaded)}")


def _ask(
    language_model: str | None, speech_encoder: str | None, work: Callable[["AdapterServices"], Awaitable[T]]
) -> T:
    from services.shared.pipeline.adapter_admin import AdapterServices
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
        services = AdapterServices.open(addresses, credentials)
        try:
            return await work(services)
        finally:
            await services.close()

    try:
        return asyncio.run(call())
    except Unavailable as error:
        raise CommandFailed(str(error), START_HINT) from error
    except ServiceError as error:
        raise CommandFailed(str(error)) from error


def _operator(*, local: bool) -> "ClientCredentials":
    """Who asks: with the operator's token, else with that of services, which is enough to list. Raises SecretFileError.

    The local stack's token is shown to nobody but the local stack.
    """
    from services.shared.rpc.credentials import ClientCredentials
    from services.shared.rpc.tokens import TokenFile
    from services.shared.settings import ServiceAccessSettings

    known = ClientCredentials.from_settings(ServiceAccessSettings())
    path = os.environ.get("LYRA_OPERATOR_TOKEN_FILE") or (local_operator_token() if local else None)
    return replace(known, token=TokenFile(Path(path))) if path else known


def _words(services: tuple[str, ...]) -> str:
    return ", ".join(service.replace("_", " ") for service in services)
