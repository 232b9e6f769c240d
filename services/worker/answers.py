"""Answering from speech tokens that are kept: in one pass where the language model can read them all, else window by
window, the answers of the windows being joined to one."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from lyra.v1.language_model_pb2 import LanguageModelDescribeResponse
from model_core.engine.sampling_params import SamplingParams
from model_core.text.repetition import without_loop
from services.shared.jobs.layout import SUMMARY
from services.shared.jobs.model import Answer, PlannedClip, WindowAnswer, Windows
from services.shared.jobs.state import SUMMARY_PROMPT, Job, Unit
from services.shared.pipeline.answer import answer as ask
from services.shared.pipeline.clients import ModelClients
from services.shared.pipeline.describe import describe_language_model
from services.shared.pipeline.messages import (
    AnswerRequest,
    Finished,
    Message,
    Part,
    Role,
    SpeechTokensPart,
    TextDelta,
    TextPart,
    Usage,
)
from services.shared.service_errors import Failed
from services.worker.clips import read_tokens
from services.worker.context import WorkerContext
from services.worker.settings import WorkerSettings

# Tokens of a prompt beside speech and question: template, system message.
_FRAME_TOKENS = 128
_TOKENS_A_CHARACTER = 0.5  # more than any question takes
_JOIN = "These are notes on consecutive parts of one recording. Answer from them in one short text."


@dataclass(frozen=True, slots=True)
class _Said:
    text: str
    usage: Usage


def cut_windows(place: WorkerContext, job: Job, unit: Unit) -> None:
    """Settles which clips are answered from together, once for all questions of the job."""
    model = place.run(lambda services: describe_language_model(services, job.manifest.tenant))
    budget = window_budget(place.settings, model)
    tokens = {clip.index: place.book.clip(job.id, clip.index).speech_tokens for clip in _heard(job)}
    windows = Windows(clips=group_clips(tokens, budget), context_tokens=model.context_tokens)
    place.store.put_new(job.id.windows, windows.to_bytes())


def answer_window(place: WorkerContext, job: Job, unit: Unit) -> None:
    """What one window says to a question."""
    clips = _window(job, unit.index)
    question = question_text(place, job, unit.answer)
    said = _say(place, job, _speech(place, job, clips, question), place.settings.window_answer_tokens)
    made = WindowAnswer(
        start_seconds=clips[0].start_seconds,
        end_seconds=clips[-1].end_seconds,
        text=said.text,
        prompt_tokens=said.usage.prompt_tokens,
        completion_tokens=said.usage.completion_tokens,
    )
    place.store.put_new(job.id.window(unit.answer, unit.index), made.to_bytes())


def answer(place: WorkerContext, job: Job, unit: Unit) -> None:
    """The answer to a question: from all speech tokens, or from what its windows said."""
    question = question_text(place, job, unit.answer)
    assert job.windows is not None
    windows: tuple[WindowAnswer, ...] = ()
    if len(job.windows.clips) == 1:
        parts = _speech(place, job, _window(job, 0), question)
    else:
        windows = tuple(
            WindowAnswer.from_bytes(place.store.get(job.id.window(unit.answer, index)))
            for index in range(len(job.windows.clips))
        )
        parts = [TextPart(_notes(windows, question))]
    said = _say(place, job, parts, place.settings.answer_tokens)
    made = Answer(
        id=unit.answer,
        question=question,
        text=said.text,
        mode="map_reduce" if windows else "single_pass",
        windows=windows,
        prompt_tokens=said.usage.prompt_tokens + sum(window.prompt_tokens for window in windows),
        completion_tokens=said.usage.completion_tokens + sum(window.completion_tokens for window in windows),
    )
    place.store.put_new(job.id.answer(unit.answer), made.to_bytes())


def question_text(place: WorkerContext, job: Job, answer: str) -> str:
    """What is asked under this id."""
    if answer == SUMMARY:
        return SUMMARY_PROMPT
    asked = {question.id: question.text for question in job.manifest.questions}
    return asked[answer] if answer in asked else place.book.question(job.id, answer).text


def window_budget(settings: WorkerSettings, model: LanguageModelDescribeResponse) -> int:
    """Speech tokens that are answered from at once: no more than fit beside the longest question and its answer.

    Raises `Failed` for a language model that reads fewer than these take.
    """
    beside = _FRAME_TOKENS + settings.answer_tokens + int(settings.max_question_characters * _TOKENS_A_CHARACTER)
    budget = model.context_tokens - beside
    if budget <= 0:
        raise Failed(
            f"the language model reads {model.context_tokens} tokens, fewer than a question and its answer take"
        )
    return min(budget, settings.window_tokens or model.window_tokens or budget)


def group_clips(tokens: dict[int, int], budget: int) -> tuple[tuple[int, int], ...]:
    """Clips, by index with their tokens, in as few stretches as the budget allows, of about the same size."""
    needed = -(-sum(tokens.values()) // budget) or 1
    even = min(budget, sum(tokens.values()) / needed + max(tokens.values()))
    groups: list[list[int]] = []
    filled = 0
    for index, count in tokens.items():
        if not groups or filled + count > even:
            groups.append([])
            filled = 0
        groups[-1].append(index)
        filled += count
    return tuple((group[0], group[-1]) for group in groups)


def _heard(job: Job) -> tuple[PlannedClip, ...]:
    return tuple(clip for clip in job.clips if clip.index in job.contents.clips)


def _window(job: Job, index: int) -> tuple[PlannedClip, ...]:
    assert job.windows is not None
    first, last = job.windows.clips[index]
    return tuple(clip for clip in _heard(job) if first <= clip.index <= last)


def _speech(place: WorkerContext, job: Job, clips: Sequence[PlannedClip], question: str) -> list[Part]:
    return [SpeechTokensPart(tuple(read_tokens(place, job, clips))), TextPart(question)]


def _notes(windows: Sequence[WindowAnswer], question: str) -> str:
    lines = [f"[{_clock(w.start_seconds)} to {_clock(w.end_seconds)}] {w.text}" for w in windows]
    return "\n".join((_JOIN, *lines, question))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _say(place: WorkerContext, job: Job, parts: Sequence[Part], max_tokens: int) -> _Said:
    request = AnswerRequest(
        messages=(Message(Role.USER, tuple(parts)),),
        tenant=job.manifest.tenant,
        sampling=SamplingParams(max_tokens=max_tokens, end_loops=True),
        keep_rate=place.settings.keep_rate if any(isinstance(part, SpeechTokensPart) for part in parts) else None,
    )
    return place.run(lambda services: _collect(services, request))


async def _collect(services: ModelClients, request: AnswerRequest) -> _Said:
    text = ""
    async with aclosing(ask(services, request)) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                text += event.text
            elif isinstance(event, Finished):
                return _Said(without_loop(text).strip(), event.usage)
    raise Failed("the language model ended its answer without a reason")
