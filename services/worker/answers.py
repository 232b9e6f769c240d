"""Answers questions from stored speech tokens: in one pass if they fit into the model's context, else per window, with
the answers of the windows combined into one."""

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

# Tokens of a prompt other than speech and question: chat template, system message.
_TEMPLATE_TOKENS = 128
_TOKENS_PER_CHARACTER = 0.5  # an upper bound
_COMBINE = "These are notes on consecutive parts of one recording. Answer from them in one short text."


@dataclass(frozen=True, slots=True)
class _Generated:
    text: str
    usage: Usage


def cut_windows(context: WorkerContext, job: Job, unit: Unit) -> None:
    """Groups the clips into windows, once for all questions of the job."""
    model = context.run(lambda services: describe_language_model(services, job.manifest.tenant))
    budget = window_budget(context.settings, model)
    tokens = {clip.index: context.job_store.clip(job.id, clip.index).speech_tokens for clip in _done_clips(job)}
    windows = Windows(clips=group_clips(tokens, budget), context_tokens=model.context_tokens)
    context.store.put_new(job.id.windows, windows.to_bytes())


def answer_window(context: WorkerContext, job: Job, unit: Unit) -> None:
    """Answers a question from one window."""
    clips = _window(job, unit.index)
    question = question_text(context, job, unit.answer)
    generated = _generate(
        context, job, _speech_prompt(context, job, clips, question), context.settings.window_answer_tokens
    )
    made = WindowAnswer(
        start_seconds=clips[0].start_seconds,
        end_seconds=clips[-1].end_seconds,
        text=generated.text,
        prompt_tokens=generated.usage.prompt_tokens,
        completion_tokens=generated.usage.completion_tokens,
    )
    context.store.put_new(job.id.window(unit.answer, unit.index), made.to_bytes())


def answer(context: WorkerContext, job: Job, unit: Unit) -> None:
    """Answers a question from all speech tokens, or from the answers of its windows."""
    question = question_text(context, job, unit.answer)
    assert job.windows is not None
    windows: tuple[WindowAnswer, ...] = ()
    if len(job.windows.clips) == 1:
        parts = _speech_prompt(context, job, _window(job, 0), question)
    else:
        windows = tuple(
            WindowAnswer.from_bytes(context.store.get(job.id.window(unit.answer, index)))
            for index in range(len(job.windows.clips))
        )
        parts = [TextPart(_notes(windows, question))]
    generated = _generate(context, job, parts, context.settings.answer_tokens)
    made = Answer(
        id=unit.answer,
        question=question,
        text=generated.text,
        mode="map_reduce" if windows else "single_pass",
        windows=windows,
        prompt_tokens=generated.usage.prompt_tokens + sum(window.prompt_tokens for window in windows),
        completion_tokens=generated.usage.completion_tokens + sum(window.completion_tokens for window in windows),
    )
    context.store.put_new(job.id.answer(unit.answer), made.to_bytes())


def question_text(context: WorkerContext, job: Job, answer: str) -> str:
    """The question with this id."""
    if answer == SUMMARY:
        return SUMMARY_PROMPT
    asked = {question.id: question.text for question in job.manifest.questions}
    return asked[answer] if answer in asked else context.job_store.question(job.id, answer).text


def window_budget(settings: WorkerSettings, model: LanguageModelDescribeResponse) -> int:
    """Speech tokens per prompt: what fits into the context along with the longest question and its answer.

    Raises `Failed` if the language model's context is too short even for those.
    """
    reserved = _TEMPLATE_TOKENS + settings.answer_tokens + int(settings.max_question_characters * _TOKENS_PER_CHARACTER)
    budget = model.context_tokens - reserved
    if budget <= 0:
        raise Failed(
            f"the language model's context of {model.context_tokens} tokens is too short for a question and its answer"
        )
    return min(budget, settings.window_tokens or model.window_tokens or budget)


def group_clips(tokens: dict[int, int], budget: int) -> tuple[tuple[int, int], ...]:
    """Groups clips (token counts by index) into as few ranges as the budget allows, of similar size."""
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


def _done_clips(job: Job) -> tuple[PlannedClip, ...]:
    return tuple(clip for clip in job.clips if clip.index in job.contents.clips)


def _window(job: Job, index: int) -> tuple[PlannedClip, ...]:
    assert job.windows is not None
    first, last = job.windows.clips[index]
    return tuple(clip for clip in _done_clips(job) if first <= clip.index <= last)


def _speech_prompt(context: WorkerContext, job: Job, clips: Sequence[PlannedClip], question: str) -> list[Part]:
    return [SpeechTokensPart(tuple(read_tokens(context, job, clips))), TextPart(question)]


def _notes(windows: Sequence[WindowAnswer], question: str) -> str:
    lines = [f"[{_timestamp(w.start_seconds)} to {_timestamp(w.end_seconds)}] {w.text}" for w in windows]
    return "\n".join((_COMBINE, *lines, question))


def _timestamp(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _generate(context: WorkerContext, job: Job, parts: Sequence[Part], max_tokens: int) -> _Generated:
    request = AnswerRequest(
        messages=(Message(Role.USER, tuple(parts)),),
        tenant=job.manifest.tenant,
        sampling=SamplingParams(max_tokens=max_tokens, end_loops=True),
        keep_rate=context.settings.keep_rate if any(isinstance(part, SpeechTokensPart) for part in parts) else None,
        in_background=True,
    )
    return context.run(lambda services: _collect(services, request))


async def _collect(services: ModelClients, request: AnswerRequest) -> _Generated:
    text = ""
    async with aclosing(ask(services, request)) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                text += event.text
            elif isinstance(event, Finished):
                return _Generated(without_loop(text).strip(), event.usage)
    raise Failed("the language model's stream ended without a finish reason")
