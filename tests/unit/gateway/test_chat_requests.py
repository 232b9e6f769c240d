import base64
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from model_core.engine.sampling_params import SAMPLING_FIELDS, SamplingParams, sampling_bounds
from services.gateway.chat.request_mapping import to_answer_request
from services.gateway.chat.schemas import ChatRequest
from services.gateway.http.api_errors import ApiError, validation_error
from services.gateway.settings import GatewaySettings
from services.shared.pipeline.messages import (
    AnswerRequest,
    AudioPart,
    ImagePart,
    Message,
    Role,
    SpeechOptions,
    TextPart,
)

LIMITS: dict[str, Any] = {"max_messages": 3, "max_parts": 4, "max_media": 2, "max_text_characters": 50}
SETTINGS = GatewaySettings(**{**LIMITS, "preset": "tiny"})
SOUND = {"type": "input_audio", "input_audio": {"data": base64.b64encode(b"sound").decode(), "format": "wav"}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(b"png").decode()}}
TEXT = {"type": "text", "text": "What?"}
MINIMAL: dict[str, Any] = {"model": "lyra-tiny", "messages": [{"role": "user", "content": "Hi"}]}


def understood(**changes: Any) -> AnswerRequest:
    body = {key: value for key, value in {**MINIMAL, **changes}.items() if value is not ...}
    try:
        request = TypeAdapter(ChatRequest).validate_python(body, context=SETTINGS)
    except ValidationError as error:
        raise validation_error([{**each, "loc": ("body", *each["loc"])} for each in error.errors()], body) from error
    return to_answer_request(request, "acme", SETTINGS)


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def test_a_minimal_request_is_greedy_and_text_only() -> None:
    assert understood() == AnswerRequest(
        messages=(Message(Role.USER, (TextPart("Hi"),)),),
        tenant="acme",
        paths={
            "max_tokens": "max_tokens",
            "voice": "audio.voice",
            "adapter": "lyra.adapter",
            "keep_rate": "lyra.keep_rate",
            "blocks": "lyra.blocks",
        },
    )


def test_every_option_reaches_the_pipeline() -> None:
    request = understood(
        messages=[
            {"role": "developer", "content": [TEXT]},
            {"role": "assistant", "content": None, "audio": {"id": "audio_1", "transcript": "Before."}},
            {"role": "user", "content": [TEXT, SOUND, PICTURE], "name": "Ann"},
        ],
        max_completion_tokens=5, temperature=0.5, top_p=0.9, min_p=0.1, seed=-1, stop=["a", "b"],
        top_k=40, presence_penalty=0.5, frequency_penalty=-0.5, repetition_penalty=1.2, logit_bias={"5": -100, "7": 1},
        logprobs=True, top_logprobs=2,
        modalities=["text", "audio"], audio={"voice": {"id": "joe"}, "format": "mp3"},
        lyra={"adapter": "long_speech", "keep_rate": 0.7, "blocks": 4},
        user="u", metadata={"a": "b"}, store=False, service_tier="auto", n=1, tools=None,
    )  # fmt: skip
    assert request.messages == (
        Message(Role.SYSTEM, (TextPart("What?"),)),
        Message(Role.ASSISTANT, (TextPart("Before."),)),
        Message(
            Role.USER,
            (
                TextPart("What?"),
                AudioPart(b"sound", "messages[2].content[1].input_audio.data"),
                ImagePart(b"png", "image/png", "messages[2].content[2].image_url.url"),
            ),
        ),
    )
    assert request.sampling == SamplingParams(
        max_tokens=5, temperature=0.5, top_p=0.9, min_p=0.1, seed=2**64 - 1, stop=("a", "b"),
        top_k=40, presence_penalty=0.5, frequency_penalty=-0.5, repetition_penalty=1.2, logit_bias={5: -100, 7: 1},
        logprobs=True, top_logprobs=2,
    )  # fmt: skip
    assert request.speech == SpeechOptions("joe")
    assert (request.adapter, request.keep_rate, request.blocks) == ("long_speech", 0.7, 4)
    assert request.paths["max_tokens"] == "max_completion_tokens"


def test_every_sampling_parameter_is_a_field_of_the_request_with_the_same_bounds() -> None:
    elsewhere = {"end_loops", "json_schema"}  # for jobs alone; not in the API yet
    assert ChatRequest.model_fields.keys() >= SAMPLING_FIELDS - elsewhere
    assert ChatRequest.model_fields.keys().isdisjoint(elsewhere)
    schema = ChatRequest.model_json_schema()["properties"]
    keywords = {"gt": "exclusiveMinimum", "ge": "minimum", "le": "maximum"}
    spelt_differently = {"seed", "stop", "logit_bias"}
    for name in SAMPLING_FIELDS - elsewhere - spelt_differently:
        number, _ = schema[name]["anyOf"]
        bounds = {keywords[relation]: bound for relation, bound in sampling_bounds(name).items()}
        assert {key: number[key] for key in number if key != "type"} == bounds, name


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"model": ...}, "model", "is required"),
    ({"model": "gpt-5"}, "model", "lyra-tiny"),
    ({"messages": ...}, "messages", "is required"),
    ({"messages": []}, "messages", "at least 1"),
    ({"messages": [{"role": "user", "content": ""}]}, "messages[0].content", "at least 1"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "string or a list of parts"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "is required"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "at least 1"),
    ({"messages": [{"content": "Hi"}]}, "messages[0]", "role"),
    ({"messages": [{"role": "tool", "content": "Hi"}]}, "messages[0].role", "'tool' is not one of"),
    ({"messages": [{"role": "assistant", "content": None}]}, "messages[0]", "content or audio.transcript is required"),
    ({"messages": MINIMAL["messages"] * 4}, "messages", "limit of 3"),
    ({"messages": user({"type": "video"})}, "messages[0].content[0].type", "'video' is not one of"),
    ({"messages": user({"type": "text"})}, "messages[0].content[0].text", "is required"),
    ({"messages": user({"type": "text", "text": 5})}, "messages[0].content[0].text", "valid string"),
    ({"messages": user({**TEXT, "x": 1})}, "messages[0].content[0].x", "not a known parameter"),
    (
        {"messages": user(TEXT, {"type": "input_audio", "input_audio": {"format": "wav"}})},
        "messages[0].content[1].input_audio.data",
        "is required",
    ),
    (
        {"messages": user({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wma"}})},
        "messages[0].content[0].input_audio.format",
        "'wav'",
    ),
    (
        {"messages": user({"type": "input_audio", "input_audio": {"data": "no base64!", "format": "wav"}})},
        "messages[0].content[0].input_audio.data",
        "not valid base64",
    ),
    (
        {"messages": user({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}})},
        "messages[0].content[0].input_audio.data",
        "0 bytes",
    ),
    ({"messages": user(TEXT, TEXT, TEXT, TEXT, TEXT)}, "messages[0].content", "limit of 4"),
    ({"messages": user(SOUND, PICTURE, SOUND)}, "messages", "limit of 2"),
    ({"messages": [{"role": "user", "content": "x" * 51}]}, "messages", "limit of 50"),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"max_tokens": True}, "max_tokens", "valid integer"),
    ({"max_tokens": "5"}, "max_tokens", "valid integer"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "contradicts"),
    ({"temperature": 2.1}, "temperature", "less than or equal to 2"),
    ({"temperature": float("nan")}, "temperature", ""),
    ({"top_p": 0}, "top_p", "greater than 0"),
    ({"min_p": -0.1}, "min_p", "greater than or equal to 0"),
    ({"min_p": 1.5}, "min_p", "less than or equal to 1"),
    ({"min_p": "0.1"}, "min_p", "valid number"),
    ({"stop": ["a"] * 5}, "stop", "at most 4"),
    ({"stop": [""]}, "stop[0]", "at least 1"),
    ({"stop": ["a" * 257]}, "stop", "1 to 256 characters"),
    ({"n": 2}, "n", "1"),
    ({"tools": []}, "tools", "is not supported"),
    ({"response_format": {"type": "json_schema"}}, "response_format.type", "'text'"),
    ({"logprobs": 1}, "logprobs", "valid boolean"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
    ({"top_logprobs": 2}, "top_logprobs", "is only for logprobs: true"),
    ({"store": True}, "store", "False"),
    ({"top_k": -1}, "top_k", "greater than or equal to 0"),
    ({"frequency_penalty": 2.5}, "frequency_penalty", "less than or equal to 2"),
    ({"presence_penalty": -2.5}, "presence_penalty", "greater than or equal to -2"),
    ({"repetition_penalty": 0}, "repetition_penalty", "greater than 0"),
    ({"logit_bias": {"7": 101}}, "logit_bias.7", "less than or equal to 100"),
    ({"logit_bias": {"seven": 1}}, "logit_bias.seven", "pattern"),
    ({"logit_bias": {"-1": 1}}, "logit_bias.-1", "pattern"),
    ({"logit_bias": {str(token): 1 for token in range(301)}}, "logit_bias", "at most 300"),
    ({"temprature": 1}, "temprature", "not a known parameter"),
    ({"modalities": ["audio"]}, "modalities", "'text'"),
    ({"modalities": ["video"]}, "modalities[0]", "'text' or 'audio'"),
    ({"audio": {"voice": "joe", "format": "wav"}}, "audio", "modalities"),
    ({"modalities": ["text", "audio"], "audio": {"format": "aac"}}, "audio.format", "'wav'"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
    ({"lyra": "fast"}, "lyra", "dictionary"),
    ({"lyra": {"keep": 0.5}}, "lyra.keep", "not a known parameter"),
    ({"lyra": {"keep_rate": 0}}, "lyra.keep_rate", "greater than 0"),
    ({"lyra": {"keep_rate": -0.5}}, "lyra.keep_rate", "greater than 0"),
    ({"lyra": {"keep_rate": 1.5}}, "lyra.keep_rate", "less than or equal to 1"),
    ({"lyra": {"keep_rate": float("nan")}}, "lyra.keep_rate", ""),
    ({"lyra": {"keep_rate": "0.5"}}, "lyra.keep_rate", "valid number"),
    ({"lyra": {"blocks": 0}}, "lyra.blocks", "greater than or equal to 1"),
    ({"lyra": {"blocks": 2.5}}, "lyra.blocks", "valid integer"),
    ({"lyra": {"blocks": 2**40}}, "lyra.blocks", "less than or equal to"),
    ({"lyra": {"adapter": "../speech"}}, "lyra.adapter", "pattern"),
    ({"lyra": {"adapter": ""}}, "lyra.adapter", "pattern"),
]


@pytest.mark.parametrize(("changes", "param", "message"), BAD)
def test_an_unsupported_value_is_refused_with_its_field(changes: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        understood(**changes)
    assert caught.value.status_code == (404 if caught.value.code == "model_not_found" else 400)
    assert caught.value.param == param
    assert message in caught.value.detail
    assert caught.value.detail.startswith(param)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1/a.png", "has to be a data URI"),
        ("https://example.com/a.png", "has to be a data URI"),
        ("file:///etc/passwd", "has to be a data URI"),
        ("", "has to be a data URI"),
        ("data:image/gif;base64,AAAA", "'image/gif' is not one of"),
        ("data:text/html;base64,AAAA", "'text/html' is not one of"),
        ("data:image/png,AAAA", "base64"),
        ("data:image/png;base64", "base64"),
        ("data:image/png;base64,", "0 bytes"),
        ("data:image/png;base64,a", "not valid base64"),
    ],
)
def test_pictures_come_only_as_data_uris(url: str, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        understood(messages=user({"type": "image_url", "image_url": {"url": url}}))
    assert (caught.value.status_code, caught.value.param) == (400, "messages[0].content[0].image_url.url")
    assert message in caught.value.detail


def test_an_error_shows_nothing_of_a_large_value() -> None:
    with pytest.raises(ApiError) as caught:
        understood(messages=user({"type": "x" * 10_000}))
    assert len(caught.value.body["error"]["message"]) < 300
