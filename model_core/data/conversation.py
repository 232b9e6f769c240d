"""A training sample: a conversation whose text refers to its images, recordings and videos by placeholders.

The placeholders occur in the text in the order of the media lists (LLaVA's layout, with Lyra's `<speech>`).
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
    """A role and a text, in which `<image>`, `<speech>` and `<video>` stand for the next item of each list."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """A recording.

    Attributes:
        data: An encoded audio file (FLAC, WAV, Ogg, MP3, ...).
        seconds: Its duration.
        transcript: Its words, used by the regularizer.
        voice: Name of the voice, for example `slt`; empty if unknown.
    """

    data: bytes
    seconds: float
    transcript: str = ""
    voice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One sample.

    Attributes:
        id: Unique within a data set.
        turns: An optional system turn, then user and assistant alternately; the last one is an answer.
        images: JPEG, PNG or WebP files.
        speech: Recordings.
        videos: MP4, WebM or MOV files.
        source: Its origin.
        ended: False if the last answer is cut off: it is then trained without an end token.
        units: For speech generation: the unit frames of each answer, the CTC targets.
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
        """Its modalities, for example `image+speech`, or `text`."""
        return modality(len(self.images), len(self.speech), len(self.videos))


def modality(images: int, speech: int, videos: int) -> str:
    """The name of a combination of modalities, from the numbers of media."""
    names = [name for name, count in (("image", images), ("speech", speech), ("video", videos)) if count]
    return "+".join(names) or "text"


def split_placeholders(text: str) -> list[str]:
    """Splits a text at its placeholders, keeping them: `"<image>\\nWhat?"` -> `["<image>", "\\nWhat?"]`."""
    return [piece for piece in re.split(f"({_ANY_PLACEHOLDER.pattern})", text) if piece]


def without_placeholders(text: str) -> str:
    """The text without placeholders, stripped."""
    return _ANY_PLACEHOLDER.sub("", text).strip()


def check(conversation: Conversation) -> None:
    """Checks everything that can be checked without decoding media.

    Raises:
        SampleError: the id is missing, user and assistant turns do not alternate and end with an answer, a turn is
            empty, the numbers of placeholders and media differ, a recording has no bytes or no duration, or units are
            negative or do not match the answers.
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
    """Checks the order and the texts of turns. Raises SampleError."""
    spoken = turns[1:] if turns and turns[0].role is Role.SYSTEM else turns
    if not spoken:
        raise SampleError(sample, "turns", "there are none", Reason.NO_ANSWER)
    for index, turn in enumerate(spoken):
        expected = (Role.USER, Role.ASSISTANT)[index % 2]
        if turn.role is not expected:
            raise SampleError(sample, f"turns[{index}]", f"has role {turn.role}, not {expected}", Reason.ROLES)
    if len(spoken) % 2:
        raise SampleError(sample, "turns", "the last turn has no answer", Reason.NO_ANSWER)
    for index, turn in enumerate(spoken):
        if not turn.text.strip():
            reason = Reason.NO_ANSWER if turn.role is Role.ASSISTANT else Reason.EMPTY_TURN
            raise SampleError(sample, f"turns[{index}]", f"the text of {turn.role} is empty", reason)
        if turn.role is Role.ASSISTANT and (found := _ANY_PLACEHOLDER.search(turn.text)):
            raise SampleError(
                sample, f"turns[{index}]", f"the answer contains {found.group()}", Reason.PLACEHOLDER_IN_ANSWER
            )


def check_count(sample: str, field: str, placeholders: int, media: int) -> None:
    """Checks that there is one placeholder per media item. Raises SampleError."""
    if placeholders != media:
        reason = Reason.MORE_PLACEHOLDERS if placeholders > media else Reason.FEWER_PLACEHOLDERS
        raise SampleError(sample, field, f"{placeholders} placeholders for {media} given", reason)


def _check_speech(sample: str, speech: Sequence[Speech]) -> None:
    for index, recording in enumerate(speech):
        if not recording.data:
            raise SampleError(sample, f"speech[{index}]", "is empty (0 bytes)", Reason.FILE_SIZE)
        if not (math.isfinite(recording.seconds) and recording.seconds > 0):
            message = f"{recording.seconds} is not a duration"
            raise SampleError(sample, f"speech[{index}].seconds", message, Reason.SECONDS)


def _check_units(sample: str, conversation: Conversation) -> None:
    if not conversation.units:
        return
    if len(conversation.units) != len(conversation.answers):
        counts = f"{len(conversation.units)} for {len(conversation.answers)} answers"
        raise SampleError(sample, "units", counts, Reason.UNITS)
    for index, frames in enumerate(conversation.units):
        if not frames or min(frames) < 0:
            what = "has a negative unit" if frames else "has no frames"
            raise SampleError(sample, f"units[{index}]", what, Reason.UNITS)


def check_units(conversation: Conversation, vocabulary: int) -> None:
    """Checks that every unit is less than `vocabulary`. Raises SampleError."""
    for index, frames in enumerate(conversation.units):
        if frames and max(frames) >= vocabulary:
            message = f"unit {max(frames)} is outside the vocabulary of {vocabulary} (0 to {vocabulary - 1})"
            raise SampleError(conversation.id, f"units[{index}]", message, Reason.UNITS)
