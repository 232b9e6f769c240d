"""Short factual questions, each written and spoken: how much accuracy is lost when the question is speech.

A pair of manifests with the same questions line by line: written `{"question", "answer", "accept": [...]}`, spoken
`{"audio", "answer", "accept": [...], "voice"}`. There are two criteria for a correct answer. `whole`: the normalised
answer, without articles, is the expected one or one of `accept`. `contained`: it contains the words of one of these, as
the answers of a model that replies in sentences do. No figure mixes the two.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model_core.data.sources.facts import MAX_ANSWER_TOKENS
from model_core.errors import InvalidInput
from model_core.evaluation.manifest import Line, Progress, Result, read_manifest
from model_core.evaluation.predictions import Row, Sample, predict_all
from model_core.evaluation.report import Report, Table, share_table
from model_core.evaluation.subject import AudioFile, Question, Subject
from model_core.metrics.short_answers import contains_answer, is_right
from model_core.metrics.word_errors import same_answer

_BATCH = 16
WRITTEN, SPOKEN = "written", "spoken"
CONTAINED, WHOLE = "contained", "whole"
JUDGES = (CONTAINED, WHOLE)


def load_factual(written: Path, spoken: Path | None = None) -> list[Sample]:
    """The written questions, followed by the spoken ones, if any.

    Raises:
        InvalidInput: a line is invalid, or the two files do not hold the same questions.
    """
    lines = read_manifest(written, texts=("question", "answer"), files=())
    samples = [_sample(line, WRITTEN, index) for index, line in enumerate(lines)]
    if spoken is None:
        return samples
    recorded = read_manifest(spoken, texts=("answer",), files=("audio",))
    if len(recorded) != len(lines):
        raise InvalidInput("spoken", f"{spoken.name} has {len(recorded)} questions, {written.name} {len(lines)}")
    for line, other in zip(lines, recorded, strict=True):
        if line.text("answer") != other.text("answer"):
            raise InvalidInput(
                other.field("answer"), f"is {other.text('answer')!r}, of the written question {line.text('answer')!r}"
            )
    return samples + [_sample(line, SPOKEN, index) for index, line in enumerate(recorded)]


def factual_report(
    samples: Sequence[Sample],
    subject: Subject,
    folder: Path | None,
    *,
    judge: str = CONTAINED,
    progress: Progress | None = None,
) -> Report:
    """Shares of correct answers by both criteria, written and spoken.

    The value, by criterion `judge`, is the share of the questions answered correctly in writing that are also answered
    correctly in speech; without spoken questions, the share answered correctly in writing.

    Raises:
        InvalidInput: `judge` is not one of JUDGES, or as `predict_all`.
    """
    if judge not in JUDGES:
        raise InvalidInput("judge", f"{judge!r} is not one of {', '.join(JUDGES)}")
    rows = predict_all(samples, subject, folder, _score, batch=_BATCH, progress=progress)
    asked = {form: [row for row in rows if row["form"] == form] for form in (WRITTEN, SPOKEN)}
    details: dict[str, Any] = {
        f"{form}_{each}": _share(of_form, each) for form, of_form in asked.items() if of_form for each in JUDGES
    }
    if not asked[SPOKEN]:
        value = details[f"{WRITTEN}_{judge}"]
        return Report(result=_result(f"factual_written_{judge}", value, len(rows), subject, details))
    pairs = list(zip(asked[WRITTEN], asked[SPOKEN], strict=True))
    for each in JUDGES:
        both = [bool(spoken[each]) for written, spoken in pairs if written[each]]
        details[f"kept_{each}"] = round(sum(both) / len(both), 4) if both else 0.0
        details[f"kept_{each}_of"] = len(both)
    same = [same_answer(written["prediction"], spoken["prediction"]) for written, spoken in pairs]
    details["same_text"] = round(sum(same) / len(same), 4)
    result = _result(f"factual_kept_{judge}", details[f"kept_{judge}"], len(pairs), subject, details)
    return Report(result=result, tables=(_by_voice(pairs, judge),))


def _by_voice(pairs: Sequence[tuple[Row, Row]], judge: str) -> Table:
    voices = defaultdict[str, list[float]](list)
    for _, spoken in pairs:
        voices[spoken["voice"] or "unknown"].append(float(spoken[judge]))
    return share_table(f"Spoken questions answered right ({judge}), by voice", "voice", dict(sorted(voices.items())))


def _sample(line: Line, form: str, index: int) -> Sample:
    accept = line.values.get("accept", [])
    if not isinstance(accept, list) or not all(isinstance(each, str) and each.strip() for each in accept):
        raise InvalidInput(line.field("accept"), "must be a list of strings")
    name = f"{form} line {line.number}"
    asked = (
        Question(name=name, text=line.text("question"), max_tokens=MAX_ANSWER_TOKENS)
        if form == WRITTEN
        else Question(name=name, audio=(AudioFile(line.path("audio")),), max_tokens=MAX_ANSWER_TOKENS)
    )
    about = {"form": form, "question": str(line.values.get("question", "")), "voice": str(line.values.get("voice", ""))}
    return Sample(id=f"{form} {index}", question=asked, about=about | {"accepted": [line.text("answer"), *accept]})


def _score(row: Row) -> dict[str, Any]:
    prediction, accepted = row["prediction"], row["accepted"]
    return {WHOLE: is_right(prediction, accepted), CONTAINED: contains_answer(prediction, accepted)}


def _share(rows: Sequence[Row], judge: str) -> float:
    return round(sum(bool(row[judge]) for row in rows) / len(rows), 4)


def _result(metric: str, value: float, count: int, subject: Subject, details: dict[str, Any]) -> Result:
    return Result(metric=metric, value=value, count=count, subject=subject.tags, details=details)
