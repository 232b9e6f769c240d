"""Latency of the first audio of speech generator and vocoder: streaming, and one pass over the whole answer.

Shapes of preset nano with random weights, one thread. Random weights do not change units at the pace of speech, so the
generator's frames are replaced by frames that do (a SmolLM2 token lasts about 0.25 s, 12 unit frames); the computation
is the same. Both get the same answers, alternately, in the same run:

- `streamed`: each hidden state is spoken as it arrives.
- `one pass`: the same modules, once, after the last hidden state.

Times do not include the language model: CPU time of the thread, which other work on the machine hardly affects, and
wall time.

    python -m bench.speech_generator --repeats 10
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from bench.machine import describe
from bench.report import command_line, write
from model_core.speech.unit_generator import UnitGenerator, UnitGeneratorState
from model_core.speech.unit_voice import UnitVoice
from model_core.speech.vocoder import UnitVocoder

WARM_UP = 2
TOKENS = 40
PACES = (6, 9, 12, 18)  # unit frames per token
BATCHES = (1, 4, 8)
MAX_TOKENS, MAX_SECONDS = 4, 0.1  # targets for the first audio

GENERATOR = UnitGenerator.Config(hidden_width=576, layers=2, width=576, heads=9, feed_forward=1536)
VOCODER = UnitVocoder.Config(channels=160)  # 1.65 M weights, like nano's HiFi-GAN


class PacedGenerator(UnitGenerator):
    """Computes as usual, but returns frames that change `pace` times per token.

    Frames of the first hidden state are all equal, as with any weights: attention cannot distinguish copies of one
    vector.
    """

    def __init__(self, config: UnitGenerator.Config, pace: int) -> None:
        super().__init__(config)
        self._pace = pace

    def step(
        self, states: Sequence[UnitGeneratorState], hidden: Sequence[Tensor], last: Sequence[bool] = ()
    ) -> list[Tensor]:
        before = [state.cache.length for state in states]
        frames = super().step(states, hidden, last)
        changes = [
            (torch.arange(start, start + len(each)) * self._pace // self.upsample).clamp(min=self._pace - 1)
            for start, each in zip(before, frames, strict=True)
        ]
        return [7 * each % self.units for each in changes]


def voice_at(pace: int) -> UnitVoice:
    torch.manual_seed(0)
    return UnitVoice(PacedGenerator(GENERATOR, pace), VOCODER.build(), "nano")


class Clock:
    """Adds up the wall time and CPU time of calls."""

    def __init__(self) -> None:
        self.seconds = self.processor_seconds = 0.0

    def __call__(self, work: Callable[[], list[np.ndarray]]) -> np.ndarray:
        start, processor_start = time.perf_counter(), time.thread_time()
        sound = np.concatenate([np.zeros(0, np.int16), *work()])
        self.seconds += time.perf_counter() - start
        self.processor_seconds += time.thread_time() - processor_start
        return sound


def stream(voice: UnitVoice, hidden_NE: Tensor) -> tuple[dict[str, float], np.ndarray]:
    """Token by token."""
    clock, sounds = Clock(), []
    first: dict[str, float] = {}
    state = voice.new_state()
    for token in range(len(hidden_NE) + 1):
        last = token == len(hidden_NE)
        sounds.append(clock(lambda new=hidden_NE[token : token + 1], end=last: voice.step([state], [new], [end])))  # type: ignore[misc]
        if len(sounds[-1]) and not first:
            first = {
                "first_audio_tokens": token + 1,
                "first_audio_seconds": clock.seconds,
                "first_audio_processor_seconds": clock.processor_seconds,
            }
    return first | {"seconds": clock.seconds, "processor_seconds": clock.processor_seconds}, np.concatenate(sounds)


def one_pass(voice: UnitVoice, hidden_NE: Tensor) -> tuple[dict[str, float], np.ndarray]:
    """The whole answer at once, so that audio starts when everything has been computed."""
    clock = Clock()
    sound = clock(lambda: voice.step([voice.new_state()], [hidden_NE], [True]))
    times = {"seconds": clock.seconds, "processor_seconds": clock.processor_seconds}
    return {f"first_audio_{kind}": value for kind, value in times.items()} | times | {
        "first_audio_tokens": len(hidden_NE)
    }, sound


WAYS = {"streamed": stream, "one pass": one_pass}


def measure(pace: int, repeats: int) -> dict[str, Any]:
    """Times of both ways at one pace, measured alternately."""
    voice = voice_at(pace)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for repeat in range(-WARM_UP, repeats):
        hidden_NE = torch.randn(
            TOKENS, GENERATOR.hidden_width, generator=torch.Generator().manual_seed(repeat + WARM_UP)
        )
        sounds = {}
        for way in WAYS if repeat % 2 else reversed(WAYS):
            times, sounds[way] = WAYS[way](voice, hidden_NE)
            if repeat >= 0:
                found[way].append(times)
        whole = sounds["one pass"].astype(int)
        if len(sounds["streamed"]) != len(whole) or np.abs(sounds["streamed"] - whole).max() > 4:  # 1e-4 of full scale
            raise SystemExit("streaming and one pass produced different audio")
        print(f"{pace} unit frames a token: {max(repeat + 1, 0)} of {repeats}", file=sys.stderr)
    result: dict[str, Any] = {way: _summary(times) for way, times in found.items()}
    result["sound_seconds"] = round(len(whole) / voice.sample_rate, 2)
    result["real_time_factor"] = {
        way: round(result[way]["processor_seconds"]["median"] / result["sound_seconds"], 3) for way in WAYS
    }
    return result


def measure_batch(streams: int) -> dict[str, float]:
    """CPU time per second of audio when several answers are spoken as a batch, token by token."""
    voice = voice_at(12)
    hidden_BNE = torch.randn(streams, TOKENS, GENERATOR.hidden_width, generator=torch.Generator().manual_seed(0))
    states, clock, samples = [voice.new_state() for _ in range(streams)], Clock(), 0
    for token in range(TOKENS):
        new, last = [hidden_NE[token : token + 1] for hidden_NE in hidden_BNE], [token == TOKENS - 1] * streams
        samples += len(clock(lambda new=new, last=last: voice.step(states, new, last)))  # type: ignore[misc]
    sound_seconds = samples / voice.sample_rate
    return {"sound_seconds": round(sound_seconds, 2), "rtf": round(clock.processor_seconds / sound_seconds, 3)}


def plot(report: dict[str, Any]) -> Figure:
    """Medians as bars, measurements as dots."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    first, batch = figure.subplots(1, 2, width_ratios=(2, 1))
    for place, result in enumerate(report["paces"].values()):
        for offset, way in enumerate(WAYS):
            x, times = place + 0.4 * offset, result[way]["first_audio_processor_seconds"]
            first.bar(x, times["median"], 0.36, color=f"C{offset}", label=way if place == 0 else None)
            first.plot([x] * len(times["all"]), times["all"], ".", color="black", markersize=3)
            tokens = result[way]["first_audio_tokens"]["worst"]
            first.annotate(f"{tokens:.0f} tokens", (x, times["median"]), ha="center", va="bottom", fontsize=8)
    first.axhline(MAX_SECONDS, color="grey", linestyle=":", label=f"target: {MAX_SECONDS} s, {MAX_TOKENS} tokens")
    first.set_xticks([place + 0.2 for place in range(len(PACES))], [f"{pace} unit frames\na token" for pace in PACES])
    first.set_yscale("log")
    first.set_ylabel("computation before the first audio, s")
    first.set_title(f"answers of {TOKENS} tokens", fontsize=10)
    first.legend(fontsize=8)
    factors = [result["rtf"] for result in report["batches"].values()]
    batch.bar(list(map(str, report["batches"])), factors, 0.6)
    batch.set_xlabel("answers in a batch")
    batch.set_ylabel("computation per second of audio, s")
    batch.set_title("streamed, 12 unit frames a token", fontsize=10)
    machine = report["machine"]
    figure.suptitle(f"speech generator and vocoder, nano's shapes, one core of {machine['processor']}", fontsize=9)
    return figure


def main() -> None:
    parser = command_line("speech_generator", __doc__)
    parser.add_argument("--repeats", type=int, default=10, help="measurements of each kind (default 10)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    weights = [sum(parameter.numel() for parameter in config.build().parameters()) for config in (GENERATOR, VOCODER)]
    report: dict[str, Any] = {
        "repeats": options.repeats,
        "warm_up": WARM_UP,
        "tokens": TOKENS,
        "weights": {"generator": weights[0], "vocoder": weights[1]},
        "lookahead": {
            "unit_frames": round(VOCODER.delay / VOCODER.samples_per_frame, 2),
            "milliseconds": round(1000 * VOCODER.delay / VOCODER.sample_rate),
            "units": VOCODER.duration.delay if VOCODER.duration else 0,
        },
        "bounds": {"first_audio_tokens": MAX_TOKENS, "first_audio_seconds": MAX_SECONDS},
        "machine": describe(),
        "paces": {pace: measure(pace, options.repeats) for pace in PACES},
        "batches": {streams: measure_batch(streams) for streams in BATCHES},
    }
    write(report, options.out, plot)
    print(_lines(report))


def _summary(found: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    summary = {}
    for kind in found[0]:
        values = [round(times[kind], 4) for times in found]
        summary[kind] = {
            "median": round(statistics.median(values), 4),
            "best": min(values),
            "worst": max(values),
            "all": values,
        }
    return summary


def _lines(report: dict[str, Any]) -> str:
    lines = []
    for pace, result in report["paces"].items():
        for way in WAYS:
            times = result[way]
            lines.append(
                f"{pace} unit frames a token, {way}: "
                f"first audio after {times['first_audio_tokens']['worst']:.0f} tokens and "
                f"{1000 * times['first_audio_processor_seconds']['median']:.0f} ms of CPU time "
                f"(wall time {1000 * times['first_audio_seconds']['median']:.0f} ms); "
                f"{result['real_time_factor'][way]} s per second of audio"
            )
    batches = (f"{streams}: {result['rtf']}" for streams, result in report["batches"].items())
    return "\n".join([*lines, f"CPU seconds per second of audio by batch size: {', '.join(batches)}"])


if __name__ == "__main__":
    main()
