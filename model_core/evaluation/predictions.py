"""From samples to predictions, one by one or in batches; predictions that a folder already contains are reused.

`predictions.jsonl` has a row per sample: the question, the answer, its timing and its score. Rows are appended during
a run; at the end the file is rewritten with exactly the run's samples, in order.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_core.errors import InvalidInput
from model_core.evaluation.manifest import Progress
from model_core.evaluation.subject import Question, Reply, Subject

FILE = "predictions.jsonl"

Row = dict[str, Any]
"""A row of `predictions.jsonl`: JSON values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A question of a benchmark.

    Attributes:
        id: Id in the data set.
        question: The question.
        about: Further JSON values, such as expected answers and classes, copied to its row.
    """

    id: str
    question: Question
    about: dict[str, Any] = field(default_factory=dict)


Predict = Callable[[Subject, Sequence[Sample]], Iterable[Row]]
Score = Callable[[Row], dict[str, Any]]


def predict_answers(subject: Subject, samples: Sequence[Sample]) -> Iterator[Row]:
    """The default prediction: the answer's text, timing and token counts."""
    return map(reply_row, subject.answer_batch([sample.question for sample in samples]))


def one_by_one(predict: Callable[[Subject, Sample], Row]) -> Predict:
    """Turns a function that predicts one sample into one that predicts a batch."""
    return lambda subject, samples: (predict(subject, sample) for sample in samples)


def reply_row(reply: Reply) -> Row:
    """The row of a reply, without its audio."""
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
    predict: Predict = predict_answers,
    kind: str = "answer",
    batch: int = 1,
    progress: Progress | None = None,
) -> list[Row]:
    """Predicts every sample that the folder has no prediction for, and scores all of them.

    Args:
        samples: One or more.
        subject: What is evaluated.
        folder: Folder of the predictions; None stores none.
        score: Returns values to add to a row; called for rows of earlier runs too.
        predict: Predicts a batch of samples.
        batch: Samples per call of `predict`. Batches are faster but have no timing per sample.
        kind: Name of what `predict` does: stored predictions of another kind are not reused.
        progress: Called with the number of samples done and in total.

    Raises:
        InvalidInput: there is no sample, or the subject rejects one; the error names it.
    """
    if not samples:
        raise InvalidInput("samples", "there are none")
    keys = [_key(sample, subject, kind) for sample in samples]
    known = read_rows(folder / FILE) if folder else {}
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / FILE, known.values())
    missing = list({key: sample for key, sample in zip(keys, samples, strict=True) if key not in known}.items())
    for start in range(0, len(missing), batch):
        if progress:
            progress(len(samples) - len(missing) + start, len(samples))
        some = missing[start : start + batch]
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
    """The rows of a file of predictions by key; none if it is missing. An incomplete last line is ignored.

    Raises:
        InvalidInput: the file contains something else.
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
            raise InvalidInput("out", f"line {number} of {path} is not a prediction: name another folder") from error
    return rows


def _key(sample: Sample, subject: Subject, kind: str) -> str:
    question = sample.question.key()
    values = {"kind": kind, "id": sample.id, "about": sample.about, "ask": question, "subject": subject.identity}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def _append(path: Path, row: Row) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write(path: Path, rows: Any) -> None:
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    part.replace(path)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
