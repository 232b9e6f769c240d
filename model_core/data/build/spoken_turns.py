"""Turns written conversations into spoken ones, by synthesizing the user's turns."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from model_core.data.build.sources import Made
from model_core.data.build.synthesis import Utterance, UtteranceSynthesizer
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

# The voices speak English; formulas, code and other scripts stay written.
_SPEAKABLE = re.compile(r"[A-Za-z0-9\s.,;:!?'\"()&%$/-]*[A-Za-z0-9][A-Za-z0-9\s.,;:!?'\"()&%$/-]*")


class TurnSynthesizer:
    """Synthesizes user turns.

    Args:
        synthesizer: None to leave all turns written.
        seed: Seed of the data set.
        share: Share of conversations with spoken turns.
        longest: Maximum words of a spoken turn.
    """

    def __init__(self, synthesizer: UtteranceSynthesizer | None, seed: int, share: float, longest: int) -> None:
        self._synthesizer, self._seed, self._share, self._longest = synthesizer, seed, share, longest

    def spoken(self, conversations: Sequence[Made]) -> list[Made]:
        """The same conversations, some of them spoken: every speakable user turn becomes a recording with its words as
        the transcript. A conversation has one voice; its random choices depend only on its id."""
        if self._synthesizer is None:
            return list(conversations)
        readings: list[Utterance] = []
        positions: list[tuple[int, int]] = []  # of each utterance: conversation and turn
        for number, conversation in enumerate(conversations):
            if isinstance(conversation, Conversation) and self._speaks(conversation):
                seed = f"{self._seed} {conversation.source} {conversation.id}"
                voice = self._synthesizer.voice(seed)
                for at, turn in enumerate(conversation.turns):
                    if turn.role is Role.USER and self._can_be_read(turn.text):
                        words = " ".join(without_placeholders(turn.text).split())
                        readings.append(Utterance(words, voice, f"{seed} {at}"))
                        positions.append((number, at))
        recordings = dict(zip(positions, self._synthesizer.synthesize(readings), strict=True))
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
    """Replaces the words of these turns by recordings; a turn without audio stays written."""
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
    """The placeholders of a turn with their recordings; its words become one recording where they start."""
    said = False
    for piece in split_placeholders(text):
        if piece in PLACEHOLDERS:
            yield piece, [next(given)] if piece == SPEECH else []
        elif piece.strip() and not said:
            said = True
            yield SPEECH, [own]
