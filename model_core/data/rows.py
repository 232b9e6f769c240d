"""A conversation as a row of a Parquet file, complete or without its media."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from model_core.data.conversation import Conversation, Speech, Turn, modality
from model_core.language.messages import Role

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("turns", pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))),
        ("images", pa.list_(pa.binary())),
        (
            "speech",
            pa.list_(
                pa.struct(
                    [
                        ("data", pa.binary()),
                        ("seconds", pa.float64()),
                        ("transcript", pa.string()),
                        ("voice", pa.string()),
                    ]
                )
            ),
        ),
        ("videos", pa.list_(pa.binary())),
        ("ended", pa.bool_()),
        ("units", pa.list_(pa.list_(pa.int32()))),
        # Separate columns, so that the counts can be read without the media.
        ("image_count", pa.int32()),
        ("video_count", pa.int32()),
    ]
)
MEDIA_COLUMNS = ("images.list.element", "speech.list.element.data", "videos.list.element")
REPEATED_COLUMNS = ("source", "turns.list.element.role", "speech.list.element.voice")
LIGHT_COLUMNS = (
    "id",
    *REPEATED_COLUMNS,
    "turns.list.element.text",
    "speech.list.element.seconds",
    "speech.list.element.transcript",
    "ended",
    "units.list.element.list.element",
    "image_count",
    "video_count",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LightSample:
    """A sample without its media.

    Attributes:
        seconds, transcripts, voices: One per recording.
        unit_counts: Number of unit frames of each answer.
    """

    id: str
    turns: tuple[Turn, ...]
    images: int
    videos: int
    seconds: tuple[float, ...]
    transcripts: tuple[str, ...]
    voices: tuple[str, ...]
    source: str
    ended: bool
    unit_counts: tuple[int, ...]

    @property
    def answers(self) -> tuple[str, ...]:
        """The assistant's texts."""
        return tuple(turn.text for turn in self.turns if turn.role is Role.ASSISTANT)

    @property
    def modality(self) -> str:
        """Its modalities, for example `image+speech`, or `text`."""
        return modality(self.images, len(self.seconds), self.videos)


def to_row(conversation: Conversation) -> dict[str, Any]:
    """A conversation as a row of `SCHEMA`."""
    return {
        "id": conversation.id,
        "source": conversation.source,
        "turns": [asdict(turn) for turn in conversation.turns],
        "images": conversation.images,
        "speech": [asdict(recording) for recording in conversation.speech],
        "videos": conversation.videos,
        "ended": conversation.ended,
        "units": conversation.units,
        "image_count": len(conversation.images),
        "video_count": len(conversation.videos),
    }


def to_conversation(row: Mapping[str, Any]) -> Conversation:
    """A complete row as a conversation. Raises ValueError or TypeError if a value is missing or has another type."""
    return Conversation(
        id=row["id"],
        source=row["source"],
        turns=_turns(row),
        images=tuple(row["images"]),
        speech=tuple(Speech(**recording) for recording in row["speech"]),
        videos=tuple(row["videos"]),
        ended=row["ended"],
        units=tuple(tuple(frames) for frames in row["units"]),
    )


def to_light_sample(row: Mapping[str, Any]) -> LightSample:
    """A row of `LIGHT_COLUMNS`."""
    return LightSample(
        id=row["id"],
        turns=_turns(row),
        images=row["image_count"],
        videos=row["video_count"],
        seconds=tuple(recording["seconds"] for recording in row["speech"]),
        transcripts=tuple(recording["transcript"] for recording in row["speech"]),
        voices=tuple(recording["voice"] for recording in row["speech"]),
        source=row["source"],
        ended=row["ended"],
        unit_counts=tuple(len(frames) for frames in row["units"]),
    )


def _turns(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    return tuple(Turn(role=Role(turn["role"]), text=turn["text"]) for turn in row["turns"])
