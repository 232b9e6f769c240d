"""Jobs on recordings of a minute to two hours: speed, memory and quality.

    python -m bench.long_audio [--seconds 60 600 1800 7200] [--peer] [--upload-mib 1024] [--jobs 200]

Each recording is submitted to a new stack on this machine, with transcript, summary and three questions; then one more
question is asked. With `--peer`, faster-whisper tiny.en (int8, batched, with its own voice activity detection)
transcribes the same file in the same run, for comparison with the speech stage.
"""

import json
import struct
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
from matplotlib.figure import Figure

from bench.long_recording import Utterance, make, score
from bench.machine import describe
from bench.report import command_line, write
from model_core.presets import lyra_home
from services.gateway.http.keys import KeyStore
from services.operations.local.stack import GATEWAY, Stack

QUESTIONS = ("What is said first?", "Which numbers are named?", "What is asked about animals?")
LATER_QUESTION = "What is said last?"
TARGETS = {"rtf": 0.15, "more_question_share": 0.10, "process_mib": 1536, "plan_seconds": 60, "plan_mib": 300}
_POLL_SECONDS = 1.0  # interval of polling processes and jobs, which costs time on the same machine


def main() -> None:
    parser = command_line("long_audio", __doc__)
    parser.add_argument(
        "--seconds", type=int, nargs="*", default=[60, 600, 1800, 7200], help="lengths of the recordings"
    )
    parser.add_argument("--peer", action="store_true", help="also transcribe with faster-whisper")
    parser.add_argument(
        "--upload-mib",
        type=int,
        default=0,
        help="also measure the gateway's memory while uploading a file of this size",
    )
    parser.add_argument(
        "--jobs", type=int, default=0, help="also submit this many jobs of 30 s from ten tenants at once"
    )
    parser.add_argument("--preset", default="nano")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        report: dict[str, Any] = {"machine": describe(), "preset": options.preset, "targets": TARGETS, "recordings": []}
        for seconds in options.seconds:
            recording = folder / f"{seconds}.mp3"
            utterances = make(recording, seconds)
            with _stack(folder, options.preset) as stack:
                found = one_recording(stack, recording)
            segments = found.pop("segments")
            found |= {"score": asdict(score(utterances, segments))}
            if options.peer:
                found["peer"] = peer(recording, utterances)
                found["speed_over_peer"] = round(found["peer"]["seconds"] / found["speech_seconds"], 3)
            report["recordings"].append(found)
            print(json.dumps(found, indent=1))
            write(report, options.out, plot)
        if options.upload_mib:
            with _stack(folder, options.preset) as stack:
                report["upload"] = upload(stack, folder, options.upload_mib)
            write(report, options.out, plot)
        if options.jobs:
            with _stack(folder, options.preset) as stack:
                report["many_jobs"] = many_jobs(stack, folder, options.jobs)
            write(report, options.out, plot)


def one_recording(stack: Stack, recording: Path) -> dict[str, Any]:
    """Times of a job's stages and of one more question, and the peak memory of each process."""
    with _client(stack, stack.key) as http, Memory(stack) as memory:
        started = time.perf_counter()
        job_request = {"tasks": ["transcript", "summary", "questions"], "questions": QUESTIONS}
        with recording.open("rb") as file:
            response = http.post("/v1/jobs", files={"file": file}, data={"request": json.dumps(job_request)})
        job = response.raise_for_status().json()["id"]
        uploaded = time.perf_counter()
        at = {state: moment - uploaded for state, moment in _states(http, job).items()}
        total = time.perf_counter() - started
        result = http.get(f"/v1/jobs/{job}/result").raise_for_status().json()
        if result["state"] != "succeeded":
            raise SystemExit(f"the job {result['state']}: {http.get(f'/v1/jobs/{job}').json()['reason']}")
        peaks = memory.peaks()
        began = time.perf_counter()
        http.post(f"/v1/jobs/{job}/questions", json={"questions": [LATER_QUESTION]}).raise_for_status()
        while any(q["state"] == "open" for q in http.get(f"/v1/jobs/{job}").json()["questions"]):
            time.sleep(_POLL_SECONDS)
        more = time.perf_counter() - began
    seconds = result["duration_seconds"]
    return {
        "seconds": seconds, "upload_seconds": round(uploaded - started, 2),
        "plan_seconds": round(at["running"], 2), "speech_seconds": round(at["answering"] - at["running"], 2),
        "answer_seconds": round(at["succeeded"] - at["answering"], 2), "total_seconds": round(total, 2),
        "rtf": round(total / seconds, 4), "more_question_seconds": round(more, 2),
        "more_question_share": round(more / total, 4), "windows": len(result["summary"]["windows"]),
        "peak_mib": peaks, "segments": result["segments"],
        "answers": [result["summary"]["text"], *(answer["text"] for answer in result["answers"])],
    }  # fmt: skip


def peer(recording: Path, utterances: Sequence[Utterance]) -> dict[str, Any]:
    """faster-whisper on the same file, with one thread per core."""
    from bench.speech_stage import peer_model

    cores = psutil.cpu_count() or 1
    pipeline = peer_model(cores)
    started = time.perf_counter()
    found, _ = pipeline.transcribe(str(recording), language="en", batch_size=8, beam_size=1, vad_filter=True)
    segments = [{"start_seconds": s.start, "end_seconds": s.end, "text": s.text} for s in found]
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "threads": cores,
        "score": asdict(score(utterances, segments)),
    }


def upload(stack: Stack, folder: Path, mib: int) -> dict[str, Any]:
    """Memory of the gateway while a file of silence is uploaded."""
    path = folder / "large.wav"
    size = mib * 2**20
    with path.open("wb") as file:
        file.write(_wav_header(size))
        file.truncate(44 + size)  # zeros
    with _client(stack, stack.key) as http:
        http.get("/v1/models").raise_for_status()
        with Memory(stack) as memory:
            before, started = memory.now(GATEWAY), time.perf_counter()
            with path.open("rb") as data:
                http.post("/v1/media", files={"file": data}).raise_for_status()
            seconds = time.perf_counter() - started
            growth = memory.peaks()[GATEWAY] - before
    path.unlink()
    return {"mib": mib, "seconds": round(seconds, 2), "gateway_growth_mib": round(growth, 1), "target_mib": 64}


def many_jobs(stack: Stack, folder: Path, count: int) -> dict[str, Any]:
    """Jobs of 30 s from ten tenants, submitted at once, and the time until each one ended."""
    recordings = []
    for number in range(10):
        recordings.append(folder / f"short-{number}.mp3")
        make(recordings[-1], 30, seed=number + 1)
    keys = [KeyStore(stack.home).create(f"tenant-{number}")[1] for number in range(10)]

    def run(number: int) -> tuple[str, float]:
        with _client(stack, keys[number % 10]) as http:
            started = time.perf_counter()
            while (response := _submit(http, recordings[number // 10 % 10])).status_code == 429:
                time.sleep(float(response.headers["retry-after"]))
            job = response.raise_for_status().json()["id"]
            while (state := http.get(f"/v1/jobs/{job}").raise_for_status().json()["state"]) not in (
                "succeeded",
                "failed",
            ):
                time.sleep(1.0)
            return state, time.perf_counter() - started

    with ThreadPoolExecutor(count) as pool:
        ended = list(pool.map(run, range(count)))
    waits = sorted(seconds for _, seconds in ended)
    return {
        "jobs": count,
        "succeeded": sum(state == "succeeded" for state, _ in ended),
        "median_seconds": round(median(waits), 1),
        "longest_seconds": round(waits[-1], 1),
        "longest_over_median": round(waits[-1] / median(waits), 2),
    }


def _submit(http: httpx.Client, recording: Path) -> httpx.Response:
    with recording.open("rb") as file:
        return http.post("/v1/jobs", files={"file": file})


class Memory:
    """Peak memory (RSS, MiB) of the processes of each part of a stack during the `with` body."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._peaks: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def peaks(self) -> dict[str, float]:
        return {name: round(mib, 1) for name, mib in self._peaks.items()}

    def now(self, name: str) -> float:
        """Memory of the largest process of this part; a worker has several."""
        root = psutil.Process(self._stack.processes[name].pid)
        return max(each.memory_info().rss for each in (root, *root.children())) / 2**20

    def _watch(self) -> None:
        while not self._over.wait(_POLL_SECONDS):
            for name in self._stack.processes:
                self._peaks[name] = max(self._peaks.get(name, 0.0), self.now(name))


def plot(report: dict[str, Any]) -> Figure:
    """Real-time factor and memory against length."""
    found = report["recordings"]
    minutes = [each["seconds"] / 60 for each in found]
    figure = Figure(figsize=(12, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    bottom = [0.0] * len(found)
    places = range(len(found))
    for stage in ("speech", "upload", "plan", "answer"):  # the speech stage at the bottom, next to the peer's mark
        shares = [each[f"{stage}_seconds"] / each["seconds"] for each in found]
        left.bar(places, shares, bottom=bottom, label=stage)
        bottom = [below + share for below, share in zip(bottom, shares, strict=True)]
    if all("peer" in each for each in found):
        shares = [each["peer"]["seconds"] / each["seconds"] for each in found]
        left.plot(places, shares, "k_", ms=32, label="faster-whisper, transcript")
    left.axhline(TARGETS["rtf"], color="grey", linestyle=":", label="target")
    left.set_xticks(places, [f"{each:.0f} min" for each in minutes])
    left.set_ylabel("seconds per second of audio")
    left.legend()
    for name in sorted({name for each in found for name in each["peak_mib"]}):
        right.plot(minutes, [each["peak_mib"][name] for each in found], "o-", label=name)
    right.axhline(TARGETS["process_mib"], color="grey", linestyle=":", label="target")
    right.set_xscale("log")
    right.set_xticks(minutes, [f"{each:.0f} min" for each in minutes], minor=False)
    right.set_xticks([], minor=True)
    right.set_ylabel("largest process, MiB")
    right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    machine = report["machine"]
    figure.suptitle(f"preset {report['preset']}, {machine['cores']} cores of {machine['processor']}", fontsize=9)
    return figure


@contextmanager
def _stack(folder: Path, preset: str) -> Iterator[Stack]:
    """A stack with empty stores and the installed weights."""
    with tempfile.TemporaryDirectory(dir=folder) as home:
        Path(home, "weights").symlink_to(lyra_home() / "weights")
        with Stack(preset=preset, home=Path(home), announce=False) as stack:
            yield stack


def _client(stack: Stack, key: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=stack.url, headers=headers, timeout=600, trust_env=False)


def _states(http: httpx.Client, job: str) -> dict[str, float]:
    """Time at which each state was first observed; a state that was missed has the time of the next one."""
    order = ("queued", "planning", "running", "answering", "succeeded")
    seen: dict[str, float] = {}
    while True:
        state = http.get(f"/v1/jobs/{job}").raise_for_status().json()["state"]
        reached = order.index(state) if state in order else len(order) - 1
        for passed in order[: reached + 1]:
            seen.setdefault(passed, time.perf_counter())
        if state not in order[:-1]:
            return seen
        time.sleep(_POLL_SECONDS)


def _wav_header(size: int) -> bytes:
    """Header of a WAV file with `size` bytes of 16-bit stereo at 48 kHz."""
    form = struct.pack("<IHHIIHH", 16, 1, 2, 48_000, 4 * 48_000, 4, 16)
    return b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + form + b"data" + struct.pack("<I", size)


if __name__ == "__main__":
    main()
