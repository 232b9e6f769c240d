"""The language model in this process, set up as its service does it, and the times of its answers.

Of the benchmark, this module alone knows how the engine is built.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from model_core.engine.engine import EngineConfig
from model_core.engine.language_model import LanguageModel as LanguageModel
from model_core.engine.packed_weights import Precision
from model_core.engine.page_pool import PAGE_SIZE
from model_core.engine.request import Delta, GenerationOptions
from model_core.engine.sampling_params import SamplingParams
from model_core.engine.warm_up import warm_up
from model_core.language.lora import LoraWeights
from model_core.language.messages import Message
from model_core.presets import build_language_model, nano
from services.language_model.settings import LanguageModelSettings

Request = tuple[list[Message], GenerationOptions]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and its times, in seconds from the request.

    Attributes:
        first_seconds: When the first token was there, even if it ended the answer.
        token_seconds: When each token of the text was there.
    """

    text: str
    first_seconds: float
    token_seconds: tuple[float, ...]

    @property
    def decode_rate(self) -> float:
        """Tokens a second after the first."""
        return (len(self.token_seconds) - 1) / (self.token_seconds[-1] - self.token_seconds[0])


def load(threads: int, *, prefix_caching: bool = True, precision: Precision | None = None) -> LanguageModel:
    """Preset nano with `threads` CPU threads and the service's default settings."""
    torch.set_num_threads(threads)
    model = build_language_model("nano")
    settings = {name: field.default for name, field in LanguageModelSettings.model_fields.items()}
    model.engine_config = EngineConfig(
        prefix_cache_bytes=settings["prefix_cache_mib"] * 2**20 if prefix_caching else 0,
        max_step_tokens=settings["max_step_tokens"],
        precision=precision or model.engine_config.precision,
        float_weights="packed",
    )
    warm_up(model)
    return model


def options(max_tokens: int, **changes: Any) -> GenerationOptions:
    """Greedy answers of at most so many tokens."""
    return GenerationOptions(sampling=SamplingParams(max_tokens=max_tokens), **changes)


def answer(model: LanguageModel, messages: list[Message], asked: GenerationOptions) -> Answer:
    """One answer, nothing else running."""
    return answer_together(model, [(messages, asked)])[0]


def answer_together(model: LanguageModel, requests: Sequence[Request]) -> list[Answer]:
    """Answers of requests that arrive at the same time."""
    texts: list[list[str]] = [[] for _ in requests]
    times: list[list[float]] = [[] for _ in requests]
    first: dict[int, float] = {}
    start = time.perf_counter()
    for index, event in model.generate_batch(requests):
        seconds = time.perf_counter() - start
        first.setdefault(index, seconds)
        if isinstance(event, Delta):
            texts[index].append(event.text)
            times[index] += [seconds] * event.tokens
    return [Answer("".join(texts[index]), first[index], tuple(times[index])) for index in range(len(requests))]


def throughput(answers: Sequence[Answer]) -> float:
    """Tokens a second of answers that began together."""
    return sum(len(each.token_seconds) for each in answers) / max(each.token_seconds[-1] for each in answers)


def cached_positions(model: LanguageModel, messages: list[Message], keep_rate: float, blocks: int) -> float:
    """Positions that the pages in use hold after the prompt, averaged over layers; prefix caching must be off."""
    ids = map(model.tokenizer.token_to_id, model.template.stop_tokens)
    stop_ids = {token: -100.0 for token in ids if token is not None}
    sampling = SamplingParams(max_tokens=2, logit_bias=stop_ids)  # two tokens, so that the pages are still held
    asked = GenerationOptions(sampling=sampling, keep_rate=keep_rate, blocks=blocks)
    sequence, engine = model.prepare(messages, asked), model.engine
    engine.add_request(sequence)
    while sequence.prefilling:
        engine.step()
    positions = engine.stats().pages_used * PAGE_SIZE / model.decoder.config.layers
    engine.abort(sequence.request_id)
    return positions


def load_random_adapters(model: LanguageModel, names: Sequence[str]) -> None:
    """Makes adapters of nano's rank with small random weights resident."""
    width = {name: tuple(module.weight.shape) for name, module in model.decoder.named_modules() if _adapted(name)}
    dtype = model.decoder.norm.weight.dtype
    for seed, name in enumerate(names):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for path, (out_width, in_width) in width.items():
            for part, shape in (("lora_A", (nano.LORA.rank, in_width)), ("lora_B", (out_width, nano.LORA.rank))):
                tensors[f"{path}.{part}.weight"] = (torch.randn(shape, generator=generator) * 0.02).to(dtype)
        model.load_adapter(name, LoraWeights(nano.LORA, nano.LORA_PROJECTIONS, tensors))


def _adapted(path: str) -> bool:
    return path.rsplit(".", 1)[-1] in nano.LORA_PROJECTIONS
