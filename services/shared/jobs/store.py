"""The book of jobs: reads and writes their objects in the store. Everything here blocks; call it in a thread."""

import hashlib
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import count
from typing import TypeVar

from services.shared.jobs.kinds import State
from services.shared.jobs.layout import ACTIVE, EXPIRY, Contents, JobId, active_job
from services.shared.jobs.model import (
    Answer,
    ClipResult,
    End,
    Ended,
    Failure,
    Manifest,
    Plan,
    Question,
    Result,
    Windows,
)
from services.shared.jobs.state import Job
from services.shared.storage.client import ObjectStore
from services.shared.storage.records import Stored
from services.shared.storage.store_errors import ObjectMissing

_INDEX = "jobs-by-time/"
_JOB_ID = re.compile(r"job-[0-9a-f]{32}")
_LATEST_MILLISECONDS = 10**13 - 1
# Jobs whose manifest, or plan and list of clips, a process keeps at hand; the latter are the larger by far.
_MANIFESTS_KEPT = 1024
_PLANS_KEPT = 64

StoredT = TypeVar("StoredT", bound=Stored)


class UnknownJob(LookupError):
    """The tenant has no such job."""


class KeyReused(Exception):
    """An Idempotency-Key came with another request than the first time."""


class JobEnded(Exception):
    """What was asked for cannot be done with a job that has ended so."""

    def __init__(self, state: State) -> None:
        super().__init__(f"the job is {state}")
        self.state = state


@dataclass(frozen=True, slots=True)
class _HeardClips:
    """A job's first clips, as many as were done when they were listed: their objects stay as they are.

    Attributes:
        plan: Etag of the plan that they are of.
        last: Name of the last of their objects; empty where no clip is done.
        etags: Of their objects, by name.
    """

    plan: str = ""
    last: str = ""
    etags: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Kept:
    """What was seen last."""

    clips: _HeardClips = _HeardClips()


class JobStore:
    """The jobs of all tenants.

    Args:
        store: Where their objects lie.
        retention: How long a job's objects are kept once it has ended; its manifest and end stay as long again.
    """

    def __init__(self, store: ObjectStore, retention: timedelta = timedelta(days=30)) -> None:
        self.store = store
        self.retention = retention
        # By etag: neither ever changes, but a job may be deleted and another come under its Idempotency-Key.
        self._manifest = lru_cache(maxsize=_MANIFESTS_KEPT)(self._read_manifest)
        self._plan = lru_cache(maxsize=_PLANS_KEPT)(self._read_plan)
        self._heard = lru_cache(maxsize=_PLANS_KEPT)(lambda job: _Kept())

    def create(self, manifest: Manifest) -> Manifest:
        """Keeps a new job. Where it is kept already, by the same request, that one is returned.

        Raises:
            KeyReused: the job is kept already, and came of another request.
        """
        job = JobId(manifest.tenant, manifest.id)
        # The marker goes first: a job that nobody would ever work on must not be.
        self.wake(job)
        if self.store.put_new(job.manifest, manifest.to_bytes()):
            self.store.put(_index_key(manifest), b"{}")
            return manifest
        kept = self.manifest(job)
        if kept.fingerprint != manifest.fingerprint:
            raise KeyReused
        if self.end(job) is not None:
            self.rest(job)
        return kept

    def manifest(self, job: JobId) -> Manifest:
        """Raises UnknownJob."""
        try:
            return Manifest.from_bytes(self.store.get(job.manifest))
        except ObjectMissing:
            raise UnknownJob(job.job) from None

    def end(self, job: JobId) -> End | None:
        return self._read(job.end, End)

    def read(self, job: JobId) -> Job:
        """The job as a listing of its objects tells. Raises UnknownJob."""
        return self._told(job, self._contents(job))

    def glance(self, job: JobId, index: int) -> Job:
        """The job as far as one of its clips is concerned: of the other clips it tells nothing. Raises UnknownJob."""
        keys = (job.manifest, job.plan, job.clip(index), job.clip_failure(index), job.end)
        found = (self.store.stat(key) for key in keys)
        return self._told(job, {each.key.removeprefix(job.prefix): each.etag for each in found if each is not None})

    def clip(self, job: JobId, index: int) -> ClipResult:
        return ClipResult.from_bytes(self.store.get(job.clip(index)))

    def clip_failure(self, job: JobId, index: int) -> Failure:
        return Failure.from_bytes(self.store.get(job.clip_failure(index)))

    def answer(self, job: JobId, answer: str) -> Answer | None:
        return self._read(job.answer(answer), Answer)

    def answer_failure(self, job: JobId, answer: str) -> Failure | None:
        return self._read(job.answer_failure(answer), Failure)

    def result(self, job: JobId) -> Result | None:
        return self._read(job.result, Result)

    def question(self, job: JobId, question: str) -> Question:
        return Question.from_bytes(self.store.get(job.question(question)))

    def ask(self, job: JobId, text: str) -> Question:
        """Adds a question to a job that has succeeded.

        Raises:
            UnknownJob: there is none.
            JobEnded: it ended otherwise.
        """
        manifest, end = self.manifest(job), self.end(job)
        if end is None or end.state is not State.SUCCEEDED:
            raise JobEnded(end.state if end else self.read(job).state)
        number = len(manifest.questions) + len(list(self.store.list(job.key("questions/"))))
        while True:
            question = Question(id=f"{number:03}", text=text, asked_at=now())
            if self.store.put_new(job.question(question.id), question.to_bytes()):
                self.wake(job)
                return question
            number += 1

    def finish(self, job: JobId, state: Ended, reason: str = "") -> End:
        """Ends a job; where it has ended already, that end stays and is returned."""
        at = now()
        end = End(state=state, ended_at=at, reason=reason, retained_until=at + self.retention)
        self.store.put(_expiry_key(end.retained_until, job), b"{}", makes_room=True)
        if not self.store.put_new(job.end, end.to_bytes()):
            kept = self.end(job)
            assert kept is not None
            return kept
        return end

    def wake(self, job: JobId) -> None:
        """There is something to do for this job."""
        self.store.put(job.active, b"{}")

    def rest(self, job: JobId) -> None:
        """There is nothing to do for this job any more."""
        self.store.delete(job.active)

    def active(self) -> Iterator[JobId]:
        """Jobs of all tenants that there may be something to do for."""
        for each in self.store.list(ACTIVE):
            if job := active_job(each.key):
                yield job

    def by_time(self, tenant: str, after: str = "") -> Iterator[tuple[str, JobId]]:
        """A tenant's jobs, the latest first, each with the cursor to go on behind it."""
        prefix = f"{_INDEX}{tenant}/"
        for each in self.store.list(prefix, after=prefix + after if after else ""):
            cursor = each.key.removeprefix(prefix)
            yield cursor, JobId(tenant, cursor.partition("-")[2])

    def since(self, at: datetime) -> Iterator[JobId]:
        """Jobs of all tenants that were submitted then or later; of a tenant, the latest first."""
        last = _LATEST_MILLISECONDS - int(at.timestamp() * 1000)
        for tenant in self.store.folders(_INDEX):
            for cursor, job in self.by_time(tenant):
                if int(cursor.partition("-")[0]) > last:
                    break
                yield job

    def delete(self, job: JobId) -> None:
        """Removes all of a job. Raises UnknownJob."""
        manifest = self.manifest(job)
        self.store.delete(job.active)
        self.store.delete(_index_key(manifest))
        self.store.delete_all(job.prefix)

    def expire(self, at: datetime) -> int:
        """Takes away what is kept longer than it should be; returns how many jobs that were."""
        expired = 0
        for each in self.store.list(EXPIRY):
            day, tenant, name = each.key.removeprefix(EXPIRY).split("/")
            if day > at.strftime("%Y%m%dT%H%M"):
                break
            job = JobId(tenant, name)
            end = self.end(job)
            if end is not None and end.state is State.EXPIRED:
                self.delete(job)
            elif end is not None and end.retained_until <= at:
                self._forget(job, end)
                expired += 1
            self.store.delete(each.key)
        return expired

    def _forget(self, job: JobId, end: End) -> None:
        """Leaves of a job what was asked for and that it has expired."""
        later = End(state=State.EXPIRED, ended_at=end.ended_at, retained_until=end.retained_until + self.retention)
        self.store.put(_expiry_key(later.retained_until, job), b"{}", makes_room=True)
        self.store.put(job.end, later.to_bytes(), makes_room=True)
        self.store.delete(job.active)
        for each in list(self.store.list(job.prefix)):
            if each.key not in (job.manifest, job.end):
                self.store.delete(each.key)

    def _told(self, job: JobId, etags: Mapping[str, str]) -> Job:
        """The job of which there are these objects."""
        if "manifest.json" not in etags:
            raise UnknownJob(job.job)
        try:
            return Job(
                id=job,
                manifest=self._manifest(job, etags["manifest.json"]),
                contents=Contents.of(frozenset(etags)),
                plan=self._plan(job, etags["plan.json"]) if "plan.json" in etags else None,
                windows=self._read(job.windows, Windows) if "windows.json" in etags else None,
                end=self.end(job) if "end.json" in etags else None,
            )
        except ObjectMissing:  # deleted since it was listed
            raise UnknownJob(job.job) from None

    def _contents(self, job: JobId) -> dict[str, str]:
        """Etags of a job's objects, by name. Of clips, a thousand objects, only those are listed that may change."""
        kept = self._heard(job)
        heard = kept.clips
        etags = self._list(job, after=heard.last)
        if heard.last and etags.get("plan.json") == heard.plan:
            etags |= heard.etags | self._list(job, "answers/")
        elif heard.last:
            etags = self._list(job)
        kept.clips = _heard_clips(job, etags)
        return etags

    def _list(self, job: JobId, below: str = "", after: str = "") -> dict[str, str]:
        listed = self.store.list(job.key(below), after=job.key(after) if after else "")
        return {each.key.removeprefix(job.prefix): each.etag for each in listed}

    def _read_manifest(self, job: JobId, etag: str) -> Manifest:
        return Manifest.from_bytes(self.store.get(job.manifest))

    def _read_plan(self, job: JobId, etag: str) -> Plan:
        return Plan.from_bytes(self.store.get(job.plan))

    def _read(self, key: str, kind: type[StoredT]) -> StoredT | None:
        try:
            return kind.from_bytes(self.store.get(key))
        except ObjectMissing:
            return None


def _heard_clips(job: JobId, etags: Mapping[str, str]) -> _HeardClips:
    done = next(index for index in count() if job.clip(index).removeprefix(job.prefix) not in etags)
    if not done or "plan.json" not in etags:
        return _HeardClips()
    last = job.tokens(done - 1).removeprefix(job.prefix)  # sorts behind all else of this clip
    clips = {name: etag for name, etag in etags.items() if name.startswith("clips/") and name <= last}
    return _HeardClips(etags["plan.json"], last, clips)


def now() -> datetime:
    """In UTC, whole milliseconds."""
    at = datetime.now(UTC)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def new_job_id(tenant: str, idempotency_key: str = "") -> str:
    """The same for the same key of a tenant, so that two submissions at once make one job."""
    if not idempotency_key:
        return f"job-{secrets.token_hex(16)}"
    return "job-" + hashlib.sha256(f"{tenant}\0{idempotency_key}".encode()).hexdigest()[:32]


def is_job_id(text: str) -> bool:
    """Whether `new_job_id` could have made it."""
    return _JOB_ID.fullmatch(text) is not None


def fingerprint(request: object) -> str:
    """Of what was asked for, as JSON."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _index_key(manifest: Manifest) -> str:
    """Sorts the latest first."""
    milliseconds = int(manifest.created_at.timestamp() * 1000)
    return f"{_INDEX}{manifest.tenant}/{_LATEST_MILLISECONDS - milliseconds:013}-{manifest.id}"


def _expiry_key(at: datetime, job: JobId) -> str:
    return f"{EXPIRY}{at.astimezone(UTC):%Y%m%dT%H%M}/{job.tenant}/{job.job}"
