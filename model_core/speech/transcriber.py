"""Transcription by Whisper's decoder: clips in, timed segments out.

Shapes: B rows (clips of one batch), T encoder frames, D width, V vocabulary.
"""

import itertools
import math
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model_core.audio.tensors import CLIP_SECONDS, SAMPLE_RATE, Clip, is_silent
from model_core.errors import InvalidInput
from model_core.speech.ctranslate2_decoder import CTranslate2Decoder
from model_core.speech.segments import Hypothesis, Segment, cut_segments
from model_core.speech.whisper_decoder import WhisperDecoder
from model_core.speech.whisper_tokens import (
    MAX_FIRST_TIMESTAMP,
    SECONDS_PER_TIMESTAMP,
    WhisperTokens,
)

SILENT_TAIL_SECONDS = 1.0
MIN_REST_SECONDS = 0.5
ENGLISH = "en"

_MAX_PROMPT = 3  # start, language, task

_TOKENS_PER_STEP = 8  # of decoding, between two points where other work may run
_MIN_RUNNING = 0.75  # share of a batch's rows that still run; below, finished rows are dropped

EncodeFrames = Callable[[list[Tensor]], list[Tensor]]
T = TypeVar("T")
# Cooperative work: other work may run wherever it yields; its return value is the result.
Steps = Generator[None, None, T]


@dataclass(kw_only=True, frozen=True, slots=True)
class DecodingOptions:
    """How a clip is decoded; the thresholds are Whisper's own.

    Attributes:
        batch: Clips decoded together; `transcribe` can be abandoned between batches.
        batched: Whether our own decoder decodes a batch as one; None for on an accelerator only. The summation order of
            CPU kernels depends on the batch size, and words would come to depend on it.
        temperatures: Tried in turn until a transcript is neither repetitive nor improbable.
        max_compression: A text with a higher zlib compression ratio is taken to repeat itself.
        min_log_probability: Mean over a clip's tokens; below it the next temperature is tried.
        max_no_speech: Above it improbable words are taken for silence.
        tokens_per_second: Maximum tokens for a second of audio, far above fast speech.
        max_tokens: Maximum tokens of a clip.
    """

    batch: int = 4
    batched: bool | None = None
    temperatures: tuple[float, ...] = (0.0, 0.3, 0.6, 0.9)
    max_compression: float = 2.4
    min_log_probability: float = -1.0
    max_no_speech: float = 0.6
    tokens_per_second: float = 12.0
    max_tokens: int = 224


class Transcriber:
    """Whisper's decoder, of an English-only or a multilingual checkpoint.

    Args:
        decoder: The network, in evaluation mode.
        tokenizer: Whisper's own.
        encode_frames: Clips, each [samples] float32 at 16 kHz -> each [T, D], 50 frames a second; frames of the silence
            after a clip may follow its own.
        multilingual: Whether the checkpoint was trained on many languages.
        greedy_decoder: The same network as `decoder` in CTranslate2, for the first attempt at temperature 0; the rare
            further attempts sample, and need `decoder`.
    """

    def __init__(
        self,
        decoder: WhisperDecoder,
        tokenizer: Tokenizer,
        encode_frames: EncodeFrames,
        options: DecodingOptions | None = None,
        *,
        multilingual: bool = False,
        greedy_decoder: CTranslate2Decoder | None = None,
    ) -> None:
        self._decoder = decoder.eval()
        self._greedy_decoder = greedy_decoder
        self._tokens = WhisperTokens(tokenizer, decoder.config.vocabulary, multilingual)
        self._encode_frames = encode_frames
        self._options = options or DecodingOptions()

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the supported languages."""
        return tuple(self._tokens.languages) or (ENGLISH,)

    @property
    def number_format(self) -> str:
        """The number format of the first decoding attempt, and whether clips are decoded in batches."""
        if self._greedy_decoder is not None:
            return "int8, " + ("in batches" if self._greedy_decoder.batched else "one by one")
        return str(self._decoder.embed_tokens.weight.dtype).removeprefix("torch.")

    def transcribe(self, clips: list[Clip], language: str = "") -> Iterator[Segment]:
        """Yields the segments of all clips in order, batch by batch. Silent clips have none.

        Args:
            clips: Of one recording.
            language: Code of the spoken language; empty to detect it in the first clip that is not silent.

        Raises:
            InvalidInput: the language is not supported; raised by the call itself.
        """
        self.check_language(language)
        return self._segments([clip for clip in clips if not is_silent(clip.samples)], language)

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """Casts most of the decoder's weights and its key-value cache to `dtype`."""
        self._decoder.set_compute_dtype(dtype)

    def check_language(self, language: str) -> None:
        """Raises InvalidInput where the language is not supported; empty is valid."""
        if language and language not in self.languages:
            known = "many languages, not this one" if self._tokens.multilingual else "English only (en)"
            raise InvalidInput("language", f"{language!r} is not supported: this model knows {known}")

    def transcribe_batch(self, clips: list[Clip], frames: list[Tensor], language: str) -> Steps[list[list[Segment]]]:
        """The segments of each clip, decoded as one batch; a clip's result does not depend on the others.

        Args:
            clips: Not silent; of any recordings.
            frames: Of each clip, as from `encode_frames`.
            language: Code of the language of all of them.
        """
        transcripts: list[list[Segment]] = [[] for _ in clips]
        rows = list(range(len(clips)))
        while rows:
            hypotheses = yield from self._decode_with_fallback(clips, self._padded(frames), language)
            rests: list[tuple[int, Clip]] = []
            for row, clip, hypothesis in zip(rows, clips, hypotheses, strict=True):
                segments = cut_segments(clip, hypothesis, self._tokens)
                transcripts[row] += [segment for segment in segments if not self._is_silence(segment)]
                rests += [(row, rest) for rest in self._rest(clip, hypothesis)]
            rows, clips = [row for row, _ in rests], [rest for _, rest in rests]
            frames = self._encode_frames([clip.samples for clip in clips]) if clips else []
        return transcripts

    def _segments(self, clips: list[Clip], language: str) -> Iterator[Segment]:
        for at in range(0, len(clips), self._options.batch):
            batch = clips[at : at + self._options.batch]
            frames = self._encode_frames([clip.samples for clip in batch])
            language = language or self.detect(frames[0])
            for segments in _run_to_end(self.transcribe_batch(batch, frames, language)):
                yield from segments

    @torch.inference_mode()
    def detect(self, frames_TD: Tensor) -> str:
        """The most probable language of a clip, from its frames as from `encode_frames`."""
        languages = self._tokens.languages
        if not languages:
            return ENGLISH
        start_11 = torch.tensor([[self._tokens.start]], device=frames_TD.device)
        logits_V = self._decoder(start_11, self._decoder.new_state(self._padded([frames_TD])))[0]
        return max(languages, key=lambda language: float(logits_V[languages[language]]))

    def _rest(self, clip: Clip, hypothesis: Hypothesis) -> list[Clip]:
        """The part of a clip that Whisper left out because its last sentence is incomplete: the hypothesis closes a
        segment and opens the next one, with no words. Such a rest is transcribed again by itself."""
        first = self._tokens.first_timestamp
        if len(hypothesis.tokens) < 3 or min(hypothesis.tokens[-2:]) < first:
            return []
        start = (hypothesis.tokens[-1] - first) * SECONDS_PER_TIMESTAMP
        samples = clip.samples[round(start * SAMPLE_RATE) :]
        if samples.shape[0] < MIN_REST_SECONDS * SAMPLE_RATE or is_silent(samples):
            return []
        return [Clip(clip.index, clip.start_seconds + start, clip.end_seconds, samples)]

    def _decode_with_fallback(self, clips: list[Clip], frames: list[Tensor], language: str) -> Steps[list[Hypothesis]]:
        """One hypothesis a clip: the first that passes, else the most probable one without repetition."""
        best: dict[int, Hypothesis] = {}
        pending = list(range(len(clips)))
        for temperature in self._options.temperatures:
            tried, tried_frames = [clips[row] for row in pending], [frames[row] for row in pending]
            if self._greedy_decoder is not None and temperature == 0:
                hypotheses = self._decode_greedily(self._greedy_decoder, tried, tried_frames, language)
            else:
                hypotheses = yield from self._decode(tried, tried_frames, language, temperature)
            for row, hypothesis in zip(pending, hypotheses, strict=True):
                if row not in best or self._rank(hypothesis) > self._rank(best[row]):
                    best[row] = hypothesis
            pending = [row for row in pending if self._fails(best[row])]
            if not pending:
                break
        return [best[row] for row in range(len(clips))]

    def _padded(self, frames: list[Tensor]) -> list[Tensor]:
        """Frames of each clip, padded with frames of silence to 30 s.

        Whisper learned to end a text before silence; it repeats itself where the frames just stop. Silence is encoded
        once and used for every clip: word error rates are those of clips padded to 30 s, at the cost of short ones.
        """
        return [torch.cat([frames_TD, self._silence_TD[frames_TD.shape[0] :]]) for frames_TD in frames]

    @cached_property
    def _silence_TD(self) -> Tensor:
        return self._encode_frames([torch.zeros(CLIP_SECONDS * SAMPLE_RATE)])[0]

    def _decode_greedily(
        self, decoder: CTranslate2Decoder, clips: list[Clip], frames: list[Tensor], language: str
    ) -> list[Hypothesis]:
        """Decodes one batch at temperature 0."""
        results = decoder.decode(
            frames,
            prompt=[self._tokens.start, *self._tokens.task(language)],
            suppressed=self._tokens.suppressed.nonzero().flatten().tolist(),
            max_first=MAX_FIRST_TIMESTAMP,
            max_tokens=self._options.max_tokens,
        )
        hypotheses = []
        for clip, found in zip(clips, results, strict=True):
            hypothesis = self._new_hypothesis(clip, found.no_speech_probability)
            # Timestamps after the end of the clip end the transcript.
            within = itertools.takewhile(lambda token, last=hypothesis.last_timestamp: token <= last, found.tokens)  # type: ignore[misc]
            hypothesis.tokens = list(within)[: hypothesis.max_tokens]
            hypothesis.log_probabilities = [found.mean_log_probability] * len(hypothesis.tokens)
            hypothesis.ended = True
            hypotheses.append(hypothesis)
        return hypotheses

    def _decode(
        self, clips: list[Clip], frames: list[Tensor], language: str, temperature: float
    ) -> Steps[list[Hypothesis]]:
        """Decodes clips at one temperature, in a batch or one after the other."""
        batched = self._options.batched
        if batched is None:
            batched = frames[0].device.type != "cpu"
        if batched:
            return (yield from self._decode_batch(clips, frames, language, temperature))
        hypotheses: list[Hypothesis] = []
        for clip, frames_TD in zip(clips, frames, strict=True):
            hypotheses += yield from self._decode_batch([clip], [frames_TD], language, temperature)
        return hypotheses

    @torch.inference_mode()
    def _decode_batch(
        self, clips: list[Clip], frames: list[Tensor], language: str, temperature: float
    ) -> Steps[list[Hypothesis]]:
        """Decodes one batch at one temperature. Finished rows are dropped as soon as that pays."""
        state = self._decoder.new_state(frames)
        device = frames[0].device
        prompt = torch.tensor([[self._tokens.start]] * len(clips), device=device)
        logits_BV = self._decoder(prompt, state).cpu().float()
        silent_B = logits_BV.softmax(-1)[:, self._tokens.no_speech].tolist()
        if task := self._tokens.task(language):
            logits_BV = self._decoder(torch.tensor([task] * len(clips), device=device), state).cpu().float()
        hypotheses = [self._new_hypothesis(clip, silent) for clip, silent in zip(clips, silent_B, strict=True)]
        rows = hypotheses
        for step in itertools.count(1):
            self._step(rows, logits_BV, temperature)
            running = [row for row, hypothesis in enumerate(rows) if not hypothesis.ended]
            if not running:
                break
            if len(running) <= _MIN_RUNNING * len(rows):
                rows, state = [rows[row] for row in running], state.select(running)
            last_B1 = torch.tensor([[hypothesis.tokens[-1]] for hypothesis in rows], device=device)
            logits_BV = self._decoder(last_B1, state).cpu().float()
            if step % _TOKENS_PER_STEP == 0:
                yield
        return hypotheses

    def _new_hypothesis(self, clip: Clip, no_speech_probability: float) -> Hypothesis:
        seconds = clip.samples.shape[0] / SAMPLE_RATE + SILENT_TAIL_SECONDS
        timestamps = min(math.ceil(seconds / SECONDS_PER_TIMESTAMP), self._tokens.timestamps - 1)
        room = self._decoder.config.max_tokens - _MAX_PROMPT
        by_length = math.ceil(seconds * self._options.tokens_per_second)
        return Hypothesis(
            last_timestamp=self._tokens.first_timestamp + timestamps,
            max_tokens=min(by_length, self._options.max_tokens, room),
            no_speech_probability=no_speech_probability,
        )

    def _step(self, hypotheses: list[Hypothesis], logits_BV: Tensor, temperature: float) -> None:
        """Adds the next token to each hypothesis that has not ended."""
        logits_BV = logits_BV.masked_fill_(self._tokens.suppressed, float("-inf"))
        for row, hypothesis in enumerate(hypotheses):
            if not hypothesis.ended:
                self._tokens.mask_forbidden(logits_BV[row], hypothesis.tokens, hypothesis.last_timestamp)
        if temperature > 0:
            probabilities_BV = (logits_BV / temperature).softmax(-1)
            tokens = [
                int(torch.multinomial(probabilities_V, 1, generator=hypothesis.generator))
                for probabilities_V, hypothesis in zip(probabilities_BV, hypotheses, strict=True)
            ]
        else:
            tokens = logits_BV.argmax(-1).tolist()
        log_probabilities = (logits_BV[range(len(tokens)), tokens] - logits_BV.logsumexp(-1)).tolist()
        for hypothesis, token, log_probability in zip(hypotheses, tokens, log_probabilities, strict=True):
            if hypothesis.ended:
                continue
            hypothesis.log_probabilities.append(log_probability)
            if token != self._tokens.end:
                hypothesis.tokens.append(token)
            hypothesis.ended = token == self._tokens.end or len(hypothesis.tokens) >= hypothesis.max_tokens

    def _is_silence(self, found: Hypothesis | Segment) -> bool:
        return (
            found.no_speech_probability > self._options.max_no_speech
            and found.mean_log_probability < self._options.min_log_probability
        )

    def _fails(self, hypothesis: Hypothesis) -> bool:
        improbable = hypothesis.mean_log_probability < self._options.min_log_probability
        return (improbable or self._repeats(hypothesis)) and not self._is_silence(hypothesis)

    def _rank(self, hypothesis: Hypothesis) -> tuple[bool, float]:
        return not self._repeats(hypothesis), hypothesis.mean_log_probability

    def _repeats(self, hypothesis: Hypothesis) -> bool:
        text = self._tokens.text(hypothesis.tokens).encode()
        return len(text) > self._options.max_compression * len(zlib.compress(text))


def _run_to_end(work: Steps[T]) -> T:
    """Runs cooperative work to its end, and returns its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
