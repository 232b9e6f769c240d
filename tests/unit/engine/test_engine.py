"""The engine on preset tiny."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model_core.checkpoints.peft_adapters import read_adapter, save_adapter
from model_core.engine.language_model import LanguageModel
from model_core.engine.request import Delta, Finish, GenerationOptions
from model_core.engine.sampling_params import SAMPLING_FIELDS, SamplingParams
from model_core.errors import InvalidInput
from model_core.language.chat_template import render
from model_core.language.messages import Message, Part, Role, SpeechPart, VisionPart
from model_core.presets import build_language_model


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return build_language_model("tiny")


def ask(*parts: Part) -> list[Message]:
    return [Message(Role.USER, list(parts))]


def run(model: LanguageModel, messages: list[Message], **options: Any) -> tuple[list[Delta], Finish]:
    """Answers a conversation; `options` are fields of SamplingParams and of GenerationOptions."""
    sampling = SamplingParams(**{name: options.pop(name) for name in SAMPLING_FIELDS & options.keys()})
    *deltas, finish = model.generate(messages, GenerationOptions(sampling=sampling, **options))
    assert isinstance(finish, Finish)
    return [delta for delta in deltas if isinstance(delta, Delta)], finish


def test_answer_ends_at_max_tokens_with_reason_length(model: LanguageModel) -> None:
    deltas, finish = run(model, ask("hello"), max_tokens=3, temperature=1.0, seed=1)
    assert sum(delta.tokens for delta in deltas) == finish.usage.completion_tokens == 3
    assert finish.reason == "length"


def test_same_seed_gives_the_same_answer_and_another_seed_another(model: LanguageModel) -> None:
    texts = [
        "".join(d.text for d in run(model, ask("hello"), max_tokens=20, temperature=1.5, seed=seed)[0])
        for seed in (3, 3, 4)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_each_token_has_its_hidden_state_on_request(model: LanguageModel) -> None:
    deltas, _ = run(model, ask("hello"), max_tokens=2, hidden_states=True)
    assert [d.hidden_states.shape for d in deltas if d.hidden_states is not None][:2] == [(1, model.width)] * 2
    assert all(d.hidden_states is None for d in run(model, ask("hello"), max_tokens=2)[0])


@pytest.mark.parametrize(
    ("parts", "asked", "used"),
    [
        (["text"], "", ""),
        (["text", SpeechPart(torch.randn(3, 16))], "", "speech"),
        ([VisionPart(torch.randn(4, 16), (1, 2, 2))], "", "vision"),
        ([VisionPart(torch.randn(4, 16), (1, 2, 2)), SpeechPart(torch.randn(3, 16))], "", "speech"),
        (["text", SpeechPart(torch.randn(3, 16))], "base", ""),
        (["text"], "speech", "speech"),
    ],
)
def test_adapter_is_chosen_by_the_content_of_the_prompt(
    model: LanguageModel, parts: list[Part], asked: str, used: str
) -> None:
    _, finish = run(model, ask(*parts), max_tokens=1, adapter=asked)
    assert finish.usage.adapter == used


def test_usage_counts_each_kind_of_token(model: LanguageModel) -> None:
    parts: list[Part] = ["hi", SpeechPart(torch.randn(3, 16)), VisionPart(torch.randn(4, 16), (1, 2, 2))]
    _, finish = run(model, ask(*parts), max_tokens=1)
    assert (finish.usage.speech_tokens, finish.usage.vision_tokens) == (3, 4)
    text = "".join(run for run in render(ask(*parts)) if isinstance(run, str))
    assert finish.usage.prompt_tokens == model.count_tokens(text) + 7


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_tokens": 5000}, "max_tokens"),
        ({"max_tokens": 2047}, "max_tokens"),
        ({"adapter": "unknown"}, "adapter"),
        ({"keep_rate": 0.0}, "keep_rate"),
        ({"keep_rate": 1.5}, "keep_rate"),
        ({"blocks": 0}, "blocks"),
        ({"blocks": 3}, "blocks"),
    ],
)
def test_option_that_does_not_fit_the_model_is_refused_by_name(
    model: LanguageModel, options: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        run(model, ask("hello"), **options)
    assert caught.value.field == field


def test_prompt_longer_than_the_context_is_refused_with_both_numbers(model: LanguageModel) -> None:
    with pytest.raises(InvalidInput, match=r"3\d\d\d tokens.*2048"):
        run(model, ask("x" * 3000))


def test_no_message_and_empty_messages_are_refused(model: LanguageModel) -> None:
    for messages in ([], [Message(Role.USER)]):
        with pytest.raises(InvalidInput, match="at least one message"):
            run(model, messages)


def test_extraction_shows_in_usage_and_only_where_there_is_context(model: LanguageModel) -> None:
    spoken = ask(SpeechPart(torch.randn(100, 16)), "what was said?")
    _, finish = run(model, spoken, max_tokens=4, keep_rate=0.5, blocks=2)
    assert finish.usage.context_tokens == (100, 50)
    assert run(model, spoken, max_tokens=1)[1].usage.context_tokens == (100,)
    text, plain = (run(model, ask("hello"), max_tokens=4, keep_rate=rate, blocks=2)[0] for rate in (0.5, 1.0))
    assert [delta.text for delta in text] == [delta.text for delta in plain]


def test_speech_of_several_clips_gets_the_adapter_for_long_speech(model: LanguageModel, tmp_path: Path) -> None:
    several = ask(SpeechPart(torch.randn(5, 16), clips=2))
    assert run(model, several, max_tokens=1)[1].usage.adapter == "speech"
    save_adapter(model.decoder, "speech", tmp_path)
    model.load_adapter("long_speech", read_adapter(model.decoder, tmp_path))
    assert run(model, several, max_tokens=1)[1].usage.adapter == "long_speech"
    assert run(model, ask(*[SpeechPart(torch.randn(5, 16))] * 2), max_tokens=1)[1].usage.adapter == "long_speech"
    assert run(model, ask(SpeechPart(torch.randn(5, 16))), max_tokens=1)[1].usage.adapter == "speech"
    with pytest.raises(InvalidInput, match="already resident"):
        model.load_adapter("long_speech", read_adapter(model.decoder, tmp_path))
    model.unload_adapter("long_speech")
    assert model.adapters == ("speech", "vision")
    with pytest.raises(InvalidInput, match="not one of base, speech, vision"):
        model.unload_adapter("long_speech")


@pytest.mark.parametrize("preset", ["tiny", "tiny-qwen2-vl"])
def test_answers_of_a_batch_are_those_of_each_request_alone(preset: str) -> None:
    model = build_language_model(preset)
    width = model.width
    speech, picture = SpeechPart(torch.randn(12, width)), VisionPart(torch.randn(4, width), (1, 2, 2))
    requests = [
        (ask("hello"), GenerationOptions(sampling=SamplingParams(max_tokens=9), hidden_states=True)),
        (ask(speech, "what is said?"), GenerationOptions(sampling=SamplingParams(max_tokens=4))),
        (
            ask(speech, "what is said?"),
            GenerationOptions(sampling=SamplingParams(max_tokens=12), keep_rate=0.5, blocks=2),
        ),
        (ask(picture), GenerationOptions(sampling=SamplingParams(max_tokens=7, temperature=1.0, seed=5))),
        (
            ask("a longer question than the others"),
            GenerationOptions(sampling=SamplingParams(max_tokens=12), adapter="speech"),
        ),
    ]
    together: dict[int, list[Delta | Finish]] = {number: [] for number in range(len(requests))}
    for number, event in model.generate_batch(requests):
        together[number].append(event)
    for number, (messages, options) in enumerate(requests):
        *deltas, finish = together[number]
        *alone, end = model.generate(messages, options)
        assert isinstance(finish, Finish)
        assert isinstance(end, Finish)
        assert finish.usage == replace(end.usage, cached_tokens=finish.usage.cached_tokens)
        assert [(d.text, d.tokens) for d in deltas if isinstance(d, Delta)] == [
            (d.text, d.tokens) for d in alone if isinstance(d, Delta)
        ]
    first, *_ = (event for event in together[0] if isinstance(event, Delta))
    assert first.hidden_states is not None


def test_batch_with_one_invalid_request_is_refused(model: LanguageModel) -> None:
    requests = [(ask("hello"), GenerationOptions()), (ask("hello"), GenerationOptions(keep_rate=0.0))]
    with pytest.raises(InvalidInput, match="keep_rate"):
        next(model.generate_batch(requests))
