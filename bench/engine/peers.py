"""Rows against peers in process: 16 requests, one stream, and reading a prompt of 1,000 tokens."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.engine import floors, llama_cpp, ours
from bench.engine.figures import Figures, Plan, Target, summary, take_turns
from bench.engine.ours import LanguageModel
from bench.engine.prompts import conversation, question, text_of, token_ids
from bench.engine.transformers_peer import Transformers
from model_core.kernels import fast_dtype

REQUESTS = 16
TOKENS = 40
STREAM_TOKENS = 100
PROMPT_TOKENS = 1000

_DTYPE = str(fast_dtype()).removeprefix("torch.")


def batch(plan: Plan) -> tuple[Figures, list[Target]]:
    """Tokens a second of 16 requests that arrive together."""
    model = ours.load(plan.threads)
    peer = Transformers(plan.threads, _stop_ids(model))
    alone = 4 if plan.quick else REQUESTS

    def prompts(repeat: int, count: int = REQUESTS) -> list[str]:
        return [question(number + REQUESTS * (repeat + 1)) for number in range(count)]

    def ids(repeat: int, count: int = REQUESTS) -> list[list[int]]:
        return [_ids(model, text) for text in prompts(repeat, count)]

    def ours_alone(repeat: int) -> float:
        answers = [ours.answer(model, conversation(text), ours.options(TOKENS)) for text in prompts(repeat, alone)]
        tokens = sum(len(each.token_seconds) for each in answers)
        return tokens / sum(each.token_seconds[-1] for each in answers)

    def ours_together(repeat: int) -> float:
        requests = [(conversation(text), ours.options(TOKENS)) for text in prompts(repeat)]
        return ours.throughput(ours.answer_together(model, requests))

    def peer_alone(repeat: int) -> float:
        times = [peer.answer(each, TOKENS) for each in ids(repeat, alone)]
        return sum(map(len, times)) / sum(each[-1] for each in times)

    def timed(run: Callable[[list[list[int]], int], int], repeat: int) -> float:
        asked, start = ids(repeat), time.perf_counter()
        return run(asked, TOKENS) / (time.perf_counter() - start)

    ways: dict[str, Callable[[int], float]] = {
        "ours one by one": ours_alone,
        "ours": ours_together,
        "transformers generate, one by one": peer_alone,
        "transformers generate, padded": partial(timed, peer.answer_padded),
        "transformers generate_batch, sized": partial(timed, partial(peer.answer_continuously, sized=True)),
    }
    found = take_turns(ways, plan.repeats)
    # Its settings hold for as long as its cache, so the defaults cannot take turns with the others.
    peer.end_continuous_batching()
    default = {"transformers generate_batch": partial(timed, partial(peer.answer_continuously, sized=False))}
    found |= take_turns(default, plan.repeats)
    peer.end_continuous_batching()
    rates = {way: summary(values) for way, values in found.items()}
    figures = {"requests": REQUESTS, "tokens": TOKENS, "dtype": _DTYPE, "tokens_per_second": rates}
    bounds = {
        "transformers generate, one by one": 12.0,
        "transformers generate, padded": 1.2,
        "transformers generate_batch": 3.0,
    }
    ratios = {name: rates["ours"]["median"] / rates[name]["median"] for name in rates}
    figures["ours_over"] = {name: round(ratio, 3) for name, ratio in ratios.items()}
    return figures, [Target(f"16 requests / {name}", ratios[name], bound) for name, bound in bounds.items()]


def stream(plan: Plan) -> tuple[Figures, list[Target]]:
    """Tokens a second of one stream after its first token, beside what the memory allows."""
    model = ours.load(plan.threads)
    peer = Transformers(plan.threads, _stop_ids(model))
    with llama_cpp.running(plan.threads) as llama:
        ways: dict[str, Callable[[int], float]] = {
            "ours": lambda n: (
                ours.answer(model, conversation(question(n + 1)), ours.options(STREAM_TOKENS)).decode_rate
            ),
            "transformers generate": lambda n: _rate(peer.answer(_ids(model, question(n + 1)), STREAM_TOKENS)),
            "llama.cpp, Q4_1": lambda n: _rate(llama.answer(_ids(model, question(n + 1)), STREAM_TOKENS)),
        }
        rates = {way: summary(values) for way, values in take_turns(ways, plan.repeats).items()}
        figures: Figures = {"tokens": STREAM_TOKENS, "dtype": _DTYPE, "llama_cpp": llama.description}
    figures["floor"] = floors.measure(model, plan.threads, llama_cpp.gguf_file().stat().st_size)
    return figures | {"tokens_per_second": rates}, _against(
        "one stream", {"transformers generate": 3.0, "llama.cpp, Q4_1": 0.6}, rates
    )


def prefill(plan: Plan) -> tuple[Figures, list[Target]]:
    """Prompt tokens a second until the first token of the answer."""
    model = ours.load(plan.threads)
    peer = Transformers(plan.threads, _stop_ids(model))
    around = len(_ids(model, ""))

    def text(repeat: int) -> str:
        return text_of(PROMPT_TOKENS - around, repeat + 1, model.tokenizer)

    def rate(first_token: Callable[[str], float], repeat: int) -> float:
        prompt = text(repeat)
        return len(_ids(model, prompt)) / first_token(prompt)

    with llama_cpp.running(plan.threads) as llama:
        ways = {
            "ours": partial(rate, lambda p: ours.answer(model, conversation(p), ours.options(1)).first_seconds),
            "transformers generate": partial(rate, lambda p: peer.answer(_ids(model, p), 1)[0]),
            "llama.cpp, Q4_1": partial(rate, lambda p: llama.answer(_ids(model, p), 1)[0]),
        }
        rates = {way: summary(values) for way, values in take_turns(ways, plan.repeats).items()}
        description = llama.description
    figures = {"tokens": len(_ids(model, text(0))), "dtype": _DTYPE, "llama_cpp": description}
    return figures | {"tokens_per_second": rates}, _against("prefill of 1,000 tokens", {"llama.cpp, Q4_1": 1.0}, rates)


def _against(what: str, bounds: dict[str, float], rates: dict[str, Any]) -> list[Target]:
    mine = rates["ours"]["median"]
    return [Target(f"{what} / {name}", mine / rates[name]["median"], bound) for name, bound in bounds.items()]


def _rate(seconds: list[float]) -> float:
    """Tokens a second after the first."""
    return (len(seconds) - 1) / (seconds[-1] - seconds[0])


def _ids(model: LanguageModel, text: str) -> list[int]:
    return token_ids(conversation(text), model.tokenizer, model.template)


def _stop_ids(model: LanguageModel) -> list[int]:
    ids = (model.tokenizer.token_to_id(token) for token in model.template.stop_tokens)
    return [token for token in ids if token is not None]
