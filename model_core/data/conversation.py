"""A training sample: a conversation whose text names its pictures, recordings and videos by placeholders.

The placeholders stand in the text in the order of the media lists (LLaVA's layout, with `<speech>` as Lyra has it).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from model_core.data.data_errors import Reason, SampleError
from model_core.language.messages import Role

IMAGE, SPEECH, VIDEO = "<image>", "<speech>", "<video>"
PLACEHOLDERS = (IMAGE, SPEECH, VIDEO)
_ANY_PLACEHOLDER = re.compile("|".join(PLACEHOLDERS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Who speaks, and the text, in which `<image>`, `<speech>` and `<video>` stand for the next one of each list."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """A recording.

    Attributes:
        data: An encoded audio file (FLAC, WAV, Ogg, MP3, ...).
        seconds: How long it sounds.
        transcript: The words said; the regularizer learns from it.
        voice: Who reads, for example `slt`; empty where that is not known.
    """

    data: bytes
    seconds: float
    transcript: str = ""
    voice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One sample.

    Attributes:
        id: Its name, unique within a data set.
        turns: Perhaps a system turn, then user and assistant in turn; the last one is an answer.
        images: JPEG, PNG or WebP files.
        speech: Recordings.
        videos: MP4, WebM or MOV files.
        source: Where it comes from.
        ended: False where the last answer is the beginning of a longer one: no end token is learned.
        units: For speech generation: for each answer its unit frames, the targets of CTC.
    """

    id: str
    turns: tuple[Turn, ...]
    images: tuple[bytes, ...] = ()
    speech: tuple[Speech, ...] = ()
    videos: tuple[bytes, ...] = ()
    source: str = ""
    ended: bool = True
    units: tuple[tuple[int, ...], ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """The assistant's texts."""
        return tuple(turn.text for turn in self.turns if turn.role is Role.ASSISTANT)

    @property
    def modality(self) -> str:
        """What it holds beside text, for example `image+speech`, or `text`."""
        return modality(len(self.images), len(self.speech), len(self.videos))


def modality(images: int, speech: int, videos: int) -> str:
    """The name under which samples with so many media are counted."""
    names = [name for name, count in (("image", images), ("speech", speech), ("video", videos)) if count]
    return "+".join(names) or "text"


def split_placeholders(text: str) -> list[str]:
    """The text cut at its placeholders, which are kept: `"<image>\\nWhat?"` -> `["<image>", "\\nWhat?"]`."""
    return [piece for piece in re.split(f"({_ANY_PLACEHOLDER.pattern})", text) if piece]


def without_placeholders(text: str) -> str:
    """The words alone."""
    return _ANY_PLACEHOLDER.sub("", text).strip()


def check(conversation: Conversation) -> None:
    """Checks everything that can be told without decoding a medium.

    Raises:
        SampleError: a name is missing, the turns are not user and assistant by turn up to an answer, a turn is empty,
            placeholders and media differ in number, a recording has no bytes or no length, units are negative or not
            as many as answers.
    """
    sample = conversation.id or "without id"
    if not conversation.id:
        raise SampleError(sample, "id", "is empty", Reason.NOT_A_SAMPLE)
    check_turns(sample, conversation.turns)
    media: tuple[tuple[str, str, Sequence[object]], ...] = (
        (IMAGE, "images", conversation.images),
        (SPEECH, "speech", conversation.speech),
        (VIDEO, "videos", conversation.videos),
    )
    for placeholder, field, given in media:
        check_count(sample, field, sum(turn.text.count(placeholder) for turn in conversation.turns), len(given))
    for field, files in (("images", conversation.images), ("videos", conversation.videos)):
        for index, data in enumerate(files):
            if not data:
                raise SampleError(sample, f"{field}[{index}]", "is empty (0 bytes)", Reason.FILE_SIZE)
    _check_speech(sample, conversation.speech)
    _check_units(sample, conversation)


def check_turns(sample: str, turns: Sequence[Turn]) -> None:
    """Checks order and texts of the turns. Raises SampleError."""
    spoken = turns[1:] if turns and turns[0].role is Role.SYSTEM else turns
    if not spoken:
        raise SampleError(sample, "turns", "there are none", Reason.NO_ANSWER)
    for index, turn in enumerate(spoken):
        expected = (Role.USER, Role.ASSISTANT)[index % 2]
        if turn.role is not expected:
            raise SampleError(sample, f"turns[{index}]", f"is of {turn.role}, not of {expected}", Reason.ROLES)
    if len(spoken) % 2:
        raise SampleError(sample, "turns", "the last turn has no answer", Reason.NO_ANSWER)
    for index, turn in enumerate(spoken):
        if not turn.text.strip():
            reason = Reason.NO_ANSWER if turn.role is Role.ASSISTANT else Reason.EMPTY_TURN
            raise SampleError(sample, f"turns[{index}]", f"the text of {turn.role} is empty", reason)
        if turn.role is Role.ASSISTANT and (found := _ANY_PLACEHOLDER.search(turn.text)):
            raise SampleError(
                sample, f"turns[{index}]", f"an answer holds {found.group()}", Reason.PLACEHOLDER_IN_ANSWER
            )


def check_count(sample: str, field: str, placeholders: int, media: int) -> None:
    """Checks that each medium has one placeholder. Raises SampleError."""
    if placeholders != media:
        reason = Reason.MORE_PLACEHOLDERS if placeholders > media else Reason.FEWER_PLACEHOLDERS
        raise SampleError(sample, field, f"{placeholders} placeholders for {media} given", reason)


def _check_speech(sample: str, speech: Sequence[Speech]) -> None:
    for index, recording in enumerate(speech):
        if not recording.data:
            raise SampleError(sample, f"speech[{index}]", "is empty (0 bytes)", Reason.FILE_SIZE)
        if not (math.isfinite(recording.seconds) and recording.seconds > 0):
            raise SampleError(sample, f"speech[{index}].seconds", f"{recording.seconds} is no length", Reason.SECONDS)


def _check_units(sample: str, conversation: Conversation) -> None:
    if not conversation.units:
        return
    if len(conversation.units) != len(conversation.answers):
        counts = f"{len(conversation.units)} for {len(conversation.answers)} answers"
        raise SampleError(sample, "units", counts, Reason.UNITS)
    for index, frames in enumerate(conversation.units):
        if not frames or min(frames) < 0:
            what = "has a unit below 0" if frames else "has no frames"
            raise SampleError(sample, f"units[{index}]", what, Reason.UNITS)


def check_units(conversation: Conversation, vocabulary: int) -> None:
    """Checks that every unit is below `vocabulary`. Raises SampleError."""
    for index, frames in enumerate(conversation.units):
        if frames and max(frames) >= vocabulary:
            message = f"unit {max(frames)} is beyond the vocabulary of {vocabulary} (0 to {vocabulary - 1})"
            raise SampleError(conversation.id, f"units[{index}]", message, Reason.UNITS)
