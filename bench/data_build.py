"""Duration of the data pipeline: text-image instructions are synthesized, filtered and validated, step by step.

The conversations are synthetic, in the published layout: one or two sentences from chats about a picture, and another
one as the answer. Each step is a `lyra data` command on all cores. `hours` extrapolates to 1.5 million samples, the
size of the published data set, on 16 such cores. Only the first samples are filtered with Whisper, the slowest step.

    python -m bench.data_build --samples 10000 --whisper-samples 500
"""

import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from bench.machine import describe
from bench.report import command_line, write
from model_core.data.sources.texts import load_sentences
from model_core.presets import lyra_home

PUBLISHED_SAMPLES, CORES = 1_500_000, 16
PICTURES = 100
RULES = (
    "--min-seconds 0.5 --max-seconds 30 --max-silence 0.9 --max-clipping 0.01 --language en --max-repetition 0.9"
    " --drop-duplicates --near-duplicates 0.9"
)


def make(folder: Path, samples: int) -> Path:
    """Writes conversations and pictures. Returns the JSON file."""
    rng, sentences = random.Random(0), load_sentences("chitchat", lyra_home() / "training" / "packages")
    for number in range(PICTURES):
        picture = Image.frombytes("RGB", (28, 28), rng.randbytes(28 * 28 * 3)).resize(
            (448, 448), Image.Resampling.BICUBIC
        )
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=85)
        (folder / f"{number}.jpg").write_bytes(data.getvalue())
    rows = [
        {
            "id": str(number),
            "image": f"{rng.randrange(PICTURES)}.jpg",
            "conversations": [
                {"from": "human", "value": "<image>\n" + " ".join(rng.choices(sentences, k=rng.randint(1, 2)))},
                {"from": "gpt", "value": rng.choice(sentences)},
            ],
        }
        for number in range(samples)
    ]
    path = folder / "published.json"
    path.write_text(json.dumps(rows))
    return path


def timed(*arguments: object) -> float:
    """Seconds that a `lyra` command takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "cli", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(folder: Path, samples: int, whisper_samples: int, cores: int) -> dict[str, dict[str, float]]:
    """Number of samples and time of each step of the pipeline."""
    source, raw, subset = make(folder, samples), folder / "raw", folder / "subset"
    workers = ("--workers", cores)
    build = ("data", "build", "instruct", "--media-root", folder, *workers)
    # Enough shards for all workers, as a shard belongs to one.
    timed(
        *build,
        "--source",
        f"{source}:{whisper_samples}",
        "--shard",
        max(1, whisper_samples // (4 * cores)),
        "--out",
        subset,
    )
    steps: dict[str, tuple[int, tuple[object, ...]]] = {
        "build": (samples, (*build, "--source", source, "--out", raw)),
        "filter by rules": (samples, ("data", "filter", raw, "--out", folder / "clean", *RULES.split(), *workers)),
        "validate": (samples, ("data", "validate", raw, *workers)),
        "filter by Whisper": (
            whisper_samples,
            ("data", "filter", subset, "--out", folder / "transcribed", "--max-wer", 0.5, *workers),
        ),
    }
    found = {}
    for name, (count, command) in steps.items():
        seconds = timed(*command)
        print(f"{name}: {seconds:.1f} s", file=sys.stderr)
        found[name] = {
            "samples": count,
            "seconds": round(seconds, 1),
            "samples_a_core_second": round(count / seconds / cores, 2),
            "hours": round(seconds * cores / count * PUBLISHED_SAMPLES / CORES / 3600, 2),
        }
    return found


def plot(report: dict[str, Any]) -> Figure:
    """Hours of each step for the published number of samples."""
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.add_subplot()
    names = list(report["steps"])[::-1]
    hours = [report["steps"][name]["hours"] for name in names]
    axes.barh(names, hours)
    for place, value in enumerate(hours):
        axes.annotate(f" {value:.1f} h", (value, place), va="center", fontsize=8)
    axes.set(xlabel=f"hours for {PUBLISHED_SAMPLES:,} samples on {CORES} such cores: {report['hours']:.1f} in total")
    axes.set_title(f"measured on {report['machine']['cores']} cores, {report['machine']['processor']}", fontsize=9)
    return figure


def main() -> None:
    parser = command_line("data_build", __doc__ or "")
    parser.add_argument("--samples", type=int, default=10_000, help="number of conversations (default 10000)")
    parser.add_argument(
        "--whisper-samples", type=int, default=500, help="number of them filtered with Whisper (default 500)"
    )
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as scratch:
        steps = measure(Path(scratch), options.samples, options.whisper_samples, cores)
    hours = round(sum(step["hours"] for step in steps.values()), 2)
    report = {
        "published_samples": PUBLISHED_SAMPLES,
        "on_cores": CORES,
        "hours": hours,
        "machine": describe(),
        "steps": steps,
    }
    write(report, options.out, plot)
    print(f"{PUBLISHED_SAMPLES:,} samples on {CORES} such cores: {hours:.1f} hours")


if __name__ == "__main__":
    main()
