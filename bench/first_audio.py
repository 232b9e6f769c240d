"""Latency of first token and first audio: streamed speech, and the plain sequence of text API and speech API.

Both send the same questions to the same stack, alternately, in the same run:

- `lyra`: one streamed request for text and audio; speech is synthesized while the text is generated.
- `sequential`: a streamed request for text; the complete text is then sent to /v1/audio/speech.

    python -m bench.first_audio --repeats 10
"""

import statistics
import sys
import time
import wave
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bench.machine import describe, memory_by_process, stack_memory
from bench.report import command_line, write
from cli.ask import Answer, collect, content_parts
from cli.client import GatewayClient
from cli.connection import Connection
from cli.serve import running_stack

EXAMPLES = Path(__file__).parent.parent / "examples"
WARM_UP = 2
MAX_TOKENS = 96


@dataclass(frozen=True, slots=True)
class Case:
    """A question: spoken or written, with or without a picture."""

    name: str
    text: str = ""
    audio: Path | None = None
    image: Path | None = None

    @property
    def parts(self) -> list[dict[str, Any]]:
        return content_parts(self.text, self.audio, self.image)


CASES = (
    Case("spoken question", audio=EXAMPLES / "open-question.wav"),
    Case("spoken question about a picture", audio=EXAMPLES / "question.wav", image=EXAMPLES / "picture.png"),
    Case("written question", text="Explain the difference between a star and a planet."),
)


def ask_lyra(client: GatewayClient, case: Case) -> Answer:
    """Text and speech in one request."""
    return collect(client, case.parts, spoken=True, on_text=lambda text: None, max_tokens=MAX_TOKENS)


def ask_in_sequence(client: GatewayClient, case: Case) -> Answer:
    """The complete text first, then its speech."""
    start = time.perf_counter()
    answer = collect(client, case.parts, spoken=False, on_text=lambda text: None, max_tokens=MAX_TOKENS)
    pcm = bytearray()
    for data in client.speak(answer.text, "pcm"):
        if answer.first_audio_seconds is None:
            answer.first_audio_seconds = time.perf_counter() - start
        pcm += data
    answer.pcm, answer.total_seconds = bytes(pcm), time.perf_counter() - start
    return answer


WAYS: dict[str, Callable[[GatewayClient, Case], Answer]] = {"lyra": ask_lyra, "sequential": ask_in_sequence}
TIMES = ("first_token_seconds", "first_audio_seconds", "total_seconds")


def measure(client: GatewayClient, case: Case, repeats: int) -> dict[str, Any]:
    """Times of both ways for one question, measured alternately."""
    answers: dict[str, list[Answer]] = {way: [] for way in WAYS}
    for repeat in range(-WARM_UP, repeats):
        ways = list(WAYS.items())
        for way, ask in ways if repeat % 2 else reversed(ways):
            answer = ask(client, case)
            if not answer.text or answer.first_audio_seconds is None:
                raise SystemExit(f"{case.name}, {way}: the answer is empty")
            if repeat >= 0:
                answers[way].append(answer)
        print(f"{case.name}: {max(repeat + 1, 0)} of {repeats}", file=sys.stderr)
    result: dict[str, Any] = {way: _summary(found) for way, found in answers.items()}
    result["question_seconds"] = round(_wav_seconds(case.audio), 2) if case.audio else None
    result["answer"] = answers["lyra"][-1].text
    result["answer_audio_seconds"] = round(answers["lyra"][-1].audio_seconds, 2)
    result["sequential_over_lyra"] = {
        kind: round(result["sequential"][kind]["median"] / result["lyra"][kind]["median"], 2) for kind in TIMES
    }
    return result


def plot(report: dict[str, Any]) -> Figure:
    """Medians as bars, measurements as dots."""
    cases = report["cases"]
    figure = Figure(figsize=(5 * len(cases), 4), layout="constrained")
    axes = figure.subplots(1, len(cases))
    for axis, (name, case) in zip(axes, cases.items(), strict=True):
        for offset, way in enumerate(WAYS):
            for place, kind in enumerate(TIMES):
                x, times = place + 0.4 * offset, case[way][kind]
                axis.bar(x, times["median"], 0.36, color=f"C{offset}", label=way if place == 0 else None)
                axis.plot([x] * len(times["all"]), times["all"], ".", color="black", markersize=3)
                axis.annotate(f"{times['median']:.2f}", (x, times["median"]), ha="center", va="bottom", fontsize=8)
        axis.set_xticks([0.2, 1.2, 2.2], ["first token", "first audio", "whole answer"])
        axis.set_ylabel("seconds after the request")
        asked = f"{case['question_seconds']:.1f} s asked, " if case["question_seconds"] else ""
        axis.set_title(f"{name}\n{asked}{case['answer_audio_seconds']:.1f} s answered", fontsize=10)
        axis.legend()
    machine = report["machine"]
    figure.suptitle(f"preset {report['preset']}, {machine['cores']} cores of {machine['processor']}", fontsize=9)
    return figure


def main() -> None:
    parser = command_line("first_audio", __doc__)
    parser.add_argument("--repeats", type=int, default=10, help="measurements of each kind (default 10)")
    parser.add_argument("--preset", default="nano", help="weights to run (default nano)")
    options = parser.parse_args()
    report: dict[str, Any] = {
        "preset": options.preset,
        "repeats": options.repeats,
        "warm_up": WARM_UP,
        "max_tokens": MAX_TOKENS,
        "machine": describe(),
        "cases": {},
    }
    with (
        running_stack(options.preset, "127.0.0.1", 0, whole=False) as stack,
        GatewayClient(Connection(stack.url, stack.key)) as client,
    ):
        report["memory_idle"] = asdict(stack_memory(stack))
        for case in CASES:
            report["cases"][case.name] = measure(client, case, options.repeats)
        report["memory_after"] = asdict(stack_memory(stack)) | {"processes": memory_by_process(stack)}
    write(report, options.out, plot)
    print(_lines(report))


def _summary(answers: list[Answer]) -> dict[str, dict[str, Any]]:
    summary = {}
    for kind in TIMES:
        values = [round(getattr(answer, kind), 4) for answer in answers]
        median, worst = round(statistics.median(values), 4), max(values)
        summary[kind] = {"median": median, "best": min(values), "worst": worst, "all": values}
    return summary


def _wav_seconds(path: Path) -> float:
    with wave.open(str(path)) as file:
        return float(file.getnframes() / file.getframerate())


def _lines(report: dict[str, Any]) -> str:
    lines = []
    for name, case in report["cases"].items():
        for kind in TIMES:
            ours, theirs = case["lyra"][kind]["median"], case["sequential"][kind]["median"]
            ratio = case["sequential_over_lyra"][kind]
            lines.append(f"{name}, {kind}: lyra {ours:.2f}, sequential {theirs:.2f} ({ratio:.2f} times as long)")
    memory = report["memory_after"]
    lines.append(f"memory of the stack: {memory['pss_mib']:.0f} MiB PSS, {memory['rss_mib']:.0f} MiB RSS")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
