"""The job_service where jobs are submitted, looked at, asked, cancelled and deleted. Everything here blocks."""

from collections.abc import Sequence
from contextlib import suppress

from services.shared import telemetry
from services.shared.jobs.dispatch import Dispatcher, QueueDown
from services.shared.jobs.kinds import State, Task
from services.shared.jobs.layout import JobId
from services.shared.jobs.model import End, JobSpec, Manifest, Question, Recording
from services.shared.jobs.settings import JobSettings
from services.shared.jobs.state import Job, next_units
from services.shared.jobs.store import JobStore, UnknownJob, fingerprint, new_job_id, now
from services.shared.service_errors import InvalidInput

log = telemetry.get_logger(__name__)


class JobRequest(JobSpec):
    """A job to submit."""

    tenant: str
    recording: Recording
    questions: tuple[str, ...] = ()
    idempotency_key: str = ""

    def manifest(self) -> Manifest:
        """What is stored of it."""
        at = now()
        return Manifest(
            id=new_job_id(self.tenant, self.idempotency_key),
            tenant=self.tenant,
            created_at=at,
            recording=self.recording,
            questions=tuple(Question(id=f"{n:03}", text=text, asked_at=at) for n, text in enumerate(self.questions)),
            fingerprint=self._fingerprint(),
            **self.spec,
        )

    def _fingerprint(self) -> str:
        content = self.model_dump(mode="json", include={*JobSpec.model_fields, "questions"})
        return fingerprint(content | {"sha256": self.recording.sha256})


class JobService:
    """Jobs as the gateway uses them.

    Every method raises StoreUnavailable if the object store cannot be reached. If Redis cannot, nothing is lost: the
    reconciler queues the work later.
    """

    def __init__(self, job_store: JobStore, dispatcher: Dispatcher, settings: JobSettings) -> None:
        self.job_store = job_store
        self._dispatcher = dispatcher
        self._settings = settings

    def submit(self, request: JobRequest) -> Job:
        """Stores and queues a job. If its idempotency key was used before, returns the job of that time.

        Raises:
            InvalidInput: a limit is exceeded, or tasks and questions do not match.
            KeyReused: the idempotency key was used with a different request.
        """
        self._check(request)
        job = self.job_store.create(request.manifest())
        self._push(job)
        return job

    def ask(self, job: JobId, texts: Sequence[str]) -> list[Question]:
        """Adds questions about a recording that is already transcribed; nothing is encoded again.

        Raises:
            UnknownJob: there is no such job.
            JobEnded: it has not succeeded.
            InvalidInput: too many questions, or one is too long.
        """
        view = self.job_store.read(job)
        self._check_questions(texts, len(view.manifest.questions) + len(view.contents.questions))
        asked = [self.job_store.ask(job, text) for text in texts]
        self._push_current(job)
        return asked

    def cancel(self, job: JobId) -> End:
        """Ends a job; one that has ended already is left unchanged. Raises UnknownJob."""
        self.job_store.manifest(job)
        end = self.job_store.finish(job, State.CANCELLED, "cancelled by its owner")
        try:
            self._dispatcher.drop(job)
        except QueueDown as error:  # workers find out when they start a unit
            log.warning("units of a cancelled job stay queued", job=job.job, reason=error.message)
        self._push_current(job)
        return end

    def _push_current(self, job: JobId) -> None:
        with suppress(UnknownJob):  # deleted meanwhile
            self._push(self.job_store.read(job))

    def _push(self, job: Job) -> None:
        try:
            self._dispatcher.push(job.id, next_units(job), job.manifest.priority)
        except QueueDown as error:
            log.warning("the job is left to the reconciler", job=job.id.job, reason=error.message)

    def _check(self, request: JobRequest) -> None:
        seconds, limit = request.recording.seconds, self._settings.max_job_seconds
        if seconds is not None and seconds > limit:
            raise InvalidInput("media_id", f"{seconds / 3600:.2f} h are over the limit of {limit / 3600:g} h")
        if bool(request.questions) != (Task.QUESTIONS in request.tasks):
            raise InvalidInput("questions", "are required by the task 'questions', and only allowed with it")
        self._check_questions(request.questions, 0)

    def _check_questions(self, texts: Sequence[str], existing: int) -> None:
        limit, max_characters = self._settings.max_questions, self._settings.max_question_characters
        if existing + len(texts) > limit:
            raise InvalidInput("questions", f"{existing + len(texts)} are over the limit of {limit} for one job")
        for row, text in enumerate(texts):
            if not text.strip():
                raise InvalidInput(f"questions[{row}]", "is empty")
            if len(text) > max_characters:
                raise InvalidInput(
                    f"questions[{row}]", f"{len(text)} characters are over the limit of {max_characters}"
                )
