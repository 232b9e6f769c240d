"""Clips of all calls are transcribed together: in turn between tenants, within limits, while a caller is waiting."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing

import pytest
import torch

from model_core.audio.tensors import SAMPLE_RATE, Clip
from model_core.speech.encoder import EncodedClip, TranscribedClip
from services.shared import telemetry
from services.shared.rpc.batching import GatherWindow
from services.shared.rpc.threads import ModelThread
from services.shared.service_errors import Overloaded
from services.speech_encoder.batching import ClipBatcher, ClipOptions
from services.speech_encoder.strategies import EncodeAndTranscribe


class Gate:
    """Transcribes each clip to its index, behind a gate: records each batch and lets it through when opened."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.languages: list[str] = []
        self.opened = threading.Event()
        self.entered = threading.Event()
        self.closed = 0
        # If set, encoding waits too.
        self.encoding = threading.Event()
        self.encoding.set()
        self.encoded = threading.Event()

    def encode_clips(self, clips: list[Clip], adapters: list[str]) -> list[EncodedClip]:
        if "bad" in adapters:
            raise ValueError("bad")
        self.encoded.set()
        self.encoding.wait(10)
        return [EncodedClip(clip, torch.full((1, 2), float(clip.index)), torch.zeros(1, 1)) for clip in clips]

    def transcribe(self, clips: list[EncodedClip], language: str = "") -> Iterator[TranscribedClip | None]:
        self.batches.append([each.clip.index for each in clips])
        self.languages.append(language)
        try:
            self.entered.set()
            self.opened.wait(10)
            yield None
            for each in clips:
                yield TranscribedClip(each.tokens_NE, [], language or ("de" if each.clip.index else ""))
        except GeneratorExit:
            self.closed += 1
            raise


class Bench:
    """A batcher with its gate. Every clip lasts a second."""

    def __init__(self, max_batch_clips: int = 4, max_seconds_waiting: float = 1000) -> None:
        self.gate = Gate()
        self.batcher = ClipBatcher(
            EncodeAndTranscribe(self.gate, ModelThread("encoder"), ModelThread("transcriber")),
            max_batch_clips=max_batch_clips,
            max_seconds_waiting=max_seconds_waiting,
            window=GatherWindow(0.0),
        )

    async def transcribe(
        self, *numbers: int, tenant: str = "acme", language: str = "en", adapter: str = "speech"
    ) -> list[TranscribedClip]:
        clips = [Clip(number, 0.0, 1.0, torch.zeros(SAMPLE_RATE)) for number in numbers]
        results = self.batcher.process(clips, ClipOptions(adapter, language), tenant=tenant)
        return [result async for result in results]

    async def occupied(self) -> "asyncio.Task[list[TranscribedClip]]":
        """A call whose clip is being transcribed, at the closed gate."""
        task = asyncio.create_task(self.transcribe(99, tenant="first"))
        await asyncio.to_thread(self.gate.entered.wait, 10)
        return task

    async def waiting(
        self, *numbers: int, tenant: str = "acme", language: str = "en"
    ) -> "asyncio.Task[list[TranscribedClip]]":
        """A call whose clips are queued."""
        task = asyncio.create_task(self.transcribe(*numbers, tenant=tenant, language=language))
        await asyncio.sleep(0)
        return task


async def test_queued_clips_are_transcribed_in_one_batch_and_returned_in_order() -> None:
    bench = Bench()
    first = await bench.occupied()
    others = [await bench.waiting(1, 2), await bench.waiting(3)]
    bench.gate.opened.set()
    await first
    results = await asyncio.gather(*others)
    assert bench.gate.batches == [[99], [1, 2, 3]]
    assert [[int(clip.tokens_NE[0, 0]) for clip in call] for call in results] == [[1, 2], [3]]
    assert bench.batcher.seconds_waiting == 0


async def test_clips_that_arrive_during_encoding_join_the_batch() -> None:
    bench = Bench()
    bench.gate.opened.set()
    bench.gate.encoding.clear()
    first = await bench.waiting(1)
    await asyncio.to_thread(bench.gate.encoded.wait, 10)
    others = [await bench.waiting(2), await bench.waiting(3)]
    bench.gate.encoding.set()
    await asyncio.gather(first, *others)
    assert bench.gate.batches == [[1, 2, 3]]


async def test_tenants_take_turns_regardless_of_how_much_one_requests() -> None:
    bench = Bench(max_batch_clips=3)
    first = await bench.occupied()
    calls = [await bench.waiting(*range(1, 7), tenant="greedy"), await bench.waiting(51, tenant="modest")]
    calls.append(await bench.waiting(52, tenant="modest"))
    bench.gate.opened.set()
    await asyncio.gather(first, *calls)
    assert sorted(bench.gate.batches[1]) == [1, 2, 51]
    assert 52 in bench.gate.batches[2]


async def test_clips_in_different_languages_do_not_share_a_batch() -> None:
    bench = Bench()
    first = await bench.occupied()
    calls = [await bench.waiting(1), await bench.waiting(2, language="de"), await bench.waiting(3)]
    bench.gate.opened.set()
    await asyncio.gather(first, *calls)
    assert bench.gate.batches == [[99], [1, 3], [2]]
    assert bench.gate.languages == ["en", "en", "de"]


async def test_the_language_is_detected_in_the_first_clip_with_speech_and_used_for_the_others() -> None:
    bench = Bench()
    bench.gate.opened.set()
    await bench.transcribe(0, 1, 2, 3, language="")  # clip 0 has no speech
    assert bench.gate.batches == [[0], [1], [2, 3]]
    assert bench.gate.languages == ["", "", "de"]


async def test_clips_of_a_disconnected_caller_leave_the_queue() -> None:
    bench = Bench()
    first = await bench.occupied()
    leaving = await bench.waiting(1, 2)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    bench.gate.opened.set()
    await first
    await bench.transcribe(3)
    assert bench.gate.batches == [[99], [3]]
    assert bench.batcher.seconds_waiting == 0


async def test_a_batch_without_callers_is_abandoned() -> None:
    bench = Bench()
    first = await bench.occupied()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    bench.gate.opened.set()
    await bench.transcribe(3)
    assert bench.gate.closed == 1


async def test_a_reader_that_stops_midway_leaves_nothing_queued() -> None:
    bench = Bench(max_batch_clips=1)
    before = telemetry.AUDIO_SECONDS_WAITING._value.get()
    bench.gate.opened.set()
    clips = [Clip(1, 0.0, 1.0, torch.zeros(SAMPLE_RATE))] * 5
    async with aclosing(bench.batcher.process(clips, ClipOptions("", "en"), tenant="")) as results:
        await anext(results)
        assert bench.batcher.seconds_waiting == 4
    assert bench.batcher.seconds_waiting == 0
    assert telemetry.AUDIO_SECONDS_WAITING._value.get() == pytest.approx(before, abs=1e-9)


async def test_an_error_in_a_batch_reaches_its_calls_and_the_next_batch_works() -> None:
    bench = Bench()
    bench.gate.opened.set()
    with pytest.raises(ValueError, match="bad"):
        await bench.transcribe(1, adapter="bad")
    assert len(await bench.transcribe(2)) == 1


async def test_audio_over_the_limit_is_refused_with_a_retry_delay_but_a_single_recording_is_not() -> None:
    bench = Bench(max_seconds_waiting=1)
    bench.gate.opened.set()
    assert len(await bench.transcribe(1, 2)) == 2
    bench.gate.opened.clear()
    first = asyncio.create_task(bench.transcribe(3, 4))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="2 s of audio are waiting, the limit is 1 s") as refused:
        await bench.transcribe(5)
    assert refused.value.retry_after_seconds >= 1
    bench.gate.opened.set()
    await first


async def test_the_latest_recording_of_the_busiest_tenant_makes_room_for_another_tenant() -> None:
    bench = Bench(max_seconds_waiting=6)
    first = await bench.occupied()
    earlier, later = await bench.waiting(1, 2, tenant="greedy"), await bench.waiting(3, 4, 5, tenant="greedy")
    modest = await bench.waiting(6, tenant="modest")
    with pytest.raises(Overloaded):
        await later
    with pytest.raises(Overloaded):
        await bench.transcribe(7, 8, 9, tenant="greedy")
    bench.gate.opened.set()
    await asyncio.gather(first, earlier, modest)
    assert sorted(bench.gate.batches[1]) == [1, 2, 6]
    assert bench.batcher.seconds_waiting == 0


async def test_a_started_recording_is_never_evicted() -> None:
    bench = Bench(max_batch_clips=1, max_seconds_waiting=3)
    long = asyncio.create_task(bench.transcribe(1, 2, 3, tenant="greedy"))
    await asyncio.to_thread(bench.gate.entered.wait, 10)
    with pytest.raises(Overloaded):
        await bench.transcribe(4, tenant="modest")
    bench.gate.opened.set()
    assert len(await long) == 3
