"""The speech generator: hidden states of an answer to discrete speech units, by CTC (Lyra, section 3.5).

Each hidden state is repeated `upsample` times; a small causal decoder turns every repetition into a unit or a blank.

Shapes: B batch, L hidden states, E their width, T frames (L * upsample), W width of the generator, N units, U units and
the blank.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from model_core.errors import InvalidInput
from model_core.language.decoder import Decoder, DecoderStack
from model_core.language.kv_cache import KeyValueCache
from model_core.speech.ctc import IGNORED, check_hidden, check_units, collapse, ctc_loss

_ROPE_BASE, _NORM_EPSILON = 1e6, 1e-6
_HIDDEN_CHUNK = 32  # hidden states read at a time, to bound the memory of attention


@dataclass(slots=True)
class UnitGeneratorState:
    """The state of one answer: the decoder's cache, and the last frame, which the next may repeat."""

    cache: KeyValueCache
    last_frame: int


class UnitGenerator(DecoderStack):
    """Qwen2 decoder layers without a final norm between two linear layers; one object serves any number of streams.

    Module names are those of the published checkpoints. There is no look-ahead: the frames of a hidden state are known
    as soon as it is (of its 25 CTC frames, about 12 units a token remain without blanks and repeats).
    """

    @dataclass(kw_only=True, frozen=True, slots=True)
    class Config:
        """Shape of a generator; the defaults are the published one, for a language model `hidden_width` wide."""

        hidden_width: int
        layers: int = 2
        width: int = 4096
        heads: int = 32
        feed_forward: int = 11_008
        upsample: int = 25
        units: int = 1000

        def build(self) -> "UnitGenerator":
            return UnitGenerator(self)

    def __init__(self, config: Config) -> None:
        layers = Decoder.Config(
            vocabulary=0,
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            key_value_heads=config.heads,
            feed_forward=config.feed_forward,
            context=0,
            rope_base=_ROPE_BASE,
            norm_epsilon=_NORM_EPSILON,
            qkv_bias=True,
        )
        super().__init__(layers)
        self.norm = nn.Identity()  # type: ignore[assignment]
        self.hidden_width, self.upsample, self.units = config.hidden_width, config.upsample, config.units
        self.input_proj = nn.Linear(config.hidden_width, config.width)
        self.output_proj = nn.Linear(config.width, config.units + 1)

    @property
    def blank(self) -> int:
        """The CTC blank."""
        return self.units

    def new_state(self) -> UnitGeneratorState:
        """The initial state of an answer."""
        return UnitGeneratorState(self.new_cache(), self.blank)

    def predict(self, hidden_LE: Tensor) -> Tensor:
        """The most probable frames of a whole answer, [T] int64, with blanks. Raises InvalidInput as `step` does."""
        self.check([hidden_LE])
        return self._frames(hidden_LE.repeat_interleave(self.upsample, 0)[None])[0]

    def step(
        self, states: Sequence[UnitGeneratorState], hidden: Sequence[Tensor], last: Sequence[bool] = ()
    ) -> list[Tensor]:
        """Advances streams, all in one batch.

        Args:
            states: The answers; updated in place, unless an error is raised.
            hidden: New hidden states of each: floats [L, E], L may be 0.
            last: Whether an answer ends here; ignored, since nothing is held back.

        Returns:
            For each its most probable frames, [T] int64, with blanks; `collapse` turns them into units.

        Raises:
            InvalidInput: Hidden states have another width or are not finite.
        """
        if len(states) != len(hidden):
            raise InvalidInput("hidden_states", f"{len(hidden)} for {len(states)} streams")
        self.check(hidden)
        frames = [[torch.zeros(0, dtype=torch.int64, device=self._weights.device)] for _ in states]
        for start in range(0, max((len(each) for each in hidden), default=0), _HIDDEN_CHUNK):
            rows = [row for row, each in enumerate(hidden) if len(each) > start]
            parts = [hidden[row][start : start + _HIDDEN_CHUNK].to(self._weights) for row in rows]
            parts = [part.repeat_interleave(self.upsample, 0) for part in parts]
            lengths = [len(part) for part in parts]
            caches = [states[row].cache for row in rows]
            found_BT = self._frames(pad_sequence(parts, batch_first=True), caches, lengths)
            for row, found_T, length in zip(rows, found_BT, lengths, strict=True):
                frames[row].append(found_T[:length])
        return [torch.cat(each) for each in frames]

    def collapse(self, states: Sequence[UnitGeneratorState], frames: Sequence[Tensor]) -> list[Tensor]:
        """Frames [T] of each stream's last step -> units [N]: repeats merged, across steps too, and blanks dropped."""
        return collapse(states, frames, self.blank)

    def check(self, hidden: Sequence[Tensor]) -> None:
        """Raises InvalidInput where hidden states are not floats [L, E] or not finite."""
        check_hidden(hidden, self.hidden_width)

    def loss(self, hidden_BLE: Tensor, labels_BL: Tensor, units_BN: Tensor) -> Tensor:
        """CTC loss of a batch, per target unit (a scalar).

        Hidden states of answer tokens are repeated `upsample` times, or evenly to as many frames as there are units.

        Args:
            hidden_BLE: Hidden states of whole sequences.
            labels_BL: int64; IGNORED outside the answer.
            units_BN: int64 target units, repeats merged; IGNORED where padded.

        Raises:
            InvalidInput: A unit is unknown, or a row has units and no answer token.
        """
        targets = [row[row != IGNORED] for row in units_BN]
        answers = [row[label != IGNORED] for row, label in zip(hidden_BLE, labels_BL, strict=True)]
        flat = torch.cat(targets)
        check_units(flat, self.units)
        if any(len(target) and not len(answer) for target, answer in zip(targets, answers, strict=True)):
            raise InvalidInput("labels", "a row has units and no answer token")
        kept = [(answer, target) for answer, target in zip(answers, targets, strict=True) if len(answer)]
        if not kept or not len(flat):
            return self.output_proj.bias.sum() * 0.0
        stretched = [_stretched(answer, max(len(answer) * self.upsample, len(target))) for answer, target in kept]
        logits_BTU = self._logits(pad_sequence(stretched, batch_first=True))
        logits = [row[: len(frames)] for row, frames in zip(logits_BTU, stretched, strict=True)]
        return ctc_loss(logits, [target for _, target in kept], self.blank)

    @property
    def _weights(self) -> Tensor:
        return self.input_proj.weight

    def _frames(
        self, hidden_BTE: Tensor, caches: Sequence[KeyValueCache] | None = None, lengths: Sequence[int] | None = None
    ) -> Tensor:
        return self._logits(hidden_BTE, caches, lengths).argmax(-1)

    def _logits(
        self, hidden_BTE: Tensor, caches: Sequence[KeyValueCache] | None = None, lengths: Sequence[int] | None = None
    ) -> Tensor:
        decoded_BTW = self(self.input_proj(hidden_BTE.to(self._weights)), caches, lengths=lengths)
        logits_BTU: Tensor = self.output_proj(decoded_BTW)
        return logits_BTU


def _stretched(hidden_LE: Tensor, length: int) -> Tensor:
    """Repeats hidden states as evenly as whole numbers allow, [length, E]."""
    place_T = torch.arange(length, device=hidden_LE.device) * len(hidden_LE) // length
    return hidden_LE[place_T]
