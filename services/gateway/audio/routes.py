"""Speech to text and text to speech."""

import zlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import PlainTextResponse

from services.gateway.audio.encoding import CODECS, AudioEncoder, AudioFormat
from services.gateway.audio.schemas import (
    DurationUsage,
    SpeechRequest,
    Transcription,
    TranscriptionForm,
    TranscriptionSegment,
    VerboseTranscription,
    transcript_delta,
    transcript_done,
)
from services.gateway.chat.request_mapping import check_model, voice_name
from services.gateway.dependencies import ApiKey, Clients, Settings
from services.gateway.http.api_errors import bad_request
from services.gateway.http.error_response import ERROR_RESPONSES
from services.gateway.http.json_route import JsonRoute
from services.gateway.http.route_markers import accepts_media
from services.gateway.http.streaming import StreamedBody, event, while_connected, with_errors_in_band
from services.shared.pipeline.messages import (
    AudioChunk,
    AudioPart,
    Segment,
    SpeechOptions,
    TranscriptEnd,
    TranscriptEvent,
)
from services.shared.pipeline.speak import speak
from services.shared.pipeline.transcribe import transcribe
from services.shared.pipeline.transcripts import plain_text, to_srt, to_vtt

router = APIRouter(prefix="/v1/audio", tags=["audio"], route_class=JsonRoute, responses=ERROR_RESPONSES)

_CLIP_SECONDS = 30

_TRANSCRIPT: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/plain": {"schema": {"type": "string"}}, "text/event-stream": {"schema": {"type": "string"}}}
    }
}
_AUDIO: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {codec.media_type: {"schema": {"type": "string", "format": "binary"}} for codec in CODECS.values()}
    }
}


@router.post("/transcriptions", response_model=Transcription | VerboseTranscription, responses=_TRANSCRIPT)
@accepts_media
async def create_transcription(
    form: Annotated[TranscriptionForm, Form(media_type="multipart/form-data")],
    request: Request,
    key: ApiKey,
    clients: Clients,
    settings: Settings,
) -> Transcription | VerboseTranscription | Response:
    """Transcribes a recording."""
    check_model(form.model, settings)
    if form.stream and form.response_format not in ("json", "text"):
        raise bad_request("stream", f"is only for response_format json or text, not {form.response_format}")
    if form.timestamp_granularities and form.response_format != "verbose_json":
        raise bad_request("timestamp_granularities", "is only for response_format verbose_json")
    data = await form.file.read()
    if not data:
        raise bad_request("file", "is empty: 0 bytes", "empty_file")
    events = transcribe(clients, AudioPart(data, "file"), key.tenant, form.language)
    if form.stream:
        return await StreamedBody.begin(request, with_errors_in_band(_deltas(events)), "text/event-stream")
    segments, end = await while_connected(request, _collect(events))
    match form.response_format:
        case "text":
            return PlainTextResponse(plain_text(segments) + "\n")
        case "srt":
            return PlainTextResponse(to_srt(segments))
        case "vtt":
            return PlainTextResponse(to_vtt(segments), media_type="text/vtt")
        case "verbose_json":
            return _verbose(segments, end)
        case _:
            return Transcription(text=plain_text(segments), usage=DurationUsage(seconds=end.duration_seconds))


@router.post("/speech", response_class=Response, responses=_AUDIO)
async def create_speech(
    body: SpeechRequest, request: Request, key: ApiKey, clients: Clients, settings: Settings
) -> Response:
    """Speaks a text; audio is streamed as it is generated."""
    check_model(body.model, settings)
    chunks = speak(clients, body.input, SpeechOptions(voice_name(body.voice), body.speed), key.tenant)
    audio = _encode(body.response_format, chunks)
    return await StreamedBody.begin(request, audio, CODECS[body.response_format].media_type)


async def _collect(events: AsyncGenerator[TranscriptEvent, None]) -> tuple[list[Segment], TranscriptEnd]:
    segments, end = [], TranscriptEnd(0.0, "")
    async with aclosing(events):
        async for each in events:
            if isinstance(each, Segment):
                segments.append(each)
            else:
                end = each
    return segments, end


async def _deltas(events: AsyncGenerator[TranscriptEvent, None]) -> AsyncGenerator[bytes, None]:
    segments: list[Segment] = []
    async with aclosing(events):
        async for each in events:
            if isinstance(each, Segment):
                before = plain_text(segments)
                segments.append(each)
                if delta := plain_text(segments)[len(before) :]:
                    yield event(transcript_delta(delta))
    yield event(transcript_done(plain_text(segments)))


async def _encode(audio_format: AudioFormat, chunks: AsyncGenerator[AudioChunk, None]) -> AsyncGenerator[bytes, None]:
    encoder = AudioEncoder(audio_format)
    async with aclosing(chunks):
        async for chunk in chunks:
            for data in encoder.push(chunk.pcm, chunk.sample_rate):
                yield data
    yield encoder.finish()


def _verbose(segments: list[Segment], end: TranscriptEnd) -> VerboseTranscription:
    return VerboseTranscription(
        language=end.language,
        duration=end.duration_seconds,
        text=plain_text(segments),
        usage=DurationUsage(seconds=end.duration_seconds),
        segments=[
            TranscriptionSegment(
                id=number,
                seek=int(segment.start_seconds // _CLIP_SECONDS) * _CLIP_SECONDS * 100,
                start=segment.start_seconds,
                end=segment.end_seconds,
                text=segment.text,
                tokens=[],
                avg_logprob=segment.mean_log_probability,
                compression_ratio=_compression_ratio(segment.text),
                no_speech_prob=segment.no_speech_probability,
            )
            for number, segment in enumerate(segments)
        ],
    )


def _compression_ratio(text: str) -> float:
    """Compression ratio as reported by Whisper: a high one indicates endless repetition."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))
