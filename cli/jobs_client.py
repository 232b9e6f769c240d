"""Jobs over HTTP, as the commands need them: what is safe to ask twice is asked again where the gateway is away."""

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
_SILENCE_SECONDS = 60.0  # events come every 15 s at least, if only to say that there are none
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 30.0
_PATIENCE_SECONDS = 600.0
_POLL_SECONDS = 1.0
_JOB_ID = re.compile(r"job-[0-9A-Za-z_-]{1,100}")
_HINTS = {
    "not_found": "see `lyra jobs list` and `lyra media list`; another key's jobs and media are not shown",
    "job_not_ended": "`lyra jobs watch {id}` shows how it goes on, `lyra jobs cancel {id}` ends it",
    "job_not_succeeded": "`lyra jobs status {id}` says where it is",
    "no_result": "`lyra jobs status {id}` says why",
    "job_expired": "submit the recording once more",
    "idempotency_key_reused": "name another --idempotency-key, or none",
}


class JobsClient:
    """The jobs behind a gateway. Every failure arrives as CommandFailed, with what to do next.

    Args:
        gateway: To speak to.
        tell: Called with a line for people where the gateway is away and is waited for.
        patience_seconds: How long a gateway that has answered before is waited for.
        pause: Waits for so many seconds.
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
        """A new job, or the one that this key made before: so it may be asked for again."""
        headers = {"Idempotency-Key": idempotency_key}
        return self.patiently(lambda: self._json("POST", "", json=body, headers=headers))

    def show(self, job: str) -> dict[str, Any]:
        """What a job is at."""
        return self._json("GET", _path(job), job)

    def page(self, limit: int, state: str = "", after: str = "") -> dict[str, Any]:
        """A page of jobs, the latest first."""
        wanted = {"limit": str(limit), "state": state, "after": after}
        return self._json("GET", "", params={name: value for name, value in wanted.items() if value})

    def cancel(self, job: str) -> dict[str, Any]:
        """The job, ended."""
        return self._json("POST", f"{_path(job)}/cancel", job)

    def delete(self, job: str) -> None:
        """Deletes a job that has ended."""
        self._json("DELETE", _path(job), job)

    def ask(self, job: str, questions: list[str]) -> list[dict[str, Any]]:
        """More questions; they are open at first."""
        asked: list[dict[str, Any]] = self._json("POST", f"{_path(job)}/questions", job, json={"questions": questions})[
            "data"
        ]
        return asked

    def result(self, job: str) -> dict[str, Any]:
        """What came of a job."""
        return self._json("GET", f"{_path(job)}/result", job)

    def result_file(self, job: str, format: str) -> bytes:
        """What came of a job, as the gateway wrote it in `format`."""
        with _hints(job):
            return self.gateway.request("GET", f"/v1/jobs{_path(job)}/result", params={"format": format}).content

    def await_answers(self, job: str, questions: Iterable[str]) -> dict[str, Any]:
        """The job, once these questions (by id) are answered or given up."""
        wanted = set(questions)
        while True:
            found = self.patiently(lambda: self.show(job))
            if not any(each["state"] == "open" for each in found["questions"] if each["id"] in wanted):
                return found
            self._pause(_POLL_SECONDS)

    def follow(self, job: str) -> Generator[dict[str, Any], None, None]:
        """The events of a job up to its end, each once: where the connection breaks, it goes on behind the last one."""
        last, seen, delay = "", time.monotonic(), _FIRST_PAUSE_SECONDS
        while True:
            try:
                for name, event in self._events(job, last):
                    last, seen, delay = name or last, time.monotonic(), _FIRST_PAUSE_SECONDS
                    yield event
                    if "job" in event:
                        return
                raise TryLater("the events broke off before the job ended")
            except TryLater as failure:
                delay = self._bear(failure, seen, delay)

    def patiently(self, call: Callable[[], T]) -> T:
        """Calls until it goes through, as long as the gateway is only away for a while."""
        begun, delay = time.monotonic(), _FIRST_PAUSE_SECONDS
        while True:
            try:
                return call()
            except TryLater as failure:
                delay = self._bear(failure, begun, delay)

    def _bear(self, failure: TryLater, since: float, delay: float) -> float:
        """Waits until the next try; returns the delay before the one after. Raises the failure where it is enough."""
        if not self.gateway.answered or time.monotonic() - since > self._patience_seconds:
            raise failure
        delay = max(delay, failure.after_seconds)
        self._tell(f"{failure.message}; trying again in {delay:g} s")
        self._pause(delay)
        return min(2 * delay, _LONGEST_PAUSE_SECONDS)

    def _events(self, job: str, last: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Id (may be empty) and content of each event that is whole."""
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
    """Server-sent events from the bytes of a stream: id and JSON of each that an empty line has ended.

    An id without data and a comment are passed over, as HTML says (9.2.6).
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
    """Lines that have an end. httpx's own also end at U+2028, which may stand in JSON as it is."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.decode().removesuffix("\r") for line in whole)


def _path(job: str) -> str:
    """Of a job below /v1/jobs. Raises CommandFailed for what would lead elsewhere."""
    if not _JOB_ID.fullmatch(job):
        raise CommandFailed(f"{job!r} is no id of a job", "`lyra jobs list` shows them: job-...")
    return f"/{job}"


@contextmanager
def _hints(job: str) -> Iterator[None]:
    """Gives refusals what to do next, where they leave it open."""
    try:
        yield
    except Refused as refusal:
        if not refusal.hint:
            refusal.hint = _HINTS.get(refusal.code, "").format(id=job)
        raise
