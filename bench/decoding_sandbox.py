"""Overhead of the decoding sandbox: decoding in this process and in a sandboxed child, side by side.

Results are medians of complete requests, including the transfer of the file and of the result, taken alternately.
"""

import io
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import psutil
import soundfile
from PIL import Image

from bench.machine import describe
from bench.report import command_line, write
from services.shared.sandbox.decoders import Decoders
from services.shared.sandbox.settings import DecoderSettings, VisionLimits
from services.shared.sandbox.tasks import TASKS

PAUSE_SECONDS = 0.02  # between two requests, time to create the next child
TARGET_MS = 5.0


def recording(seconds: float, rate: int = 48_000) -> bytes:
    """Stereo noise as WAV."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).normal(scale=0.1, size=(int(seconds * rate), 2))
    soundfile.write(file, noise, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def picture() -> bytes:
    """A JPEG of a million pixels."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((1_000, 1_000), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def in_process(task: str, data: bytes, arguments: Mapping[str, Any]) -> None:
    """Runs a task in this process."""
    for _ in TASKS[task](io.BytesIO(data), **arguments):
        pass


def cases(decoders: Decoders) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """By name, the same work in this process and in a child."""
    limits = VisionLimits()
    short, long, half_minute, image = recording(2), recording(10), recording(30), picture()
    inspect_arguments = {
        name: getattr(limits, name) for name in ("max_image_bytes", "max_image_pixels", "max_video_pixels")
    }
    audio_arguments = {"max_seconds": 1_800.0, "min_seconds": 0.1, "of_video": False, "check_first": True}
    return {
        "probe of a short WAV": (
            lambda: in_process("inspect", short, inspect_arguments),
            lambda: decoders.inspect(short, field="file", limits=limits),
        ),
        "10 s of WAV": (
            lambda: in_process("sound", long, audio_arguments),
            lambda: decoders.samples(long, max_seconds=1_800.0, field="audio"),
        ),
        "30 s of WAV": (
            lambda: in_process("sound", half_minute, audio_arguments),
            lambda: decoders.samples(half_minute, max_seconds=1_800.0, field="audio"),
        ),
        "JPEG of 1 million pixels": (
            lambda: in_process("picture", image, {"max_pixels": limits.max_image_pixels}),
            lambda: decoders.picture(image, max_pixels=limits.max_image_pixels),
        ),
    }


def measured(in_process_work: Callable[[], Any], sandbox_work: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Medians in milliseconds, measured alternately, so that other load on the machine affects both."""
    times: dict[str, list[float]] = {"in_process_ms": [], "sandbox_ms": [], "difference_ms": []}
    for _ in range(repeats):
        pair = []
        for name, work in (("in_process_ms", in_process_work), ("sandbox_ms", sandbox_work)):
            time.sleep(PAUSE_SECONDS)
            began = time.perf_counter()
            work()
            pair.append((time.perf_counter() - began) * 1e3)
            times[name].append(pair[-1])
        times["difference_ms"].append(pair[1] - pair[0])
    return {name: round(statistics.median(values), 2) for name, values in times.items()}


def processor_ms(zygote: psutil.Process, work: Callable[[], Any], repeats: int) -> float:
    """CPU time per request of this process, the zygote and its children, in milliseconds."""

    def used() -> float:
        return time.process_time() + sum(zygote.cpu_times()[:4])

    began = used()
    for _ in range(repeats):
        work()
        time.sleep(PAUSE_SECONDS)
    return round((used() - began) / repeats * 1e3, 2)


def main() -> None:
    parser = command_line("decoding_sandbox", __doc__ or "")
    parser.add_argument("--repeats", type=int, default=100, help="number of requests of each kind")
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": describe(), "repeats": options.repeats, "target_ms": TARGET_MS, "requests": {}}
    began = time.perf_counter()
    decoders = Decoders(DecoderSettings())
    try:
        decoders.inspect(recording(1), field="file", limits=VisionLimits())
        report["first_request_ms"] = round((time.perf_counter() - began) * 1e3, 1)
        for name, (in_process_work, sandbox_work) in cases(decoders).items():
            in_process_work()
            report["requests"][name] = found = measured(in_process_work, sandbox_work, options.repeats)
            zygote = psutil.Process(decoders.pool.zygote_pid)
            found["in_process_processor_ms"] = processor_ms(zygote, in_process_work, options.repeats)
            found["sandbox_processor_ms"] = processor_ms(zygote, sandbox_work, options.repeats)
            print(f"{name}: {found['in_process_ms']} ms in process, {found['sandbox_ms']} ms in a child")
        zygote = psutil.Process(decoders.pool.zygote_pid)
        report["zygote_pss_mib"] = round(zygote.memory_full_info().pss / 2**20, 1)
    finally:
        decoders.close()
    write(report, options.out)


if __name__ == "__main__":
    main()
