"""Ablations: the same questions under several settings, compared by quality and by time to the first token."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

from model_core.evaluation.manifest import Progress, Result
from model_core.evaluation.predictions import Row, Sample, Score, predict_all
from model_core.evaluation.report import Report, Table
from model_core.evaluation.subject import Subject


def ablation_report(
    samples: Sequence[Sample],
    subject: Subject,
    folder: Path | None,
    *,
    metric: str,
    settings: Mapping[str, dict[str, Any]],
    score: Score,
    progress: Progress | None = None,
) -> Report:
    """Mean score, time to the first token and context tokens of each setting; the value is the first one's score.

    Args:
        samples: Asked under every setting.
        subject: What is evaluated.
        folder: Folder of the predictions; None stores none.
        metric: Name of the result.
        settings: Overridden fields of Question, by name of the setting, for example `{"keep 0.7": {"keep_rate": 0.7}}`.
        score: Returns a row's `score`.
        progress: Called with the number of answers so far and in total.
    """
    asked = [
        Sample(
            id=f"{name}: {sample.id}",
            question=replace(sample.question, **fields),
            about={"setting": name, **sample.about},
        )
        for name, fields in settings.items()
        for sample in samples
    ]
    rows = predict_all(asked, subject, folder, score, progress=progress)
    figures = {name: _figures([row for row in rows if row["setting"] == name]) for name in settings}
    value = figures[next(iter(settings))]["score"]
    details = {"settings": figures}
    result = Result(metric=metric, value=value, count=len(samples), subject=subject.tags, details=details)
    cells = tuple(
        (name, 100 * each["score"], each["first_token_ms"], ", ".join(map(str, each["context_tokens"])))
        for name, each in figures.items()
    )
    headings = ("setting", "score %", "ms to the first token, without encoders", "context tokens by block (mean)")
    return Report(result=result, tables=(Table(title=metric, headings=headings, rows=cells),))


def _figures(rows: Sequence[Row]) -> dict[str, Any]:
    waits = [
        row["first_token_seconds"] - (row["encoding_seconds"] or 0.0)
        for row in rows
        if row["first_token_seconds"] is not None
    ]
    blocks = zip(*(row["context_tokens"] for row in rows), strict=False)
    return {
        "score": round(mean(float(row["score"]) for row in rows), 4),
        "first_token_ms": round(1000 * median(waits), 1) if waits else None,
        "context_tokens": [round(mean(block), 1) for block in blocks],
    }
