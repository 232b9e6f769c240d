"""Needle in a haystack for long recordings: a grid of lengths and depths, with and without the extractor.

Sentences spoken by several voices are joined with pauses up to the requested length; one of them is the needle, which
a written question asks about. The needle counts as found if the answer contains the expected words.

Shapes: S samples.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from model_core.audio.tensors import SAMPLE_RATE
from model_core.data.sources.needles import Needle, needle
from model_core.errors import InvalidInput
from model_core.evaluation.manifest import Progress, Result
from model_core.evaluation.predictions import Row, Sample, predict_all
from model_core.evaluation.report import Draw, Report, Table, heat_map
from model_core.evaluation.subject import GeneratedAudio, Question, Samples, Subject
from model_core.evaluation.tts import DEFAULT_VOICE, synthesizer
from model_core.metrics.short_answers import contains_answer

MINUTES = (1.0, 2.0, 3.0, 5.0, 10.0)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
SHORT_MINUTES = 3.0
MAX_ANSWER_TOKENS = 24
PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Settings of the extractor; None for the subject's default."""

    keep_rate: float | None = None
    blocks: int | None = None

    @property
    def name(self) -> str:
        """Name for tables and files, for example `keep-0.7`."""
        parts = [f"keep-{self.keep_rate:g}"] if self.keep_rate is not None else []
        parts += [f"blocks-{self.blocks}"] if self.blocks is not None else []
        return "-".join(parts) or "default"


@dataclass(frozen=True)
class Haystack:
    """Sentences, each synthesized once, by the voices in turn.

    Args:
        sentences: The texts, repeated if more are needed.
        voices: Names of voices.
        home: Folder of their weights.
    """

    sentences: tuple[str, ...]
    voices: tuple[str, ...] = (DEFAULT_VOICE,)
    home: Path | None = None

    @cached_property
    def key(self) -> str:
        """Hash that identifies this haystack."""
        return hashlib.sha256("\n".join((*self.voices, *self.sentences)).encode()).hexdigest()[:16]

    @cached_property
    def _read(self) -> dict[int, Samples]:
        return {}

    def recording(self, minutes: float, depth: float, hidden: Needle, start: int) -> Samples:
        """[S] samples of at most `minutes`, with the needle at the pause closest to `depth` (0 first, 1 last).

        Args:
            minutes: Maximum length; the recording is shorter by less than one sentence.
            depth: Relative position of the needle.
            hidden: The needle.
            start: Number of the first sentence.
        """
        voice = self.voices[start % len(self.voices)]
        needle_audio = [synthesizer(voice, self.home)(hidden.sentence), _pause()]
        room = int(minutes * 60 * SAMPLE_RATE) - sum(map(len, needle_audio))
        filler: list[Samples] = []
        ends = [0]
        while True:
            piece = np.concatenate([self._sentence(start + len(filler)), _pause()])
            if ends[-1] + len(piece) > room:
                break
            filler.append(piece)
            ends.append(ends[-1] + len(piece))
        place = int(np.argmin(np.abs(np.array(ends) - depth * ends[-1])))
        return np.concatenate([*filler[:place], *needle_audio, *filler[place:]])

    def _sentence(self, number: int) -> Samples:
        index = number % len(self.sentences)
        if index not in self._read:
            self._read[index] = synthesizer(self.voices[index % len(self.voices)], self.home)(self.sentences[index])
        return self._read[index]


def needle_samples(
    haystack: Haystack,
    *,
    minutes: Sequence[float] = MINUTES,
    depths: Sequence[float] = DEPTHS,
    needles: int = 1,
    settings: Sequence[Setting] = (Setting(),),
    seed: int = 0,
) -> list[Sample]:
    """Questions for every cell of the grid and every setting; all settings use the same recordings.

    Raises:
        InvalidInput: a length, a depth or a number is out of range, or there is no sentence or setting.
    """
    if not haystack.sentences or not haystack.voices or not settings or needles < 1:
        raise InvalidInput("needle", "at least one sentence, voice, setting and needle is required")
    if min(minutes, default=0) < 0.25 or max(minutes) > 120:
        raise InvalidInput("minutes", "each must be from 0.25 to 120")
    if not depths or min(depths) < 0 or max(depths) > 1:
        raise InvalidInput("depths", "each must be from 0 (first) to 1 (last)")
    cells = [(length, depth, number) for length in minutes for depth in depths for number in range(needles)]
    # Settings vary fastest: a subject can reuse a recording's encoding for all of them.
    return [_sample(haystack, *cell, setting, seed) for cell in cells for setting in settings]


def needle_report(
    samples: Sequence[Sample], subject: Subject, folder: Path | None, progress: Progress | None = None
) -> Report:
    """Share of needles found, by setting; the value is that of the first setting, over all lengths."""
    rows = predict_all(samples, subject, folder, _score, progress=progress)
    names = list(dict.fromkeys(row["setting"] for row in rows))
    found = {name: [row for row in rows if row["setting"] == name] for name in names}
    details: dict[str, Any] = {"settings": {name: _figures(of_name) for name, of_name in found.items()}}
    value = details["settings"][names[0]]["found"]
    result = Result(metric="needle", value=value, count=len(rows), subject=subject.tags, details=details)
    plots: dict[str, Draw] = {}
    for name, of_name in found.items():
        minutes, depths = (sorted({row[key] for row in of_name}) for key in ("minutes", "depth"))
        grid = np.array([[_share(of_name, minutes=m, depth=d) for m in minutes] for d in depths])
        labels = [f"{100 * depth:g} %" for depth in depths], [f"{length:g}" for length in minutes]
        plots[f"needle-{name}.png"] = heat_map(f"Needles found, {name} (%)", grid, *labels, ("depth", "minutes"))
    return Report(result=result, tables=(_by_length(found),), plots=plots)


def _sample(haystack: Haystack, minutes: float, depth: float, number: int, setting: Setting, seed: int) -> Sample:
    rng = random.Random(f"{seed} {minutes:g} {depth:g} {number}")
    hidden, start = needle(rng, held_out=True), rng.randrange(len(haystack.sentences))
    cell = f"{minutes:g} min, {100 * depth:g} %, needle {number + 1}"
    audio = GeneratedAudio(
        f"{haystack.key} {cell} {start} {hidden.sentence}",
        lambda: haystack.recording(minutes, depth, hidden, start),
    )
    question = Question(
        name=cell,
        text=hidden.question,
        audio=(audio,),
        max_tokens=MAX_ANSWER_TOKENS,
        keep_rate=setting.keep_rate,
        blocks=setting.blocks,
    )
    about = {"setting": setting.name, "minutes": minutes, "depth": depth, "needle": hidden.sentence}
    return Sample(id=f"{setting.name}: {cell}", question=question, about=about | {"answer": hidden.answer})


def _score(row: Row) -> dict[str, Any]:
    return {"found": contains_answer(row["prediction"], [row["answer"]])}


def _share(rows: Sequence[Row], **cell: float) -> float:
    of_cell = [row["found"] for row in rows if all(row[key] == value for key, value in cell.items())]
    return round(sum(of_cell) / len(of_cell), 4) if of_cell else float("nan")


def _figures(rows: Sequence[Row]) -> dict[str, Any]:
    short = [row for row in rows if row["minutes"] <= SHORT_MINUTES]
    return {
        "found": _share(rows),
        "found_up_to_3_min": _share(short) if short else None,
        "by_minutes": {f"{m:g}": _share(rows, minutes=m) for m in sorted({row["minutes"] for row in rows})},
        "seconds": {
            f"{m:g}": round(median(_answer_seconds(row) for row in rows if row["minutes"] == m), 3)
            for m in sorted({row["minutes"] for row in rows})
        },
    }


def _answer_seconds(row: Row) -> float:
    """Seconds from the encoded recording to the first token: what the extractor reduces."""
    first = row["seconds"] if row["first_token_seconds"] is None else row["first_token_seconds"]
    return float(first - (row["encoding_seconds"] or 0.0))


def _by_length(found: dict[str, list[Row]]) -> Table:
    cells = []
    for name, rows in found.items():
        for length in sorted({row["minutes"] for row in rows}):
            of_cell = [row for row in rows if row["minutes"] == length]
            tokens = median(sum(row["context_tokens"][:1]) for row in of_cell)
            seconds = median(_answer_seconds(row) for row in of_cell)
            cells.append((name, length, 100 * _share(of_cell), len(of_cell), tokens, seconds))
    headings = ("extractor", "minutes", "found %", "needles", "context tokens", "seconds to first token")
    return Table(title="Needles found by length", headings=headings, rows=tuple(cells))


def _pause() -> Samples:
    return np.zeros(int(PAUSE_SECONDS * SAMPLE_RATE), np.float32)
