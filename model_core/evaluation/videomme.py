"""Video-MME (Fu et al., arXiv 2405.21075): multiple-choice questions about videos.

Both published layouts are supported: rows of the data set's Parquet file, exported to JSON (a list, or one per line:
`video_id`, `duration`, `domain`, `sub_category`, `videoID`, `question_id`, `task_type`, `question`, `options`,
`answer`), and the tree of the evaluation template (`duration_category`, `video_category`, `questions`, their
`choices`). Videos are in `data/` or `videos/`, named by `videoID` or `video_id`.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from model_core.errors import InvalidInput
from model_core.evaluation.layouts import Item, as_item, find_one, media_file
from model_core.evaluation.manifest import Progress, Result
from model_core.evaluation.predictions import Row, Sample, predict_all
from model_core.evaluation.report import Report, bar_chart, share_table
from model_core.evaluation.subject import Question, Subject

DURATIONS = ("short", "medium", "long")
LETTERS = "ABCD"
INSTRUCTION = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
CLOSING = "The best answer is:"
MAX_ANSWER_TOKENS = 16
_VIDEO_FOLDERS, _VIDEO_SUFFIXES = ("data", "videos"), (".mp4", ".webm", ".mov", ".mkv")
_PREFIXES = re.compile(r"The (?:best|correct) (?:answer|option) is|The answer(?: is)?|Best (?:answer|option):")


def load_videomme(folder: Path, *, durations: Sequence[str] = DURATIONS, video_sound: bool = True) -> list[Sample]:
    """Questions about videos of the given duration classes.

    Args:
        folder: In a published layout.
        durations: Of DURATIONS.
        video_sound: Whether the audio tracks are used.

    Raises:
        InvalidInput: with the question and field.
    """
    path = find_one(folder, "videomme*.json*", "*.json", "*.jsonl")
    videos = next((folder / name for name in _VIDEO_FOLDERS if (folder / name).is_dir()), folder)
    samples = []
    for item in _rows(path):
        duration = item.text("duration")
        if duration not in DURATIONS:
            raise item.error("duration", f"{duration!r} is not one of {', '.join(DURATIONS)}")
        if duration in durations:
            samples.append(_sample(item, videos, video_sound))
    if not samples:
        raise InvalidInput(path.name, f"has no question about videos that are {' or '.join(durations)}")
    return samples


def videomme_report(
    samples: Sequence[Sample], subject: Subject, folder: Path | None, progress: Progress | None = None
) -> Report:
    """Accuracy, overall and by duration, domain and task.

    An answer without a letter counts as wrong. The official script leaves such answers out; `accuracy_of_answered` is
    its figure.
    """
    rows = predict_all(samples, subject, folder, _score, progress=progress)
    right = sum(row["score"] for row in rows)
    answered = sum(bool(row["letter"]) for row in rows)
    details = {
        "benchmark": "videomme",
        "answered": answered,
        "accuracy_of_answered": round(right / answered, 4) if answered else 0.0,
        "video_sound": samples[0].question.video_sound,
    }
    value = round(right / len(rows), 4)
    result = Result(metric="accuracy", value=value, count=len(rows), subject=subject.tags, details=details)
    tables = []
    for key in ("duration", "domain", "task_type"):
        classes = defaultdict[str, list[float]](list)
        for row in rows:
            classes[row[key]].append(row["score"])
        ordered = sorted(classes, key=lambda name: (DURATIONS.index(name) if name in DURATIONS else 0, name))
        tables.append(share_table(f"Accuracy by {key}", key, {name: classes[name] for name in ordered}))
    return Report(result=result, tables=tuple(tables), plots={"duration.png": bar_chart(tables[0])})


def chosen_letter(prediction: str) -> str:
    """The letter chosen in an answer, extracted as the official script does; empty if there is none."""
    found = re.search(f"[{LETTERS}]", _PREFIXES.sub("", prediction.strip()))
    return found.group() if found else ""


def _score(row: Row) -> dict[str, Any]:
    letter = chosen_letter(row["prediction"])
    return {"letter": letter, "score": float(letter == row["answer"])}


def _sample(item: Item, videos: Path, video_sound: bool) -> Sample:
    options, answer = item.texts("options"), item.text("answer").strip().upper()
    if len(options) != len(LETTERS):
        raise item.error("options", f"has {len(options)} options, not {len(LETTERS)}")
    if answer not in LETTERS or len(answer) != 1:
        raise item.error("answer", f"{answer!r} is not one of {', '.join(LETTERS)}")
    video_key = "videoID" if "videoID" in item.values else "video_id"
    video = media_file(videos, item.text(video_key), f"{item.file}, {item.name}, {video_key}", _VIDEO_SUFFIXES)
    lettered = [
        option if option.startswith(f"{letter}.") else f"{letter}. {option}"
        for letter, option in zip(LETTERS, options, strict=True)
    ]
    question = Question(
        name=item.name,
        text="\n".join((INSTRUCTION, item.text("question"), *lettered, CLOSING)),
        videos=(video,),
        video_sound=video_sound,
        max_tokens=MAX_ANSWER_TOKENS,
    )
    about = {key: item.text(key) for key in ("duration", "domain", "task_type", "question")}
    return Sample(id=item.text("question_id"), question=question, about=about | {"answer": answer})


def _rows(path: Path) -> Iterator[Item]:
    """The questions of either layout."""
    for number, value in enumerate(_values(path), start=1):
        video = as_item(value, path.name, f"entry {number}")
        if "questions" not in video.values:
            yield Item(path.name, f"question {video.text('question_id')}", video.values)
            continue
        above = {
            "video_id": video.text("video_id"),
            "duration": video.text("duration_category" if "duration_category" in video.values else "duration"),
            "domain": video.text("video_category" if "video_category" in video.values else "domain"),
        }
        above |= {key: video.values[key] for key in ("videoID",) if key in video.values}
        for question in video.items("questions"):
            named = question.values | ({"options": question.values["choices"]} if "choices" in question.values else {})
            yield Item(path.name, f"question {question.text('question_id')}", above | named)


def _values(path: Path) -> list[Any]:
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(path.name, f"is not JSON ({error})") from error
    if not isinstance(whole, list) or not whole:
        raise InvalidInput(path.name, "is not a non-empty list of questions")
    return whole
