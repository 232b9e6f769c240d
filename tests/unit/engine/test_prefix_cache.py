"""Prefix caching: answers are the same with and without it, and only equal prefixes of one tenant hit."""

from typing import Any

import pytest
import torch
from torch import Tensor

from model_core.engine.language_model import LanguageModel
from model_core.engine.page_pool import PAGE_SIZE
from model_core.engine.request import Delta, Finish, GenerationOptions, Usage
from model_core.engine.sampling_params import SamplingParams
from model_core.language.messages import Message, Part, Role, SpeechPart, VisionPart
from model_core.presets import build_language_model

DROPPING = {"keep_rate": 0.5, "blocks": 2}


@pytest.fixture(params=["tiny", "tiny-qwen2-vl"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    made = build_language_model(request.param)
    made.decoder.double()
    return made


def recording(model: LanguageModel, seed: int = 0, tokens: int = 60) -> SpeechPart:
    return SpeechPart(torch.randn(tokens, model.width, generator=torch.Generator().manual_seed(seed)).double())


def answer(model: LanguageModel, *parts: Part, **options: Any) -> tuple[Tensor, Usage]:
    return converse(model, [Message(Role.USER, list(parts))], **options)[1:]


def converse(model: LanguageModel, messages: list[Message], **options: Any) -> tuple[str, Tensor, Usage]:
    """Text, hidden states and usage of an answer of six tokens."""
    asked = GenerationOptions(sampling=SamplingParams(max_tokens=6), hidden_states=True, **options)
    *events, finish = model.generate(messages, asked)
    assert isinstance(finish, Finish)
    deltas = [event for event in events if isinstance(event, Delta)]
    states = torch.cat([delta.hidden_states for delta in deltas if delta.hidden_states is not None])
    return "".join(delta.text for delta in deltas), states, finish.usage


@pytest.mark.parametrize("options", [{}, DROPPING, {"keep_rate": 0.6, "blocks": 1}, {"adapter": "base", **DROPPING}])
def test_answers_are_those_without_prefix_caching(model: LanguageModel, options: dict[str, object]) -> None:
    prompts: list[list[Part]] = [
        [recording(model), "who?"],
        [recording(model, 1), recording(model, 2), "and what else?"],
    ]
    for parts in prompts:
        (expected, first), (states, second) = answer(model, *parts, **options), answer(model, *parts, **options)
        torch.testing.assert_close(states, expected)
        assert first.cached_tokens < second.cached_tokens


def test_cached_pictures_keep_their_positions(model: LanguageModel) -> None:
    picture = VisionPart(torch.randn(60, model.width).double(), (1, 6, 10))
    expected, _ = answer(model, picture, "what is it?", **DROPPING)
    states, usage = answer(model, picture, "what is it?", **DROPPING)
    torch.testing.assert_close(states, expected)
    assert usage.cached_tokens > 60


def test_another_question_about_a_recording_skips_it(model: LanguageModel) -> None:
    for options in ({}, DROPPING):
        one = recording(model, seed=3)
        answer(model, one, "who?", **options)
        _, usage = answer(model, one, "what is said at the end of it?", **options)
        assert usage.prompt_tokens - usage.cached_tokens < len("what is said at the end of it?") + 60


def test_the_next_turn_of_a_conversation_skips_the_turns_before(model: LanguageModel) -> None:
    messages = [Message(Role.USER, ["x" * 100])]
    text, _, first = converse(model, messages)
    messages += [Message(Role.ASSISTANT, [text]), Message(Role.USER, ["y"])]
    _, _, second = converse(model, messages)
    assert second.cached_tokens >= (first.prompt_tokens // PAGE_SIZE) * PAGE_SIZE


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "globex"},
        {"tenant": "acme", "adapter": "base"},
        {"tenant": "acme", "keep_rate": 1.0, "blocks": 1},
    ],
)
def test_other_tenants_adapters_and_blocks_do_not_share(model: LanguageModel, other: dict[str, object]) -> None:
    answer(model, recording(model), "who?", **DROPPING, tenant="acme")
    assert answer(model, recording(model), "who?", **{**DROPPING, **other})[1].cached_tokens == 0


def test_another_recording_of_the_same_length_does_not_hit(model: LanguageModel) -> None:
    expected, _ = answer(model, recording(model, 1), "who?")
    answer(model, recording(model, 0), "who?")
    states, usage = answer(model, recording(model, 1), "who?")
    torch.testing.assert_close(states, expected)
    assert usage.cached_tokens > 0


def test_adapter_loaded_anew_does_not_use_old_pages(model: LanguageModel, tmp_path: Any) -> None:
    from model_core.checkpoints.peft_adapters import read_adapter, save_adapter

    save_adapter(model.decoder, "speech", tmp_path)
    answer(model, recording(model), "who?", adapter="speech")
    model.unload_adapter("speech")
    model.load_adapter("speech", read_adapter(model.decoder, tmp_path))
    assert answer(model, recording(model), "who?", adapter="speech")[1].cached_tokens == 0
