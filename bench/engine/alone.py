"""Rows of the engine in process, against itself: recordings asked about again, conversations, cache, adapters."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median

from bench.engine import ours
from bench.engine.figures import Figures, Plan, Target, summary, take_turns
from bench.engine.ours import LanguageModel
from bench.engine.prompts import SPEECH_TOKENS, conversation, question, recording
from model_core.language.messages import Message, Part, Role

REQUESTS = 16
TOKENS = 40
ADAPTERS = ("first", "second", "third", "fourth")
TURNS = 10
TURN_TOKENS = 20
KEEP_RATE, BLOCKS = 0.7, 4
CACHE_FLOOR = (1 + KEEP_RATE + KEEP_RATE**2 + KEEP_RATE**3) / BLOCKS
CONTEXTS = {"all kept": 1.0, f"keep {KEEP_RATE:g}": KEEP_RATE}


def second_question(plan: Plan) -> tuple[Figures, list[Target]]:
    """Time to the first token of two questions about the same recording of five minutes."""
    model = ours.load(plan.threads)
    figures: Figures = {"speech_tokens": SPEECH_TOKENS}
    targets = []
    for name, keep_rate in CONTEXTS.items():
        pairs = take_turns({name: partial(_ask_twice, model, keep_rate)}, plan.repeats)[name]
        first, second = (summary(pair[place] for pair in pairs) for place in (0, 1))
        figures[name] = {"first_token_seconds": {"first question": first, "second question": second}}
        ratio = second["median"] / first["median"]
        targets.append(Target(f"second question about a recording / first, {name}", ratio, 0.25, at_least=False))
    return figures, targets


def _ask_twice(model: LanguageModel, keep_rate: float, repeat: int) -> tuple[float, float]:
    tokens = recording(model.decoder.embed_tokens.weight, seed=repeat + 1)
    asked = ours.options(1, keep_rate=keep_rate, blocks=BLOCKS)
    parts: list[list[Part]] = [[tokens, "What is said first?"], [tokens, "Who is speaking, and to whom?"]]
    first, second = (ours.answer(model, [Message(Role.USER, each)], asked).first_seconds for each in parts)
    return first, second


def turns(plan: Plan) -> tuple[Figures, list[Target]]:
    """Time to the first token of each turn of a conversation that begins with a recording of five minutes."""
    model = ours.load(plan.threads)
    runs = take_turns({"turns": partial(_converse, model)}, plan.repeats)["turns"]
    seconds = [summary(run[turn] for run in runs) for turn in range(TURNS)]
    ratio = median(run[TURNS - 1] / run[1] for run in runs)
    figures = {"speech_tokens": SPEECH_TOKENS, "answer_tokens": TURN_TOKENS, "first_token_seconds_by_turn": seconds}
    return figures, [Target("work of turn 10 / turn 2", ratio, 1.5, at_least=False)]


def _converse(model: LanguageModel, repeat: int) -> list[float]:
    tokens = recording(model.decoder.embed_tokens.weight, seed=repeat + 1)
    messages: list[Message] = []
    seconds = []
    for turn in range(TURNS):
        asked: list[Part] = [tokens] if turn == 0 else []
        messages.append(Message(Role.USER, [*asked, question(TURNS * (repeat + 1) + turn)]))
        answer = ours.answer(model, messages, ours.options(TURN_TOKENS))
        messages.append(Message(Role.ASSISTANT, [answer.text]))
        seconds.append(answer.first_seconds)
    return seconds


def cache_memory(plan: Plan) -> tuple[Figures, list[Target]]:
    """Positions in the key-value cache, averaged over layers, after a recording with and without extraction."""
    model = ours.load(plan.threads, prefix_caching=False)
    messages = [Message(Role.USER, [recording(model.decoder.embed_tokens.weight, seed=0), "What is said?"])]
    positions = {name: ours.cached_positions(model, messages, rate, BLOCKS) for name, rate in CONTEXTS.items()}
    whole, kept = positions.values()
    figures = {"blocks": BLOCKS, "keep_rate": KEEP_RATE, "floor": round(CACHE_FLOOR, 3), "positions": positions}
    return figures, [Target("cache memory, keep 0.7 in 4 blocks / all kept", kept / whole, 0.65, at_least=False)]


def adapters(plan: Plan) -> tuple[Figures, list[Target]]:
    """Tokens a second of 16 requests with four adapters among them, against one adapter for all."""
    model = ours.load(plan.threads)
    ours.load_random_adapters(model, ADAPTERS)

    def run(names: tuple[str, ...], repeat: int) -> float:
        texts = [question(number + REQUESTS * (repeat + 1)) for number in range(REQUESTS)]
        asked = ours.options(TOKENS)
        requests = [
            (conversation(text), replace(asked, adapter=names[number % len(names)]))
            for number, text in enumerate(texts)
        ]
        return ours.throughput(ours.answer_together(model, requests))

    ways: dict[str, Callable[[int], float]] = {
        "no adapter": partial(run, ("base",)),
        "one adapter": partial(run, ADAPTERS[:1]),
        "four adapters": partial(run, ADAPTERS),
    }
    rates = {way: summary(values) for way, values in take_turns(ways, plan.repeats).items()}
    ratio = rates["four adapters"]["median"] / rates["one adapter"]["median"]
    figures = {"requests": REQUESTS, "tokens": TOKENS, "tokens_per_second": rates}
    return figures, [Target("16 requests with 4 adapters / with one", ratio, 0.8)]
