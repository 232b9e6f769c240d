"""Replays traffic against simulated services with autoscalers or fixed replicas."""

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.scaling.chart import METHODS, ScaledService
from bench.scaling.fleet import Fleet
from bench.scaling.queries import SCRAPE_SECONDS, Query, Samples
from bench.scaling.rules import SYNC_SECONDS, Autoscaler, Settings
from bench.scaling.traffic import Question, Speeds, Traffic

# Delay before a call that found no replica is retried.
_RETRY_SECONDS = 2.0
_BACKGROUND_SECONDS = 1.0
# Duration of a step of background transcription, for which a question's encoding may have to wait.
_STEP_SECONDS = 0.3
_FIRST_TOKEN_SECONDS = 0.2
# Duration of a recording's summary, in answers.
_SUMMARY_ANSWERS = 3

SPEECH, VISION, LANGUAGE, VOICE = "speech-encoder", "vision-encoder", "language-model", "speech-synthesizer"


@dataclass(slots=True)
class Outcome:
    """Results of a run. Waiting times are in seconds, by service, and for each question the sum over services."""

    gpu_hours: dict[str, float]
    waits: dict[str, list[float]]
    questions: list[tuple[float, float]]  # arrival, waiting time
    recordings: list[tuple[float, float]]  # seconds of audio, seconds until it was transcribed
    replicas: list[tuple[float, dict[str, int]]]

    def p95(self, service: str = "") -> float:
        """95th percentile of the waiting time at a service, or of questions."""
        waits = self.waits[service] if service else [wait for _, wait in self.questions]
        return float(np.percentile(waits, 95)) if waits else 0.0

    @property
    def transcribed_p95(self) -> float:
        """95th percentile of the seconds until a recording is transcribed."""
        return float(np.percentile([seconds for _, seconds in self.recordings], 95)) if self.recordings else 0.0

    @property
    def hours(self) -> float:
        """GPU hours of all services together."""
        return sum(self.gpu_hours.values())


@dataclass(slots=True)
class _Request:
    question: Question
    waited: float = 0.0
    encodings: int = 0


@dataclass(slots=True)
class _Job:
    arrived: float
    audio_seconds: float
    left: float


class Simulation:
    """One run; call `run()` once.

    Args:
        services: As deployed by the chart.
        traffic: Questions and recordings.
        speeds: Speeds of a pod.
        start_seconds: Start time of a pod, by service.
        fixed: Replicas by service, for services that are not autoscaled.
        joint: Settings of one autoscaler for all services; None for one per service.
    """

    def __init__(
        self,
        services: Sequence[ScaledService],
        traffic: Traffic,
        speeds: Speeds,
        start_seconds: Mapping[str, float],
        *,
        fixed: Mapping[str, int] | None = None,
        joint: Settings | None = None,
    ) -> None:
        self.traffic = traffic
        self._speeds = speeds
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = itertools.count()
        self._scraped: list[tuple[float, Samples]] = []
        self._jobs: list[_Job] = []
        self._draw = np.random.default_rng(0)
        self.fleets = {
            each.name: Fleet(
                start_seconds[each.name], speeds.voice_streams if each.name == VOICE else 1, each.gpus or 1.0
            )
            for each in services
        }
        self._outcome = Outcome({}, {name: fleet.waits for name, fleet in self.fleets.items()}, [], [], [])
        self._begin(services, fixed or {}, joint)

    def run(self) -> Outcome:
        """Returns when all questions have been answered."""
        for question in self.traffic.questions:
            self._at(question.at, self._submit, _Request(question))
        for recording in self.traffic.recordings:
            job = _Job(recording.at, recording.audio_seconds, recording.audio_seconds)
            self._at(recording.at, self._jobs.append, job)
        while self._events:
            self._now, _, act, arguments = heapq.heappop(self._events)
            act(*arguments)
        for fleet in self.fleets.values():
            fleet.finish(self.traffic.seconds)
        self._outcome.gpu_hours = {name: fleet.gpu_seconds / 3600 for name, fleet in self.fleets.items()}
        return self._outcome

    def _begin(self, services: Sequence[ScaledService], fixed: Mapping[str, int], joint: Settings | None) -> None:
        for each in services:
            settings = joint or each.autoscaler
            minimum = max(1, settings.min_replicas) if settings else each.replicas
            self.fleets[each.name].scale(0.0, fixed.get(each.name, minimum), at_once=True)
        self._every(SCRAPE_SECONDS, self._scrape)
        self._every(_BACKGROUND_SECONDS, self._transcribe)
        scaled = [each for each in services if each.name not in fixed]
        if joint is not None:
            self._follow(joint, [each.name for each in scaled])
            return
        for each in scaled:
            if each.autoscaler is not None:
                self._follow(each.autoscaler, [each.name])

    def _follow(self, settings: Settings, names: Sequence[str]) -> None:
        """Runs one autoscaler for these fleets."""
        scaler = Autoscaler(settings)
        queries = [Query.parse(trigger.query) for trigger in settings.triggers]

        def act(decide: Callable[[float, int, Sequence[float]], int]) -> None:
            if not self._scraped:
                return
            current = self.fleets[names[0]].replicas
            wanted = decide(self._now, current, [query.value(self._past) for query in queries])
            for name in names:
                self.fleets[name].scale(self._now, wanted)

        # The HPA is not synchronized with scrapes: it evaluates them some seconds later.
        self._every(SYNC_SECONDS, lambda: act(scaler.sync), first=7.0)
        if settings.keda:
            self._every(settings.polling_seconds, lambda: act(scaler.poll), first=3.0)

    def _at(self, moment: float, act: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (moment, next(self._numbers), act, arguments))

    def _every(self, seconds: float, act: Callable[[], None], first: float = 0.0) -> None:
        def again() -> None:
            act()
            if self._now + seconds < self.traffic.seconds:
                self._at(self._now + seconds, again)

        self._at(first, again)

    def _submit(self, request: _Request) -> None:
        question = request.question
        encodings = [(SPEECH, question.audio_seconds * self._speeds.encode_factor)] if question.audio_seconds else []
        encodings += [(VISION, self._speeds.picture_seconds)] * question.pictures
        request.encodings = len(encodings)
        if not encodings:
            self._answer(request)
        for service, seconds in encodings:
            self._encode(request, service, seconds, self._now)

    def _encode(self, request: _Request, service: str, seconds: float, arrived: float) -> None:
        busy = service == SPEECH and bool(self._jobs)
        step = float(self._draw.uniform(0, _STEP_SECONDS)) if busy else 0.0
        audio_seconds = request.question.audio_seconds if service == SPEECH else 0.0
        begins = self.fleets[service].call(self._now, seconds, audio_seconds=audio_seconds, delay=step)
        if begins is None:
            self._at(self._now + _RETRY_SECONDS, self._encode, request, service, seconds, arrived)
            return
        # Encodings run concurrently, so the longest wait counts.
        request.waited = max(request.waited, begins - arrived)
        self._at(begins + seconds, self._encoded, request)

    def _encoded(self, request: _Request) -> None:
        request.encodings -= 1
        if request.encodings == 0:
            self._answer(request)

    def _answer(self, request: _Request) -> None:
        seconds = request.question.answer_seconds
        begins = self.fleets[LANGUAGE].call(self._now, seconds)
        if begins is None:
            request.waited += _RETRY_SECONDS
            self._at(self._now + _RETRY_SECONDS, self._answer, request)
            return
        request.waited += begins - self._now
        if request.question.spoken:
            self._at(begins + _FIRST_TOKEN_SECONDS, self._speak, request)
        else:
            self._outcome.questions.append((request.question.at, request.waited))

    def _speak(self, request: _Request) -> None:
        begins = self.fleets[VOICE].call(self._now, request.question.answer_seconds)
        if begins is None:
            request.waited += _RETRY_SECONDS
            self._at(self._now + _RETRY_SECONDS, self._speak, request)
            return
        self._outcome.questions.append((request.question.at, request.waited + begins - self._now))

    def _transcribe(self) -> None:
        """Long recordings share the time that questions leave to the speech encoders equally."""
        idle = self.fleets[SPEECH].idle_seconds(self._now, self._now + _BACKGROUND_SECONDS)
        room = idle / self._speeds.transcribe_factor
        for job in sorted(self._jobs, key=lambda job: job.left):
            share = min(job.left, room / (len(self._jobs) or 1))
            job.left -= share
        for job in [job for job in self._jobs if job.left <= 1e-6]:
            self._jobs.remove(job)
            self._outcome.recordings.append((job.audio_seconds, self._now - job.arrived))
            self._summarize()

    def _summarize(self) -> None:
        seconds = _SUMMARY_ANSWERS * self._speeds.answer_seconds
        if self.fleets[LANGUAGE].call(self._now, seconds, interactive=False) is None:
            self._at(self._now + _RETRY_SECONDS, self._summarize)

    def _scrape(self) -> None:
        samples: dict[tuple[str, str], float] = {}
        for name, fleet in self.fleets.items():
            fleet.clean(self._now)
            service = name.replace("-", "_")
            running, waiting = fleet.running(self._now), fleet.waiting(self._now)
            samples["lyra_model_running", service] = running
            samples["lyra_requests_waiting", service] = waiting
            samples["lyra_requests_running", METHODS[service]] = running + waiting
            samples["lyra_calls_unserved_total", service] = fleet.unserved
            samples["lyra_requests_total", METHODS[service]] = fleet.served
        audio = self.fleets[SPEECH].audio_seconds(self._now) + sum(job.left for job in self._jobs)
        samples["lyra_audio_seconds_waiting", ""] = audio
        self._scraped.append((self._now, samples))
        self._outcome.replicas.append((self._now, {name: fleet.replicas for name, fleet in self.fleets.items()}))

    def _past(self, seconds: float) -> Samples:
        return self._scraped[max(0, len(self._scraped) - 1 - round(seconds / SCRAPE_SECONDS))][1]
