"""Jobs as the routes use them: submitted, listed and presented in the API's schemas."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal

from starlette.concurrency import run_in_threadpool

from services.gateway.http.api_errors import ApiError
from services.gateway.jobs import schemas, views
from services.shared.jobs.kinds import State
from services.shared.jobs.layout import JobId
from services.shared.jobs.model import Recording, Webhook
from services.shared.jobs.service import JobRequest, JobService
from services.shared.jobs.state import Job
from services.shared.jobs.store import JobEnded, JobStore, KeyReused, UnknownJob, is_job_id
from services.shared.jobs.wait_reasons import WaitReasons
from services.shared.media.records import MediaRecord
from services.shared.outbound.fetcher import Fetcher
from services.shared.service_errors import InvalidInput, NotFound
from services.shared.storage.client import ObjectStore
from services.shared.storage.store_errors import StoreFull
from services.shared.webhooks.deliveries import Webhooks
from services.shared.webhooks.secrets import SecretStore, UnknownSecret

_MAX_SCANNED = 500  # jobs per page, including those that a filter leaves out


class JobsApi:
    """Jobs of tenants. Another tenant's job is reported like one that does not exist."""

    def __init__(
        self,
        objects: ObjectStore,
        store: JobStore,
        service: JobService,
        wait_reasons: WaitReasons,
        webhooks: Webhooks,
        secrets: SecretStore,
        fetcher: Fetcher,
    ) -> None:
        self._objects = objects
        self._store = store
        self._service = service
        self._wait_reasons = wait_reasons
        self._webhooks = webhooks
        self._secrets = secrets
        self._fetcher = fetcher

    async def submit(
        self, tenant: str, media: MediaRecord, options: schemas.JobOptions, idempotency_key: str
    ) -> schemas.JobObject:
        """Raises InvalidInput, ApiError 409 and 422."""
        if not media.has_audio:
            raise InvalidInput("media_id", f"{media.id} is a {media.kind} without sound")
        await self._check_webhook(tenant, options.webhook)
        request = JobRequest(
            tenant=tenant,
            recording=Recording(
                media_id=media.id,
                content_key=media.content,
                filename=media.filename,
                sha256=media.sha256,
                bytes=media.bytes,
                seconds=media.seconds,
            ),
            questions=tuple(options.questions),
            idempotency_key=idempotency_key,
            **options.spec | {"tasks": tuple(sorted(set(options.tasks)))},
        )
        try:
            job = await run_in_threadpool(self._service.submit, request)
        except KeyReused:
            text = "Idempotency-Key: was used with a different request; use a new one."
            raise ApiError(422, text, param="Idempotency-Key", code="idempotency_key_reused") from None
        return await run_in_threadpool(self.show, job)

    async def retrieve(self, job_id: JobId) -> schemas.JobObject:
        """Raises NotFound."""
        return await run_in_threadpool(lambda: self.show(self.read(job_id)))

    async def page(
        self, tenant: str, after: str, limit: int, state: State | None, created_after: datetime | None
    ) -> schemas.JobList:
        """A tenant's jobs, newest first."""
        return await run_in_threadpool(self._page, tenant, after, limit, state, created_after)

    async def cancel(self, job_id: JobId) -> schemas.JobObject:
        """Raises NotFound."""
        try:
            await run_in_threadpool(self._service.cancel, job_id)
        except UnknownJob:
            raise unknown(job_id) from None
        return await self.retrieve(job_id)

    async def ask(self, job_id: JobId, texts: list[str]) -> schemas.QuestionList:
        """Raises NotFound, InvalidInput, ApiError 409."""
        try:
            questions = await run_in_threadpool(self._service.ask, job_id, texts)
        except UnknownJob:
            raise unknown(job_id) from None
        except JobEnded as error:
            text = f"The job is {error.state}; questions can be asked once it has succeeded."
            raise ApiError(409, text, code="job_not_succeeded") from None
        job = await run_in_threadpool(self.read, job_id)
        return schemas.QuestionList(data=[views.question(job, each) for each in questions])

    async def result(self, job_id: JobId) -> schemas.JobResult:
        """Raises NotFound, ApiError 409 and 410."""
        job = await run_in_threadpool(self.read, job_id)
        if job.end is None:
            text = f"The job is {job.state}; its result is available once it has ended."
            raise ApiError(409, text, code="job_not_ended")
        if job.end.state is State.EXPIRED:
            raise ApiError(410, "The job has expired; its result has been deleted.", code="job_expired")
        found = await run_in_threadpool(views.result, self._store, job)
        if found is None:
            reason = f": {job.end.reason}" if job.end.reason else ""
            raise ApiError(409, f"The job is {job.state} and has no result{reason}.", code="no_result")
        return found

    async def subtitles(self, job_id: JobId, subtitle_format: Literal["srt", "vtt"]) -> bytes:
        """The file of subtitles of a job whose result has a transcript."""
        return await run_in_threadpool(self._objects.get, job_id.subtitles(subtitle_format))

    async def delete(self, job_id: JobId) -> None:
        """Raises NotFound, ApiError 409 if the job has not ended."""
        job = await run_in_threadpool(self.read, job_id)
        if job.end is None:
            raise ApiError(409, f"The job is {job.state}; cancel it first.", code="job_not_ended")
        await run_in_threadpool(self._store.delete, job_id)

    def read(self, job_id: JobId) -> Job:
        """Blocks. Raises NotFound."""
        try:
            return self._store.read(job_id)
        except UnknownJob:
            raise unknown(job_id) from None

    def show(self, job: Job) -> schemas.JobObject:
        """Blocks."""
        return views.show(self._store, self._webhooks, job, "" if job.end else self._wait_reason(job.id))

    def final_spans(self, job: Job, first: int) -> Iterator[views.Span]:
        """Blocks. See `views.final_spans`."""
        return views.final_spans(self._store, job, first)

    def _wait_reason(self, job_id: JobId) -> str:
        # Checked here because a Redis on the same full disk cannot store a reason.
        return StoreFull().message if self._objects.is_full() else self._wait_reasons.get(job_id)

    def _page(
        self, tenant: str, after: str, limit: int, state: State | None, created_after: datetime | None
    ) -> schemas.JobList:
        found: list[schemas.JobObject] = []
        cursor = after
        for scanned, (next_cursor, job_id) in enumerate(self._store.newest_first(tenant, after)):
            if len(found) == limit or scanned == _MAX_SCANNED:
                return schemas.JobList(data=found, has_more=True, next=cursor)
            cursor = next_cursor
            try:
                job = self._store.read(job_id)
            except UnknownJob:
                continue  # deleted since it was listed
            if created_after is not None and job.manifest.created_at < created_after:
                break
            if state is None or job.state is state:
                found.append(self.show(job))
        return schemas.JobList(data=found, has_more=False, next=None)

    async def _check_webhook(self, tenant: str, webhook: Webhook | None) -> None:
        if webhook is None:
            return
        await self._fetcher.check(webhook.url, "webhook.url")
        try:
            self._secrets.active(tenant, webhook.secret_id, datetime.now(UTC))
        except UnknownSecret as error:
            text = f"{error}; create one with `lyra webhooks secrets create NAME --tenant {tenant}`"
            raise InvalidInput("webhook.secret_id", text) from error


def parse_job_id(tenant: str, name: str) -> JobId:
    """The id of a tenant's job. Raises NotFound for an invalid name, which must not become part of a key."""
    job_id = JobId(tenant, name)
    if not is_job_id(name):
        raise unknown(job_id)
    return job_id


def unknown(job_id: JobId) -> NotFound:
    """The same error for a job that does not exist and for another tenant's."""
    return NotFound(f"There is no job {job_id.job[:60]!r}.")
