"""Throughput and latency of a subject at given levels of concurrency."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import numpy as np

from model_core.errors import InvalidInput
from model_core.evaluation.manifest import Progress, Result
from model_core.evaluation.report import Report, Table, bar_chart
from model_core.evaluation.subject import Question, Reply, Subject

MAX_ANSWER_TOKENS = 32


def throughput_report(
    questions: Sequence[Question],
    subject: Subject,
    *,
    concurrency: Sequence[int] = (1, 2, 4),
    requests: int = 16,
    progress: Progress | None = None,
) -> Report:
    """Tokens and requests per second and first-token latency at each level, after one warm-up question.

    Args:
        questions: Asked in rotation.
        subject: What is evaluated; must be thread-safe.
        concurrency: Levels, each at least 1.
        requests: Requests per level.
        progress: Called with the number of requests done and in total.

    Raises:
        InvalidInput: a number is less than 1, or there is no question.
    """
    if not questions or requests < 1 or not concurrency or min(concurrency) < 1:
        raise InvalidInput("throughput", "questions, requests and each level of concurrency must be at least 1")
    subject.answer(questions[0])
    levels: list[dict[str, Any]] = []
    for done, level in enumerate(concurrency):
        if progress:
            progress(done * requests, len(concurrency) * requests)
        levels.append(_level(questions, subject, level, requests))
    if progress:
        progress(len(concurrency) * requests, len(concurrency) * requests)
    best = max(levels, key=lambda each: each["tokens_a_second"])
    details = {"unit": "tokens a second", "at_concurrency": best["concurrency"], "levels": levels}
    count = requests * len(concurrency)
    result = Result(
        metric="throughput", value=best["tokens_a_second"], count=count, subject=subject.tags, details=details
    )
    headings = ("concurrency", "tokens a second", "requests a second", "first token ms", "95th percentile ms")
    table = Table(title="Throughput", headings=headings, rows=tuple(tuple(each.values()) for each in levels))
    return Report(result=result, tables=(table,), plots={"throughput.png": bar_chart(table)})


def _level(questions: Sequence[Question], subject: Subject, concurrency: int, requests: int) -> dict[str, Any]:
    repeated = islice(cycle(questions), requests)
    wanted = [replace(question, name=f"request {number}") for number, question in enumerate(repeated, start=1)]
    waited: list[float] = []

    def answer(question: Question) -> Reply:
        # The time a question queues in this process counts as latency.
        start = time.perf_counter()
        reply = subject.answer(question)
        waited.append(time.perf_counter() - start - reply.seconds + (reply.first_token_seconds or reply.seconds))
        return reply

    start = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        replies = list(pool.map(answer, wanted))
    seconds = time.perf_counter() - start
    return {
        "concurrency": concurrency,
        "tokens_a_second": round(sum(reply.completion_tokens for reply in replies) / seconds, 2),
        "requests_a_second": round(requests / seconds, 3),
        "first_token_ms": round(1000 * float(np.median(waited)), 1),
        "first_token_ms_95": round(1000 * float(np.percentile(waited, 95)), 1),
    }
