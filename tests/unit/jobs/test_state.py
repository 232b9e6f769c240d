"""What is next follows from what is there: whatever is lost, or done twice, or in another order, a job ends."""

from collections.abc import Callable
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from services.shared.jobs.kinds import State, Task
from services.shared.jobs.layout import Contents, JobId
from services.shared.jobs.model import End, Manifest, Plan, PlannedClip, Question, Recording, Windows
from services.shared.jobs.state import Job, Unit, Work, next_units

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID = JobId("acme", "job-1")


def manifest(questions: int = 0, tasks: tuple[Task, ...] = (Task.TRANSCRIPT,), allow_gaps: bool = False) -> Manifest:
    return Manifest(
        id=ID.job,
        tenant=ID.tenant,
        created_at=NOW,
        recording=Recording(media_id="media-1", content_key="c", filename="a.mp3", sha256="0", bytes=1, seconds=1.0),
        tasks=tasks,
        questions=tuple(Question(id=f"{n:03}", text="Why?", asked_at=NOW) for n in range(questions)),
        allow_gaps=allow_gaps,
    )


def plan(clips: int) -> Plan:
    return Plan(
        planned_at=NOW,
        seconds=30.0 * clips,
        speech_seconds=20.0 * clips,
        truncated=False,
        clips=tuple(PlannedClip(index=n, start_seconds=30.0 * n, end_seconds=30.0 * n + 25) for n in range(clips)),
    )


class Shelf:
    """The objects of one job, and what doing a unit puts there."""

    def __init__(self, asked: Manifest, clips: int, windows: int, fails: Callable[[Unit], bool]) -> None:
        self.asked, self.clips, self.windows, self.fails = asked, clips, windows, fails
        self.names: set[str] = {"manifest.json"}
        self.end: End | None = None

    def job(self) -> Job:
        return Job(
            id=ID,
            manifest=self.asked,
            contents=Contents.from_names(frozenset(self.names)),
            plan=plan(self.clips) if "plan.json" in self.names else None,
            windows=self._windows() if "windows.json" in self.names else None,
            end=self.end,
        )

    def do(self, unit: Unit) -> None:
        name = {
            Work.PLAN: ID.plan,
            Work.CLIP: ID.clip_failure(unit.index) if self.fails(unit) else ID.clip(unit.index),
            Work.WINDOWS: ID.windows,
            Work.WINDOW: ID.window(unit.answer, unit.index),
            Work.ANSWER: ID.answer_failure(unit.answer) if self.fails(unit) else ID.answer(unit.answer),
            Work.FINISH: ID.end,
        }[unit.work].removeprefix(ID.prefix)
        if unit.work is Work.FINISH and self.end is None:
            bad = self.job().has_fatal_gap or bool(self.job().contents.failed_answers)
            self.end = End(state=State.FAILED if bad else State.SUCCEEDED, ended_at=NOW, retained_until=NOW)
        self.names.add(name)

    def _windows(self) -> Windows:
        each = max(self.clips // self.windows, 1)
        return Windows(clips=tuple((n * each, n * each + each - 1) for n in range(self.windows)), context_tokens=9)


@given(
    clips=st.integers(0, 7),
    windows=st.integers(1, 3),
    questions=st.integers(0, 3),
    summary=st.booleans(),
    failing=st.sets(st.integers(0, 6)),
    allow_gaps=st.booleans(),
    data=st.data(),
)
def test_any_order_and_any_repetition_comes_to_the_same_end(
    clips: int, windows: int, questions: int, summary: bool, failing: set[int], allow_gaps: bool, data: st.DataObject
) -> None:
    tasks = (Task.TRANSCRIPT, *([Task.SUMMARY] if summary else []), *([Task.QUESTIONS] if questions else []))
    asked = manifest(questions, tasks, allow_gaps)
    shelf = Shelf(asked, clips, windows, lambda unit: unit.work is Work.CLIP and unit.index in failing)
    stale: list[Unit] = []
    for _ in range(200):
        units = next_units(shelf.job())
        if not units:
            break
        stale += units
        again = data.draw(st.lists(st.sampled_from(stale), max_size=3))
        for unit in (*again, data.draw(st.sampled_from(units))):
            if unit in next_units(shelf.job()):  # as a worker looks before it begins
                shelf.do(unit)
    job = shelf.job()
    failed = {n for n in failing if n < clips}
    assert job.end is not None
    assert job.contents.clips == set(range(clips)) - failed
    assert job.contents.failed_clips == failed
    answers = {*(["summary"] if summary else []), *(question.id for question in asked.questions)}
    heard = clips > 0 and (allow_gaps or not failed)
    assert job.contents.answers == (answers if heard else set())
    assert next_units(job) == ()


def test_states_follow_the_objects() -> None:
    shelf = Shelf(manifest(questions=1), clips=2, windows=1, fails=lambda unit: False)
    assert shelf.job().state is State.QUEUED
    shelf.names.add("started.json")
    assert shelf.job().state is State.PLANNING
    shelf.do(Unit(Work.PLAN))
    assert shelf.job().state is State.RUNNING
    shelf.do(Unit(Work.CLIP, 0))
    shelf.do(Unit(Work.CLIP, 1))
    assert shelf.job().state is State.ANSWERING
    shelf.do(Unit(Work.FINISH))
    assert shelf.job().state is State.SUCCEEDED


def test_a_job_that_was_cancelled_has_nothing_to_do() -> None:
    shelf = Shelf(manifest(), clips=2, windows=1, fails=lambda unit: False)
    shelf.end = End(state=State.CANCELLED, ended_at=NOW, retained_until=NOW)
    assert next_units(shelf.job()) == ()


def test_a_question_that_comes_later_is_answered_from_what_was_heard() -> None:
    shelf = Shelf(manifest(), clips=4, windows=2, fails=lambda unit: False)
    while units := next_units(shelf.job()):
        shelf.do(units[0])
    shelf.names.add("questions/000.json")
    done = []
    while units := next_units(shelf.job()):
        done.append(units[0])
        shelf.do(units[0])
    assert [unit.work for unit in done] == [Work.WINDOWS, Work.WINDOW, Work.WINDOW, Work.ANSWER]


@given(st.builds(Unit, st.sampled_from(Work), st.integers(0, 9999), st.sampled_from(["", "summary", "003"])))
def test_units_survive_being_written_down(unit: Unit) -> None:
    assert Unit.parse(str(unit)) == unit
