"""What it costs to decode users' media in processes of their own: in this process and in a child, side by side.

Medians of whole requests, taken in turns: sent, decoded, and all of it back.
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

PAUSE_SECONDS = 0.02  # between two requests, in which the child to come is made
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


def here(task: str, data: bytes, arguments: Mapping[str, Any]) -> None:
    """The same work in this process."""
    for _ in TASKS[task](io.BytesIO(data), **arguments):
        pass


def cases(decoders: Decoders) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """By name: in this process, in a child."""
    limits = VisionLimits()
    short, long, half_minute, image = recording(2), recording(10), recording(30), picture()
    looks = {name: getattr(limits, name) for name in ("max_image_bytes", "max_image_pixels", "max_video_pixels")}
    hears = {"max_seconds": 1_800.0, "min_seconds": 0.1, "of_video": False, "check_first": True}
    return {
        "probe of a short WAV": (
            lambda: here("inspect", short, looks),
            lambda: decoders.inspect(short, field="file", limits=limits),
        ),
        "10 s of WAV": (
            lambda: here("sound", long, hears),
            lambda: decoders.samples(long, max_seconds=1_800.0, field="audio"),
        ),
        "30 s of WAV": (
            lambda: here("sound", half_minute, hears),
            lambda: decoders.samples(half_minute, max_seconds=1_800.0, field="audio"),
        ),
        "JPEG of 1 million pixels": (
            lambda: here("picture", image, {"max_pixels": limits.max_image_pixels}),
            lambda: decoders.picture(image, max_pixels=limits.max_image_pixels),
        ),
    }


def measured(alone: Callable[[], Any], apart: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Medians in milliseconds; both in turns, so that what else the machine does falls on both."""
    times: dict[str, list[float]] = {"in_process_ms": [], "sandbox_ms": [], "difference_ms": []}
    for _ in range(repeats):
        pair = []
        for name, work in (("in_process_ms", alone), ("sandbox_ms", apart)):
            time.sleep(PAUSE_SECONDS)
            began = time.perf_counter()
            work()
            pair.append((time.perf_counter() - began) * 1e3)
            times[name].append(pair[-1])
        times["difference_ms"].append(pair[1] - pair[0])
    return {name: round(statistics.median(values), 2) for name, values in times.items()}


def processor_ms(zygote: psutil.Process, work: Callable[[], Any], repeats: int) -> float:
    """Processor time of a request: of this process, the zygote and its children; told apart from what else runs."""

    def used() -> float:
        return time.process_time() + sum(zygote.cpu_times()[:4])

    began = used()
    for _ in range(repeats):
        work()
        time.sleep(PAUSE_SECONDS)
    return round((used() - began) / repeats * 1e3, 2)


def main() -> None:
    parser = command_line("decoding_sandbox", __doc__ or "")
    parser.add_argument("--repeats", type=int, default=100, help="requests of each kind")
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": describe(), "repeats": options.repeats, "target_ms": TARGET_MS, "requests": {}}
    began = time.perf_counter()
    decoders = Decoders(DecoderSettings())
    try:
        decoders.inspect(recording(1), field="file", limits=VisionLimits())
        report["first_request_ms"] = round((time.perf_counter() - began) * 1e3, 1)
        for name, (alone, apart) in cases(decoders).items():
            alone()
            report["requests"][name] = found = measured(alone, apart, options.repeats)
            zygote = psutil.Process(decoders.pool.zygote_pid)
            found["in_process_processor_ms"] = processor_ms(zygote, alone, options.repeats)
            found["sandbox_processor_ms"] = processor_ms(zygote, apart, options.repeats)
            print(f"{name}: {found['in_process_ms']} ms here, {found['sandbox_ms']} ms in a child")
        zygote = psutil.Process(decoders.pool.zygote_pid)
        report["zygote_pss_mib"] = round(zygote.memory_full_info().pss / 2**20, 1)
    finally:
        decoders.close()
    write(report, options.out)


if __name__ == "__main__":
    main()
