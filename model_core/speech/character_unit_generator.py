"""Nano's speech generator: hidden states of an answer to speech units, by CTC, from the spelling of its tokens.

The method's generator learns from 200,000 answers how each of the language model's tokens is pronounced. This one
trains for an hour on one CPU core: the language model's output table gives the token of a hidden state, the token its
characters, and characters most of the pronunciation, even of unseen words. Each hidden state becomes `frames` frames,
as in the method; the token's characters are spread evenly over them, and convolutions turn every frame into a unit or
a blank. They look one token ahead, since the pronunciation of a word piece depends on the next.

Shapes: L hidden states, E their width, T frames (L * frames), W width of the generator, V vocabulary, N units, U units
and the blank.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from model_core.errors import InvalidInput
from model_core.speech.ctc import check_hidden, check_units, collapse, ctc_loss
from model_core.speech.streaming import ConvStack, Layer, Past, Signal, Step, run, stack_delay

# Character 0 stands for everything but printable ASCII.
_FIRST_LETTER, LETTERS = 31, 96

LAYERS = (
    Layer(kernel=5, dilation=1, ahead=2),
    Layer(kernel=5, dilation=2, ahead=4),
    Layer(kernel=5, dilation=4, ahead=8),
    Layer(kernel=5, dilation=4, ahead=0),
    Layer(kernel=5, dilation=8, ahead=0),
    Layer(kernel=5, dilation=1, ahead=2),
)


@dataclass(slots=True)
class CharacterUnitGeneratorState:
    """The state of one answer: the convolutions' past, and the last frame, which the next may repeat."""

    last_frame: int
    past: Past = field(default_factory=Past)


class CharacterUnitGenerator(nn.Module):
    """Hidden states to units through the characters of their tokens; one object serves any number of streams.

    The frames of a hidden state are known once the next one is there, or the answer has ended.
    """

    @dataclass(kw_only=True, frozen=True, slots=True)
    class Config:
        """Shape of a generator for a language model `hidden_width` wide with `vocabulary` tokens."""

        hidden_width: int
        vocabulary: int
        units: int
        width: int = 256
        frames: int = 16
        layers: tuple[Layer, ...] = LAYERS
        dropout: float = 0.1

        def build(self) -> "CharacterUnitGenerator":
            return CharacterUnitGenerator(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.hidden_width, self.units, self.upsample = config.hidden_width, config.units, config.frames
        self.spelling_VT: Tensor
        self.register_buffer("spelling_VT", torch.zeros(config.vocabulary, config.frames, dtype=torch.uint8))
        self.letters = nn.Embedding(LETTERS, config.width)
        self.places_TW = nn.Parameter(torch.randn(config.frames, config.width) * 0.02)
        self.stack = ConvStack(config.width, config.layers, config.dropout)
        self.out = nn.Linear(config.width, config.units + 1)
        self._table_VE: Tensor | None
        self.register_buffer("_table_VE", None, persistent=False)

    @property
    def blank(self) -> int:
        """The CTC blank."""
        return self.units

    def set_spelling(self, tokenizer: Tokenizer) -> Self:
        """Stores the characters of every token of the vocabulary, as part of the weights."""
        for token in range(self.config.vocabulary):
            letters = letters_of(tokenizer.decode([token], skip_special_tokens=True))
            self.spelling_VT[token] = torch.tensor(spread(letters, self.config.frames), dtype=torch.uint8)
        return self

    def set_output_table(self, table_VE: Tensor) -> Self:
        """Sets the language model's output table, which gives the token of a hidden state; not part of the weights."""
        wanted = (self.config.vocabulary, self.hidden_width)
        if table_VE.shape != wanted:
            raise InvalidInput("table", f"has shape {list(table_VE.shape)}, not {list(wanted)}")
        self._table_VE = table_VE
        return self

    def tokens(self, hidden_LE: Tensor) -> Tensor:
        """The most probable token of each hidden state, [L] int64."""
        if self._table_VE is None:
            raise RuntimeError("this generator has no output table of the language model: call `set_output_table`")
        return F.linear(hidden_LE.to(self._table_VE), self._table_VE).argmax(-1)

    def new_state(self) -> CharacterUnitGeneratorState:
        """The initial state of an answer."""
        return CharacterUnitGeneratorState(self.blank)

    def predict(self, hidden_LE: Tensor) -> Tensor:
        """The most probable frames of a whole answer, [T] int64, with blanks. Raises InvalidInput as `step` does."""
        return self.step([self.new_state()], [hidden_LE], [True])[0]

    def step(
        self, states: Sequence[CharacterUnitGeneratorState], hidden: Sequence[Tensor], last: Sequence[bool]
    ) -> list[Tensor]:
        """Advances streams, all in one batch.

        Args:
            states: The answers; updated in place, unless an error is raised.
            hidden: New hidden states of each: floats [L, E], L may be 0.
            last: Whether an answer ends here.

        Returns:
            For each its frames that are now final, [T] int64, with blanks; `collapse` turns them into units.

        Raises:
            InvalidInput: Hidden states have another width or are not finite.
        """
        if not len(states) == len(hidden) == len(last):
            raise InvalidInput("hidden_states", f"{len(hidden)} for {len(states)} streams")
        self.check(hidden)
        tokens = torch.split(self.tokens(torch.cat(list(hidden))), [len(each) for each in hidden])
        logits, pasts = self._run([state.past for state in states], tokens, last)
        for state, past in zip(states, pasts, strict=True):
            state.past = past
        return [each.argmax(-1) for each in logits]

    def collapse(self, states: Sequence[CharacterUnitGeneratorState], frames: Sequence[Tensor]) -> list[Tensor]:
        """Frames [T] of each stream's last step -> units [N]: repeats merged, across steps too, and blanks dropped."""
        return collapse(states, frames, self.blank)

    def check(self, hidden: Sequence[Tensor]) -> None:
        """Raises InvalidInput where hidden states are not floats [L, E] or not finite."""
        check_hidden(hidden, self.hidden_width)

    def logits(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        """Logits [T, U] of each whole answer of tokens [L]."""
        return self._run([Past() for _ in tokens], tokens, [True] * len(tokens))[0]

    def loss(self, tokens: Sequence[Tensor], units: Sequence[Tensor]) -> Tensor:
        """CTC loss per unit (a scalar) of whole answers, each of int64 tokens [L] and int64 units [N].

        Raises:
            InvalidInput: A unit is unknown.
        """
        check_units(torch.cat(list(units)), self.units)
        return ctc_loss(self.logits(tokens), units, self.blank)

    def _run(
        self, pasts: Sequence[Past], tokens: Sequence[Tensor], last: Sequence[bool]
    ) -> tuple[list[Tensor], list[Past]]:
        spelled = [self._spelled(each).T for each in tokens]
        seen, after = run(self._chain, pasts, spelled, last, stack_delay(self.config.layers))
        return [each.T if each.numel() else each.new_zeros(0, self.units + 1) for each in seen], after

    def _chain(self, signal: Signal, step: Step) -> Signal:
        signal = self.stack(signal, step)
        return signal.with_values(self.out(signal.values_BCL.transpose(1, 2)).transpose(1, 2))

    def _spelled(self, tokens_L: Tensor) -> Tensor:
        """Tokens [L] -> embedded characters [T, W]."""
        letters_LTW = self.letters(self.spelling_VT[tokens_L].long()) + self.places_TW
        return torch.flatten(letters_LTW, 0, 1)


def letters_of(text: str) -> list[int]:
    """Character numbers of a text, below LETTERS."""
    return [ord(letter) - _FIRST_LETTER if " " <= letter <= "~" else 0 for letter in text]


def spread(letters: Sequence[int], frames: int) -> list[int]:
    """Spreads characters evenly over `frames` frames; none give zeros, excess ones are dropped."""
    kept = list(letters[:frames]) or [0]
    return [kept[frame * len(kept) // frames] for frame in range(frames)]
