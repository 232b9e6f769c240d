"""Small data sets in their published layouts, and a subject with scripted answers."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from model_core.evaluation.subject import AudioSource, Question, Reply, SpokenAnswer
from tests.videos import make_video


@dataclass
class ScriptedSubject:
    """Answers with a function of the question, and records the questions.

    Args:
        say: Returns the answer's text.
        recognise: Returns the transcript of a recording.
        weights: Identifies the subject.
    """

    say: Callable[[Question], str] = lambda question: "yes"
    recognise: Callable[[AudioSource], str] = lambda audio: ""
    weights: str = "scripted"
    asked: list[Question] = field(default_factory=list)

    @property
    def tags(self) -> dict[str, str]:
        return {"preset": "scripted"}

    @property
    def identity(self) -> dict[str, str]:
        return {"weights": self.weights}

    def answer_batch(self, batch: Sequence[Question]) -> Sequence[Reply]:
        return [self.answer(question) for question in batch]

    def answer(self, question: Question) -> Reply:
        self.asked.append(question)
        text = self.say(question)
        spoken = SpokenAnswer(
            samples=np.full(16_000, 100, np.int16),
            sample_rate=16_000,
            first_audio_seconds=0.05,
            first_audio_tokens=3,
            own_seconds=0.25,
            own_first_seconds=0.02,
        )
        return Reply(
            text=text,
            seconds=1.0,
            first_token_seconds=0.5,
            encoding_seconds=0.2,
            completion_tokens=4,
            context_tokens=(40, 32),
            spoken=spoken if question.speak else None,
        )

    def transcribe(self, audio: AudioSource, name: str) -> str:
        return self.recognise(audio)


def write_tone(path: Path, seconds: float = 1.0) -> Path:
    """A recording of a tone, in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.sin(np.arange(int(seconds * 16_000)) * (2 * math.pi * 440 / 16_000)) * 0.3
    soundfile.write(path, samples.astype(np.float32), 16_000)
    return path


def write_picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 20), "red").save(path)
    return path


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_lines(path: Path, *lines: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_librispeech(folder: Path) -> Path:
    """Two speakers, three utterances of 2, 3 and 1 words."""
    for speaker, chapter, texts in (("61", "70968", ("HELLO THERE", "A RED HOUSE")), ("121", "121726", ("HARANGUE",))):
        lines = []
        for number, text in enumerate(texts):
            name = f"{speaker}-{chapter}-{number:04}"
            write_tone(folder / speaker / chapter / f"{name}.flac")
            lines.append(f"{name} {text}\n")
        (folder / speaker / chapter / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))
    return folder


def write_textvqa(folder: Path) -> Path:
    """Two questions about one picture. Ten people: nine say nokia, one Nokia lumia; three say two, others differ."""
    write_picture(folder / "train_images" / "003a8ae2ef43b901.jpg")
    common = {"image_id": "003a8ae2ef43b901", "image_width": 20, "image_height": 20, "set_name": "val"}
    data = [
        {"question_id": 34602, "question": "what is the brand?", "answers": ["nokia"] * 9 + ["Nokia lumia"], **common},
        {"question_id": 34603, "question": "how many?", "answers": ["two", "2", "Two.", *"abcdefg"], **common},
    ]
    head = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1"}
    write_json(folder / "TextVQA_0.5.1_val.json", {**head, "data": data})
    return folder


def write_docvqa(folder: Path) -> Path:
    """One question whose answer is `0.28` or `0.28 mg`, one of two types."""
    write_picture(folder / "documents" / "xnbl0037_1.png")
    common = {"image": "documents/xnbl0037_1.png", "docId": 279, "ucsf_document_id": "xnbl0037", "data_split": "val"}
    data = [
        {"questionId": 49153, "question": "What is the value?", "answers": ["0.28", "0.28 mg"], **common}
        | {"question_types": ["figure/diagram"]},
        {"questionId": 49154, "question": "Whose report is it?", "answers": ["University"], **common}
        | {"question_types": ["layout", "free_text"]},
    ]
    head = {"dataset_name": "docvqa", "dataset_split": "val", "dataset_version": "1.0"}
    write_json(folder / "val_v1.0.json", {**head, "data": data})
    return folder


def write_chartqa(folder: Path) -> Path:
    """Two human questions, one augmented."""
    for name in ("41699051005347.png", "two_col_1.png"):
        write_picture(folder / "test" / "png" / name)
    human = [
        {"imgname": "41699051005347.png", "query": "How many foods?", "label": "100"},
        {"imgname": "41699051005347.png", "query": "Which is it?", "label": "Lamb"},
    ]
    augmented = [{"imgname": "two_col_1.png", "query": "What share in 2019?", "label": "23%"}]
    write_json(folder / "test" / "test_human.json", human)
    write_json(folder / "test" / "test_augmented.json", augmented)
    return folder


def write_mm_vet(folder: Path) -> Path:
    """Three samples: two elements, two alternatives, one element."""
    for name in ("v1_0.png", "v1_1.png", "v1_2.png"):
        write_picture(folder / "images" / name)
    samples = {
        "v1_0": ("What is x?", "-1<AND>-5", ["ocr", "math"]),
        "v1_1": ("What is d?", "1.25<OR>5/4", ["math", "ocr"]),
        "v1_2": ("Who is it?", "Alfred Hitchcock", ["rec"]),
    }
    whole = {
        name: {"imagename": f"{name}.png", "question": question, "answer": answer, "capability": capability}
        for name, (question, answer, capability) in samples.items()
    }
    write_json(folder / "mm-vet.json", whole)
    return folder


_OPTIONS = ["A. Apples.", "B. Candles.", "C. Berries.", "D. They are all equal."]


def write_videomme(folder: Path) -> Path:
    """Rows of the published table: two questions about a short video, one about a long one."""
    rows = []
    for video, video_id, duration, answers in (
        ("fFjv93ACGo8", "001", "short", "CA"),
        ("N1cdUjctpG8", "601", "long", "B"),
    ):
        path = folder / "data" / f"{video}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_video(loudness=0.3))
        about = {"video_id": video_id, "videoID": video, "duration": duration, "domain": "Knowledge"}
        for number, answer in enumerate(answers, start=1):
            rows.append(
                {
                    **about,
                    "sub_category": "Humanity & History",
                    "url": f"https://www.youtube.com/watch?v={video}",
                    "question_id": f"{video_id}-{number}",
                    "task_type": "Counting Problem",
                    "question": "What is there most of?",
                    "options": _OPTIONS,
                    "answer": answer,
                }
            )
    write_json(folder / "videomme.json", rows)
    return folder


def write_videomme_template(folder: Path) -> Path:
    """The same short video in the layout of the evaluation template."""
    (folder / "videos").mkdir(parents=True)
    (folder / "videos" / "001.mp4").write_bytes(make_video(loudness=0.3))
    question = {"question_id": "001-1", "task_type": "OCR Problems", "question": "What?", "choices": _OPTIONS}
    video = {"video_id": "001", "duration_category": "short", "video_category": "Knowledge"}
    write_json(folder / "questions.json", [{**video, "questions": [question | {"answer": "C"}]}])
    return folder


def write_factual(folder: Path) -> tuple[Path, Path]:
    """Four questions, written and spoken."""
    asked = {
        "What is the capital of France?": "Paris",
        "How many legs has a spider?": "8",
        "Who?": "Ann",
        "When?": "May",
    }
    written, spoken = [], []
    for number, (question, answer) in enumerate(asked.items()):
        write_tone(folder / "audio" / f"{number}.wav", 0.5 + number / 10)
        accept = ["eight legs"] if answer == "8" else []
        written.append({"question": question, "answer": answer, "accept": accept})
        spoken.append({"audio": f"audio/{number}.wav", "answer": answer, "accept": accept, "voice": "ab"[number % 2]})
    return write_lines(folder / "factual-written.jsonl", *written), write_lines(
        folder / "factual-spoken.jsonl", *spoken
    )
