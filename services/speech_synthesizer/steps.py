"""Batched synthesis from hidden states: new answer tokens of concurrent answers share a batch.

Shapes: N answer tokens, E width of hidden states, S samples.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_core.speech.voice import TOKENS_PER_STEP, HiddenVoice, Samples
from services.shared import telemetry
from services.shared.rpc.batching import Batcher, GatherWindow
from services.shared.rpc.tensors import Array
from services.shared.rpc.threads import ModelThread, WorkTimer


@dataclass(frozen=True, slots=True)
class _Step:
    """The next tokens of an answer, at most TOKENS_PER_STEP."""

    state: Any
    hidden_NE: Array
    last: bool


@dataclass(frozen=True, slots=True)
class _Spoken:
    samples_S: Samples
    seconds: float  # the answer's share of the batch's computing time


class StepBatches:
    """Batches the answers that one voice is speaking.

    Args:
        voice: The voice.
        thread: The thread in which it runs.
        max_streams: Maximum answers in a batch.
        max_tokens: Maximum tokens in a batch, after padding to the longest step; bounds memory.
        gather_milliseconds: Maximum wait for answers whose next token is due.
    """

    def __init__(
        self, voice: HiddenVoice, thread: ModelThread, *, max_streams: int, max_tokens: int, gather_milliseconds: float
    ) -> None:
        self._voice = voice
        self._thread = thread
        self._max_tokens = max_tokens
        self._window = GatherWindow(gather_milliseconds)
        self._batches = Batcher(self._run, thread, max_items=max_streams, window=self._window, fits=self._fits)

    async def speak(
        self, hidden: AsyncIterator[Array], name: str, speed: float, work: WorkTimer
    ) -> AsyncGenerator[Samples, None]:
        """Yields the audio of one answer while its hidden states arrive.

        Args:
            hidden: Hidden states [N, E] of its tokens, in order.
            name: Name of the voice.
            speed: 1 is the speaker's own.
            work: Adds up the computing time.

        Raises:
            InvalidInput: Name, speed or hidden states do not fit the voice.
        """
        state = await self._thread.run(lambda: self._voice.new_state(name, speed))
        while (hidden_NE := await self._next(hidden)) is not None:
            self._voice.check([state], [hidden_NE])
            for start in range(0, len(hidden_NE), TOKENS_PER_STEP):
                step = _Step(state, hidden_NE[start : start + TOKENS_PER_STEP], last=False)
                yield self._counted(await self._batches.submit(step), work)
        rest = _Step(state, np.zeros((0, self._voice.hidden_width), np.float32), last=True)
        yield self._counted(await self._batches.submit(rest), work)

    async def _next(self, hidden: AsyncIterator[Array]) -> Array | None:
        with self._window.arriving():
            return await anext(hidden, None)

    def _counted(self, spoken: _Spoken, work: WorkTimer) -> Samples:
        work.seconds += spoken.seconds
        return spoken.samples_S

    def _fits(self, steps: Sequence[_Step]) -> bool:
        # The end of an answer releases the audio of about two tokens that was held back.
        longest = max(len(step.hidden_NE) + 2 * step.last for step in steps)
        return len(steps) * longest <= self._max_tokens

    def _run(self, steps: list[_Step]) -> list[_Spoken]:
        began = time.perf_counter()
        spoken = self._voice.step(
            [step.state for step in steps], [step.hidden_NE for step in steps], [step.last for step in steps]
        )
        share = (time.perf_counter() - began) / len(steps)
        telemetry.BATCH_SIZE.labels("speech_synthesizer").observe(len(steps))
        return [_Spoken(samples_S, share) for samples_S in spoken]
