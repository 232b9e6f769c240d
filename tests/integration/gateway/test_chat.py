import base64
import io
from typing import Any

import av
import pytest

from tests.integration.gateway.conftest import Gateway, picture, wav

AUDIO_FORMATS = ("wav", "mp3", "opus", "flac", "pcm16")


def audio_part(data: bytes, kind: str = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": kind}}


def image_part(kind: str = "PNG") -> dict[str, Any]:
    data = base64.b64encode(picture(kind)).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind.lower()};base64,{data}"}}


def question() -> dict[str, Any]:
    parts = [{"type": "text", "text": "What is this?"}, audio_part(wav(1.5)), image_part()]
    return {"model": "lyra-tiny", "messages": [{"role": "user", "content": parts}], "max_tokens": 12}


def seconds_of(data: bytes, kind: str) -> float:
    if kind == "pcm16":
        return len(data) / 2 / 24_000
    with av.open(io.BytesIO(data), "r") as container:
        rate = container.streams.audio[0].rate
        return sum(frame.samples for frame in container.decode(audio=0)) / rate


async def test_a_written_question_gets_a_written_answer(gateway: Gateway) -> None:
    answer = await gateway.openai.chat.completions.create(
        model="lyra-tiny", messages=[{"role": "user", "content": "Hello"}], max_completion_tokens=8
    )
    choice, usage = answer.choices[0], answer.usage
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.message.audio is None
    assert choice.finish_reason in ("stop", "length")
    assert usage is not None
    assert 0 < usage.completion_tokens <= 8
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


async def test_the_streamed_answer_equals_the_complete_one(gateway: Gateway) -> None:
    whole = await gateway.openai.chat.completions.create(**question(), seed=3, temperature=1.0)
    stream = await gateway.openai.chat.completions.create(
        **question(), seed=3, temperature=1.0, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    *_, last, usage = chunks
    assert last.choices[0].finish_reason == whole.choices[0].finish_reason
    assert usage.choices == []
    assert usage.usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_usage_counts_speech_and_image_tokens(gateway: Gateway) -> None:
    answer = await gateway.openai.chat.completions.create(**question())
    assert answer.usage is not None
    details = answer.usage.prompt_tokens_details
    assert details is not None
    assert details.audio_tokens
    assert details.image_tokens
    assert details.text_tokens
    assert details.audio_tokens + details.image_tokens + details.text_tokens == answer.usage.prompt_tokens


@pytest.mark.parametrize("audio_format", AUDIO_FORMATS)
async def test_a_spoken_answer_is_complete_in_every_format(gateway: Gateway, audio_format: str) -> None:
    audio: Any = {"voice": "", "format": audio_format}
    answer = await gateway.openai.chat.completions.create(**question(), modalities=["text", "audio"], audio=audio)
    message, usage = answer.choices[0].message, answer.usage
    assert message.content is None
    assert message.audio is not None
    assert message.audio.transcript
    seconds = seconds_of(base64.b64decode(message.audio.data), audio_format)
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.audio_tokens is not None
    assert abs(usage.completion_tokens_details.audio_tokens - seconds * 20) <= 3


@pytest.mark.parametrize("audio_format", AUDIO_FORMATS)
async def test_a_spoken_answer_streams_in_every_format(gateway: Gateway, audio_format: str) -> None:
    wanted: Any = {"voice": "", "format": audio_format}
    stream = await gateway.openai.chat.completions.create(
        **question(), modalities=["text", "audio"], audio=wanted, stream=True
    )
    transcript, data, reasons, expiries = "", b"", [], 0
    async for chunk in stream:
        choice = chunk.choices[0]
        reasons.append(choice.finish_reason)
        assert choice.delta.content is None
        if (audio := choice.delta.audio) is not None:
            transcript += audio.transcript or ""
            data += base64.b64decode(audio.data or "")
            expiries += audio.expires_at is not None
    assert transcript
    assert seconds_of(data, audio_format) > 0.1
    assert expiries == 1
    assert reasons[-1] in ("stop", "length")
    assert set(reasons[:-1]) == {None}


async def test_a_conversation_continues_from_spoken_answers(gateway: Gateway) -> None:
    spoken = await gateway.openai.chat.completions.create(**question(), modalities=["text", "audio"])
    said = spoken.choices[0].message.model_dump(exclude_none=True)
    more: Any = [*question()["messages"], said, {"role": "user", "content": "Why?"}]
    again = await gateway.openai.chat.completions.create(model="lyra-tiny", messages=more, max_tokens=4)
    assert again.usage is not None
    assert spoken.usage is not None
    assert again.usage.prompt_tokens > spoken.usage.prompt_tokens


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
async def test_every_kind_of_picture_is_understood(gateway: Gateway, kind: str) -> None:
    messages: Any = [{"role": "user", "content": [image_part(kind)]}]
    answer = await gateway.openai.chat.completions.create(model="lyra-tiny", messages=messages, max_tokens=2)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.image_tokens


@pytest.mark.parametrize(
    ("kind", "container", "codec", "rate"),
    [
        ("mp3", "mp3", "libmp3lame", 44_100),
        ("flac", "flac", "flac", 48_000),
        ("ogg", "ogg", "flac", 48_000),
        ("opus", "ogg", "libopus", 48_000),
        ("webm", "webm", "libopus", 48_000),
        ("m4a", "mp4", "aac", 44_100),
    ],
)
async def test_every_kind_of_recording_is_understood(
    gateway: Gateway, kind: Any, container: str, codec: str, rate: int
) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output, av.open(io.BytesIO(wav(2.0)), "r") as source:
        stream: Any = output.add_stream(codec, rate=rate, layout="mono")
        resampler = av.AudioResampler(
            format=stream.codec_context.format, layout="mono", rate=rate, frame_size=stream.codec_context.frame_size
        )
        for frame in (*source.decode(audio=0), None):
            for piece in resampler.resample(frame):
                output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    messages: Any = [{"role": "user", "content": [audio_part(file.getvalue(), kind)]}]
    answer = await gateway.openai.chat.completions.create(model="lyra-tiny", messages=messages, max_tokens=2)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.audio_tokens


async def test_a_stop_sequence_ends_the_answer_and_is_not_part_of_it(gateway: Gateway) -> None:
    options: Any = {"model": "lyra-tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}
    whole = await gateway.openai.chat.completions.create(**options)
    text = whole.choices[0].message.content or ""
    stopped = await gateway.openai.chat.completions.create(**options, stop=text[3:5])
    assert stopped.choices[0].message.content == text[: text.index(text[3:5])]
    assert stopped.choices[0].finish_reason == "stop"


async def test_logprobs_of_every_token_come_complete_and_streamed(gateway: Gateway) -> None:
    options: Any = {**question(), "seed": 3, "temperature": 1.0, "logprobs": True, "top_logprobs": 3}
    whole = await gateway.openai.chat.completions.create(**options)
    stream = await gateway.openai.chat.completions.create(**options, stream=True)
    choices = [chunk.choices[0] async for chunk in stream]
    answer, usage = whole.choices[0], whole.usage
    assert answer.logprobs is not None
    assert answer.logprobs.content is not None
    assert usage is not None
    assert len(answer.logprobs.content) == usage.completion_tokens
    text = b"".join(bytes(token.bytes or ()) for token in answer.logprobs.content)
    assert text.decode(errors="replace").startswith(answer.message.content or "?")
    for token in answer.logprobs.content:
        assert len(token.top_logprobs) == 3
        assert 0 >= token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob >= token.top_logprobs[2].logprob
        assert token.top_logprobs[0].logprob >= token.logprob > -9999
    streamed = [token for choice in choices if choice.logprobs for token in choice.logprobs.content or ()]
    assert streamed == answer.logprobs.content
    assert "".join(choice.delta.content or "" for choice in choices) == answer.message.content


async def test_logprobs_come_only_on_request(gateway: Gateway) -> None:
    answer = await gateway.openai.chat.completions.create(**question())
    assert answer.choices[0].logprobs is None


async def test_options_of_vllm_reach_the_sampler(gateway: Gateway) -> None:
    """Of two tokens that a bias leaves, penalties choose the second one after the first."""
    options: Any = {**question(), "logit_bias": {"70": 90, "71": 91}, "max_tokens": 3, "logprobs": True}
    answer = await gateway.openai.chat.completions.create(**options, frequency_penalty=2)
    assert answer.choices[0].logprobs is not None
    first, second, third = (token.token for token in answer.choices[0].logprobs.content or ())
    assert first == third != second
