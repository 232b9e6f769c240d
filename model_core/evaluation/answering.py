"""One question through the models of a preset, in this process: speech and pictures to parts, parts to an answer."""

from pathlib import Path

from torch import Tensor

from model_core.errors import InvalidInput
from model_core.language.engine import Delta, GenerationOptions, LanguageModel
from model_core.language.prompt import Message, Part, Role, SpeechPart, VisionPart
from model_core.speech.audio import decode_audio, split_clips
from model_core.speech.encoder import SpeechEncoder
from model_core.vision.encoder import VisionEncoder
from model_core.vision.image import decode_image

MAX_AUDIO_SECONDS = 30 * 60
MAX_PIXELS = 50_000_000


def read_audio(path: Path, field: str) -> Tensor:
    """A file of at most 30 min -> [samples] float32 at 16 kHz. Raises InvalidInput."""
    return decode_audio(path, max_seconds=MAX_AUDIO_SECONDS, field=field)


def speech_parts(encoder: SpeechEncoder, samples: Tensor) -> list[Part]:
    """[samples] at 16 kHz -> one part for each clip of 30 s, all by the projector that so many clips need."""
    clips = split_clips(samples)
    adapter = encoder.choose_adapter(len(clips))
    return [SpeechPart(encoder.encode([clip.samples], adapter)[0]) for clip in clips]


def vision_part(encoder: VisionEncoder, path: Path, field: str) -> Part:
    """A picture's tokens. Raises InvalidInput."""
    tokens = encoder.encode([decode_image(path.read_bytes(), max_pixels=MAX_PIXELS, field=field)])[0]
    return VisionPart(tokens.tokens, tokens.grid)


def answer(model: LanguageModel, parts: list[Part], *, max_tokens: int, field: str) -> str:
    """The model's likeliest answer to one user message.

    Raises:
        InvalidInput: parts and answer do not fit the context.
    """
    options = GenerationOptions(max_tokens=max_tokens)
    try:
        events = model.generate([Message(Role.USER, parts)], options)
        return "".join(event.text for event in events if isinstance(event, Delta)).strip()
    except InvalidInput as error:
        raise InvalidInput(field, error.message) from error
