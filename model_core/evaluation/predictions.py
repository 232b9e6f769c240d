"""Samples to predictions, one by one or several in step; what a folder holds already is not asked again.

`predictions.jsonl` has a line for each sample: what was asked, what came back, how long it took, and how it was
scored. While a run goes on, lines are added at once; at its end the file is written anew, with exactly its samples in
their order.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_core.errors import InvalidInput
from model_core.evaluation.manifest import Progress
from model_core.evaluation.subject import Ask, Reply, Subject

FILE = "predictions.jsonl"

Row = dict[str, Any]
"""A line of predictions: JSON values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A question of a benchmark.

    Attributes:
        id: Its name in the data set.
        ask: What is asked.
        about: What else belongs to it, expected answers and classes: JSON values, copied to its line.
    """

    id: str
    ask: Ask
    about: dict[str, Any] = field(default_factory=dict)


Predict = Callable[[Subject, Sequence[Sample]], Iterable[Row]]
Score = Callable[[Row], dict[str, Any]]


def answered(subject: Subject, samples: Sequence[Sample]) -> Iterator[Row]:
    """The usual prediction: the answer's text, its times and tokens."""
    return map(reply_row, subject.answer_together([sample.ask for sample in samples]))


def one_by_one(predict: Callable[[Subject, Sample], Row]) -> Predict:
    """What predicts one sample, for as many as there are."""
    return lambda subject, samples: (predict(subject, sample) for sample in samples)


def reply_row(reply: Reply) -> Row:
    """A reply without its sound."""
    return {
        "prediction": reply.text,
        "seconds": _rounded(reply.seconds),
        "first_token_seconds": _rounded(reply.first_token_seconds),
        "encoding_seconds": _rounded(reply.encoding_seconds),
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "context_tokens": list(reply.context_tokens),
        "adapter": reply.adapter,
    }


def predict_all(
    samples: Sequence[Sample],
    subject: Subject,
    folder: Path | None,
    score: Score,
    *,
    predict: Predict = answered,
    kind: str = "answer",
    at_once: int = 1,
    progress: Progress | None = None,
) -> list[Row]:
    """Asks every sample that the folder has no prediction of, and scores all.

    Args:
        samples: At least one.
        subject: Who is asked.
        folder: Where predictions lie; None keeps none.
        score: Adds to a line; called for those of earlier runs too.
        predict: Asks some.
        at_once: How many it is given. Several are answered sooner, and tell no times of their own.
        kind: What `predict` does: predictions of another kind are not taken for its own.
        progress: Called with samples done and samples in all.

    Raises:
        InvalidInput: there is no sample, or the subject refuses one, which is named.
    """
    if not samples:
        raise InvalidInput("samples", "there are none")
    keys = [_key(sample, subject, kind) for sample in samples]
    known = read_rows(folder / FILE) if folder else {}
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / FILE, known.values())
    missing = list({key: sample for key, sample in zip(keys, samples, strict=True) if key not in known}.items())
    for start in range(0, len(missing), at_once):
        if progress:
            progress(len(samples) - len(missing) + start, len(samples))
        some = missing[start : start + at_once]
        for (key, sample), found in zip(some, predict(subject, [sample for _, sample in some]), strict=True):
            known[key] = {"key": key, "id": sample.id, **sample.about, **found}
            if folder:
                _append(folder / FILE, known[key])
    rows = [known[key] | score(known[key]) for key in keys]
    if folder:
        _write(folder / FILE, rows)
    if progress:
        progress(len(samples), len(samples))
    return rows


def read_rows(path: Path) -> dict[str, Row]:
    """Whole lines of a file of predictions by their keys; none where it is missing. A line cut short is left out.

    Raises:
        InvalidInput: it is a file of something else.
    """
    if not path.is_file():
        return {}
    rows = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break
        try:
            row = json.loads(line)
            rows[str(row["key"])] = row
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput("out", f"line {number} of {path} is no prediction: name another folder") from error
    return rows


def _key(sample: Sample, subject: Subject, kind: str) -> str:
    of = {"kind": kind, "id": sample.id, "about": sample.about, "ask": sample.ask.key(), "subject": subject.identity}
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:32]


def _append(path: Path, row: Row) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write(path: Path, rows: Any) -> None:
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    part.replace(path)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
