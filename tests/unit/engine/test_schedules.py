"""Whatever the engine does at the same time, an answer is that of the plain forward pass, one request at a time."""

import random
from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_core.engine.engine import Engine, EngineConfig
from model_core.engine.language_model import LanguageModel
from model_core.engine.request import BATCH, INTERACTIVE, Delta, Finish, GenerationOptions
from model_core.engine.sampling_params import SamplingParams
from model_core.language.chat_template import render
from model_core.language.extractor import Extraction, ExtractionConfig
from model_core.language.messages import Message, Part, Role, SpeechPart, VisionPart
from model_core.language.splicing import splice
from model_core.presets import build_language_model

PRESETS = ["tiny", "tiny-qwen2-vl", "tiny-llama3"]
MODELS = {preset: build_language_model(preset) for preset in PRESETS}


@dataclass(frozen=True)
class Asked:
    """A request of a schedule, in few words."""

    kind: str
    size: int
    max_tokens: int
    keep_rate: float
    adapter: str
    tenant: str
    priority: int
    arrival: int


REQUESTS = st.builds(
    Asked,
    kind=st.sampled_from(["text", "speech", "picture", "long"]),
    size=st.integers(1, 150),
    max_tokens=st.integers(1, 20),
    keep_rate=st.sampled_from([1.0, 0.4, 0.7]),
    adapter=st.sampled_from(["", "base", "speech"]),
    tenant=st.sampled_from(["acme", "globex"]),
    priority=st.sampled_from([INTERACTIVE, BATCH]),
    arrival=st.integers(0, 12),
)


def messages_of(asked: Asked, width: int) -> list[Message]:
    generator = torch.Generator().manual_seed(asked.size % 3)  # so that some prefixes are shared
    tokens = torch.randn(160, width, generator=generator)
    parts: dict[str, list[Part]] = {
        "text": ["x" * asked.size],
        "speech": [SpeechPart(tokens[: asked.size]), "what is said?"],
        "picture": [VisionPart(tokens[:60], (1, 6, 10)), "y" * (asked.size % 20 + 1)],
        "long": [SpeechPart(tokens, clips=2), "and then?"],
    }
    return [Message(Role.USER, parts[asked.kind])]


def options_of(asked: Asked) -> GenerationOptions:
    return GenerationOptions(
        sampling=SamplingParams(max_tokens=asked.max_tokens),
        adapter=asked.adapter,
        keep_rate=asked.keep_rate,
        blocks=2,
        tenant=asked.tenant,
        priority=BATCH if asked.priority else INTERACTIVE,
    )


@torch.inference_mode()
def plain_answer(model: LanguageModel, asked: Asked) -> list[int]:
    """Greedy tokens by `model_core.language` alone: one prompt, one cache, one token after the other."""
    decoder = model.decoder
    prompt = splice(render(messages_of(asked, model.width), model.template), model.tokenizer, decoder.embed_tokens)
    adapter = model.prepare(messages_of(asked, model.width), options_of(asked)).adapter
    extraction = Extraction(ExtractionConfig(2, asked.keep_rate), [prompt.context], [prompt.instruction])
    multimodal = decoder.config.rope_sections is not None
    positions = prompt.positions if multimodal else torch.arange(len(prompt.embeds)).expand(3, -1)
    cache = decoder.new_cache()
    dropping = extraction if extraction.config.drops else None
    hidden = decoder(prompt.embeds[None], cache, adapter, positions, extraction=dropping)[0, -1]
    stop = {model.tokenizer.token_to_id(token) for token in model.template.stop_tokens}
    tokens: list[int] = []
    while len(tokens) < asked.max_tokens:
        token = int(decoder.logits(hidden).argmax())
        if token in stop:
            break
        tokens.append(token)
        position = (positions.max() + len(tokens)).expand(3, 1)
        hidden = decoder(decoder.embed_tokens(torch.tensor([[token]])), cache, adapter, position)[0, -1]
    return tokens


def small_engine(model: LanguageModel, *, pages: int, step_tokens: int, rows: int, caching: bool) -> Engine:
    """The engine of a model with little of everything, so that much happens."""
    roomy = Engine(model.decoder, model.tokenizer, set(), EngineConfig(cache_bytes=0))
    page = roomy.pool.shape.nbytes
    model.engine_config = EngineConfig(
        cache_bytes=pages * page,
        prefix_cache_bytes=pages * page if caching else 0,
        max_rows=rows,
        max_step_tokens=step_tokens,
    )
    model._engine = None
    model.engine.cost.min_tokens = min(step_tokens, 16)
    return model.engine


def run_schedule(
    model: LanguageModel, engine: Engine, schedule: list[Asked], aborted: set[int]
) -> dict[int, list[int]]:
    """Runs requests that arrive at their steps; `aborted` ones are ended somewhere on the way."""
    sequences = {
        i: model.prepare(messages_of(each, model.width), options_of(each), f"{i}") for i, each in enumerate(schedule)
    }
    ended: set[str] = set()
    step = 0
    while len(ended) < len(schedule):
        for i, sequence in sequences.items():
            if schedule[i].arrival == step:
                engine.add_request(sequence)
            if i in aborted and step == schedule[i].arrival + 3 and str(i) not in ended:
                engine.abort(str(i))
                ended.add(str(i))
        for request_id, event in engine.step():
            assert isinstance(event, Delta | Finish), event
            if isinstance(event, Finish):
                ended.add(request_id)
        step += 1
        assert step < 5000
    return {i: sequence.generated for i, sequence in sequences.items() if i not in aborted}


@settings(max_examples=12, deadline=None)
@given(
    preset=st.sampled_from(PRESETS),
    schedule=st.lists(REQUESTS, min_size=1, max_size=8),
    pages=st.sampled_from([45, 80, 1000]),
    step_tokens=st.sampled_from([7, 32, 512]),
    rows=st.sampled_from([1, 3, 64]),
    caching=st.booleans(),
    seed=st.integers(0, 100),
)
def test_tokens_under_any_schedule_are_those_of_the_plain_forward_pass(
    preset: str, schedule: list[Asked], pages: int, step_tokens: int, rows: int, caching: bool, seed: int
) -> None:
    model = MODELS[preset]
    engine = small_engine(model, pages=pages, step_tokens=step_tokens, rows=rows, caching=caching)
    fits = [
        each
        for each in schedule
        if model.prepare(messages_of(each, model.width), options_of(each)).planned_pages(each.max_tokens) <= pages
    ]
    aborted = {i for i in range(len(fits)) if random.Random(seed + i).random() < 0.2}
    answers = run_schedule(model, engine, fits, aborted)
    for i, tokens in answers.items():
        assert tokens == plain_answer(model, fits[i]), fits[i]
    assert not engine.has_work
    stats = engine.stats()
    assert stats.pages_used == 0
    assert stats.pages_free + stats.pages_cached == engine.pool.pages
