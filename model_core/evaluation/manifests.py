"""Manifests of recordings and of visual questions as samples, for runs that store their predictions in a folder."""

from pathlib import Path
from typing import Any

from model_core.evaluation.manifest import read_manifest
from model_core.evaluation.predictions import Row, Sample
from model_core.evaluation.subject import AudioFile, Question
from model_core.evaluation.vqa import question_of
from model_core.metrics.short_answers import is_right


def recorded_sentences(manifest: Path) -> list[Sample]:
    """Lines `{"audio", "text"}`, optionally with `voice`. Raises InvalidInput."""
    samples = []
    for line in read_manifest(manifest, texts=("text",), files=("audio",)):
        name = f"line {line.number}"
        about = {"text": line.text("text"), "speaker": str(line.values.get("voice", ""))}
        samples.append(
            Sample(id=name, question=Question(name=name, audio=(AudioFile(line.path("audio")),)), about=about)
        )
    return samples


def picture_questions(manifest: Path) -> list[Sample]:
    """Lines `{"image", "question" or "audio", "answer"}`. Raises InvalidInput."""
    lines = read_manifest(
        manifest, texts=("question", "answer"), files=("image", "audio"), one_of=("question", "audio")
    )
    return [
        Sample(
            id=f"line {line.number}",
            question=question_of(line),
            about={"answers": [line.text("answer")], "classes": []},
        )
        for line in lines
    ]


def exact_match(row: Row) -> dict[str, Any]:
    """1 if the prediction is one of the row's `answers` after normalisation and without articles, else 0."""
    return {"score": float(is_right(row["prediction"], row["answers"]))}
