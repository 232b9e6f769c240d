"""`lyra jobs`: asynchronous jobs on long recordings."""

import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from cli.client import GatewayClient
from cli.connection import KeyOption, UrlOption, find_gateway
from cli.console import note, out, upload_bar, write_text
from cli.failure import CommandFailed
from cli.jobs_client import JobsClient
from cli.jobs_show import answers_text, job_bar, job_page, result_text, share
from cli.upload import upload_file
from services.shared.jobs.kinds import Priority, State, Task

app = typer.Typer(
    no_args_is_help=True,
    help="Transcripts, summaries and answers from long recordings, as asynchronous jobs.",
)

_MEDIA_ID = re.compile(r"media-[0-9a-f]{32}")
_SECRET_HINT = "`lyra webhooks secrets create NAME` makes one"


class ResultFormat(StrEnum):
    """Formats of a result."""

    JSON = "json"
    TEXT = "text"
    SRT = "srt"
    VTT = "vtt"


JobArgument = Annotated[str, typer.Argument(metavar="ID", help="job-..., as `lyra jobs list` shows it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Do not print the transcript while it is made.")]


@app.command()
def submit(
    recording: Annotated[
        str,
        typer.Argument(metavar="FILE_OR_MEDIA_ID", help="An audio or video file, or the media-... of one."),
    ],
    task: Annotated[
        list[Task] | None,
        typer.Option(help="What to do; may be repeated. By default a transcript; --question adds its own task."),
    ] = None,
    question: Annotated[list[str] | None, typer.Option(help="A question to answer; may be repeated.")] = None,
    language: Annotated[str, typer.Option(help="Language spoken, for example en; empty to detect it.")] = "",
    webhook: Annotated[str, typer.Option(metavar="URL", help="Called when the job has ended.")] = "",
    webhook_secret: Annotated[
        str, typer.Option(metavar="ID", help="Secret that signs the callback: whk_... of `lyra webhooks secrets list`.")
    ] = "",
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Your metadata, returned unchanged; may be repeated.")
    ] = None,
    priority: Annotated[Priority, typer.Option(help="Among your own jobs.")] = Priority.NORMAL,
    allow_gaps: Annotated[
        bool, typer.Option("--allow-gaps", help="Succeed even if a part cannot be transcribed; the result lists it.")
    ] = False,
    idempotency_key: Annotated[str, typer.Option(help="Submitting the same key again creates no second job.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Watch the job, and print its answers at the end.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Submit a recording. Prints the job's id; with --wait its transcript, summary and answers.

    A file is uploaded first; run the same command again to resume an interrupted upload.
    With --wait the exit code is 0 if the job succeeded. Ctrl-C ends the waiting, not the job.

    \b
    Examples:
      lyra jobs submit meeting.mp3
      lyra jobs submit meeting.mp3 --task transcript --task summary --question "What was decided?" --wait
      lyra jobs submit call.wav --webhook https://example.com/lyra --webhook-secret whk_0123456789ab
      lyra jobs submit media-0f3a... --question "Who speaks?" --idempotency-key order-17 --json
    """
    body = {
        "tasks": _tasks(task or [], question or []),
        "questions": question or [],
        "language": language,
        "webhook": _webhook(webhook, webhook_secret),
        "metadata": _metadata(metadata or []),
        "priority": priority.value,
        "allow_gaps": allow_gaps,
    }
    with _jobs(url, key) as jobs:
        body["media_id"] = recording if _MEDIA_ID.fullmatch(recording) else _upload(jobs, recording)
        job = jobs.submit(body, idempotency_key or secrets.token_hex(16))
        if wait:
            note(job["id"])
            _watch(jobs, job["id"], quiet, as_json)
        else:
            typer.echo(json.dumps(job, ensure_ascii=False) if as_json else job["id"])
            note(f"`lyra jobs watch {job['id']}` shows its progress")


@app.command()
def status(job: JobArgument, as_json: AsJson = False, url: UrlOption = None, key: KeyOption = None) -> None:
    """Show the state of a job, and its failures.

    \b
    Examples:
      lyra jobs status job-1f0c...
      lyra jobs status job-1f0c... --json | jq .progress
    """
    with _jobs(url, key) as jobs:
        found = jobs.show(job)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        out.print(job_page(found), soft_wrap=True)


@app.command()
def watch(
    job: JobArgument, quiet: Quiet = False, as_json: AsJson = False, url: UrlOption = None, key: KeyOption = None
) -> None:
    """Watch a job until it ends: the transcript as it becomes final, then summary and answers.

    The transcript goes to stdout, progress to stderr. If the connection breaks, it continues after the last words.
    Exit code 0 if the job succeeded, else 1.

    \b
    Examples:
      lyra jobs watch job-1f0c...
      lyra jobs watch job-1f0c... --quiet
      lyra jobs watch job-1f0c... > words.txt
    """
    with _jobs(url, key) as jobs:
        _watch(jobs, job, quiet, as_json)


@app.command()
def result(
    job: JobArgument,
    format: Annotated[
        ResultFormat | None,
        typer.Option(help="text has only the words; srt and vtt are subtitles. By default, a readable page."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--out", dir_okay=False, help="File to write; without it, the terminal.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Print or write the result of a job; for a failed one, its partial result.

    \b
    Examples:
      lyra jobs result job-1f0c...
      lyra jobs result job-1f0c... --format srt --out meeting.srt
      lyra jobs result job-1f0c... --format json | jq -r '.answers[].text'
    """
    with _jobs(url, key) as jobs:
        data = jobs.result_file(job, format.value) if format else result_text(jobs.result(job)).encode()
    if to is None:
        write_text(data.decode().rstrip("\n") + "\n")
        return
    try:
        to.write_bytes(data)
    except OSError as error:
        raise CommandFailed(f"{to} cannot be written: {error.strerror}") from error
    note(f"{to}: {len(data):,} bytes")


@app.command()
def cancel(job: JobArgument, url: UrlOption = None, key: KeyOption = None) -> None:
    """Cancel a job. Its partial transcript is not kept; a job that has ended is unchanged.

    \b
    Example:
      lyra jobs cancel job-1f0c...
    """
    with _jobs(url, key) as jobs:
        note(f"{job} is {jobs.cancel(job)['state']}")


@app.command()
def ask(
    job: JobArgument,
    questions: Annotated[list[str], typer.Argument(metavar="QUESTION...", help="Each in quotes.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the answers and print them.")] = False,
    as_json: AsJson = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Ask more questions about a transcribed recording. It is not encoded again, so this is fast.

    The answers are added to the job's result. With --wait the exit code is 0 if all were answered.

    \b
    Examples:
      lyra jobs ask job-1f0c... "When do they meet again?" --wait
      lyra jobs ask job-1f0c... "Who is absent?" "What does it cost?"
    """
    with _jobs(url, key) as jobs:
        asked = jobs.ask(job, questions)
        ids = [each["id"] for each in asked]
        if not wait:
            typer.echo(json.dumps(asked, ensure_ascii=False) if as_json else "\n".join(ids))
            note(f"answers will be in `lyra jobs result {job}`")
            return
        found = jobs.await_answers(job, ids)
        answers = jobs.result(job)
    failed = [each["id"] for each in found["questions"] if each["id"] in ids and each["state"] != "answered"]
    if as_json:
        typer.echo(json.dumps([each for each in answers["answers"] if each["id"] in ids], ensure_ascii=False))
    else:
        write_text(answers_text(answers, ids))
    if failed:
        raise CommandFailed(f"not answered: {', '.join(failed)}", "ask again, in other words")


@app.command("list")
def list_jobs(
    state: Annotated[State | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Maximum number of jobs shown.")] = 20,
    after: Annotated[str, typer.Option(help="Continue after this job: the value that the last page printed.")] = "",
    as_json: AsJson = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """List your jobs, latest first.

    \b
    Examples:
      lyra jobs list
      lyra jobs list --state running
      lyra jobs list --state failed --json | jq -r '.data[].reason'
    """
    with _jobs(url, key) as jobs:
        page = jobs.page(limit, state.value if state else "", after)
    if as_json:
        typer.echo(json.dumps(page, ensure_ascii=False))
        return
    if not page["data"]:
        note("there are no such jobs" if state or after else "there are no jobs; `lyra jobs submit FILE` makes one")
    else:
        out.print(_table(page["data"]), soft_wrap=True)
    if page["has_more"]:
        note(f"there are more: --after {page['next']}")


@app.command()
def delete(
    jobs_to_delete: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of ended jobs.")],
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Delete ended jobs and their results. The recordings are kept: see `lyra media delete`.

    \b
    Example:
      lyra jobs delete job-1f0c...
    """
    with _jobs(url, key) as jobs:
        for job in jobs_to_delete:
            jobs.delete(job)
            note(f"{job} is deleted")


@contextmanager
def _jobs(url: str | None, key: str | None) -> Iterator[JobsClient]:
    with GatewayClient(find_gateway(url, key)) as gateway:
        yield JobsClient(gateway, note)


def _upload(jobs: JobsClient, name: str) -> str:
    """Uploads a file. Returns its media id."""
    path = Path(name)
    if not path.is_file():
        raise typer.BadParameter(
            f"{name}: neither an existing file nor a media id (media- and 32 hexadecimal digits)",
            param_hint="FILE_OR_MEDIA_ID",
        )
    with upload_bar(path.name, path.stat().st_size) as sent:
        media = jobs.patiently(lambda: upload_file(jobs.gateway, path, sent, note))
    note(f"{path.name} is {media['id']}")
    return str(media["id"])


def _watch(jobs: JobsClient, job: str, quiet: bool, as_json: bool) -> None:
    """Shows a job until it ends. Raises CommandFailed if it did not succeed."""
    ended: dict[str, Any] = {}
    try:
        with job_bar(words=not (quiet or as_json)) as show:
            for event in jobs.follow(job):
                show(event)
                ended = event.get("job") or ended
    except KeyboardInterrupt:
        note(f"the job continues; `lyra jobs watch {job}` shows it again, `lyra jobs cancel {job}` ends it")
        raise
    state = ended["state"]
    found = jobs.patiently(lambda: jobs.result(job)) if state == State.SUCCEEDED else None
    if as_json:
        typer.echo(json.dumps(ended | {"result": found}, ensure_ascii=False))
    elif found:
        if answers := answers_text(found):
            write_text(answers if quiet else f"\n{answers}")
        if quiet and found["segments"]:
            note(f"`lyra jobs result {job}` has the transcript")
    if state != State.SUCCEEDED:
        why = f": {ended['reason']}" if ended["reason"] else ""
        hint = f"`lyra jobs result {job}` has the partial transcript" if ended["progress"]["clips_heard"] else ""
        raise CommandFailed(f"{job} is {state}{why}", hint if state == State.FAILED else "")


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold")
    table.add_column("id", no_wrap=True)  # to be copied
    for name in ("state", "done", "submitted", "recording"):
        table.add_column(name)
    for each in found:
        submitted = each["created_at"][:16].replace("T", " ")
        state = each["state"] + (f", waiting: {each['waits_for']}" if each.get("waits_for") else "")
        table.add_row(each["id"], state, share(each["progress"]), submitted, escape(each["filename"]))
    return table


def _tasks(tasks: list[Task], questions: list[str]) -> list[str]:
    if Task.QUESTIONS in tasks and not questions:
        raise typer.BadParameter("the task questions requires at least one --question", param_hint="--task")
    wanted = dict.fromkeys(each.value for each in tasks or [Task.TRANSCRIPT])
    return list(wanted | ({Task.QUESTIONS.value: None} if questions else {}))


def _webhook(address: str, secret: str) -> dict[str, str] | None:
    if bool(address) != bool(secret):
        missing = "--webhook-secret" if address else "--webhook"
        text = f"a callback requires an address and a secret; {_SECRET_HINT}"
        raise typer.BadParameter(text, param_hint=missing)
    return {"url": address, "secret_id": secret} if address else None


def _metadata(pairs: list[str]) -> dict[str, str]:
    metadata: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--metadata")
        metadata[name] = value
    return metadata
