"""Clips of all calls are encoded together: in turn between tenants, within limits."""

import asyncio
import threading
from contextlib import aclosing

import pytest
import torch
from torch import Tensor

from model_core.audio.tensors import SAMPLE_RATE, Clip
from model_core.errors import InvalidInput
from model_core.presets import build_speech_encoder
from services.shared.content_cache import ContentCache
from services.shared.rpc.batching import GatherWindow
from services.shared.rpc.threads import ModelThread
from services.shared.service_errors import Overloaded
from services.speech_encoder.batching import ClipBatcher, ClipOptions
from services.speech_encoder.strategies import Encode


class Gate:
    """The tiny encoder behind a gate: records each batch and lets it through when opened."""

    def __init__(self, *, one_by_one: bool = False) -> None:
        self.one_by_one = one_by_one
        self.encoder = build_speech_encoder("tiny")
        self.batches: list[list[int]] = []
        self.opened = threading.Event()
        self.entered = threading.Event()

    def encode(self, clips: list[Tensor], adapter: str = "") -> list[Tensor]:
        self.batches.append([len(samples) for samples in clips])
        self.entered.set()
        self.opened.wait(10)
        return self.encoder.encode(clips, adapter)


def clip(length: int) -> Clip:
    return Clip(0, 0.0, length / SAMPLE_RATE, torch.full((length,), 0.1))


class Bench:
    """A batcher with its gate."""

    def __init__(
        self,
        max_batch_clips: int = 4,
        max_seconds_waiting: float = 1000,
        gather_milliseconds: float = 0.0,
        one_by_one: bool = False,
    ) -> None:
        self.gate = Gate(one_by_one=one_by_one)
        self.batcher = ClipBatcher(
            Encode(self.gate, ModelThread("test")),
            max_batch_clips=max_batch_clips,
            max_seconds_waiting=max_seconds_waiting,
            window=GatherWindow(gather_milliseconds),
            cache=ContentCache[Tensor]("test", 2**20, lambda tokens_NE: tokens_NE.nbytes),
        )

    async def encode(
        self, *lengths: int, adapter: str = "", tenant: str = "acme", cached: bool = False
    ) -> list[Tensor]:
        """Clips with these numbers of samples, encoded to their tokens."""
        clips = [clip(length) for length in lengths]
        keys = [str(length).encode() for length in lengths] if cached else []
        results = self.batcher.process(clips, ClipOptions(adapter), tenant=tenant, keys=keys)
        return [tokens async for tokens in results]

    async def occupied(self) -> "asyncio.Task[list[Tensor]]":
        """A call whose clip waits in the encoder, at the closed gate."""
        task = asyncio.create_task(self.encode(1600))
        await asyncio.to_thread(self.gate.entered.wait, 10)
        return task


async def test_clips_that_wait_for_a_busy_encoder_form_one_batch() -> None:
    bench = Bench()
    first = await bench.occupied()
    others = [asyncio.create_task(bench.encode(length)) for length in (3200, 4800, 6400)]
    await asyncio.sleep(0)
    bench.gate.opened.set()
    await asyncio.gather(first, *others)
    assert bench.gate.batches == [[1600], [3200, 4800, 6400]]
    assert bench.batcher.seconds_waiting == 0


async def test_a_short_question_does_not_wait_for_a_whole_recording() -> None:
    bench = Bench(max_batch_clips=2)
    first = await bench.occupied()
    recording = asyncio.create_task(bench.encode(*[3200] * 8))
    await asyncio.sleep(0)
    question = asyncio.create_task(bench.encode(4800))
    await asyncio.sleep(0)
    bench.gate.opened.set()
    await asyncio.gather(first, recording, question)
    at = next(index for index, batch in enumerate(bench.gate.batches) if 4800 in batch)
    assert at <= 2
    assert sum(len(batch) for batch in bench.gate.batches) == 10


async def test_tokens_are_returned_in_clip_order() -> None:
    bench = Bench(max_batch_clips=2)
    bench.gate.opened.set()
    together = await bench.encode(16000, 32000, 48000)
    alone = [(await bench.encode(length))[0] for length in (16000, 32000, 48000)]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


async def test_clips_for_different_adapters_do_not_share_a_batch() -> None:
    bench = Bench()
    first = await bench.occupied()
    others = [asyncio.create_task(bench.encode(3200, adapter=adapter)) for adapter in ("", "speech", "")]
    await asyncio.sleep(0)
    bench.gate.opened.set()
    await asyncio.gather(first, *others)
    assert bench.gate.batches == [[1600], [3200, 3200], [3200]]


async def test_tenants_take_turns() -> None:
    bench = Bench(max_batch_clips=2)
    first = await bench.occupied()
    greedy = [asyncio.create_task(bench.encode(3200, 3200, tenant="greedy")) for _ in range(3)]
    await asyncio.sleep(0)
    modest = asyncio.create_task(bench.encode(4800, tenant="modest"))
    await asyncio.sleep(0)
    bench.gate.opened.set()
    await asyncio.gather(first, *greedy, modest)
    assert next(index for index, batch in enumerate(bench.gate.batches) if 4800 in batch) <= 2


async def test_audio_over_the_limit_is_refused_but_a_single_recording_is_not() -> None:
    bench = Bench(max_seconds_waiting=1)
    long = asyncio.create_task(bench.encode(2 * SAMPLE_RATE))
    await asyncio.to_thread(bench.gate.entered.wait, 10)
    with pytest.raises(Overloaded, match="2 s of audio are waiting, the limit is 1 s"):
        await bench.encode(1600)
    bench.gate.opened.set()
    assert len(await long) == 1


async def test_clips_of_a_disconnected_caller_leave_the_queue() -> None:
    bench = Bench()
    first = await bench.occupied()
    leaving = asyncio.create_task(bench.encode(3200, 3200))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    bench.gate.opened.set()
    await first
    assert await bench.encode(4800)
    assert bench.gate.batches == [[1600], [4800]]
    assert bench.batcher.seconds_waiting == 0


async def test_a_reader_that_stops_midway_leaves_nothing_queued() -> None:
    bench = Bench(max_batch_clips=1)
    bench.gate.opened.set()
    async with aclosing(bench.batcher.process([clip(1600)] * 5, ClipOptions(""), tenant="acme")) as results:
        await anext(results)
    assert bench.batcher.seconds_waiting == 0


async def test_an_error_in_a_batch_reaches_its_calls_and_the_next_batch_works() -> None:
    bench = Bench()
    bench.gate.opened.set()
    with pytest.raises(InvalidInput):
        await bench.encode(1600, adapter="unknown")
    assert await bench.encode(1600)


async def test_results_of_an_encoder_that_computes_one_by_one_do_not_wait_for_their_batch() -> None:
    bench = Bench(one_by_one=True)
    first = await bench.occupied()
    others = [asyncio.create_task(bench.encode(length)) for length in (3200, 4800)]
    await asyncio.sleep(0)
    bench.gate.opened.set()
    await asyncio.gather(first, *others)
    assert bench.gate.batches == [[1600], [3200], [4800]]


async def test_clip_that_was_encoded_before_is_not_encoded_again() -> None:
    bench = Bench()
    bench.gate.opened.set()
    before = await bench.encode(1600, 3200, cached=True)
    after = await bench.encode(3200, 4800, 1600, cached=True)
    torch.testing.assert_close([after[2], after[0]], before, rtol=0, atol=0)
    assert bench.gate.batches == [[1600, 3200], [4800]]
    assert bench.batcher.seconds_waiting == pytest.approx(0)


async def test_clips_that_two_recordings_share_are_encoded_once_whatever_their_order() -> None:
    bench = Bench(max_batch_clips=1)
    first = await bench.occupied()
    one = asyncio.create_task(bench.encode(3200, 4800, cached=True))
    other = asyncio.create_task(bench.encode(4800, 3200, cached=True))
    await asyncio.sleep(0)
    bench.gate.opened.set()
    await first
    (left, right), (second, first_again) = await asyncio.gather(one, other)
    torch.testing.assert_close([left, right], [first_again, second], rtol=0, atol=0)
    assert sorted(bench.gate.batches[1:]) == [[3200], [4800]]


async def test_clip_is_encoded_for_the_others_where_the_caller_that_asked_first_leaves() -> None:
    bench = Bench()
    first = await bench.occupied()
    leaving, staying = (asyncio.create_task(bench.encode(3200, cached=True)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    bench.gate.opened.set()
    await first
    assert len(await staying) == 1
    assert bench.gate.batches == [[1600], [3200]]
    assert bench.batcher.seconds_waiting == pytest.approx(0)


async def test_recording_that_is_refused_in_favour_of_others_leaves_its_clips_to_those_that_share_them() -> None:
    bench = Bench(max_seconds_waiting=0.5)
    first = await bench.occupied()
    evicted = asyncio.create_task(bench.encode(3200, 3201, cached=True, tenant="greedy"))
    await asyncio.sleep(0)
    sharing = asyncio.create_task(bench.encode(3200, cached=True, tenant="modest"))
    await asyncio.sleep(0)
    bench.gate.opened.set()
    with pytest.raises(Overloaded):
        await evicted
    assert len(await sharing) == 1
    await first
    assert bench.batcher.seconds_waiting == pytest.approx(0)


async def test_batch_waits_for_a_recording_on_its_way_and_for_no_other() -> None:
    bench = Bench(gather_milliseconds=60_000)
    bench.gate.opened.set()
    assert await bench.encode(1600)

    async def arrive() -> None:
        with bench.batcher.arriving():
            await asyncio.sleep(0.01)
        await bench.encode(4800)

    await asyncio.gather(arrive(), bench.encode(3200))
    assert bench.gate.batches == [[1600], [3200, 4800]]


async def test_recording_that_does_not_come_delays_a_batch_by_the_window_at_most() -> None:
    bench = Bench(gather_milliseconds=1)
    bench.gate.opened.set()
    with bench.batcher.arriving():
        assert await bench.encode(1600)
