"""Small samples: audio with speech-like pauses, pictures, conversations."""

import io
import random
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from model_core.data.conversation import Conversation, Speech, Turn
from model_core.data.shards import Manifest, write_manifest, write_shard
from model_core.language.messages import Role

RATE = 16_000


def voice(seed: int, seconds: float = 1.0) -> np.ndarray:
    """[samples] float32: tones that swell and fade, with little silence."""
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = 100 + 20 * (seed % 10)
    swell = 0.55 + 0.45 * np.sin(2 * np.pi * (3 + seed % 3) * time)
    return (0.4 * swell * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


def encoded(samples: np.ndarray, kind: str = "FLAC") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=kind)
    return file.getvalue()


def speech(seed: int, seconds: float = 1.0, transcript: str = "", voice_name: str = "slt") -> Speech:
    return Speech(data=encoded(voice(seed, seconds)), seconds=seconds, transcript=transcript, voice=voice_name)


def picture(seed: int, kind: str = "PNG", size: tuple[int, int] = (16, 12)) -> bytes:
    file = io.BytesIO()
    Image.frombytes("RGB", size, random.Random(seed).randbytes(size[0] * size[1] * 3)).save(file, kind)
    return file.getvalue()


QUESTIONS = (
    "Which animal sleeps on the red sofa",
    "Who wrote the letter about the harbour",
    "Where did the two boats go",
)
ANSWERS = (
    "A small black cat sleeps there",
    "The captain wrote it in the morning",
    "They sailed to an island in the north",
)


def spoken(number: int, **changes: object) -> Conversation:
    """A spoken question; samples of different numbers have different words."""
    question = f"{QUESTIONS[number % 3]} near house {number}, street {number * 7 + 1}?"
    values: dict[str, object] = {
        "id": f"spoken-{number}",
        "turns": dialogue("<speech>", f"{ANSWERS[number % 3]} since {1900 + number}, says page {number * 3}."),
        "speech": (speech(number, transcript=question),),
        "source": "test",
    }
    return Conversation(**values | changes)  # type: ignore[arg-type]


def seen(number: int) -> Conversation:
    """A written question about a picture."""
    return Conversation(
        id=f"seen-{number}",
        turns=dialogue(
            f"<image>\nWhat is shown in picture {number}?", f"It shows noise of seed {number} in many colours."
        ),
        images=(picture(number),),
        source="test",
    )


def dialogue(*texts: str) -> tuple[Turn, ...]:
    return tuple(Turn(role=(Role.USER, Role.ASSISTANT)[index % 2], text=text) for index, text in enumerate(texts))


def write_folder(folder: Path, *shards: list[Conversation], kind: str = "instruct") -> Path:
    entries = tuple(write_shard(folder, number, shard) for number, shard in enumerate(shards))
    write_manifest(folder, Manifest(kind=kind, name="test", seed=1, shards=entries))
    return folder
