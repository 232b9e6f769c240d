"""Keys of a job's objects in the store, and what a key stands for."""

import re
from dataclasses import dataclass

ACTIVE = "active/"
EXPIRY = "expiry/"
SUMMARY = "summary"
# Below a job's prefix: its webhook's delivery, and the marker that no more attempts will be made.
WEBHOOK = "webhook/"
WEBHOOK_DONE = "webhook/over.json"

_ACTIVE_KEY = re.compile(r"active/(?P<tenant>[^/]+)/(?P<job>[^/]+)")
_CLIP_FILE = re.compile(r"clips/(?P<index>\d{4,})\.(?P<kind>json|failed\.json)")
_ANSWER_FILE = re.compile(r"answers/(?P<id>\w+)/(?P<part>answer|failed|window-(?P<window>\d{3,}))\.json")
_QUESTION_FILE = re.compile(r"questions/(?P<id>\d{3,})\.json")


@dataclass(frozen=True, slots=True, order=True)
class JobId:
    """A tenant's job. Prefixes of different tenants never overlap."""

    tenant: str
    job: str

    @property
    def prefix(self) -> str:
        return f"jobs/{self.tenant}/{self.job}/"

    @property
    def active(self) -> str:
        """Marker that the job has work left."""
        return f"{ACTIVE}{self.tenant}/{self.job}"

    def key(self, name: str) -> str:
        return self.prefix + name

    @property
    def manifest(self) -> str:
        return self.key("manifest.json")

    @property
    def started(self) -> str:
        """Marker that planning has started."""
        return self.key("started.json")

    @property
    def plan(self) -> str:
        return self.key("plan.json")

    @property
    def windows(self) -> str:
        return self.key("windows.json")

    @property
    def result(self) -> str:
        return self.key("result.json")

    def subtitles(self, kind: str) -> str:
        """`kind`: srt or vtt."""
        return self.key(f"result.{kind}")

    @property
    def end(self) -> str:
        return self.key("end.json")

    def audio(self, index: int) -> str:
        return self.key(f"clips/{index:04}.flac")

    def tokens(self, index: int) -> str:
        return self.key(f"clips/{index:04}.safetensors")

    def clip(self, index: int) -> str:
        """Written last: its presence means that the clip is done."""
        return self.key(f"clips/{index:04}.json")

    def clip_failure(self, index: int) -> str:
        return self.key(f"clips/{index:04}.failed.json")

    def question(self, question: str) -> str:
        """A question asked after submission."""
        return self.key(f"questions/{question}.json")

    def window(self, answer: str, window: int) -> str:
        return self.key(f"answers/{answer}/window-{window:03}.json")

    def answer(self, answer: str) -> str:
        return self.key(f"answers/{answer}/answer.json")

    def answer_failure(self, answer: str) -> str:
        return self.key(f"answers/{answer}/failed.json")


@dataclass(frozen=True, slots=True)
class Contents:
    """The objects of a job that exist, parsed from one listing of its prefix.

    Attributes:
        clips, failed_clips: Indices of the clips that are done, or failed for good.
        answers, failed_answers: Ids of the questions that are answered, or failed for good.
        windows: Indices of the windows that are done, by the id of their answer.
        questions: Ids of the questions asked after submission, in order.
    """

    names: frozenset[str]
    clips: frozenset[int]
    failed_clips: frozenset[int]
    answers: frozenset[str]
    failed_answers: frozenset[str]
    windows: dict[str, frozenset[int]]
    questions: tuple[str, ...]

    @classmethod
    def from_names(cls, names: frozenset[str]) -> "Contents":
        """`names`: keys below the job's prefix."""
        clips: dict[str, set[int]] = {"json": set(), "failed.json": set()}
        answers: dict[str, set[str]] = {"answer": set(), "failed": set()}
        windows: dict[str, set[int]] = {}
        questions = []
        for name in names:
            if found := _CLIP_FILE.fullmatch(name):
                clips[found["kind"]].add(int(found["index"]))
            elif found := _ANSWER_FILE.fullmatch(name):
                if found["window"]:
                    windows.setdefault(found["id"], set()).add(int(found["window"]))
                else:
                    answers[found["part"]].add(found["id"])
            elif found := _QUESTION_FILE.fullmatch(name):
                questions.append(found["id"])
        return cls(
            names=names,
            clips=frozenset(clips["json"]),
            failed_clips=frozenset(clips["failed.json"]),
            answers=frozenset(answers["answer"]),
            failed_answers=frozenset(answers["failed"]),
            windows={answer: frozenset(done) for answer, done in windows.items()},
            questions=tuple(sorted(questions)),
        )


def active_job(key: str) -> JobId | None:
    """The job that a key below `active/` stands for."""
    found = _ACTIVE_KEY.fullmatch(key)
    return JobId(found["tenant"], found["job"]) if found else None
