"""Jobs of the HTTP API: submits, lists and shows them in the API's shapes."""

from datetime import UTC, datetime

from starlette.concurrency import run_in_threadpool

from services.gateway.http.api_errors import ApiError
from services.gateway.jobs import schemas as shapes
from services.gateway.jobs import views as job_views
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
from services.shared.storage.store_errors import StoreFull
from services.shared.webhooks.deliveries import Webhooks
from services.shared.webhooks.secrets import SecretStore, UnknownSecret

_SCANNED = 500  # jobs that one page looks through, at most


class JobsApi:
    """Jobs of tenants, as routes use them. What one tenant has is unknown to another."""

    def __init__(
        self,
        book: JobStore,
        desk: JobService,
        waits: WaitReasons,
        webhooks: Webhooks,
        secrets: SecretStore,
        fetcher: Fetcher,
    ) -> None:
        self.book = book
        self._desk = desk
        self._waits = waits
        self._webhooks = webhooks
        self._secrets = secrets
        self._fetcher = fetcher

    async def submit(
        self, tenant: str, media: MediaRecord, options: shapes.JobOptions, idempotency_key: str
    ) -> shapes.JobObject:
        """Raises InvalidInput, ApiError 409 and 422."""
        if media.kind == "image" or not media.has_sound:
            raise InvalidInput("media_id", f"{media.id} is a {media.kind} without sound")
        await self._check_webhook(tenant, options.webhook)
        order = JobRequest(
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
            job = await run_in_threadpool(self._desk.submit, order)
        except KeyReused:
            text = "Idempotency-Key: came with another request before; use a new one."
            raise ApiError(422, text, param="Idempotency-Key", code="idempotency_key_reused") from None
        return await run_in_threadpool(self.show, job)

    async def retrieve(self, job: JobId) -> shapes.JobObject:
        """Raises NotFound."""
        return await run_in_threadpool(lambda: self.show(self.read(job)))

    async def page(
        self, tenant: str, after: str, limit: int, state: State | None, earliest: datetime | None
    ) -> shapes.JobList:
        """A tenant's jobs, the latest first."""
        return await run_in_threadpool(self._page, tenant, after, limit, state, earliest)

    async def cancel(self, job: JobId) -> shapes.JobObject:
        """Raises NotFound."""
        try:
            await run_in_threadpool(self._desk.cancel, job)
        except UnknownJob:
            raise unknown(job) from None
        return await self.retrieve(job)

    async def ask(self, job: JobId, texts: list[str]) -> shapes.QuestionList:
        """Raises NotFound, InvalidInput, ApiError 409."""
        try:
            asked = await run_in_threadpool(self._desk.ask, job, texts)
        except UnknownJob:
            raise unknown(job) from None
        except JobEnded as error:
            text = f"The job is {error.state}; questions can be asked once it has succeeded."
            raise ApiError(409, text, code="job_not_succeeded") from None
        view = await run_in_threadpool(self.read, job)
        return shapes.QuestionList(data=[job_views.question(view, each) for each in asked])

    async def result(self, job: JobId) -> shapes.JobResult:
        """Raises NotFound, ApiError 409 and 410."""
        view = await run_in_threadpool(self.read, job)
        if view.end is None:
            text = f"The job is {view.state}; there is a result once it has ended."
            raise ApiError(409, text, code="job_not_ended")
        if view.end.state is State.EXPIRED:
            raise ApiError(410, "The job has expired; its result is not kept any more.", code="job_expired")
        found = await run_in_threadpool(job_views.result, self.book, view)
        if found is None:
            why = f": {view.end.reason}" if view.end.reason else ""
            raise ApiError(409, f"The job is {view.state} and has no result{why}.", code="no_result")
        return found

    async def delete(self, job: JobId) -> None:
        """Raises NotFound, ApiError 409 where the job runs."""
        view = await run_in_threadpool(self.read, job)
        if view.end is None:
            raise ApiError(409, f"The job is {view.state}; cancel it first.", code="job_not_ended")
        await run_in_threadpool(self.book.delete, job)

    def read(self, job: JobId) -> Job:
        """Blocks. Raises NotFound."""
        try:
            return self.book.read(job)
        except UnknownJob:
            raise unknown(job) from None

    def show(self, view: Job) -> shapes.JobObject:
        """Blocks."""
        return job_views.show(self.book, self._webhooks, view, "" if view.end else self._waits_for(view.id))

    def _waits_for(self, job: JobId) -> str:
        # A Redis on the same full disk cannot be told anything.
        return StoreFull().message if self.book.store.is_full() else self._waits.get(job)

    def _page(
        self, tenant: str, after: str, limit: int, state: State | None, earliest: datetime | None
    ) -> shapes.JobList:
        found: list[shapes.JobObject] = []
        cursor = after
        for scanned, (next_cursor, job) in enumerate(self.book.newest_first(tenant, after)):
            if len(found) == limit or scanned == _SCANNED:
                return shapes.JobList(data=found, has_more=True, next=cursor)
            cursor = next_cursor
            try:
                view = self.book.read(job)
            except UnknownJob:
                continue  # deleted since it was listed
            if earliest is not None and view.manifest.created_at < earliest:
                break
            if state is None or view.state is state:
                found.append(self.show(view))
        return shapes.JobList(data=found, has_more=False, next=None)

    async def _check_webhook(self, tenant: str, webhook: Webhook | None) -> None:
        if webhook is None:
            return
        await self._fetcher.check(webhook.url, "webhook.url")
        try:
            self._secrets.active(tenant, webhook.secret_id, datetime.now(UTC))
        except UnknownSecret as error:
            text = f"{error}; `lyra webhooks secrets create NAME --tenant {tenant}` makes one"
            raise InvalidInput("webhook.secret_id", text) from error


def job_named(tenant: str, name: str) -> JobId:
    """The tenant's job of this name. What is no job's name never becomes part of a key in the store: NotFound."""
    job = JobId(tenant, name)
    if not is_job_id(name):
        raise unknown(job)
    return job


def unknown(job: JobId) -> NotFound:
    """The same for what is unknown and what is another tenant's."""
    return NotFound(f"There is no job {job.job[:60]!r}.")
