"""Builds nano's committed test sets from data that training never sees: `python -m model_core.data.held_out DIR`.

Held-out sentences by training voices and by the held-out voice; easy-vqa's test questions, written and spoken; drawings
of named things in placements that training does not use, and drawings of the same things by another artist; questions
for held-out facts, written and spoken; clips of a human reader. Speech is neither varied nor augmented. Audio and
pictures that `DIR` already contains are kept.
"""

import argparse
import json
import random
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import soundfile
from PIL import Image

from model_core.audio.tensors import SAMPLE_RATE
from model_core.checkpoints.packages import NpmPackage
from model_core.data.build.answers import written_answers
from model_core.data.sources.chat import load_texts
from model_core.data.sources.drawings import load_drawings, place
from model_core.data.sources.facts import MAX_ANSWER_TOKENS
from model_core.data.sources.packages import GOOGLE_DRAWINGS, HUMAN_CLIPS, TWITTER_DRAWINGS, package_folder
from model_core.data.sources.pictures import DESCRIBE_QUESTIONS, description, load_picture_questions
from model_core.data.sources.questions import Question, held_out_facts
from model_core.data.sources.sentences import is_held_out
from model_core.data.voices import FLITE_VOICES, HELD_OUT_VOICE, PIPER_VOICE, Samples, load_voices
from model_core.metrics.short_answers import contains_answer
from model_core.presets import build_language_model, lyra_home

SENTENCES = 100
PICTURE_QUESTIONS = 200
NAMED_PICTURES = 100
FACTS = 300
_KNOWN = (*FLITE_VOICES, PIPER_VOICE)
_ALL = (*_KNOWN, HELD_OUT_VOICE)
# Every fifth is the held-out voice; the others are training voices of several engines.
_FACT_VOICES = (
    "slt", "joe", "af_heart", "kal16", HELD_OUT_VOICE, "awb", "am_michael", "joe", "bf_emma", HELD_OUT_VOICE,
)  # fmt: skip
# Greater than any seed used in training.
_PLACING = 1_000_000
_UTTERANCE = re.compile(r"<s> (.+) </s> \((\S+)\)")

Row = dict[str, object]


class HeldOutSets:
    """The test sets in one folder: manifests, `audio/` (ogg/opus, 16 kHz) and `images/`.

    Args:
        folder: Output folder.
        home: Root of the cache: packages and weights are read from it, or fetched.
    """

    def __init__(self, folder: Path, home: Path) -> None:
        self._folder, self._home = folder, home
        self._packages = home / "training" / "packages"
        self._readers = load_voices(home, dict.fromkeys((*_ALL, *_FACT_VOICES)))
        (folder / "audio").mkdir(parents=True, exist_ok=True)
        (folder / "images").mkdir(exist_ok=True)

    def build(self) -> None:
        """Writes all test sets."""
        self._sentences()
        self._shapes()
        self._named_things()
        self._facts()
        self._human()

    def _sentences(self) -> None:
        sentences = [text for text in load_texts(self._packages).sentences if is_held_out(text)][:SENTENCES]
        known, held_out = (
            [
                {"audio": self._read(text, voice, f"sentence-{row:03}"), "text": text, "voice": voice}
                for row, (text, voice) in enumerate(zip(sentences, cycle(voices), strict=False))
            ]
            for voices in (_KNOWN, (HELD_OUT_VOICE,))
        )
        self._write("sentences-known-voices", known)
        self._write("sentences-held-out-voice", held_out)

    def _shapes(self) -> None:
        questions = load_picture_questions(self._packages, "test")
        asked = random.Random(0).sample(questions, PICTURE_QUESTIONS)
        numbers = {text: number for number, text in enumerate(sorted({question.question for question in asked}))}
        written: list[Row] = []
        spoken: list[Row] = []
        for question, voice in zip(asked, cycle(_ALL), strict=False):
            image = self._folder / "images" / question.image.name
            if not image.exists():
                shutil.copy(question.image, image)
            shown: Row = {"image": self._name(image), "answer": question.answer}
            written.append(shown | {"question": question.question})
            audio = self._read(question.question, voice, f"question-{numbers[question.question]:03}")
            spoken.append(shown | {"audio": audio, "voice": voice})
        self._write("vqa-written", written)
        self._write("vqa-spoken", spoken)

    def _named_things(self) -> None:
        written = self._described(GOOGLE_DRAWINGS)
        spoken = [
            {
                "image": row["image"],
                "answer": row["answer"],
                "audio": self._read(str(row["question"]), voice, f"describe-{number % len(DESCRIBE_QUESTIONS)}"),
            }
            for number, (row, voice) in enumerate(zip(written, cycle(_ALL), strict=False))
        ]
        self._write("named-written", written)
        self._write("named-spoken", spoken)
        self._write("named-other-drawings", self._described(TWITTER_DRAWINGS))

    def _described(self, package: NpmPackage) -> list[Row]:
        """Questions for what some drawings of a package show, in placements that training does not use."""
        drawings = random.Random(0).sample(load_drawings(package, self._packages), NAMED_PICTURES)
        rows: list[Row] = []
        with tempfile.TemporaryDirectory() as scratch:
            for drawing, question in zip(drawings, cycle(DESCRIBE_QUESTIONS), strict=False):
                picture = place(drawing, _PLACING, Path(scratch))
                image = self._folder / "images" / f"{package.name.rsplit('-', 1)[-1]}-{drawing.file.stem}.webp"
                if not image.exists():
                    Image.open(picture.image).save(image, quality=90)
                asked = description(picture, question)
                rows.append({"image": self._name(image), "question": question, "answer": asked.answer})
        return rows

    def _facts(self) -> None:
        chosen = self._chosen_facts(held_out_facts())
        right = [{"answer": question.answer, "accept": list(question.accept)} for question in chosen]
        self._write(
            "factual-written",
            [{"question": question.text, **answer} for question, answer in zip(chosen, right, strict=True)],
        )
        spoken = [
            {"audio": self._read(question.text, voice, f"fact-{number:03}"), **answer, "voice": voice}
            for number, (question, answer, voice) in enumerate(zip(chosen, right, cycle(_FACT_VOICES), strict=False))
        ]
        self._write("factual-spoken", spoken)

    def _chosen_facts(self, questions: Sequence[Question]) -> list[Question]:
        """Shuffled held-out facts that the text-only language model answers correctly in writing.

        If these are fewer than FACTS, others are added. Questions that contain their answer (a ship or a canoe?) are
        excluded, since repeating them would count as correct.
        """
        fair = [question for question in questions if not contains_answer(question.text, _accepted(question))]
        mixed = random.Random(0).sample(fair, len(fair))
        model = build_language_model("nano", self._home, parts=None)
        cache = self._home / "training" / "answers"
        answers = written_answers(model, [question.text for question in mixed], cache, MAX_ANSWER_TOKENS)
        known = [
            contains_answer(answer.text, _accepted(question)) for question, answer in zip(mixed, answers, strict=True)
        ]
        best = sorted(range(len(mixed)), key=lambda index: (not known[index], index))[:FACTS]
        return [mixed[index] for index in sorted(best)]

    def _human(self) -> None:
        """Clips of a LibriVox reader, with transcripts."""
        clips = package_folder(HUMAN_CLIPS, self._packages) / HUMAN_CLIPS.members[0]
        rows = []
        for text, name in _UTTERANCE.findall((clips / "transcription").read_text()):
            samples, rate = soundfile.read(clips / f"{name}.wav", dtype="float32")
            if rate != SAMPLE_RATE:
                raise ValueError(f"{name}.wav is at {rate} Hz, not {SAMPLE_RATE}")
            audio = self._keep(samples, f"human-{name.rpartition('-')[2]}")
            rows.append({"audio": audio, "text": text, "voice": "human"})
        self._write("human", rows)

    def _read(self, text: str, voice: str, name: str) -> str:
        path = self._folder / "audio" / f"{name}-{voice}.ogg"
        if path.exists():
            return self._name(path)
        return self._keep(self._readers[voice].synthesize(text, 0, vary=False), path.stem)

    def _keep(self, samples: Samples, name: str) -> str:
        path = self._folder / "audio" / f"{name}.ogg"
        if not path.exists():
            soundfile.write(path, samples, SAMPLE_RATE, format="OGG", subtype="OPUS")
        return self._name(path)

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._folder))

    def _write(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        (self._folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _accepted(question: Question) -> list[str]:
    return [str(question.answer), *question.accept]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    HeldOutSets(parser.parse_args().folder, lyra_home()).build()
