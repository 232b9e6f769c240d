"""TextVQA, DocVQA and ChartQA in their published layouts, with written or spoken questions.

| data set | JSON | pictures | recordings are named by |
| --- | --- | --- | --- |
| TextVQA | `TextVQA_0.5.1_val.json` | `train_images/IMAGE_ID.jpg` | question_id |
| DocVQA | `val_v1.0.json` or `val_v1.0_withQT.json` | `documents/*.png`, as its `image` says | questionId |
| ChartQA | `test/test_human.json`, `test/test_augmented.json` | `test/png/` | `human-N`, `augmented-N`, N from 0 |

Lyra-Eval's spoken versions are supported: its lines (`lyra_*.jsonl`: question_id, image, text, answer, optional speech)
replace DocVQA's and ChartQA's JSON, and add the names of the recordings to TextVQA's.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_core.errors import InvalidInput
from model_core.evaluation.layouts import (
    IMAGE_SUFFIXES,
    Item,
    Questions,
    as_item,
    find_one,
    media_file,
    read_data,
)
from model_core.evaluation.manifest import Progress, Result
from model_core.evaluation.predictions import Row, Sample, predict_all
from model_core.evaluation.report import Report, bar_chart, share_table
from model_core.evaluation.subject import Subject
from model_core.metrics.short_answers import anls, relaxed_match, vqa_accuracy

SHORT_ANSWER = "Answer the question using a single word or phrase."
MAX_ANSWER_TOKENS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureBenchmark:
    """A visual question answering data set.

    Attributes:
        name: Name of its command.
        metric: Name of the metric in its paper.
        load: Reads a folder in the published layout. Raises InvalidInput.
        score: Scores a prediction against the expected answers, 0 to 1.
        classes: What the samples' classes are, for the table; empty if they have none.
    """

    name: str
    metric: str
    load: Callable[[Path, Questions], list[Sample]]
    score: Callable[[str, Sequence[str]], float]
    classes: str = ""


def picture_report(
    benchmark: PictureBenchmark,
    samples: Sequence[Sample],
    subject: Subject,
    folder: Path | None,
    *,
    form: str,
    progress: Progress | None = None,
) -> Report:
    """Asks all questions and averages the scores.

    Raises:
        InvalidInput: as `predict_all`.
    """

    def score(row: Row) -> dict[str, Any]:
        return {"score": benchmark.score(row["prediction"], row["answers"])}

    rows = predict_all(samples, subject, folder, score, progress=progress)
    value = sum(row["score"] for row in rows) / len(rows)
    details: dict[str, Any] = {"benchmark": benchmark.name, "questions": form}
    result = Result(
        metric=benchmark.metric, value=round(value, 4), count=len(rows), subject=subject.tags, details=details
    )
    classes: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for each in row["classes"]:
            classes[each].append(row["score"])
    if len(classes) < 2:
        return Report(result=result)
    table = share_table(f"{benchmark.metric} by {benchmark.classes}", benchmark.classes, dict(sorted(classes.items())))
    return Report(result=result, tables=(table,), plots={"classes.png": bar_chart(table)})


def _sample(
    questions: Questions, question_id: str, text: str, image: Path, answers: list[str], classes: Sequence[str] = ()
) -> Sample:
    question = questions.build(question_id, text, images=(image,), max_tokens=MAX_ANSWER_TOKENS)
    about = {"question": text, "answers": answers, "classes": list(classes)}
    return Sample(id=question_id, question=question, about=about)


def _textvqa(folder: Path, questions: Questions) -> list[Sample]:
    path = find_one(folder, "TextVQA_*val*.json", "TextVQA_*.json")
    images = next((folder / name for name in ("train_images", "images") if (folder / name).is_dir()), None)
    if images is None:
        raise InvalidInput("folder", f"{folder} has no folder train_images")
    recordings = _recordings_of_lyra(folder)
    samples = []
    for item in read_data(path, "question_id"):
        text, image = item.text("question"), item.text("image_id")
        spoken = recordings.get((image, text.lower()), item.text("question_id"))
        file = media_file(images, image, f"{item.file}, {item.name}, image_id", IMAGE_SUFFIXES)
        samples.append(_sample(questions, spoken, text, file, item.texts("answers")))
    return samples


def _docvqa(folder: Path, questions: Questions) -> list[Sample]:
    if lyra := sorted(folder.glob("lyra_*.jsonl")):
        return _lyra_lines(lyra[0], folder, questions)
    path = find_one(folder, "val_v*.json", "*.json")
    return [
        _sample(
            questions,
            item.text("questionId"),
            item.text("question"),
            media_file(folder, item.text("image"), f"{item.file}, {item.name}, image"),
            item.texts("answers"),
            item.texts("question_types") if item.values.get("question_types") else (),
        )
        for item in read_data(path, "questionId")
    ]


def _chartqa(folder: Path, questions: Questions) -> list[Sample]:
    if lyra := sorted(folder.glob("lyra_*.jsonl")):
        return _lyra_lines(lyra[0], folder, questions)
    samples = []
    for split in ("human", "augmented"):
        path = find_one(folder, f"test/test_{split}.json", f"test_{split}.json")
        for number, item in enumerate(read_data(path, "")):
            field = f"{item.file}, {item.name}, imgname"
            image = media_file(path.parent / "png", item.text("imgname"), field)
            answers = [item.text("label")]
            samples.append(_sample(questions, f"{split}-{number}", item.text("query"), image, answers, (split,)))
    return samples


def _lyra_lines(path: Path, folder: Path, questions: Questions) -> list[Sample]:
    samples = []
    for item in _read_lines(path):
        answers = item.texts("answer") if isinstance(item.values.get("answer"), list) else [item.text("answer")]
        spoken = item.text("speech") if "speech" in item.values else item.text("question_id")
        image = media_file(folder, item.text("image"), f"{item.file}, {item.name}, image")
        samples.append(_sample(questions, spoken, item.text("text"), image, answers))
    return samples


def _recordings_of_lyra(folder: Path) -> dict[tuple[str, str], str]:
    """Names of recordings by image and question; the question is the first line of the prompt."""
    found = {}
    for path in sorted(folder.glob("lyra_*.jsonl"))[:1]:
        for item in _read_lines(path):
            if "speech" in item.values:
                question = item.text("prompt").splitlines()[0].strip().lower()
                found[Path(item.text("image")).stem, question] = item.text("speech")
    return found


def _read_lines(path: Path) -> list[Item]:
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                items.append(as_item(json.loads(line), path.name, f"line {number}"))
            except json.JSONDecodeError as error:
                raise InvalidInput(f"{path.name}, line {number}", f"is not JSON ({error})") from error
    if not items:
        raise InvalidInput(path.name, "has no lines")
    return items


def _relaxed(prediction: str, answers: Sequence[str]) -> float:
    return float(any(relaxed_match(prediction, answer) for answer in answers))


TEXTVQA = PictureBenchmark(name="textvqa", metric="vqa_accuracy", load=_textvqa, score=vqa_accuracy)
DOCVQA = PictureBenchmark(name="docvqa", metric="anls", load=_docvqa, score=anls, classes="question type")
CHARTQA = PictureBenchmark(name="chartqa", metric="relaxed_accuracy", load=_chartqa, score=_relaxed, classes="split")
