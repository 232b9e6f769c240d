"""The recipe of nano's trained parts: `lyra train nano`. Every step is cached, so that a run goes on where it stopped.

1. Voices read sentences and questions; Whisper's frames of them are kept. Pictures become features.
2. `align-speech`, `align-pictures`: the projectors learn against the embedding table.
3. The text-only model answers written questions.
4. `vision`: vision projector and `vision` adapter learn written questions about pictures.
5. `speech`: speech projector and `speech` adapter learn to repeat, to answer, and to answer about pictures.
"""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path

import torch
from more_itertools import chunked
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from model_core.checkpoints.adapters import load_adapter, save_adapter
from model_core.checkpoints.store import part_folder, pull
from model_core.language.prompt import REPEAT_INSTRUCTION
from model_core.presets import (
    PROJECTOR_FILE,
    VISION_PROJECTOR_FILE,
    build_language_model,
    nano,
)
from model_core.presets.building import below, load, read
from model_core.speech.projector import SpeechProjector
from model_core.speech.voice import PiperVoice
from model_core.training import corpus
from model_core.training.align import PictureAlignment, SpeechAlignment
from model_core.training.drawings import GOOGLE_DRAWINGS, NamedPicture, load_drawings, place
from model_core.training.instruct import Instruction, Sample
from model_core.training.loop import Schedule, train
from model_core.training.picture_questions import (
    DESCRIBE_QUESTIONS,
    answer_sentence,
    draw_questions,
    presence_question,
    shape_facts,
)
from model_core.training.recordings import Recording, Utterance, load_recordings, record
from model_core.training.speakers import FLITE_VOICES, PIPER_VOICE
from model_core.training.written_answers import WrittenAnswer, written_answers
from model_core.vision.efficientnet import from_packaged_names
from model_core.vision.grid import VisionProjector

Progress = Callable[[str, int, int, str], None]
_PICTURE_BATCH = 50
# Where the Piper voice begins in the list of sentences: a fixed place, so that more for flite changes nothing for it.
_PIPER_START = 18_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How much of everything. The defaults are what the committed parts were trained with."""

    flite_sentences: int = 10_500
    piper_sentences: int = 2_250
    questions: int = 600
    answer_tokens: int = 40
    readings_of_picture_questions: int = 8
    picture_samples: int = 20_000
    placings: int = 8
    align_speech: Schedule = field(default_factory=partial(Schedule, steps=900, learning_rate=1e-3))
    align_pictures: Schedule = field(default_factory=partial(Schedule, steps=400, learning_rate=1e-3))
    vision: Schedule = field(default_factory=partial(Schedule, steps=300, learning_rate=1e-3))
    speech: Schedule = field(default_factory=partial(Schedule, steps=1_400, learning_rate=6e-4))
    vision_batch: int = 16
    speech_batch: int = 8


class NanoTraining:
    """One run of the recipe.

    Args:
        home: Root of the cache, with weights and training material.
        run: Folder for logs and checkpoints of the stages.
        parts: Where the trained parts go.
        recipe: How much of everything.
        on_progress: Called with a step's name, how much is done, how much there is, and a word on it.
    """

    def __init__(self, home: Path, run: Path, parts: Path, recipe: Recipe, on_progress: Progress) -> None:
        self.home = home
        self.material = home / "training"
        self.recordings = self.material / "recordings"
        self.run = run
        self.parts = parts
        self.recipe = recipe
        self.on_progress = on_progress

    def all_stages(self) -> None:
        """Runs whatever has not been run yet. Raises SpeakerMissing where flite is not installed."""
        pull("nano", self.home, lambda part, done, total: self.on_progress("weights", done, total, part))
        self.prepare_recordings()
        pictures = self.prepare_pictures()
        (self.parts / "losses").mkdir(parents=True, exist_ok=True)
        self.train_vision(pictures)
        self.train_speech(pictures)
        for log in self.run.glob("*.jsonl"):
            shutil.copy(log, self.parts / "losses" / log.name)

    def prepare_recordings(self) -> None:
        """Reads all texts aloud and keeps the encoder's frames."""
        encoder = nano.SPEECH_ENCODER.whisper.build().eval()
        load(encoder, below(read(part_folder(self.home, "nano", "speech_encoder")), "model.encoder."))
        piper = PiperVoice.load(part_folder(self.home, "nano", "voice"))
        for name, utterances in self._collections().items():
            total = len(utterances)
            record(
                name,
                utterances,
                self.recordings,
                encoder.encode,
                piper,
                lambda done, name=name, total=total: self.on_progress(name, done, total, "recordings"),  # type: ignore[misc]
            )

    def prepare_pictures(self) -> dict[Path, Tensor]:
        """Features [C, H, W] float16 of every picture, by file."""
        images = sorted({question.image for question in self._about_shapes()})
        images += [picture.image for picture in self._named_pictures()]
        names = [str(image.relative_to(self.material)) for image in images]
        kept = self.material / "pictures.safetensors"
        features = load_file(kept) if kept.exists() else {}
        if features.keys() != set(names):
            encoder = nano.VISION_ENCODER.build()
            load(encoder.backbone, from_packaged_names(read(part_folder(self.home, "nano", "vision_encoder"))))
            for batch in chunked(range(len(images)), _PICTURE_BATCH):
                opened = [Image.open(images[index]).convert("RGB") for index in batch]
                rows = encoder.features(opened).to(torch.float16).unbind()
                features |= {names[index]: row.clone() for index, row in zip(batch, rows, strict=True)}
                self.on_progress("pictures", batch[-1] + 1, len(images), "features")
            save_file(features, kept.with_suffix(".part"))
            kept.with_suffix(".part").rename(kept)
        return {image: features[name] for image, name in zip(images, names, strict=True)}

    def align_speech(self) -> SpeechProjector:
        """Stage 1 for speech. Returns the aligned projector."""
        model = build_language_model("nano", self.home, parts=self.run)
        torch.manual_seed(0)
        projector = nano.SPEECH_ENCODER.projector.build()
        sentences = self._load("sentences-flite") + self._load("sentences-joe")
        table = model.decoder.embed_tokens.weight.detach()
        alignment = SpeechAlignment(projector, table, model.tokenizer, sentences)
        train("align-speech", alignment.modules, alignment.loss, self.recipe.align_speech, self.run, self._on_step)
        return projector

    def align_pictures(self, pictures: dict[Path, Tensor]) -> VisionProjector:
        """Stage 1 for pictures. Returns the aligned projector."""
        model = build_language_model("nano", self.home, parts=self.run)
        torch.manual_seed(0)
        projector = nano.VISION_ENCODER.projector.build()
        facts = shape_facts(self._about_shapes())
        shown = [(pictures[image], f"{fact['color']} {fact['shape']}") for image, fact in facts.items()]
        shown += [(pictures[picture.image], picture.name) for picture in self._named_pictures()]
        table = model.decoder.embed_tokens.weight.detach()
        alignment = PictureAlignment(projector, table, model.tokenizer, shown)
        train("align-pictures", alignment.modules, alignment.loss, self.recipe.align_pictures, self.run, self._on_step)
        return projector

    def train_vision(self, pictures: dict[Path, Tensor]) -> None:
        """The vision part of stage 2: writes the vision projector and the `vision` adapter."""
        model = build_language_model("nano", self.home, parts=self.run)
        projector = self.align_pictures(pictures)
        torch.manual_seed(0)
        model.decoder.add_adapter("vision", nano.LORA, nano.LORA_PROJECTIONS)
        samples = self.picture_samples(pictures, self.recipe.picture_samples)
        stage = Instruction(model, "vision", samples, None, projector, self.recipe.vision_batch)
        train("vision", stage.modules, stage.loss, self.recipe.vision, self.run, self._on_step)
        save_adapter(model.decoder, "vision", self.parts / "adapters" / "vision")
        _save_projector(projector, self.parts / VISION_PROJECTOR_FILE)

    def train_speech(self, pictures: dict[Path, Tensor]) -> None:
        """The speech part of stage 2: writes the `speech` adapter with its projector."""
        speech_projector = self.align_speech()
        model = build_language_model("nano", self.home, parts=self.run)
        samples = self.speech_samples(pictures, self._written_answers())
        # The adapter goes on from the one for pictures, so that it need not learn to see as well.
        load_adapter(model.decoder, "speech", self.parts / "adapters" / "vision")
        vision_projector = nano.VISION_ENCODER.projector.build()
        load(vision_projector, load_file(self.parts / VISION_PROJECTOR_FILE))
        vision_projector.requires_grad_(False)
        stage = Instruction(model, "speech", samples, speech_projector, vision_projector, self.recipe.speech_batch)
        train("speech", stage.modules, stage.loss, self.recipe.speech, self.run, self._on_step)
        save_adapter(model.decoder, "speech", self.parts / "adapters" / "speech")
        _save_projector(speech_projector, self.parts / "adapters" / "speech" / PROJECTOR_FILE)

    def picture_samples(self, pictures: dict[Path, Tensor], count: int) -> list[Sample]:
        """Written questions about pictures."""
        return [
            Sample(text=question.question, answer=answer_sentence(question.answer), picture=pictures[question.image])
            for question in draw_questions(self._about_shapes(), self._named_pictures(), count, random.Random(0))
        ]

    def speech_samples(self, pictures: dict[Path, Tensor], answers: dict[str, WrittenAnswer]) -> list[Sample]:
        """Sentences to repeat, questions to answer, and questions about pictures, all spoken."""
        sentences = self._load("sentences-flite") + self._load("sentences-joe")
        repeat = [_repeat(recording) for recording in sentences]
        asked = [
            Sample(frames=recording.frames, answer=answer.text, ended=answer.ended)
            for recording in self._load("questions")
            if (answer := answers.get(recording.utterance.text))
        ]
        rng = random.Random(0)
        readings = _by_text(self._load("picture-questions") + self._load("named-picture-questions"))
        about = draw_questions(self._about_shapes(), self._named_pictures(), len(sentences) * 3 // 5, rng)
        seen = [
            Sample(
                frames=rng.choice(readings[question.question]).frames,
                answer=answer_sentence(question.answer),
                picture=pictures[question.image],
            )
            for question in about
        ]
        samples = repeat + asked * 2 + seen
        rng.shuffle(samples)
        return samples

    def _written_answers(self) -> dict[str, WrittenAnswer]:
        model = build_language_model("nano", self.home, parts=self.run)
        questions = list(dict.fromkeys(utterance.text for utterance in self._collections()["questions"]))
        return written_answers(
            model,
            questions,
            self.material / "written-answers.json",
            self.recipe.answer_tokens,
            lambda done: self.on_progress("written answers", done, len(questions), ""),
        )

    def _collections(self) -> dict[str, list[Utterance]]:
        """What is read aloud by whom, by collection; seeds differ, so that no two readings are alike."""
        texts = corpus.load_texts(self._packages)
        sentences = [text for text in texts.sentences if not corpus.is_held_out(text)]
        flite, piper = self.recipe.flite_sentences, self.recipe.piper_sentences
        questions = [text for text in texts.questions if not corpus.is_held_out(text)][: self.recipe.questions]
        about_shapes = list(dict.fromkeys(question.question for question in self._about_shapes()))
        about_things = sorted({presence_question(picture.name) for picture in self._named_pictures()})
        readings = self.recipe.readings_of_picture_questions
        voices = (*FLITE_VOICES, PIPER_VOICE)
        return {
            "sentences-flite": _utterances(sentences[:flite], FLITE_VOICES, 0),
            "sentences-joe": _utterances(sentences[_PIPER_START : _PIPER_START + piper], (PIPER_VOICE,), 100_000),
            "questions": _utterances(questions * 2, voices, 200_000),
            "picture-questions": _utterances(about_shapes * readings, voices, 300_000),
            "named-picture-questions": _utterances(
                about_things * (readings // 4) + list(DESCRIBE_QUESTIONS) * (readings * 4), voices, 400_000
            ),
        }

    def _about_shapes(self) -> list[corpus.PictureQuestion]:
        return corpus.load_picture_questions(self._packages, "train")

    def _named_pictures(self) -> list[NamedPicture]:
        drawings, folder = load_drawings(GOOGLE_DRAWINGS, self._packages), self.material / "named-pictures"
        return [place(drawing, seed, folder) for drawing in drawings for seed in range(self.recipe.placings)]

    @property
    def _packages(self) -> Path:
        return self.material / "packages"

    def _load(self, name: str) -> list[Recording]:
        return load_recordings(name, self.recordings)

    def _on_step(self, stage: str, step: int, steps: int, loss: float) -> None:
        self.on_progress(stage, step, steps, f"loss {loss:.3f}")


def _repeat(recording: Recording) -> Sample:
    return Sample(frames=recording.frames, text=REPEAT_INSTRUCTION, answer=recording.utterance.text)


def _utterances(texts: list[str], voices: tuple[str, ...], first_seed: int) -> list[Utterance]:
    return [
        Utterance(text, voice, first_seed + index)
        for index, (text, voice) in enumerate(zip(texts, cycle(voices), strict=False))
    ]


def _by_text(recordings: list[Recording]) -> dict[str, list[Recording]]:
    by_text: dict[str, list[Recording]] = {}
    for recording in recordings:
        by_text.setdefault(recording.utterance.text, []).append(recording)
    return by_text


def _save_projector(projector: SpeechProjector | VisionProjector, path: Path) -> None:
    tensors = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in projector.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    save_file(tensors, scratch)
    shutil.move(scratch, path)
