"""Builds the committed test sets of nano from what no training run sees: `python -m model_core.training.held_out DIR`.

Held-out sentences by the voices known from training and by the voice kept out; easy-vqa's test questions, written and
spoken; drawings of named things, placed as in no training picture, and drawings of the same things by another hand.
Readers do not vary, and no noise is added.
"""

import argparse
import json
import random
import shutil
import tempfile
from itertools import cycle
from pathlib import Path

import soundfile
from PIL import Image

from model_core.checkpoints.packages import NpmPackage
from model_core.checkpoints.store import part_folder
from model_core.presets import lyra_home
from model_core.speech.audio import SAMPLE_RATE
from model_core.speech.voice import PiperVoice
from model_core.training import corpus
from model_core.training.drawings import GOOGLE_DRAWINGS, TWITTER_DRAWINGS, load_drawings, place
from model_core.training.picture_questions import DESCRIBE_QUESTIONS, description
from model_core.training.speakers import FLITE_VOICES, HELD_OUT_VOICE, PIPER_VOICE, speak

SENTENCES = 100
PICTURE_QUESTIONS = 200
NAMED_PICTURES = 100
# Beyond any seed of training.
_PLACING = 1_000_000


def build(folder: Path, home: Path) -> None:
    """Writes all manifests with their audio (ogg/opus, 16 kHz) and pictures below `folder`."""
    packages = home / "training" / "packages"
    piper = PiperVoice.load(part_folder(home, "nano", "voice"))
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    sentences = [text for text in corpus.load_texts(packages).sentences if corpus.is_held_out(text)][:SENTENCES]
    questions = corpus.load_picture_questions(packages, "test")
    asked = random.Random(0).sample(questions, PICTURE_QUESTIONS)

    def read(text: str, voice: str, name: str) -> str:
        path = folder / "audio" / f"{name}-{voice}.ogg"
        if not path.exists():
            samples = speak(text, voice, 0, piper, vary=False)
            soundfile.write(path, samples, SAMPLE_RATE, format="OGG", subtype="OPUS")
        return str(path.relative_to(folder))

    known = (*FLITE_VOICES, PIPER_VOICE)
    by_known = [
        {"audio": read(text, voice, f"sentence-{row:03}"), "text": text, "voice": voice}
        for row, (text, voice) in enumerate(zip(sentences, cycle(known), strict=False))
    ]
    by_held_out = [
        {"audio": read(text, HELD_OUT_VOICE, f"sentence-{row:03}"), "text": text, "voice": HELD_OUT_VOICE}
        for row, text in enumerate(sentences)
    ]
    written, spoken = [], []
    numbers = {text: number for number, text in enumerate(sorted({question.question for question in asked}))}
    for question, voice in zip(asked, cycle((*known, HELD_OUT_VOICE)), strict=False):
        image = folder / "images" / question.image.name
        shutil.copy(question.image, image)
        shown = {"image": str(image.relative_to(folder)), "answer": question.answer}
        written.append(shown | {"question": question.question})
        audio = read(question.question, voice, f"question-{numbers[question.question]:03}")
        spoken.append(shown | {"audio": audio, "voice": voice})
    named = {package: _named(package, packages, folder) for package in (GOOGLE_DRAWINGS, TWITTER_DRAWINGS)}
    named_spoken = [
        {
            "image": row["image"],
            "answer": row["answer"],
            "audio": read(row["question"], voice, f"describe-{number % 3}"),
        }
        for number, (row, voice) in enumerate(
            zip(named[GOOGLE_DRAWINGS], cycle((*known, HELD_OUT_VOICE)), strict=False)
        )
    ]
    for name, rows in {
        "sentences-known-voices": by_known,
        "sentences-held-out-voice": by_held_out,
        "vqa-written": written,
        "vqa-spoken": spoken,
        "named-written": named[GOOGLE_DRAWINGS],
        "named-spoken": named_spoken,
        "named-other-drawings": named[TWITTER_DRAWINGS],
    }.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _named(package: NpmPackage, packages: Path, folder: Path) -> list[dict[str, str]]:
    """A question for what is shown about some drawings of a package, each placed as in no training picture."""
    drawings = random.Random(0).sample(load_drawings(package, packages), NAMED_PICTURES)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for drawing, question in zip(drawings, cycle(DESCRIBE_QUESTIONS), strict=False):
            picture = place(drawing, _PLACING, Path(scratch))
            image = folder / "images" / f"{package.name.rsplit('-', 1)[-1]}-{drawing.file.stem}.webp"
            Image.open(picture.image).save(image, quality=90)
            asked = description(picture, question)
            rows.append({"image": str(image.relative_to(folder)), "question": question, "answer": asked.answer})
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    build(parser.parse_args().folder, lyra_home())
