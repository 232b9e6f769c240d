"""Reads and writes the objects of jobs. All methods block; call them in a thread."""

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
_MAX_MILLISECONDS = 10**13 - 1
# Jobs whose manifest, or plan and list of clips, a process caches; the latter are by far the larger.
_MANIFESTS_KEPT = 1024
_PLANS_KEPT = 64

StoredT = TypeVar("StoredT", bound=Stored)


class UnknownJob(LookupError):
    """The tenant has no such job."""


class KeyReused(Exception):
    """An Idempotency-Key was used before with a different request."""


class JobEnded(Exception):
    """The operation is not possible in the state in which the job has ended."""

    def __init__(self, state: State) -> None:
        super().__init__(f"the job is {state}")
        self.state = state


@dataclass(frozen=True, slots=True)
class _DoneClips:
    """Objects of the leading clips that were all done at the last listing; they do not change any more.

    Attributes:
        plan: Etag of the plan that the clips belong to.
        last: Name of the last of these objects; empty if no clip is done.
        etags: Etags of these objects, by name.
    """

    plan: str = ""
    last: str = ""
    etags: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _CachedListing:
    """What the last listing of a job showed."""

    clips: _DoneClips = _DoneClips()


class JobStore:
    """The jobs of all tenants.

    Args:
        store: Holds their objects.
        retention: How long a job's objects are kept after its end; its manifest and end stay for the same time again.
    """

    def __init__(self, store: ObjectStore, retention: timedelta = timedelta(days=30)) -> None:
        self.store = store
        self.retention = retention
        # Keyed by etag: neither ever changes, but a job may be deleted and recreated with the same Idempotency-Key.
        self._manifest = lru_cache(maxsize=_MANIFESTS_KEPT)(self._read_manifest)
        self._plan = lru_cache(maxsize=_PLANS_KEPT)(self._read_plan)
        self._listings = lru_cache(maxsize=_PLANS_KEPT)(lambda job: _CachedListing())

    def create(self, manifest: Manifest) -> Job:
        """Stores a new job. If it exists already, from an identical request, returns the existing one.

        Raises:
            KeyReused: the job exists already, from a different request.
        """
        job = JobId(manifest.tenant, manifest.id)
        # The marker goes first: without it, no worker would ever find the job.
        self.mark_active(job)
        if self.store.put_new(job.manifest, manifest.to_bytes()):
            self.store.put(_index_key(manifest), b"{}")
            return Job(job, manifest, Contents.from_names(frozenset({"manifest.json"})))
        if self.manifest(job).fingerprint != manifest.fingerprint:
            raise KeyReused
        existing = self.read(job)
        if existing.end is not None:
            self.mark_idle(job)
        return existing

    def manifest(self, job: JobId) -> Manifest:
        """Raises UnknownJob."""
        try:
            return Manifest.from_bytes(self.store.get(job.manifest))
        except ObjectMissing:
            raise UnknownJob(job.job) from None

    def end(self, job: JobId) -> End | None:
        return self._read(job.end, End)

    def read(self, job: JobId) -> Job:
        """Loads the job from a listing of its objects. Raises UnknownJob."""
        return self._load(job, self._contents(job))

    def read_clip(self, job: JobId, index: int) -> Job:
        """Loads the job with only one of its clips, without listing the others. Raises UnknownJob."""
        keys = (job.manifest, job.plan, job.clip(index), job.clip_failure(index), job.end)
        found = (self.store.stat(key) for key in keys)
        return self._load(job, {each.key.removeprefix(job.prefix): each.etag for each in found if each is not None})

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
            UnknownJob: there is no such job.
            JobEnded: it has not succeeded.
        """
        manifest, end = self.manifest(job), self.end(job)
        if end is None or end.state is not State.SUCCEEDED:
            raise JobEnded(end.state if end else self.read(job).state)
        number = len(manifest.questions) + len(list(self.store.list(job.key("questions/"))))
        while True:
            question = Question(id=f"{number:03}", text=text, asked_at=now())
            if self.store.put_new(job.question(question.id), question.to_bytes()):
                self.mark_active(job)
                return question
            number += 1

    def finish(self, job: JobId, state: Ended, reason: str = "") -> End:
        """Ends a job. If it has ended already, returns that end unchanged."""
        at = now()
        end = End(state=state, ended_at=at, reason=reason, retained_until=at + self.retention)
        self.store.put(_expiry_key(end.retained_until, job), b"{}", may_use_reserve=True)
        if not self.store.put_new(job.end, end.to_bytes()):
            kept = self.end(job)
            assert kept is not None
            return kept
        return end

    def mark_active(self, job: JobId) -> None:
        """The job has work left."""
        self.store.put(job.active, b"{}")

    def mark_idle(self, job: JobId) -> None:
        """The job has no work left."""
        self.store.delete(job.active)

    def active(self) -> Iterator[JobId]:
        """Jobs of all tenants that may have work left."""
        for each in self.store.list(ACTIVE):
            if job := active_job(each.key):
                yield job

    def newest_first(self, tenant: str, after: str = "") -> Iterator[tuple[str, JobId]]:
        """A tenant's jobs, newest first, each with the cursor of the page that follows it."""
        prefix = f"{_INDEX}{tenant}/"
        for each in self.store.list(prefix, after=prefix + after if after else ""):
            cursor = each.key.removeprefix(prefix)
            yield cursor, JobId(tenant, cursor.partition("-")[2])

    def submitted_since(self, at: datetime) -> Iterator[JobId]:
        """Jobs of all tenants submitted at `at` or later, newest first within a tenant."""
        last = _MAX_MILLISECONDS - int(at.timestamp() * 1000)
        for tenant in self.store.folders(_INDEX):
            for cursor, job in self.newest_first(tenant):
                if int(cursor.partition("-")[0]) > last:
                    break
                yield job

    def delete(self, job: JobId) -> None:
        """Deletes a job with all its objects. Raises UnknownJob."""
        manifest = self.manifest(job)
        self.store.delete(job.active)
        self.store.delete(_index_key(manifest))
        self.store.delete_all(job.prefix)

    def expire(self, at: datetime) -> int:
        """Deletes what is past its retention; returns the number of jobs that expired."""
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
                self._expire_job(job, end)
                expired += 1
            self.store.delete(each.key)
        return expired

    def _expire_job(self, job: JobId, end: End) -> None:
        """Deletes all of an expired job but its manifest and its end."""
        later = End(state=State.EXPIRED, ended_at=end.ended_at, retained_until=end.retained_until + self.retention)
        self.store.put(_expiry_key(later.retained_until, job), b"{}", may_use_reserve=True)
        self.store.put(job.end, later.to_bytes(), may_use_reserve=True)
        self.store.delete(job.active)
        for each in list(self.store.list(job.prefix)):
            if each.key not in (job.manifest, job.end):
                self.store.delete(each.key)

    def _load(self, job: JobId, etags: Mapping[str, str]) -> Job:
        """The job that consists of these objects."""
        if "manifest.json" not in etags:
            raise UnknownJob(job.job)
        try:
            return Job(
                id=job,
                manifest=self._manifest(job, etags["manifest.json"]),
                contents=Contents.from_names(frozenset(etags)),
                plan=self._plan(job, etags["plan.json"]) if "plan.json" in etags else None,
                windows=self._read(job.windows, Windows) if "windows.json" in etags else None,
                end=self.end(job) if "end.json" in etags else None,
            )
        except ObjectMissing:  # deleted since it was listed
            raise UnknownJob(job.job) from None

    def _contents(self, job: JobId) -> dict[str, str]:
        """Etags of a job's objects, by name. Clips have thousands of objects: only those that may change are listed."""
        cached = self._listings(job)
        done = cached.clips
        etags = self._list(job, after=done.last)
        if done.last and etags.get("plan.json") == done.plan:
            etags |= done.etags | self._list(job, "answers/")
        elif done.last:
            etags = self._list(job)
        cached.clips = _done_clips(job, etags)
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


def _done_clips(job: JobId, etags: Mapping[str, str]) -> _DoneClips:
    done = next(index for index in count() if job.clip(index).removeprefix(job.prefix) not in etags)
    if not done or "plan.json" not in etags:
        return _DoneClips()
    last = job.tokens(done - 1).removeprefix(job.prefix)  # sorts after the clip's other objects
    clips = {name: etag for name, etag in etags.items() if name.startswith("clips/") and name <= last}
    return _DoneClips(etags["plan.json"], last, clips)


def now() -> datetime:
    """The current time in UTC, in whole milliseconds."""
    at = datetime.now(UTC)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def new_job_id(tenant: str, idempotency_key: str = "") -> str:
    """The same id for the same key of a tenant, so that concurrent submissions make one job."""
    if not idempotency_key:
        return f"job-{secrets.token_hex(16)}"
    return "job-" + hashlib.sha256(f"{tenant}\0{idempotency_key}".encode()).hexdigest()[:32]


def is_job_id(text: str) -> bool:
    """Whether `text` has the form of an id from `new_job_id`."""
    return _JOB_ID.fullmatch(text) is not None


def fingerprint(request: object) -> str:
    """Hash of a request, given as JSON."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _index_key(manifest: Manifest) -> str:
    """Key that sorts newest first."""
    milliseconds = int(manifest.created_at.timestamp() * 1000)
    return f"{_INDEX}{manifest.tenant}/{_MAX_MILLISECONDS - milliseconds:013}-{manifest.id}"


def _expiry_key(at: datetime, job: JobId) -> str:
    return f"{EXPIRY}{at.astimezone(UTC):%Y%m%dT%H%M}/{job.tenant}/{job.job}"
