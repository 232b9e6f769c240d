"""A voice that speaks from the language model's hidden states while the answer is generated.

Shapes: N answer tokens, E width of the language model, S samples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_core.errors import CheckpointError, InvalidInput
from model_core.speech.vocoder import UnitVocoder, VocoderState
from model_core.speech.voice import TOKENS_PER_STEP, Samples, check_voice, in_chunks

Hidden = Tensor | NDArray[np.floating]


class Generator(Protocol):
    """Turns streams of hidden states into units: `UnitGenerator`, or nano's `CharacterUnitGenerator`."""

    hidden_width: int
    units: int

    def eval(self) -> Self: ...
    def new_state(self) -> Any: ...
    def check(self, hidden: Sequence[Tensor]) -> None: ...
    def step(self, states: Sequence[Any], hidden: Sequence[Tensor], last: Sequence[bool]) -> list[Tensor]: ...
    def collapse(self, states: Sequence[Any], frames: Sequence[Tensor]) -> list[Tensor]: ...


@dataclass(slots=True)
class UnitVoiceState:
    """The state of one answer."""

    generator: Any
    vocoder: VocoderState


class UnitVoice:
    """Speech generator and unit vocoder as one voice; one object serves any number of streams.

    Audio lags behind the hidden states by the vocoder's look-ahead alone: in the published shape 20.6 unit frames of
    20 ms and two more units, about three answer tokens. Raises CheckpointError where the generator has more units than
    the vocoder.
    """

    def __init__(self, generator: Generator, vocoder: UnitVocoder, name: str = "lyra") -> None:
        known = vocoder.config.units
        if known < generator.units:
            raise CheckpointError("num_embeddings", f"the vocoder has {known} units, the generator {generator.units}")
        self.model = f"{name}-units"
        self.voices = (name,)
        self.sample_rate = vocoder.config.sample_rate
        self.hidden_width = generator.hidden_width
        self.generator = generator.eval()
        self.vocoder = vocoder.eval()

    def new_stream(self, voice: str = "", speed: float = 1.0) -> "UnitVoiceStream":
        """A stream for one answer. Raises InvalidInput for `voice` or `speed`."""
        return UnitVoiceStream(self, self.new_state(voice, speed))

    def new_state(self, voice: str = "", speed: float = 1.0) -> UnitVoiceState:
        """The initial state of an answer, for `step`; errors as in `new_stream`."""
        check_voice(voice, speed, self.voices)
        durations = self.vocoder.dur_predictor is not None
        return UnitVoiceState(self.generator.new_state(), self.vocoder.new_state(durations=durations, speed=speed))

    def check(self, states: Sequence[UnitVoiceState], hidden: Sequence[Hidden]) -> None:
        """Raises InvalidInput where hidden states are not floats [N, E] or not finite, or a stream has ended."""
        if len(states) != len(hidden):
            raise InvalidInput("hidden_states", f"{len(hidden)} for {len(states)} streams")
        if any(state.vocoder.ended for state in states):
            raise InvalidInput("hidden_states", "the stream has ended")
        self.generator.check([_as_tensor(each) for each in hidden])

    @torch.inference_mode()
    def step(self, states: Sequence[UnitVoiceState], hidden: Sequence[Hidden], last: Sequence[bool]) -> list[Samples]:
        """Advances streams, all in one batch.

        Args:
            states: The answers; updated in place, unless an error is raised.
            hidden: New hidden states of each: floats [N, E], N may be 0.
            last: Whether the answer ends here.

        Returns:
            For each the audio that is now final, int16 [S]; S may be 0.

        Raises:
            InvalidInput: As `check` does.
        """
        self.check(states, hidden)
        generators = [state.generator for state in states]
        frames = self.generator.step(generators, [_as_tensor(each) for each in hidden], last)
        units = self.generator.collapse(generators, frames)
        waveforms = self.vocoder.step([state.vocoder for state in states], units, last)
        return [(audio_S.float().clamp(-1.0, 1.0) * 32767.0).short().cpu().numpy() for audio_S in waveforms]


class UnitVoiceStream:
    """Speaks one answer while it is generated."""

    def __init__(self, voice: UnitVoice, state: UnitVoiceState) -> None:
        self._voice = voice
        self._state = state

    def push(self, text_delta: str) -> Iterator[Samples]:
        """Raises InvalidInput: this voice speaks from hidden states."""
        raise InvalidInput("text", f"voice {self._voice.model} speaks from hidden states")

    def push_hidden(self, hidden_NE: Hidden) -> Iterator[Samples]:
        """Yields [S] chunks of at most CHUNK_SECONDS; read all of them before the next call.

        Raises:
            InvalidInput: As `UnitVoice.check` does, at once.
        """
        hidden_NE = _as_tensor(hidden_NE)
        self._voice.check([self._state], [hidden_NE])
        return (chunk for some_NE in torch.split(hidden_NE, TOKENS_PER_STEP) for chunk in self._chunks(some_NE))

    def finish(self) -> Iterator[Samples]:
        """Yields the rest of the audio."""
        return self._chunks(torch.zeros(0, self._voice.hidden_width), last=True)

    def _chunks(self, hidden_NE: Tensor, *, last: bool = False) -> Iterator[Samples]:
        (audio_S,) = self._voice.step([self._state], [hidden_NE], [last])
        return in_chunks(audio_S, self._voice.sample_rate)


def _as_tensor(hidden_NE: Hidden) -> Tensor:
    """A copy of an array, since those from the network are read-only."""
    return hidden_NE if isinstance(hidden_NE, Tensor) else torch.tensor(hidden_NE)
