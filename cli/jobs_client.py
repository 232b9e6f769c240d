"""The jobs API over HTTP: idempotent requests are retried while the gateway is unavailable."""

import json
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx

from cli.client import GatewayClient, Refused, TryLater
from cli.failure import CommandFailed

T = TypeVar("T")

_CONNECT_SECONDS = 5.0
_SILENCE_SECONDS = 60.0  # heartbeats come every 15 s
_FIRST_PAUSE_SECONDS = 0.2
_MAX_PAUSE_SECONDS = 30.0
_PATIENCE_SECONDS = 600.0
_POLL_SECONDS = 1.0
_JOB_ID = re.compile(r"job-[0-9A-Za-z_-]{1,100}")
_HINTS = {
    "not_found": "see `lyra jobs list` and `lyra media list`; jobs and media of other keys are not shown",
    "job_not_ended": "`lyra jobs watch {id}` shows its progress, `lyra jobs cancel {id}` ends it",
    "job_not_succeeded": "`lyra jobs status {id}` shows its state",
    "no_result": "`lyra jobs status {id}` says why",
    "job_expired": "submit the recording again",
    "idempotency_key_reused": "use another --idempotency-key, or none",
}


class JobsClient:
    """The jobs API of a gateway. Failures are raised as CommandFailed with a hint.

    Args:
        gateway: Client of the gateway.
        tell: Called with a message for the user when a request is retried.
        patience_seconds: How long to retry once the gateway has answered before.
        pause: Sleeps for a number of seconds.
    """

    def __init__(
        self,
        gateway: GatewayClient,
        tell: Callable[[str], None],
        patience_seconds: float = _PATIENCE_SECONDS,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.gateway = gateway
        self._tell = tell
        self._patience_seconds = patience_seconds
        self._pause = pause

    def submit(self, body: dict[str, Any], idempotency_key: str) -> dict[str, Any]:
        """Creates a job, or returns the one with this key, so the call can be retried."""
        headers = {"Idempotency-Key": idempotency_key}
        return self.patiently(lambda: self._json("POST", "", json=body, headers=headers))

    def show(self, job: str) -> dict[str, Any]:
        """The state of a job."""
        return self._json("GET", _path(job), job)

    def page(self, limit: int, state: str = "", after: str = "") -> dict[str, Any]:
        """A page of jobs, latest first."""
        wanted = {"limit": str(limit), "state": state, "after": after}
        return self._json("GET", "", params={name: value for name, value in wanted.items() if value})

    def cancel(self, job: str) -> dict[str, Any]:
        """Cancels a job and returns it."""
        return self._json("POST", f"{_path(job)}/cancel", job)

    def delete(self, job: str) -> None:
        """Deletes an ended job."""
        self._json("DELETE", _path(job), job)

    def ask(self, job: str, questions: list[str]) -> list[dict[str, Any]]:
        """Adds questions; they are open at first."""
        asked: list[dict[str, Any]] = self._json("POST", f"{_path(job)}/questions", job, json={"questions": questions})[
            "data"
        ]
        return asked

    def result(self, job: str) -> dict[str, Any]:
        """The result of a job."""
        return self._json("GET", f"{_path(job)}/result", job)

    def result_file(self, job: str, format: str) -> bytes:
        """The result of a job in `format`."""
        with _hints(job):
            return self.gateway.request("GET", f"/v1/jobs{_path(job)}/result", params={"format": format}).content

    def await_answers(self, job: str, questions: Iterable[str]) -> dict[str, Any]:
        """Waits until these questions (by id) are answered or failed. Returns the job."""
        wanted = set(questions)
        while True:
            found = self.patiently(lambda: self.show(job))
            if not any(each["state"] == "open" for each in found["questions"] if each["id"] in wanted):
                return found
            self._pause(_POLL_SECONDS)

    def follow(self, job: str) -> Generator[dict[str, Any], None, None]:
        """The events of a job up to its end, each once; reconnects after the last one if the connection breaks."""
        last, seen, delay = "", time.monotonic(), _FIRST_PAUSE_SECONDS
        while True:
            try:
                for name, event in self._events(job, last):
                    last, seen, delay = name or last, time.monotonic(), _FIRST_PAUSE_SECONDS
                    yield event
                    if "job" in event:
                        return
                raise TryLater("the event stream ended before the job")
            except TryLater as failure:
                delay = self._back_off(failure, seen, delay)

    def patiently(self, call: Callable[[], T]) -> T:
        """Retries a call while the gateway is temporarily unavailable."""
        begun, delay = time.monotonic(), _FIRST_PAUSE_SECONDS
        while True:
            try:
                return call()
            except TryLater as failure:
                delay = self._back_off(failure, begun, delay)

    def _back_off(self, failure: TryLater, since: float, delay: float) -> float:
        """Waits before the next attempt and returns the next delay. Raises the failure when patience is exhausted."""
        if not self.gateway.answered or time.monotonic() - since > self._patience_seconds:
            raise failure
        delay = max(delay, failure.after_seconds)
        self._tell(f"{failure.message}; retrying in {delay:g} s")
        self._pause(delay)
        return min(2 * delay, _MAX_PAUSE_SECONDS)

    def _events(self, job: str, last: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Id (may be empty) and data of each complete event."""
        headers = {"Last-Event-ID": last} if last else {}
        timeout = httpx.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS)
        with (
            _hints(job),
            self.gateway.stream("GET", f"/v1/jobs{_path(job)}/events", headers=headers, timeout=timeout) as response,
        ):
            yield from parse_events(response.iter_bytes())

    def _json(self, method: str, path: str, job: str = "", **options: Any) -> dict[str, Any]:
        with _hints(job):
            body: dict[str, Any] = self.gateway.request(method, f"/v1/jobs{path}", **options).json()
            return body


def parse_events(pieces: Iterable[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Parses server-sent events: id and JSON data of each complete event.

    Comments and ids without data are ignored, as the HTML standard requires (9.2.6).
    """
    name, data = "", ""
    for line in _lines(pieces):
        if not line:
            if data:
                yield name, json.loads(data)
            name, data = "", ""
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "id":
            name = value
        elif field == "data":
            data = f"{data}\n{value}" if data else value


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Complete lines. httpx's line iterator also splits at U+2028, which may occur in JSON."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.decode().removesuffix("\r") for line in whole)


def _path(job: str) -> str:
    """Path of a job below /v1/jobs. Raises CommandFailed if it is not a valid id."""
    if not _JOB_ID.fullmatch(job):
        raise CommandFailed(f"{job!r} is not a job id", "`lyra jobs list` shows them: job-...")
    return f"/{job}"


@contextmanager
def _hints(job: str) -> Iterator[None]:
    """Adds hints to refusals that have none."""
    try:
        yield
    except Refused as refusal:
        if not refusal.hint:
            refusal.hint = _HINTS.get(refusal.code, "").format(id=job)
        raise
