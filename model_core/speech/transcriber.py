"""Transcription by Whisper's own decoder: clips in, timed segments out.

Shapes: B rows (clips of one batch), T encoder frames, D width, V vocabulary.
"""

import itertools
import math
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model_core.audio.tensors import CLIP_SECONDS, SAMPLE_RATE, Clip, is_silent
from model_core.errors import InvalidInput
from model_core.speech.ctranslate2_decoder import CTranslate2Decoder
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

_STEPS_PER_TURN = 8  # of decoding, between two places where other work may come in
_FULL_ENOUGH = 0.75  # share of a batch's rows that still write; below, those that ended leave it

EncodeFrames = Callable[[list[Tensor]], list[Tensor]]
T = TypeVar("T")
# Work in turns: other work may come in wherever it yields, and its result is what it returns.
Turns = Generator[None, None, T]


@dataclass(frozen=True, slots=True)
class Segment:
    """Some words that belong together.

    Attributes:
        start_seconds: Where they start in the recording.
        end_seconds: Where they end in the recording.
        text: The words, without space around them.
        mean_log_probability: Mean natural-log probability of their tokens.
        no_speech_probability: How likely nobody speaks in their clip, 0 to 1.
    """

    start_seconds: float
    end_seconds: float
    text: str
    mean_log_probability: float
    no_speech_probability: float


@dataclass(kw_only=True, frozen=True, slots=True)
class DecodingOptions:
    """How a clip is written down; the thresholds are Whisper's own.

    Attributes:
        batch: Clips decoded together; work is given up only between batches.
        together: Whether our own decoder works on a batch as one; None where an accelerator does. A processor's kernels
            add up in an order that depends on how many rows they get, and words would come to depend on it.
        temperatures: Tried in turn until a transcript is neither repetitive nor improbable.
        max_compression: A text that zlib makes smaller than this factor repeats itself.
        min_log_probability: Mean over a clip's tokens; below it another temperature is tried.
        max_no_speech: Above it improbable words are taken for silence.
        tokens_per_second: Most tokens for a second of sound, far above fast speech.
        max_tokens: Most tokens for any clip.
    """

    batch: int = 4
    together: bool | None = None
    temperatures: tuple[float, ...] = (0.0, 0.3, 0.6, 0.9)
    max_compression: float = 2.4
    min_log_probability: float = -1.0
    max_no_speech: float = 0.6
    tokens_per_second: float = 12.0
    max_tokens: int = 224


@dataclass(slots=True)
class _Hypothesis:
    """A clip's transcript while it is written; one log probability a token."""

    last_timestamp: int
    max_tokens: int
    no_speech_probability: float
    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    ended: bool = False
    # Each has its own, so that what is drawn for one does not depend on the others of its batch.
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    @property
    def mean_log_probability(self) -> float:
        return sum(self.log_probabilities) / max(len(self.log_probabilities), 1)


class Transcriber:
    """Whisper's decoder, of an English-only or a multilingual checkpoint.

    Args:
        decoder: The network, in evaluation mode.
        tokenizer: Whisper's own.
        encode_frames: Clips, each [samples] float32 at 16 kHz -> each [T, D], 50 frames a second; those of the silence
            after a clip may follow its own.
        multilingual: Whether the checkpoint was trained on many languages.
        quick: The same decoder as `decoder`, for the first try; further ones, few, draw by chance and need `decoder`.
    """

    def __init__(
        self,
        decoder: WhisperDecoder,
        tokenizer: Tokenizer,
        encode_frames: EncodeFrames,
        options: DecodingOptions | None = None,
        *,
        multilingual: bool = False,
        quick: CTranslate2Decoder | None = None,
    ) -> None:
        self._decoder = decoder.eval()
        self._quick = quick
        self._tokens = WhisperTokens(tokenizer, decoder.config.vocabulary, multilingual)
        self._encode_frames = encode_frames
        self._options = options or DecodingOptions()

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that it knows."""
        return tuple(self._tokens.languages) or (ENGLISH,)

    @property
    def number_format(self) -> str:
        """In which numbers words are written down at the first try, and whether a batch as one."""
        if self._quick is not None:
            return "int8, " + ("in batches" if self._quick.together else "one by one")
        return str(self._decoder.embed_tokens.weight.dtype).removeprefix("torch.")

    def transcribe(self, clips: list[Clip], language: str = "") -> Iterator[Segment]:
        """Segments of all clips in order, as soon as a batch of clips is written. Silent clips have none.

        Args:
            clips: Of one recording.
            language: Code of what is spoken; empty to hear it from the first clip with sound.

        Raises:
            InvalidInput: the language is not one that the model knows; raised by the call itself.
        """
        self.check_language(language)
        return self._segments([clip for clip in clips if not is_silent(clip.samples)], language)

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """Rounds most of the decoder's weights, and what it keeps of clips and texts, to `dtype`."""
        self._decoder.set_compute_dtype(dtype)

    def check_language(self, language: str) -> None:
        """Raises InvalidInput where the language is not one that the model knows; empty is fine."""
        if language and language not in self.languages:
            known = "many languages, not this one" if self._tokens.multilingual else "English only (en)"
            raise InvalidInput("language", f"{language!r} is not supported: this model knows {known}")

    def transcribe_batch(self, clips: list[Clip], frames: list[Tensor], language: str) -> Turns[list[list[Segment]]]:
        """What is said in each of some clips, decoded as one batch; a clip's words do not depend on the others.

        Args:
            clips: With sound; of any recordings.
            frames: Of each, as `encode_frames` gives them.
            language: Code of what is spoken in all of them.
        """
        written: list[list[Segment]] = [[] for _ in clips]
        rows = list(range(len(clips)))
        while rows:
            drafts = yield from self._write(clips, self._until_window_ends(frames), language)
            rests: list[tuple[int, Clip]] = []
            for row, clip, draft in zip(rows, clips, drafts, strict=True):
                written[row] += [segment for segment in self._cut(clip, draft) if not self._is_silence(segment)]
                rests += [(row, rest) for rest in self._rest(clip, draft)]
            rows, clips = [row for row, _ in rests], [rest for _, rest in rests]
            frames = self._encode_frames([clip.samples for clip in clips]) if clips else []
        return written

    def _segments(self, clips: list[Clip], language: str) -> Iterator[Segment]:
        for at in range(0, len(clips), self._options.batch):
            batch = clips[at : at + self._options.batch]
            frames = self._encode_frames([clip.samples for clip in batch])
            language = language or self.detect(frames[0])
            for segments in _without_turns(self.transcribe_batch(batch, frames, language)):
                yield from segments

    @torch.inference_mode()
    def detect(self, frames_TD: Tensor) -> str:
        """The likeliest language of a clip, from its frames as `encode_frames` gives them."""
        languages = self._tokens.languages
        if not languages:
            return ENGLISH
        start_11 = torch.tensor([[self._tokens.start]], device=frames_TD.device)
        logits_V = self._decoder(start_11, self._decoder.new_state(self._until_window_ends([frames_TD])))[0]
        return max(languages, key=lambda language: float(logits_V[languages[language]]))

    def _rest(self, clip: Clip, draft: _Hypothesis) -> list[Clip]:
        """What Whisper left of a clip because a sentence in it does not end there: it closes one segment and starts the
        next, with no words. Such a rest is heard again on its own."""
        first = self._tokens.first_timestamp
        if len(draft.tokens) < 3 or min(draft.tokens[-2:]) < first:
            return []
        start = (draft.tokens[-1] - first) * SECONDS_PER_TIMESTAMP
        samples = clip.samples[round(start * SAMPLE_RATE) :]
        if samples.shape[0] < MIN_REST_SECONDS * SAMPLE_RATE or is_silent(samples):
            return []
        return [Clip(clip.index, clip.start_seconds + start, clip.end_seconds, samples)]

    def _write(self, clips: list[Clip], frames: list[Tensor], language: str) -> Turns[list[_Hypothesis]]:
        """One transcript a clip: the first that passes, or of those that fail the most probable without repetition."""
        best: dict[int, _Hypothesis] = {}
        pending = list(range(len(clips)))
        for temperature in self._options.temperatures:
            tried, heard = [clips[row] for row in pending], [frames[row] for row in pending]
            if self._quick is not None and temperature == 0:
                drafts = self._decode_quickly(self._quick, tried, heard, language)
            else:
                drafts = yield from self._decode(tried, heard, language, temperature)
            for row, draft in zip(pending, drafts, strict=True):
                if row not in best or self._rank(draft) > self._rank(best[row]):
                    best[row] = draft
            pending = [row for row in pending if self._fails(best[row])]
            if not pending:
                break
        return [best[row] for row in range(len(clips))]

    def _until_window_ends(self, frames: list[Tensor]) -> list[Tensor]:
        """Frames of each clip, then frames of silence up to 30 s.

        Whisper learned to end a text where silence follows; it repeats itself where the frames just stop. Silence that
        is encoded once serves every clip: word error rates are those of clips padded to 30 s, at the price of short
        ones.
        """
        return [torch.cat([frames_TD, self._silence_TD[frames_TD.shape[0] :]]) for frames_TD in frames]

    @cached_property
    def _silence_TD(self) -> Tensor:
        return self._encode_frames([torch.zeros(CLIP_SECONDS * SAMPLE_RATE)])[0]

    def _decode_quickly(
        self, quick: CTranslate2Decoder, clips: list[Clip], frames: list[Tensor], language: str
    ) -> list[_Hypothesis]:
        """Writes one batch at temperature 0."""
        written = quick.write(
            frames,
            prompt=[self._tokens.start, *self._tokens.task(language)],
            never=self._tokens.never.nonzero().flatten().tolist(),
            max_first=MAX_FIRST_TIMESTAMP,
            max_tokens=self._options.max_tokens,
        )
        drafts = []
        for clip, found in zip(clips, written, strict=True):
            draft = self._new_draft(clip, found.no_speech_probability)
            # Nothing is said after a clip's end.
            within = itertools.takewhile(lambda token, last=draft.last_timestamp: token <= last, found.tokens)  # type: ignore[misc]
            draft.tokens = list(within)[: draft.max_tokens]
            draft.log_probabilities = [found.mean_log_probability] * len(draft.tokens)
            draft.ended = True
            drafts.append(draft)
        return drafts

    def _decode(
        self, clips: list[Clip], frames: list[Tensor], language: str, temperature: float
    ) -> Turns[list[_Hypothesis]]:
        """Writes clips at one temperature, together or one after the other."""
        together = self._options.together
        if together is None:
            together = frames[0].device.type != "cpu"
        if together:
            return (yield from self._decode_batch(clips, frames, language, temperature))
        drafts: list[_Hypothesis] = []
        for clip, frames_TD in zip(clips, frames, strict=True):
            drafts += yield from self._decode_batch([clip], [frames_TD], language, temperature)
        return drafts

    @torch.inference_mode()
    def _decode_batch(
        self, clips: list[Clip], frames: list[Tensor], language: str, temperature: float
    ) -> Turns[list[_Hypothesis]]:
        """Writes one batch at one temperature. Rows that ended leave it as soon as enough have for that to pay."""
        state = self._decoder.new_state(frames)
        device = frames[0].device
        prompt = torch.tensor([[self._tokens.start]] * len(clips), device=device)
        logits_BV = self._decoder(prompt, state).cpu().float()
        silent_B = logits_BV.softmax(-1)[:, self._tokens.no_speech].tolist()
        if task := self._tokens.task(language):
            logits_BV = self._decoder(torch.tensor([task] * len(clips), device=device), state).cpu().float()
        drafts = [self._new_draft(clip, silent) for clip, silent in zip(clips, silent_B, strict=True)]
        rows = drafts
        for step in itertools.count(1):
            self._step(rows, logits_BV, temperature)
            running = [row for row, draft in enumerate(rows) if not draft.ended]
            if not running:
                break
            if len(running) <= _FULL_ENOUGH * len(rows):
                rows, state = [rows[row] for row in running], state.select(running)
            last_B1 = torch.tensor([[draft.tokens[-1]] for draft in rows], device=device)
            logits_BV = self._decoder(last_B1, state).cpu().float()
            if step % _STEPS_PER_TURN == 0:
                yield
        return drafts

    def _new_draft(self, clip: Clip, no_speech_probability: float) -> _Hypothesis:
        seconds = clip.samples.shape[0] / SAMPLE_RATE + SILENT_TAIL_SECONDS
        timestamps = min(math.ceil(seconds / SECONDS_PER_TIMESTAMP), self._tokens.timestamps - 1)
        room = self._decoder.config.max_tokens - _MAX_PROMPT
        by_length = math.ceil(seconds * self._options.tokens_per_second)
        return _Hypothesis(
            last_timestamp=self._tokens.first_timestamp + timestamps,
            max_tokens=min(by_length, self._options.max_tokens, room),
            no_speech_probability=no_speech_probability,
        )

    def _step(self, drafts: list[_Hypothesis], logits_BV: Tensor, temperature: float) -> None:
        """Adds the next token to each draft that has not ended."""
        logits_BV = logits_BV.masked_fill_(self._tokens.never, float("-inf"))
        for row, draft in enumerate(drafts):
            if not draft.ended:
                self._tokens.forbid(logits_BV[row], draft.tokens, draft.last_timestamp)
        if temperature > 0:
            chances_BV = (logits_BV / temperature).softmax(-1)
            draws = zip(chances_BV, drafts, strict=True)
            tokens = [int(torch.multinomial(chances_V, 1, generator=draft.generator)) for chances_V, draft in draws]
        else:
            tokens = logits_BV.argmax(-1).tolist()
        log_probabilities = (logits_BV[range(len(tokens)), tokens] - logits_BV.logsumexp(-1)).tolist()
        for draft, token, log_probability in zip(drafts, tokens, log_probabilities, strict=True):
            if draft.ended:
                continue
            draft.log_probabilities.append(log_probability)
            if token != self._tokens.end:
                draft.tokens.append(token)
            draft.ended = token == self._tokens.end or len(draft.tokens) >= draft.max_tokens

    def _is_silence(self, written: _Hypothesis | Segment) -> bool:
        return (
            written.no_speech_probability > self._options.max_no_speech
            and written.mean_log_probability < self._options.min_log_probability
        )

    def _fails(self, draft: _Hypothesis) -> bool:
        improbable = draft.mean_log_probability < self._options.min_log_probability
        return (improbable or self._repeats(draft)) and not self._is_silence(draft)

    def _rank(self, draft: _Hypothesis) -> tuple[bool, float]:
        return not self._repeats(draft), draft.mean_log_probability

    def _repeats(self, draft: _Hypothesis) -> bool:
        text = self._tokens.text(draft.tokens).encode()
        return len(text) > self._options.max_compression * len(zlib.compress(text))

    def _cut(self, clip: Clip, draft: _Hypothesis) -> Iterator[Segment]:
        """Segments between a draft's timestamps; an open end is the clip's end. Nothing is given where no word is."""
        first = self._tokens.first_timestamp
        words: list[int] = []
        log_probabilities: list[float] = []
        start = end = 0.0
        for token, log_probability in zip(draft.tokens, draft.log_probabilities, strict=False):
            if token < first:
                words.append(token)
                log_probabilities.append(log_probability)
                continue
            end = (token - first) * SECONDS_PER_TIMESTAMP
            yield from self._segment(clip, draft, words, log_probabilities, start, end)
            words, log_probabilities, start = [], [], end
        yield from self._segment(clip, draft, words, log_probabilities, start, math.inf)

    def _segment(
        self, clip: Clip, draft: _Hypothesis, words: list[int], log_probabilities: list[float], start: float, end: float
    ) -> Iterator[Segment]:
        text = self._tokens.text(words).strip()
        if not any(letter.isalnum() for letter in text):
            return
        yield Segment(
            start_seconds=min(clip.start_seconds + start, clip.end_seconds),
            end_seconds=min(clip.start_seconds + end, clip.end_seconds),
            text=text,
            mean_log_probability=sum(log_probabilities) / len(log_probabilities),
            no_speech_probability=draft.no_speech_probability,
        )


def _without_turns(work: Turns[T]) -> T:
    """The result of work that need not let others in."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
