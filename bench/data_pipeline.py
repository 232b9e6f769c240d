"""Speed of reading training data: as a stream, shuffled, at random, and without media.

The data are synthetic: spoken questions, some with a picture, in the sizes that `lyra data build` produces. All ways
read the same folder in turn, in the same run, with one thread; the page cache is dropped before each `cold`
measurement. A sample counts as read when it is a `Conversation` with the encoded bytes of its media.

The report compares the stream with the rate at which training consumes samples: `--consumed` per second, or the last
measurement of `bench.trainer`.

    python -m bench.data_pipeline --samples 10000
"""

import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from matplotlib.figure import Figure

from bench.machine import describe
from bench.report import RESULTS, command_line, write
from model_core.data.conversation import Conversation, Speech, Turn
from model_core.data.dataset import ConversationDataset, stream
from model_core.data.shards import Manifest, shard_path, write_manifest, write_shard
from model_core.language.messages import Role

SHARD_SAMPLES = 500
BUFFER = 1000
RANDOM_SAMPLES = 200
MEMORY_EVERY = 50  # samples between two measurements of memory
SECONDS = (1.5, 8.0)
BYTES_PER_SECOND = 16_000  # FLAC of speech at 16 kHz
PICTURE_BYTES = 30_000
SENTENCE = "the captain wrote a letter about seven boats that lay in the harbour of the northern island"

Read = Callable[[], Iterator[int]]
"""Yields the size of each sample's media in bytes."""


def make(folder: Path, samples: int) -> int:
    """Writes the data. Returns the size of all shards. Media are random bytes, since reading does not decode them."""
    rng = random.Random(0)
    entries = []
    for number, first in enumerate(range(0, samples, SHARD_SAMPLES)):
        numbers = range(first, min(first + SHARD_SAMPLES, samples))
        entries.append(write_shard(folder, number, (sample(rng, each) for each in numbers)))
    write_manifest(folder, Manifest(kind="instruct", name="bench", seed=0, shards=tuple(entries)))
    return sum(entry.bytes for entry in entries)


def sample(rng: random.Random, number: int) -> Conversation:
    """A spoken question; every third one has a picture."""
    seconds = rng.uniform(*SECONDS)
    shown = number % 3 == 0
    return Conversation(
        id=f"bench-{number:07}",
        turns=(
            Turn(role=Role.USER, text="<image>\n<speech>" if shown else "<speech>"),
            Turn(role=Role.ASSISTANT, text=" ".join(rng.choices(SENTENCE.split(), k=20))),
        ),
        images=(rng.randbytes(PICTURE_BYTES),) if shown else (),
        speech=(
            Speech(
                data=rng.randbytes(int(seconds * BYTES_PER_SECOND)),
                seconds=seconds,
                transcript=" ".join(rng.choices(SENTENCE.split(), k=12)),
                voice="slt",
            ),
        ),
        source="bench",
    )


def ways(folder: Path) -> dict[str, Read]:
    """All ways of reading, by name."""

    def whole(samples: Iterator[Conversation]) -> Iterator[int]:
        for each in samples:
            yield sum(map(len, each.images)) + sum(len(recording.data) for recording in each.speech)

    def at_random() -> Iterator[Conversation]:
        dataset = ConversationDataset(folder)
        chosen = random.Random(1).sample(range(len(dataset)), min(RANDOM_SAMPLES, len(dataset)))
        return (dataset[index] for index in chosen)

    def without_media() -> Iterator[int]:
        return (0 for _ in ConversationDataset(folder).light())

    return {
        "stream": lambda: whole(stream(folder, seed=1, shuffle_buffer=0)),
        f"stream, shuffled in {BUFFER:,}": lambda: whole(stream(folder, seed=1, shuffle_buffer=BUFFER)),
        "at random": lambda: whole(at_random()),
        "without media": without_media,
    }


def measure(read: Read) -> dict[str, float]:
    """One measurement: samples and megabytes per second, samples per second of CPU time (which other work on the
    machine hardly affects), and the peak growth of memory."""
    process = psutil.Process()
    before = peak = process.memory_info().rss
    start, worked = time.perf_counter(), time.process_time()
    samples = size = 0
    for media in read():
        samples += 1
        size += media
        if samples % MEMORY_EVERY == 0:
            peak = max(peak, process.memory_info().rss)
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    return {
        "samples_a_second": round(samples / seconds, 1),
        "samples_a_processor_second": round(samples / worked, 1),
        "megabytes_a_second": round(size / 1e6 / seconds, 1),
        "memory_growth_mib": round((peak - before) / 2**20, 1),
    }


def drop_page_cache(folder: Path, shards: int) -> None:
    """Drops the shards from the page cache."""
    for number in range(shards):
        with shard_path(folder, number).open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compare(folder: Path, shards: int, repeats: int) -> dict[str, Any]:
    """Measures all ways, cold and warm, `repeats` times in turn. Returns medians and all measurements."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {name: {"cold": [], "warm": []} for name in ways(folder)}
    for repeat in range(repeats):
        for name, read in ways(folder).items():
            drop_page_cache(folder, shards)
            found[name]["cold"].append(measure(read))
            found[name]["warm"].append(measure(read))
        print(f"{repeat + 1} of {repeats}", file=sys.stderr)
    return {name: {state: _medians(runs) for state, runs in states.items()} for name, states in found.items()}


def plot(report: dict[str, Any]) -> Figure:
    """Samples per second: medians as bars, measurements as dots, consumption by training as a line."""
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    axes = figure.add_subplot()
    names = list(report["ways"])
    for offset, state in enumerate(("cold", "warm")):
        for place, name in enumerate(names):
            rates = report["ways"][name][state]["samples_a_second"]
            x = place + 0.4 * offset
            axes.bar(x, rates["median"], 0.36, color=f"C{offset}", label=state if place == 0 else None)
            axes.plot([x] * len(rates["all"]), rates["all"], ".", color="black", markersize=3)
            axes.annotate(f"{rates['median']:,.0f}", (x, rates["median"]), ha="center", va="bottom", fontsize=8)
    if consumed := report["training"]["consumed_samples_a_second"]:
        axes.axhline(consumed, color="C3", label="consumed by training")
    axes.set_xticks(np.arange(len(names)) + 0.2, names)
    axes.set(ylabel="samples per second", yscale="log")
    axes.legend()
    machine = report["machine"]
    axes.set_title(
        f"{report['samples']:,} samples, one of {machine['cores']} cores, {machine['processor']}", fontsize=9
    )
    return figure


def main() -> None:
    parser = command_line("data_pipeline", __doc__ or "")
    parser.add_argument("--samples", type=int, default=4000, help="number of samples (default 4000)")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each kind (default 5)")
    parser.add_argument("--folder", type=Path, default=None, help="folder for the data (default: a temporary one)")
    parser.add_argument(
        "--consumed",
        type=float,
        default=None,
        help="samples per second in training (default: from bench.trainer)",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        start = time.perf_counter()
        size = make(folder, options.samples)
        writing = options.samples / (time.perf_counter() - start)
        found = compare(folder, -(-options.samples // SHARD_SAMPLES), options.repeats)
    slowest = min(
        found[f"stream, shuffled in {BUFFER:,}"][state]["samples_a_second"]["median"] for state in ("cold", "warm")
    )
    report = {
        "samples": options.samples,
        "megabytes": round(size / 1e6, 1),
        "repeats": options.repeats,
        "machine": describe(),
        "written_samples_a_second": round(writing, 1),
        "ways": found,
        "training": against_training(slowest, options.consumed or trained()),
    }
    write(report, options.out, plot)
    for name, states in found.items():
        for state, figures in states.items():
            rate, speed = figures["samples_a_second"]["median"], figures["megabytes_a_second"]["median"]
            print(f"{name}, {state}: {rate:,.0f} samples/s, {speed:,.0f} MB/s")


def trained() -> float | None:
    """Samples per second of `lyra train`, from the results of `bench.trainer`."""
    path = RESULTS / "trainer.json"
    return float(json.loads(path.read_text())["samples_per_second"]) if path.is_file() else None


def against_training(read: float, consumed: float | None) -> dict[str, float | None]:
    """The rate of the shuffled stream relative to the consumption by training."""
    return {
        "stream_samples_a_second": read,
        "consumed_samples_a_second": consumed,
        "stream_over_consumed": round(read / consumed, 1) if consumed else None,
    }


def _medians(runs: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    return {
        key: {"median": round(statistics.median(run[key] for run in runs), 1), "all": [run[key] for run in runs]}
        for key in runs[0]
    }


if __name__ == "__main__":
    main()
