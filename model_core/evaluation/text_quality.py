"""Whether adapters change answers to text-only prompts, compared with the base model's answers word by word.

Text-only requests run on the base model, so the answers must be identical. Forcing an adapter on shows what it would
change.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from model_core.adapter_choice import BASE
from model_core.evaluation.manifest import Progress, Result
from model_core.evaluation.predictions import Row, Sample, predict_all
from model_core.evaluation.report import Report, Table
from model_core.evaluation.subject import Question, Subject
from model_core.metrics.word_errors import normalize, word_errors

MAX_ANSWER_TOKENS = 64


def text_quality_report(
    prompts: Sequence[tuple[str, str]],
    subject: Subject,
    folder: Path | None,
    *,
    adapters: Sequence[str] = (),
    max_tokens: int = MAX_ANSWER_TOKENS,
    progress: Progress | None = None,
) -> Report:
    """Share of answers that are identical to the base model's, and the share of words changed.

    Args:
        prompts: Names and texts.
        subject: What is evaluated.
        folder: Folder of the predictions; None stores none.
        adapters: Adapters to force on, each compared with the base model.
        max_tokens: Maximum tokens of an answer.
        progress: Called with the number of answers so far and in total.
    """
    plain = [
        Sample(id=name, question=Question(name=name, text=text, max_tokens=max_tokens), about={"question": text})
        for name, text in prompts
    ]
    settings = (BASE, "", *adapters)
    samples = [
        Sample(id=f"{each.id} {setting}", question=replace(each.question, adapter=setting), about=each.about)
        for setting in settings
        for each in plain
    ]
    rows = predict_all(samples, subject, folder, lambda row: {}, progress=progress)
    answers = {setting: rows[at * len(plain) : (at + 1) * len(plain)] for at, setting in enumerate(settings)}
    compared = {setting or "as served": _compare(answers[BASE], answers[setting]) for setting in settings[1:]}
    details: dict[str, Any] = {"same": compared["as served"]["same"], "with_adapter": compared}
    value = compared["as served"]["same"]
    result = Result(metric="text_quality", value=value, count=len(plain), subject=subject.tags, details=details)
    cells = tuple((name, 100 * found["same"], 100 * found["words_changed"]) for name, found in compared.items())
    headings = ("adapter", "same answer %", "words changed %")
    return Report(result=result, tables=(Table(title="Answers beside the base's", headings=headings, rows=cells),))


def _compare(base: Sequence[Row], other: Sequence[Row]) -> dict[str, float]:
    same = sum(one["prediction"] == two["prediction"] for one, two in zip(base, other, strict=True))
    changed = words = 0
    for one, two in zip(base, other, strict=True):
        if normalize(one["prediction"]):
            errors = word_errors(one["prediction"], two["prediction"])
            changed += errors.substitutions + errors.deletions + errors.insertions
            words += errors.words
    return {"same": round(same / len(base), 4), "words_changed": round(changed / max(words, 1), 4)}
