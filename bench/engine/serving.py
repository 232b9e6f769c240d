"""Rows over HTTP, before and after: many users, a long prompt beside short answers, spoken questions."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from tokenizers import Tokenizer

from bench.engine import stacks
from bench.engine.figures import Figures, Plan, Target, p95, summary, take_turns
from bench.engine.prompts import question, text_of
from bench.engine.stacks import AFTER, BEFORE
from cli.ask import Answer, collect
from cli.client import GatewayClient, audio_part, text_part
from cli.connection import Connection
from model_core.presets import lyra_home

USERS = (1, 4, 16)
TOKENS = 40
LONG_PROMPT = 4000
SHORT_USERS = 4
IDLE_SECONDS = 8.0
SPEAKING_USERS = (1, 8)
SPOKEN_TOKENS = 96
HELD_OUT = Path(__file__).parents[2] / "tests" / "data" / "held_out"

Content = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Load:
    """What users got who asked at the same time."""

    tokens_per_second: float
    first_token_seconds: list[float]
    first_audio_seconds: list[float]


def users(plan: Plan) -> tuple[Figures, list[Target]]:
    """Tokens a second and time to the first token of 1, 4 and 16 users, who ask different questions at once."""

    def run(connection: Connection, count: int, repeat: int) -> Load:
        texts = [question(number + 100 * (repeat + 1)) for number in range(count)]
        return ask_at_once(connection, [[text_part(text)] for text in texts], max_tokens=TOKENS)

    loads = _by_users(plan, USERS, run)
    figures: Figures = {"tokens": TOKENS, "users": {}}
    for side, by_count in loads.items():
        figures["users"][side] = {
            str(count): {
                "tokens_per_second": summary(load.tokens_per_second for load in found),
                "first_token_seconds": summary(median(load.first_token_seconds) for load in found),
                "worst_first_token_seconds": summary(max(load.first_token_seconds) for load in found),
            }
            for count, found in by_count.items()
        }
    if BEFORE not in loads:
        return figures, []
    before, after = (figures["users"][side][str(USERS[-1])] for side in (BEFORE, AFTER))
    speed, latency = (
        after[key]["median"] / before[key]["median"] for key in ("tokens_per_second", "first_token_seconds")
    )
    return figures, [
        Target("16 users over HTTP, tokens a second / before", speed, 10.0),
        Target("16 users over HTTP, time to the first token / before", latency, 0.05, at_least=False),
    ]


def spoken(plan: Plan) -> tuple[Figures, list[Target]]:
    """Time until a spoken question is answered by voice, for 1 and 8 users."""
    questions = [json.loads(line)["audio"] for line in (HELD_OUT / "factual-spoken.jsonl").read_text().splitlines()]

    def run(connection: Connection, count: int, repeat: int) -> Load:
        start = sum(SPEAKING_USERS) * (repeat + 1) + count
        contents = [[audio_part(HELD_OUT / name)] for name in questions[start : start + count]]
        return ask_at_once(connection, contents, spoken=True, max_tokens=SPOKEN_TOKENS)

    loads = _by_users(plan, SPEAKING_USERS, run)
    figures: Figures = {"max_tokens": SPOKEN_TOKENS, "first_audio_seconds": {}}
    for side, by_count in loads.items():
        figures["first_audio_seconds"][side] = {
            str(count): {
                "median": summary(median(load.first_audio_seconds) for load in found),
                "worst": summary(max(load.first_audio_seconds) for load in found),
            }
            for count, found in by_count.items()
        }
    one, eight = (figures["first_audio_seconds"][AFTER][str(count)]["median"]["median"] for count in SPEAKING_USERS)
    return figures, [Target("first audio at 8 users / at 1", eight / one, 2.5, at_least=False)]


def ask_at_once(connection: Connection, contents: Sequence[Content], *, spoken: bool = False, **options: Any) -> Load:
    """Asks each question as a user of its own, all at the same moment."""
    together = threading.Barrier(len(contents) + 1)

    def ask(client: GatewayClient, content: Content) -> tuple[Answer, float]:
        together.wait()
        answer = collect(client, content, spoken=spoken, on_text=lambda text: None, temperature=0, **options)
        return answer, time.perf_counter()

    with ExitStack() as cleanup:
        clients = [cleanup.enter_context(GatewayClient(connection)) for _ in contents]
        for client in clients:
            _ = client.model  # opens the connection and asks for the model's name
        pool = cleanup.enter_context(ThreadPoolExecutor(len(contents)))
        running = [pool.submit(ask, *each) for each in zip(clients, contents, strict=True)]
        together.wait()
        start = time.perf_counter()
        done = [each.result() for each in running]
    answers = [answer for answer, _ in done]
    tokens = sum(answer.usage["completion_tokens"] for answer in answers)
    return Load(
        tokens_per_second=tokens / (max(ended for _, ended in done) - start),
        first_token_seconds=[each.first_token_seconds for each in answers if each.first_token_seconds is not None],
        first_audio_seconds=[each.first_audio_seconds for each in answers if each.first_audio_seconds is not None],
    )


def _by_users(
    plan: Plan, counts: Sequence[int], run: Callable[[Connection, int, int], Load]
) -> dict[str, dict[int, list[Load]]]:
    """Loads of each side by the number of users, the sides taking turns."""
    found: dict[str, dict[int, list[Load]]] = {}
    with stacks.running(plan.before, plan.threads) as connections:
        for count in counts:
            ways = {side: partial(run, connection, count) for side, connection in connections.items()}
            for side, loads in take_turns(ways, plan.repeats, warm_up=count == counts[0]).items():
                found.setdefault(side, {})[count] = loads
    return found


@dataclass(frozen=True, slots=True)
class Pauses:
    """What short answers waited for, in seconds: between tokens, and for their first."""

    between: list[float]
    first: list[float]


def interference(plan: Plan) -> tuple[Figures, list[Target]]:
    """Time between tokens of four users' short answers while a prompt of 4,000 tokens is read, and when none is."""
    tokenizer = Tokenizer.from_file(str(lyra_home() / "weights" / "nano" / "language" / "tokenizer.json"))
    figures: Figures = {"users": SHORT_USERS, "prompt_tokens": LONG_PROMPT}
    ratios = {}
    with stacks.running(plan.before, plan.threads) as connections:
        ways = {side: partial(_disturb, connection, tokenizer) for side, connection in connections.items()}
        for side, runs in take_turns(ways, plan.repeats).items():
            figures[side] = {
                kind: {
                    "p95_between_tokens": summary(p95(run[kind].between) for run in runs),
                    "median_between_tokens": summary(median(run[kind].between) for run in runs),
                    "first_token_seconds": summary(median(run[kind].first or [float("nan")]) for run in runs),
                }
                for kind in ("idle", "reading")
            }
            figures[side]["reading_seconds"] = summary(run["seconds"] for run in runs)
            ratios[side] = median(p95(run["reading"].between) / p95(run["idle"].between) for run in runs)
    what = "short answers while 4,000 tokens are read, p95 between tokens / idle"
    return figures, [Target(what, ratios[AFTER], 2.0, at_least=False)]


def _disturb(connection: Connection, tokenizer: Tokenizer, repeat: int) -> dict[str, Any]:
    """Short answers for a while, then on while a long prompt is read."""
    over = threading.Event()
    with ThreadPoolExecutor(SHORT_USERS) as pool, GatewayClient(connection) as reader:
        prompt, _ = text_of(LONG_PROMPT, repeat + 1, tokenizer), reader.model
        asking = [
            pool.submit(_keep_asking, connection, over, 1000 * (repeat + 1) + 100 * n) for n in range(SHORT_USERS)
        ]
        try:
            begun = time.perf_counter()
            time.sleep(IDLE_SECONDS)
            sent = time.perf_counter()
            collect(reader, [text_part(prompt)], spoken=False, on_text=lambda text: None, max_tokens=1, temperature=0)
            read = time.perf_counter()
        finally:
            over.set()
        times = [answer for each in asking for answer in each.result()]
    settled = begun + IDLE_SECONDS / 4
    return {"idle": _pauses(times, settled, sent), "reading": _pauses(times, sent, read), "seconds": read - sent}


def _keep_asking(connection: Connection, over: threading.Event, start: int) -> list[list[float]]:
    """Asks one question after another. Returns the times of each request and of the pieces of its answer."""
    answers: list[list[float]] = []
    with GatewayClient(connection) as client:
        while not over.is_set():
            times = [time.perf_counter()]
            content = [text_part(question(start + len(answers)))]
            collect(
                client, content, spoken=False, max_tokens=TOKENS, temperature=0,
                on_text=lambda text, times=times: times.append(time.perf_counter()),  # type: ignore[misc]
            )  # fmt: skip
            answers.append(times)
    return answers


def _pauses(answers: list[list[float]], start: float, end: float) -> Pauses:
    """The pauses that overlap a span of time."""
    between: list[float] = []
    first: list[float] = []
    for times in answers:
        for place, (earlier, later) in enumerate(pairwise(times)):
            if later > start and earlier < end:
                (between if place else first).append(later - earlier)
    return Pauses(between, first)
