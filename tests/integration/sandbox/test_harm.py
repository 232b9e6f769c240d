"""Crashes, kills and resource limits of child processes cost one request and leave nothing behind."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
from PIL import Image

from services.shared.sandbox.decoders import Decoders
from services.shared.sandbox.settings import DecoderSettings, VisionLimits
from services.shared.service_errors import InvalidInput
from tests.integration.sandbox.processes import Trap, children, runs, until
from tests.paths import ROOT
from tests.unit.audio.test_layouts import encoded

LIMITS = VisionLimits()
MIB = 2**20


def recording() -> bytes:
    data = encoded("stereo", "wav", "pcm_s16le", "s16")
    assert data is not None
    return data


def large_picture(side: int = 5_000, kind: str = "PNG") -> bytes:
    """A small file that needs a second and much memory to decode."""
    file = io.BytesIO()
    Image.new("RGBA", (side, side), (10, 20, 30, 40)).save(file, kind, compress_level=1)
    return file.getvalue()


@pytest.fixture
def own() -> Iterator[Decoders]:
    """Decoders that a test may disturb."""
    made = Decoders(DecoderSettings())
    yield made
    made.close()


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGBUS])
def test_a_crash_is_reported_by_field_and_the_next_file_is_decoded(own: Decoders, number: int) -> None:
    trap = Trap(recording(), own, lambda pid: os.kill(pid, number))
    with pytest.raises(InvalidInput, match=r": cannot be decoded$") as refused:
        own.inspect(trap, field="messages[0].content[1]", limits=LIMITS)  # type: ignore[arg-type]
    assert refused.value.field == "messages[0].content[1]"
    assert own.inspect(recording(), field="file", limits=LIMITS)["kind"] == "audio"


def test_crash_does_not_affect_concurrent_decoding(own: Decoders) -> None:
    picture, failures, done = large_picture(), list[Exception](), threading.Event()

    def decode_on() -> None:
        try:
            while not done.is_set():
                assert own.inspect(recording(), field="file", limits=LIMITS, tenant="other")["seconds"] == 0.5
        except Exception as error:
            failures.append(error)

    other = threading.Thread(target=decode_on)
    other.start()
    crashing = threading.Thread(target=_crash_the_largest, args=(own, done))
    crashing.start()
    with pytest.raises(InvalidInput, match="cannot be decoded"):
        own.picture(picture, max_pixels=40_000_000, tenant="first")
    done.set()
    other.join()
    crashing.join()
    assert failures == []


def _crash_the_largest(decoders: Decoders, done: threading.Event) -> None:
    """Kills the child that decodes the picture, recognized by its memory."""
    while not done.is_set():
        for pid in children(decoders):
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                if psutil.Process(pid).memory_info().rss > 110 * MIB:
                    os.kill(pid, signal.SIGSEGV)


def test_a_killed_child_is_replaced_and_its_file_decoded(own: Decoders) -> None:
    killed: list[int] = []

    def kill_once(pid: int) -> None:
        if not killed:
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    trap = Trap(recording(), own, kill_once)
    assert own.inspect(trap, field="file", limits=LIMITS)["kind"] == "audio"  # type: ignore[arg-type]
    assert killed


def test_a_dead_zygote_is_replaced_and_the_file_decoded(own: Decoders) -> None:
    own.inspect(recording(), field="file", limits=LIMITS)
    first = own.pool.zygote_pid
    assert first is not None
    left = children(own)
    os.kill(first, signal.SIGKILL)
    assert own.inspect(recording(), field="file", limits=LIMITS)["kind"] == "audio"
    until(lambda: own.pool.zygote_pid not in (None, first))
    until(lambda: not any(runs(pid) for pid in left))


@pytest.mark.parametrize(("kind", "refusal"), [("PNG", "within the limit of 64 MiB of memory"), ("WEBP", "")])
def test_a_picture_over_the_memory_limit_is_refused(kind: str, refusal: str) -> None:
    decoders = Decoders(DecoderSettings(decoder_memory_mib=64))
    try:
        with pytest.raises(InvalidInput, match=refusal):
            decoders.picture(large_picture(kind=kind), max_pixels=40_000_000)
        assert decoders.inspect(recording(), field="file", limits=LIMITS)["kind"] == "audio"
    finally:
        decoders.close()


def test_a_file_over_the_time_limit_is_refused_with_that_limit() -> None:
    decoders = Decoders(DecoderSettings(decoder_seconds=0.05))
    try:
        with pytest.raises(InvalidInput, match=r"cannot be decoded within the limit of 0\.05 s"):
            decoders.picture(large_picture(), max_pixels=40_000_000)
        until(lambda: len(children(decoders)) <= len(decoders.pool.idle) + 1)
    finally:
        decoders.close()


def test_a_process_over_the_cpu_time_limit_is_killed() -> None:
    code = "from services.shared.sandbox.limits import limit_seconds\nlimit_seconds(0.1)\nwhile True: pass"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60)
    assert ended.returncode == -signal.SIGXCPU


@pytest.mark.parametrize("subtype", ["VORBIS", "FLAC"])
def test_a_small_file_that_decodes_to_hours_is_refused_without_decoding_it(decoders: Decoders, subtype: str) -> None:
    file = io.BytesIO()
    with soundfile.SoundFile(
        file,
        "w",
        8_000,
        1,
        format="OGG" if subtype == "VORBIS" else "FLAC",
        subtype="VORBIS" if subtype == "VORBIS" else "PCM_16",
    ) as writer:
        for _ in range(60):
            writer.write(np.zeros(8_000 * 60, np.float32))
    assert len(file.getvalue()) < 2 * MIB
    with pytest.raises(InvalidInput, match="over the limit of 1 min"):
        decoders.samples(file.getvalue(), max_seconds=60, field="audio")


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_picture_with_too_many_pixels_is_refused_from_its_header(decoders: Decoders, kind: str) -> None:
    with pytest.raises(InvalidInput, match="limit of 1,000,000 pixels"):
        decoders.picture(large_picture(2_000, kind), max_pixels=1_000_000)


async def test_cancelling_kills_the_child_before_it_returns(own: Decoders) -> None:
    await own.run(lambda cancellation: own.inspect(recording(), field="file", limits=LIMITS))
    picture = large_picture()
    work = asyncio.create_task(
        own.run(lambda cancellation: own.picture(picture, max_pixels=40_000_000, cancellation=cancellation))
    )
    busy: set[int] = set()
    while not busy:
        await asyncio.sleep(0.001)
        for pid in children(own):
            with suppress(psutil.NoSuchProcess):
                busy |= {pid} if psutil.Process(pid).memory_info().rss > 110 * MIB else set()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    until(lambda: not any(runs(pid) for pid in busy))
    assert own.inspect(recording(), field="file", limits=LIMITS)["kind"] == "audio"


def test_closing_leaves_no_process_behind() -> None:
    decoders = Decoders(DecoderSettings())
    decoders.inspect(recording(), field="file", limits=LIMITS)
    pids = {decoders.pool.zygote_pid or 0, *children(decoders)}
    decoders.close()
    until(lambda: not any(runs(pid) for pid in pids))


def test_child_processes_exit_when_their_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from services.shared.sandbox.decoders import Decoders\n"
        "from services.shared.sandbox.settings import DecoderSettings, VisionLimits\n"
        "d = Decoders(DecoderSettings())\n"
        "d.inspect(open(sys.argv[1], 'rb').read(), field='f', limits=VisionLimits())\n"
        "print(d.pool.zygote_pid, *[child.pid for child in d.pool.idle], flush=True)\n"
        "time.sleep(600)\n"
    )
    file = tmp_path / "a.wav"
    file.write_bytes(recording())
    with subprocess.Popen([sys.executable, "-c", code, str(file)], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert pids
        parent.kill()
    until(lambda: not any(runs(pid) for pid in pids))


def test_the_zygote_has_none_of_its_parents_secrets(own: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LYRA_STORE_SECRET_KEY", "hidden")
    own.inspect(recording(), field="file", limits=LIMITS)
    environment = psutil.Process(own.pool.zygote_pid).environ()
    assert "hidden" not in environment.values()
    assert not [name for name in environment if name.startswith("LYRA_")]
