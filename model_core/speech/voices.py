"""Several voices of one preset, selected by name. Nothing here needs torch."""

from model_core.errors import InvalidInput
from model_core.speech.voice import SpeechStream, Voice


class Voices:
    """Several voices as one `Voice`, with the properties of the first, the default.

    Args:
        voices: At least one, with distinct names.
    """

    def __init__(self, *voices: Voice) -> None:
        default = voices[0]
        self.each = voices
        self.model = default.model
        self.voices = tuple(name for voice in voices for name in voice.voices)
        self.sample_rate = default.sample_rate
        self.hidden_width = default.hidden_width

    def new_stream(self, voice: str = "", speed: float = 1.0) -> SpeechStream:
        """A stream for one answer. Raises InvalidInput for `voice` or `speed`."""
        return self.named(voice).new_stream(voice, speed)

    def named(self, name: str) -> Voice:
        """The voice of that name; empty for the default. Raises InvalidInput."""
        if not name:
            return self.each[0]
        found = next((voice for voice in self.each if name in voice.voices), None)
        if found is None:
            raise InvalidInput("voice", f"{name[:100]!r} is not one of: {', '.join(self.voices)}")
        return found


def voice_named(voice: Voice, name: str) -> Voice:
    """The voice named `name` in `voice`, which may be several. Raises InvalidInput."""
    return voice.named(name) if isinstance(voice, Voices) else voice
