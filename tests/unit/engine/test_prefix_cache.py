"""Prefix caching: answers are the same with and without it, on a miss and on a hit."""

from typing import Any

import pytest
import torch
from torch import Tensor

from model_core.engine import engine
from model_core.engine.engine import LanguageModel
from model_core.engine.prefix_cache import Prefix, PrefixCache, prefix_key
from model_core.engine.request import Delta, GenerationOptions
from model_core.engine.sampling_params import SamplingParams
from model_core.language.messages import Message, Part, Role, SpeechPart, VisionPart
from model_core.presets import build_language_model

ROOM = 1 << 30
DROPPING = {"keep_rate": 0.5, "blocks": 2}


@pytest.fixture(params=["tiny", "tiny-qwen2-vl"])
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    """In float64, which is cached as it is."""
    monkeypatch.setattr(engine, "_MIN_PREFIX", 80)
    made = build_language_model(request.param)
    made.decoder.double()
    return made


def recording(model: LanguageModel, seed: int = 0, tokens: int = 60) -> SpeechPart:
    return SpeechPart(torch.randn(tokens, model.width, generator=torch.Generator().manual_seed(seed)).double())


def hidden_states(model: LanguageModel, *parts: Part, **options: Any) -> Tensor:
    asked = GenerationOptions(sampling=SamplingParams(max_tokens=6), hidden_states=True, **options)
    deltas = [event for event in model.generate([Message(Role.USER, list(parts))], asked) if isinstance(event, Delta)]
    return torch.cat([delta.hidden_states for delta in deltas if delta.hidden_states is not None])


@pytest.mark.parametrize("options", [{}, DROPPING, {"keep_rate": 0.6, "blocks": 1}, {"adapter": "base", **DROPPING}])
def test_answers_are_those_without_prefix_caching(model: LanguageModel, options: dict[str, object]) -> None:
    prompts: list[list[Part]] = [
        [recording(model), "who?"],
        [recording(model, 1), recording(model, 2), "and what else?"],
    ]
    for parts in prompts:
        model.prefix_cache = PrefixCache(0)
        expected = hidden_states(model, *parts, **options)
        model.prefix_cache = PrefixCache(ROOM)
        for _ in ("miss", "hit"):
            torch.testing.assert_close(hidden_states(model, *parts, **options), expected)


def test_cached_pictures_keep_their_positions(model: LanguageModel) -> None:
    picture = VisionPart(torch.randn(60, model.width).double(), (1, 6, 10))
    expected = hidden_states(model, picture, "what is it?", **DROPPING)
    model.prefix_cache = PrefixCache(ROOM)
    for _ in ("miss", "hit"):
        torch.testing.assert_close(hidden_states(model, picture, "what is it?", **DROPPING), expected)
    assert model.prefix_cache.nbytes > 0


def test_every_question_about_a_recording_hits_and_nothing_else_does(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.prefix_cache = PrefixCache(ROOM)
    prefills: list[int] = []
    prefill_prefix = model.decoder.prefill_prefix

    def counted(embeds: Tensor, *others: object) -> Tensor:
        prefills.append(embeds.shape[1])
        return prefill_prefix(embeds, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(model.decoder, "prefill_prefix", counted)
    one = recording(model)
    for question in ("who?", "what is said at the end of it?"):
        hidden_states(model, one, question, **DROPPING, tenant="acme")
    assert len(prefills) == 1
    hidden_states(model, one, "who?", **DROPPING, tenant="globex")
    hidden_states(model, recording(model, seed=1), "who?", **DROPPING, tenant="acme")
    hidden_states(model, one, "who?", tenant="acme")
    assert len(prefills) == 4
    hidden_states(model, recording(model, tokens=4), "who?", **DROPPING)
    hidden_states(model, "no recording")
    assert len(prefills) == 4


def test_answer_in_float32_does_not_depend_on_a_cache_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_MIN_PREFIX", 80)
    model = build_language_model("tiny")
    one = SpeechPart(torch.randn(60, model.width))
    exact = hidden_states(model, one, "who?", **DROPPING)
    model.prefix_cache = PrefixCache(ROOM)
    read = hidden_states(model, one, "who?", **DROPPING)
    assert torch.equal(hidden_states(model, one, "who?", **DROPPING), read)
    assert torch.nn.functional.cosine_similarity(read[0], exact[0], dim=0) > 0.999


def test_unloading_an_adapter_clears_the_cache(model: LanguageModel) -> None:
    model.prefix_cache = PrefixCache(ROOM)
    hidden_states(model, recording(model), "who?", **DROPPING)
    assert model.prefix_cache.nbytes > 0
    model.unload_adapter("speech")
    assert model.prefix_cache.nbytes == 0


def test_least_recently_used_prefix_is_evicted() -> None:
    decoder = build_language_model("tiny").decoder

    def prefix() -> Prefix:
        cache = decoder.new_cache(0)
        embeds = torch.randn(1, 20, decoder.config.width)
        with torch.inference_mode():
            hidden = decoder.prefill_prefix(embeds, cache, None, torch.arange(20).expand(3, -1), 1)
        return Prefix(cache, hidden)

    size = prefix().nbytes
    cached = PrefixCache(2 * size)
    for key in (b"one", b"two"):
        cached.put(key, prefix())
    assert cached.get(b"one")
    cached.put(b"three", prefix())
    assert [bool(cached.get(key)) for key in (b"one", b"two", b"three")] == [True, False, True]
    assert cached.nbytes <= 2 * size
    small = PrefixCache(size - 1)
    small.put(b"one", prefix())
    assert small.nbytes == 0


def test_key_depends_on_values_shape_positions_and_names() -> None:
    embeds, places = torch.randn(4, 6), torch.arange(4).expand(3, -1)
    keys = {
        prefix_key(embeds, places, "acme", "speech"),
        prefix_key(embeds, places, "acmespeech", ""),
        prefix_key(embeds.view(6, 4), places, "acme", "speech"),
        prefix_key(embeds, places + 1, "acme", "speech"),
        prefix_key(embeds + 1, places, "acme", "speech"),
    }
    assert len(keys) == 5
    assert prefix_key(embeds.clone(), places.clone(), "acme", "speech") in keys
