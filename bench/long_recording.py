"""Synthesizes a long recording with a known, timed transcript, and scores transcripts of it.

It consists of held-out sentences and questions by nine voices, with pauses of various lengths, reverberation and noise.

    python -m bench.long_recording make long.mp3 --seconds 7200
    lyra jobs submit long.mp3 --question "What is said first?" --wait
    lyra jobs result job-1f0c... --format json > result.json
    python -m bench.long_recording score long.jsonl result.json
"""

import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import jiwer
import numpy as np
import soundfile
from numpy.typing import NDArray

from model_core.data.augment import augment
from model_core.metrics.word_errors import normalize, word_errors

RATE = 16_000
HELD_OUT = Path(__file__).parent.parent / "tests" / "data" / "held_out"
_BREATHS = (0.15, 0.9)  # seconds between sentences
_PAUSE, _PAUSES = 0.12, (1.0, 6.0)  # probability and range of longer pauses
_MP3_BITS = 64_000

Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Utterance:
    """A sentence and its position in the recording."""

    start_seconds: float
    end_seconds: float
    text: str


@dataclass(frozen=True, slots=True)
class Score:
    """Quality of a transcript: word error rate, and errors of the times of correct words in seconds."""

    wer: float
    words: int
    timestamp_error_median: float
    timestamp_error_p95: float


def make(path: Path, seconds: float, seed: int = 0) -> list[Utterance]:
    """Writes an mp3 file of at least this many seconds, and its utterances beside it (.jsonl). Memory is bounded."""
    utterances: list[Utterance] = []
    part = path.with_suffix(".part")
    with av.open(str(part), "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=RATE, layout="mono")
        stream.bit_rate = _MP3_BITS
        at = 0
        for samples, text in _pieces(random.Random(seed), seconds):
            if text:
                utterances.append(Utterance(round(at / RATE, 3), round((at + len(samples)) / RATE, 3), text))
            frame = av.AudioFrame.from_ndarray(_int16(samples)[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, at, Fraction(1, RATE)
            at += len(samples)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    path.with_suffix(".jsonl").write_text("".join(json.dumps(asdict(each)) + "\n" for each in utterances))
    part.replace(path)
    return utterances


def read_truth(path: Path) -> list[Utterance]:
    """The utterances that `make` wrote."""
    return [Utterance(**json.loads(line)) for line in path.read_text().splitlines()]


def score(utterances: Sequence[Utterance], segments: Sequence[dict[str, Any]]) -> Score:
    """Scores the segments (start_seconds, end_seconds, text) of a transcript."""
    truth = list(_timed((s.start_seconds, s.end_seconds, s.text) for s in utterances))
    transcribed = list(_timed((s["start_seconds"], s["end_seconds"], s["text"]) for s in segments))
    found = jiwer.process_words(" ".join(word for _, word in truth), " ".join(word for _, word in transcribed) or "-")
    errors = [
        abs(truth[chunk.ref_start_idx + step][0] - transcribed[chunk.hyp_start_idx + step][0])
        for chunk in found.alignments[0]
        if chunk.type == "equal"
        for step in range(chunk.ref_end_idx - chunk.ref_start_idx)
    ]
    errors_in_text = word_errors(" ".join(s.text for s in utterances), " ".join(s["text"] for s in segments))
    median, p95 = (float(np.percentile(errors, q)) for q in (50, 95)) if errors else (float("nan"),) * 2
    return Score(round(errors_in_text.rate, 4), errors_in_text.words, round(median, 3), round(p95, 3))


def _pieces(rng: random.Random, seconds: float) -> Iterator[tuple[Samples, str]]:
    """Sentences with their texts, and pauses with an empty text."""
    sentences, made = list(_sentences()), 0.0
    while made < seconds:
        for audio, text in rng.sample(sentences, len(sentences)):
            samples, rate = soundfile.read(HELD_OUT / audio, dtype="float32")
            assert rate == RATE, f"{audio}: {rate} Hz"
            pause = rng.uniform(*(_PAUSES if rng.random() < _PAUSE else _BREATHS))
            yield augment(samples, rng)[: len(samples)], text
            yield rng.random() * 2e-3 * _noise(rng, int(pause * RATE)), ""
            made += len(samples) / RATE + pause
            if made >= seconds:
                return


def _sentences() -> Iterator[tuple[str, str]]:
    """Audio file and text of each sentence."""
    for name in ("sentences-known-voices", "sentences-held-out-voice"):
        yield from ((line["audio"], line["text"]) for line in _lines(name))
    for spoken, written in zip(_lines("factual-spoken"), _lines("factual-written"), strict=True):
        yield spoken["audio"], written["question"]


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HELD_OUT / f"{name}.jsonl").read_text().splitlines()]


def _noise(rng: random.Random, length: int) -> Samples:
    return np.random.default_rng(rng.getrandbits(32)).standard_normal(length, dtype=np.float32)


def _int16(samples: Samples) -> NDArray[np.int16]:
    return np.clip(np.rint(samples * 32767), -32768, 32767).astype(np.int16)


def _timed(segments: Iterator[tuple[float, float, str]]) -> Iterator[tuple[float, str]]:
    """Normalised words with the time of their middle, assuming that they are spread evenly over their segment."""
    for start, end, text in segments:
        words = normalize(text).split()
        for place, word in enumerate(words):
            yield start + (end - start) * (place + 0.5) / len(words), word


def main() -> None:
    match sys.argv[1:]:
        case ["make", path, "--seconds", seconds]:
            utterances = make(Path(path), float(seconds))
            print(f"{path}: {len(utterances)} sentences, {utterances[-1].end_seconds:.0f} s")
        case ["score", truth, result]:
            print(json.dumps(asdict(score(read_truth(Path(truth)), json.loads(Path(result).read_text())["segments"]))))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
