"""Transcribes a clip and stores its speech tokens and its transcript as separate objects."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors import deserialize
from safetensors.numpy import save

from lyra.v1.common_pb2 import ELEMENT_TYPE_BFLOAT16, SpeechTokens, Tensor, TensorChunk
from model_core.adapter_choice import choose_adapter
from services.shared.jobs.model import ClipResult, ClipSegment, PlannedClip
from services.shared.jobs.state import Job, Unit
from services.shared.pipeline.clients import ModelClients
from services.shared.pipeline.describe import describe_speech_encoder
from services.shared.pipeline.encode_and_transcribe import TranscribedClip, encode_and_transcribe
from services.shared.pipeline.messages import AudioPart, Segment
from services.shared.rpc.tensors import MAX_CHUNK_BYTES, Array
from services.worker.context import WorkerContext

Bits = npt.NDArray[np.uint16]

_NAME = "speech_tokens"
_PARALLEL_READS = 8


def transcribe_clip(context: WorkerContext, job: Job, unit: Unit) -> None:
    """Encodes and transcribes a clip. Its JSON is written last: its presence means that the clip is done."""
    clip = job.clips[unit.index]
    part = AudioPart(context.store.get(job.id.audio(clip.index)), path=f"clip {clip.index}")
    transcribed = context.run(lambda services: _transcribe(services, job, part))
    context.store.put(job.id.tokens(clip.index), to_safetensors(transcribed.tokens_NE), "application/octet-stream")
    made = ClipResult(
        index=clip.index,
        segments=tuple(_segment(segment) for segment in transcribed.segments),
        language=transcribed.language,
        speech_tokens=len(transcribed.tokens_NE),
        adapter=transcribed.adapter,
    )
    context.store.put_new(job.id.clip(clip.index), made.to_bytes())


def read_tokens(context: WorkerContext, job: Job, clips: Sequence[PlannedClip]) -> list[SpeechTokens]:
    """The speech tokens of clips, in order, as messages for the language model."""
    messages = []
    with ThreadPoolExecutor(_PARALLEL_READS, thread_name_prefix="tokens") as threads:
        kept = list(threads.map(lambda clip: context.store.get(job.id.tokens(clip.index)), clips))
    for number, (clip, data) in enumerate(zip(clips, kept, strict=True)):
        bits_NE = from_safetensors(data)
        step = MAX_CHUNK_BYTES // (bits_NE.itemsize * bits_NE.shape[1])
        for offset in range(0, len(bits_NE), step):
            rows = bits_NE[offset : offset + step]
            tensor = Tensor(dtype=ELEMENT_TYPE_BFLOAT16, shape=rows.shape, data=rows.tobytes())
            messages.append(
                SpeechTokens(
                    clip_index=number,
                    start_seconds=clip.start_seconds,
                    end_seconds=clip.end_seconds,
                    tokens=TensorChunk(rows=tensor, row_offset=offset, rows_total=len(bits_NE)),
                )
            )
    return messages


def to_safetensors(tokens_NE: Array) -> bytes:
    """[N, E] float32 -> a safetensors file of bfloat16."""
    return save({_NAME: tokens_NE.astype(ml_dtypes.bfloat16)})


def from_safetensors(data: bytes) -> Bits:
    """A safetensors file of bfloat16 -> [N, E] uint16, the bit patterns."""
    tensor = dict(cast(Any, deserialize)(data))[_NAME]
    return np.frombuffer(tensor["data"], "<u2").reshape(tensor["shape"])


def _segment(segment: Segment) -> ClipSegment:
    return ClipSegment(
        start_seconds=round(segment.start_seconds, 3),
        end_seconds=round(segment.end_seconds, 3),
        text=segment.text,
        mean_log_probability=round(segment.mean_log_probability, 4),
        no_speech_probability=round(segment.no_speech_probability, 4),
    )


async def _transcribe(services: ModelClients, job: Job, part: AudioPart) -> TranscribedClip:
    adapter = await _adapter(services, job)
    return await encode_and_transcribe(
        services, part, job.manifest.tenant, adapter=adapter, language=job.manifest.language
    )


async def _adapter(services: ModelClients, job: Job) -> str:
    """The adapter whose projector is used: the one that will answer from all clips of the recording."""
    if len(job.clips) == 1:
        return ""
    encoder = await describe_speech_encoder(services, job.manifest.tenant)
    return choose_adapter(encoder.model.adapters, clips=len(job.clips))
