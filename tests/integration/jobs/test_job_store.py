"""The book of jobs against a real store: what a listing tells, and what may be told from memory."""

from dataclasses import dataclass

import pytest

from services.shared.jobs.kinds import State, Task
from services.shared.jobs.layout import JobId
from services.shared.jobs.model import Manifest, Plan, PlannedClip, Question, Recording, Windows
from services.shared.jobs.store import JobStore, UnknownJob, now
from services.shared.storage.client import ObjectStore

RECORDING = Recording(media_id="media-1", content_key="c", filename="a.mp3", sha256="0", bytes=1, seconds=60.0)
CLIPS = 30


@dataclass
class Job:
    """A job of many clips, all of which are heard, and its windows cut."""

    job_store: JobStore
    id: JobId

    def objects_read(self) -> int:
        """How many objects the store lists for one look at the job."""
        seen = 0
        listed = self.job_store.store.list

        def counted(*args: str, **options: str):  # type: ignore[no-untyped-def]
            nonlocal seen
            for each in listed(*args, **options):
                seen += 1
                yield each

        self.job_store.store.list = counted  # type: ignore[method-assign]
        try:
            self.job_store.read(self.id)
        finally:
            self.job_store.store.list = listed  # type: ignore[method-assign]
        return seen


def made(job_store: JobStore, *, clips: int = CLIPS, fingerprint: str = "f", heard: int | None = None) -> Job:
    asked = (Question(id="000", text="Why?", asked_at=now()),)
    manifest = Manifest(
        id="job-1", tenant="acme", created_at=now(), recording=RECORDING, tasks=(Task.QUESTIONS,), questions=asked,
        fingerprint=fingerprint,
    )  # fmt: skip
    job = job_store.create(manifest).id
    planned = tuple(PlannedClip(index=i, start_seconds=2.0 * i, end_seconds=2.0 * i + 2) for i in range(clips))
    plan = Plan(planned_at=now(), seconds=2.0 * clips, speech_seconds=1.0, truncated=False, clips=planned)
    job_store.store.put(job.plan, plan.to_bytes())
    for clip in planned[:heard]:
        job_store.store.put(job.audio(clip.index), b"sound")
        job_store.store.put(job.clip(clip.index), b"{}")
    if heard is None:
        job_store.store.put(job.windows, Windows(clips=((0, clips - 1),), context_tokens=9).to_bytes())
    return Job(job_store, job)


@pytest.fixture
def job_store(object_store: ObjectStore) -> JobStore:
    return JobStore(object_store)


def test_a_job_that_was_looked_at_before_is_told_as_by_who_never_did(job_store: JobStore) -> None:
    job = made(job_store).id
    for change in (
        lambda: job_store.store.put(job.window("000", 0), b"{}"),
        lambda: job_store.store.put(job.answer("000"), b"{}"),
        lambda: job_store.finish(job, State.SUCCEEDED),
        lambda: job_store.ask(job, "And then?"),
        lambda: job_store.store.put(job.answer_failure("001"), b"{}"),
        lambda: job_store.store.put(job.key("webhook/over.json"), b"{}"),
    ):
        job_store.read(job)
        change()
        assert job_store.read(job) == JobStore(job_store.store).read(job)
    assert job_store.read(job).contents.clips == set(range(CLIPS))
    assert job_store.read(job).open_answers == ()


def test_clips_are_listed_no_more_once_they_and_all_before_are_done(job_store: JobStore) -> None:
    job = made(job_store)
    assert job.objects_read() > 2 * CLIPS
    assert job.objects_read() < 10


def test_clips_that_are_open_are_looked_for_every_time(job_store: JobStore) -> None:
    job = made(job_store, heard=10).id
    for index in (*range(12, CLIPS), 11, 10):
        job_store.store.put(job.clip(index) if index % 4 else job.clip_failure(index), b"{}")
        seen = job_store.read(job)
        assert seen == JobStore(job_store.store).read(job)
        assert index in seen.contents.clips | seen.contents.failed_clips
    assert seen.open_clips == ()


def test_another_job_under_the_key_of_one_that_was_deleted_is_not_taken_for_it(job_store: JobStore) -> None:
    first = made(job_store)
    job_store.read(first.id)
    job_store.delete(first.id)
    with pytest.raises(UnknownJob):
        job_store.read(first.id)
    second = made(job_store, clips=3, fingerprint="g")
    told = job_store.read(second.id)
    assert told.manifest.fingerprint == job_store.read_clip(second.id, 0).manifest.fingerprint == "g"
    assert len(told.clips) == len(told.contents.clips) == len(job_store.read_clip(second.id, 0).clips) == 3
