"""Written conversations into spoken ones: a voice reads the user's turns aloud."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from model_core.data.build.reading import Reading, ReadingRoom
from model_core.data.build.sources import Made
from model_core.data.build.work import rng_of
from model_core.data.conversation import (
    PLACEHOLDERS,
    SPEECH,
    Conversation,
    Speech,
    Turn,
    split_placeholders,
    without_placeholders,
)
from model_core.language.messages import Role

# The voices read English; formulas, code and other scripts stay written.
_SPEAKABLE = re.compile(r"[A-Za-z0-9\s.,;:!?'\"()&%$/-]*[A-Za-z0-9][A-Za-z0-9\s.,;:!?'\"()&%$/-]*")


class Speaking:
    """Has users speak.

    Args:
        room: Where turns are read; None where nobody speaks.
        seed: Of the data set.
        share: Share of conversations whose user speaks.
        longest: Turns of more words stay written.
    """

    def __init__(self, room: ReadingRoom | None, seed: int, share: float, longest: int) -> None:
        self._room, self._seed, self._share, self._longest = room, seed, share, longest

    def spoken(self, conversations: Sequence[Made]) -> list[Made]:
        """The same conversations, some of them spoken: every user turn that can be read becomes a recording, with its
        words as transcript. A conversation has one voice, and what is drawn for it depends on its id alone."""
        if self._room is None:
            return list(conversations)
        readings: list[Reading] = []
        places: list[tuple[int, int]] = []  # of each reading: conversation and turn
        for number, conversation in enumerate(conversations):
            if isinstance(conversation, Conversation) and self._speaks(conversation):
                seed = f"{self._seed} {conversation.source} {conversation.id}"
                voice = self._room.voice(seed)
                for at, turn in enumerate(conversation.turns):
                    if turn.role is Role.USER and self._can_be_read(turn.text):
                        words = " ".join(without_placeholders(turn.text).split())
                        readings.append(Reading(words, voice, f"{seed} {at}"))
                        places.append((number, at))
        recordings = dict(zip(places, self._room.read(readings), strict=True))
        return [
            _with_recordings(made, {at: speech for (which, at), speech in recordings.items() if which == number})
            if isinstance(made, Conversation)
            else made
            for number, made in enumerate(conversations)
        ]

    def _speaks(self, conversation: Conversation) -> bool:
        return rng_of(self._seed, conversation.source, conversation.id, "speaks").random() < self._share

    def _can_be_read(self, text: str) -> bool:
        words = without_placeholders(text)
        return len(words.split()) <= self._longest and _SPEAKABLE.fullmatch(words) is not None


def _with_recordings(conversation: Conversation, recordings: dict[int, Speech | None]) -> Conversation:
    """The conversation with the words of these turns replaced by recordings; a turn without sound stays written."""
    if not any(recordings.values()):
        return conversation
    given = iter(conversation.speech)
    turns: list[Turn] = []
    speech: list[Speech] = []
    for at, turn in enumerate(conversation.turns):
        own = recordings.get(at)
        if own is None:
            speech += [next(given) for _ in range(turn.text.count(SPEECH))]
            turns.append(turn)
            continue
        kept: list[str] = []
        for piece, recorded in _pieces(turn.text, own, given):
            kept.append(piece)
            speech += recorded
        turns.append(replace(turn, text="\n".join(kept)))
    return replace(conversation, turns=tuple(turns), speech=tuple(speech))


def _pieces(text: str, own: Speech, given: Iterator[Speech]) -> Iterator[tuple[str, list[Speech]]]:
    """The placeholders of a turn with their recordings, its words, as one recording, where they begin."""
    said = False
    for piece in split_placeholders(text):
        if piece in PLACEHOLDERS:
            yield piece, [next(given)] if piece == SPEECH else []
        elif piece.strip() and not said:
            said = True
            yield SPEECH, [own]
