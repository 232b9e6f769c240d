"""The desk where jobs are submitted, looked at, asked, cancelled and deleted. Everything here blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.shared import telemetry
from services.shared.jobs.kinds import Priority, State, Task
from services.shared.jobs.layout import JobId
from services.shared.jobs.model import End, Manifest, Question, Recording, Webhook
from services.shared.jobs.settings import JobSettings
from services.shared.jobs.state import next_units
from services.shared.jobs.store import JobStore, UnknownJob, fingerprint, new_job_id, now
from services.shared.jobs.tickets import Dispatcher, QueueDown
from services.shared.service_errors import InvalidInput

log = telemetry.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """What is asked for; as in Manifest."""

    tenant: str
    recording: Recording
    tasks: tuple[Task, ...]
    questions: tuple[str, ...] = ()
    language: str = ""
    webhook: Webhook | None = None
    metadata: Mapping[str, str]
    priority: Priority = Priority.NORMAL
    allow_gaps: bool = False
    idempotency_key: str = ""


class JobService:
    """What the gateway does with jobs.

    Every method raises StoreUnavailable where the object store cannot be reached. Where Redis cannot, nothing is lost:
    the reconciler finds what there is to do.
    """

    def __init__(self, book: JobStore, dispatcher: Dispatcher, settings: JobSettings) -> None:
        self.book = book
        self._dispatcher = dispatcher
        self._settings = settings

    def submit(self, order: JobRequest) -> Manifest:
        """Keeps a job and puts it into the queue; with an idempotency key that was used before, the job of then.

        Raises:
            InvalidInput: a limit is exceeded, or the tasks do not fit the questions.
            KeyReused: the idempotency key came with another request before.
        """
        self._check(order)
        at = now()
        asked = {
            "sha256": order.recording.sha256,
            "tasks": order.tasks,
            "questions": order.questions,
            "language": order.language,
            "webhook": order.webhook.model_dump() if order.webhook else None,
            "metadata": dict(order.metadata),
            "priority": order.priority,
            "allow_gaps": order.allow_gaps,
        }
        manifest = self.book.create(
            Manifest(
                id=new_job_id(order.tenant, order.idempotency_key),
                tenant=order.tenant,
                created_at=at,
                recording=order.recording,
                tasks=order.tasks,
                questions=tuple(
                    Question(id=f"{number:03}", text=text, asked_at=at) for number, text in enumerate(order.questions)
                ),
                language=order.language,
                webhook=order.webhook,
                metadata=dict(order.metadata),
                priority=order.priority,
                allow_gaps=order.allow_gaps,
                fingerprint=fingerprint(asked),
            )
        )
        self._push(JobId(manifest.tenant, manifest.id))
        return manifest

    def ask(self, job: JobId, texts: Sequence[str]) -> list[Question]:
        """More questions about a recording that was heard already; nothing is encoded again.

        Raises:
            UnknownJob: there is none.
            JobEnded: it has not succeeded.
            InvalidInput: too many questions, or one is too long.
        """
        view = self.book.read(job)
        self._check_questions(texts, len(view.manifest.questions) + len(view.contents.questions))
        asked = [self.book.ask(job, text) for text in texts]
        self._push(job)
        return asked

    def cancel(self, job: JobId) -> End:
        """Ends a job; one that has ended stays as it is. Raises UnknownJob."""
        self.book.manifest(job)
        end = self.book.finish(job, State.CANCELLED, "cancelled by its owner")
        self._push(job)
        return end

    def _push(self, job: JobId) -> None:
        try:
            view = self.book.read(job)
            self._dispatcher.push(job, next_units(view), view.manifest.priority)
        except QueueDown as error:
            log.warning("the job will be found by the reconciler", job=job.job, reason=error.message)
        except UnknownJob:
            return

    def _check(self, order: JobRequest) -> None:
        seconds, limit = order.recording.seconds, self._settings.max_job_seconds
        if seconds is not None and seconds > limit:
            raise InvalidInput("media_id", f"{seconds / 3600:.2f} h are over the limit of {limit / 3600:g} h")
        if bool(order.questions) != (Task.QUESTIONS in order.tasks):
            raise InvalidInput("questions", "are needed for the task 'questions', and for no other")
        self._check_questions(order.questions, 0)

    def _check_questions(self, texts: Sequence[str], there: int) -> None:
        most, longest = self._settings.max_questions, self._settings.max_question_characters
        if there + len(texts) > most:
            raise InvalidInput("questions", f"{there + len(texts)} are over the limit of {most} for one job")
        for row, text in enumerate(texts):
            if not text.strip():
                raise InvalidInput(f"questions[{row}]", "is empty")
            if len(text) > longest:
                raise InvalidInput(f"questions[{row}]", f"{len(text)} characters are over the limit of {longest}")
