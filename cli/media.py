"""`lyra media`: recordings, videos and pictures, uploaded once and referred to by id."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from cli.client import GatewayClient
from cli.connection import KeyOption, UrlOption, find_gateway
from cli.console import note, out, upload_bar
from cli.failure import CommandFailed
from cli.upload import DIRECT_BYTES, upload_file

app = typer.Typer(no_args_is_help=True, help="Recordings, videos and pictures kept for requests and jobs.")

_PAGE = 100

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="media-..., as `lyra media list` shows it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def upload(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Recordings, videos, pictures.")],
    direct: Annotated[
        bool,
        typer.Option("--direct", help="Upload in parts, directly to the object store; the default from 64 MiB."),
    ] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Upload files and print their ids. The same file gets the same id and is stored once.

    Uploading the same file again resumes an interrupted upload in parts.

    \b
    Examples:
      lyra media upload meeting.mp3
      lyra media upload --direct day.mp4
    """
    with GatewayClient(find_gateway(url, key)) as client:
        for file in files:
            with upload_bar(file.name, file.stat().st_size) as sent:
                media = upload_file(client, file, sent, note, 0 if direct else DIRECT_BYTES)
            typer.echo(json.dumps(media) if as_json else media["id"])


@app.command("list")
def list_media(as_json: JsonOption = False, url: UrlOption = None, key: KeyOption = None) -> None:
    """List uploaded files.

    \b
    Example:
      lyra media list
    """
    kept: list[dict[str, Any]] = []
    with GatewayClient(find_gateway(url, key)) as client:
        page: dict[str, Any] = {"has_more": True, "last_id": ""}
        while page["has_more"]:
            page = client.request("GET", "/v1/media", params={"limit": _PAGE, "after": page["last_id"]}).json()
            kept += page["data"]
    if as_json:
        typer.echo(json.dumps(kept, ensure_ascii=False, indent=2))
        return
    if not kept:
        note("no files yet: `lyra media upload FILE`")
        return
    table = Table("id", "file", "kind", "container", "length", "bytes", box=None, header_style="bold")
    for media in kept:
        length = "" if media["seconds"] is None else f"{media['seconds']:,.1f} s"
        cells = (media["id"], media["filename"], media["kind"], media["container"], length, f"{media['bytes']:,}")
        table.add_row(*cells)
    out.print(table)


@app.command()
def show(media_id: IdArgument, url: UrlOption = None, key: KeyOption = None) -> None:
    """Print the metadata of a file as JSON.

    \b
    Example:
      lyra media show media-3f9a1c0b7d52...
    """
    with GatewayClient(find_gateway(url, key)) as client:
        media = client.request("GET", f"/v1/media/{_id(media_id)}").json()
    typer.echo(json.dumps(media, ensure_ascii=False, indent=2))


@app.command()
def delete(
    media_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="As `lyra media list` shows them.")],
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Delete files. Jobs that have read them keep their results.

    \b
    Example:
      lyra media delete media-3f9a1c0b7d52...
    """
    with GatewayClient(find_gateway(url, key)) as client:
        for media_id in media_ids:
            client.request("DELETE", f"/v1/media/{_id(media_id)}")
            note(f"{media_id} is deleted")


def _id(text: str) -> str:
    """Checks an id, since it becomes part of a path."""
    if not text.startswith("media-") or not text.removeprefix("media-").isalnum():
        raise CommandFailed(f"{text!r} is not a media id", "see `lyra media list`")
    return text
