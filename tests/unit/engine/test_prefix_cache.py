"""Beginnings of prompts that are kept: answers are those of reading everything, whether anything was kept or not."""

import pytest
import torch
from torch import Tensor

from model_core.engine import engine
from model_core.engine.engine import Delta, GenerationOptions, LanguageModel
from model_core.engine.prefix_cache import Prefix, PrefixCache, key_of
from model_core.language.messages import Message, Part, Role, SpeechPart, VisionPart
from model_core.presets import build_language_model

ROOM = 1 << 30
DROPPING = {"keep_rate": 0.5, "blocks": 2}


@pytest.fixture(params=["tiny", "tiny-qwen2-vl"])
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    """In 64 bits, which are kept as they are."""
    monkeypatch.setattr(engine, "_LEAST_KEPT", 80)
    made = build_language_model(request.param)
    made.decoder.double()
    return made


def recording(model: LanguageModel, seed: int = 0, tokens: int = 60) -> SpeechPart:
    return SpeechPart(torch.randn(tokens, model.width, generator=torch.Generator().manual_seed(seed)).double())


def hidden_states(model: LanguageModel, *parts: Part, **options: object) -> Tensor:
    asked = GenerationOptions(max_tokens=6, hidden_states=True, **options)  # type: ignore[arg-type]
    deltas = [event for event in model.generate([Message(Role.USER, list(parts))], asked) if isinstance(event, Delta)]
    return torch.cat([delta.hidden_states for delta in deltas if delta.hidden_states is not None])


@pytest.mark.parametrize("options", [{}, DROPPING, {"keep_rate": 0.6, "blocks": 1}, {"adapter": "base", **DROPPING}])
def test_answers_are_those_of_reading_everything(model: LanguageModel, options: dict[str, object]) -> None:
    prompts: list[list[Part]] = [
        [recording(model), "who?"],
        [recording(model, 1), recording(model, 2), "and what else?"],
    ]
    for parts in prompts:
        model.prefixes = PrefixCache(0)
        expected = hidden_states(model, *parts, **options)
        model.prefixes = PrefixCache(ROOM)
        for _ in ("read", "remembered"):
            torch.testing.assert_close(hidden_states(model, *parts, **options), expected)


def test_pictures_keep_their_places(model: LanguageModel) -> None:
    picture = VisionPart(torch.randn(60, model.width).double(), (1, 6, 10))
    expected = hidden_states(model, picture, "what is it?", **DROPPING)
    model.prefixes = PrefixCache(ROOM)
    for _ in ("read", "remembered"):
        torch.testing.assert_close(hidden_states(model, picture, "what is it?", **DROPPING), expected)
    assert model.prefixes.memory > 0


def test_every_question_about_a_recording_finds_it_and_nothing_else_does(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.prefixes = PrefixCache(ROOM)
    read: list[int] = []
    ahead = model.decoder.read_ahead

    def counted(embeds: Tensor, *others: object) -> Tensor:
        read.append(embeds.shape[1])
        return ahead(embeds, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(model.decoder, "read_ahead", counted)
    one = recording(model)
    for question in ("who?", "what is said at the end of it?"):
        hidden_states(model, one, question, **DROPPING, owner="acme")
    assert len(read) == 1
    hidden_states(model, one, "who?", **DROPPING, owner="globex")
    hidden_states(model, recording(model, seed=1), "who?", **DROPPING, owner="acme")
    hidden_states(model, one, "who?", owner="acme")
    assert len(read) == 4
    hidden_states(model, recording(model, tokens=4), "who?", **DROPPING)
    hidden_states(model, "no recording")
    assert len(read) == 4


def test_an_answer_in_32_bits_does_not_depend_on_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_LEAST_KEPT", 80)
    model = build_language_model("tiny")
    one = SpeechPart(torch.randn(60, model.width))
    exact = hidden_states(model, one, "who?", **DROPPING)
    model.prefixes = PrefixCache(ROOM)
    read = hidden_states(model, one, "who?", **DROPPING)
    assert torch.equal(hidden_states(model, one, "who?", **DROPPING), read)
    assert torch.nn.functional.cosine_similarity(read[0], exact[0], dim=0) > 0.999


def test_adapters_that_come_and_go_take_what_they_read_with_them(model: LanguageModel) -> None:
    model.prefixes = PrefixCache(ROOM)
    hidden_states(model, recording(model), "who?", **DROPPING)
    assert model.prefixes.memory > 0
    model.unload_adapter("speech")
    assert model.prefixes.memory == 0


def test_what_was_not_asked_for_the_longest_makes_room() -> None:
    decoder = build_language_model("tiny").decoder

    def prefix() -> Prefix:
        cache = decoder.new_cache(0)
        embeds = torch.randn(1, 20, decoder.config.width)
        with torch.inference_mode():
            hidden = decoder.read_ahead(embeds, cache, None, torch.arange(20).expand(3, -1), 1)
        return Prefix(cache, hidden)

    size = prefix().memory
    store = PrefixCache(2 * size)
    for key in (b"one", b"two"):
        store.keep(key, prefix())
    assert store.find(b"one")
    store.keep(b"three", prefix())
    assert [bool(store.find(key)) for key in (b"one", b"two", b"three")] == [True, False, True]
    assert store.memory <= 2 * size
    small = PrefixCache(size - 1)
    small.keep(b"one", prefix())
    assert small.memory == 0


def test_a_key_tells_numbers_shapes_places_and_names_apart() -> None:
    embeds, places = torch.randn(4, 6), torch.arange(4).expand(3, -1)
    keys = {
        key_of(embeds, places, "acme", "speech"),
        key_of(embeds, places, "acmespeech", ""),
        key_of(embeds.view(6, 4), places, "acme", "speech"),
        key_of(embeds, places + 1, "acme", "speech"),
        key_of(embeds + 1, places, "acme", "speech"),
    }
    assert len(keys) == 5
    assert key_of(embeds.clone(), places.clone(), "acme", "speech") in keys
