"""Nano's speech generator: hidden states of an answer to units of its sound, by CTC, by way of how tokens are spelled.

The method's generator learns from 200,000 answers how each of the language model's tokens sounds. This one is for an
hour on one processor core: a hidden state tells its token, by the language model's own output table, the token tells
its letters, and letters tell most of the sound, of words never met too. Each hidden state becomes `frames` frames, as
in the method; over them lie the token's letters, evenly, and convolutions turn every frame into a unit or a blank.
They see one token ahead, since a piece of a word does not sound without the next.

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

# Letter 0 stands for every character but those that are printed in ASCII.
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
    """One answer: what the convolutions still need of the past, and the last frame, which the next may repeat."""

    last_frame: int
    past: Past = field(default_factory=Past)


class CharacterUnitGenerator(nn.Module):
    """Hidden states to units by way of their tokens' letters; one object serves any number of streams.

    The frames of a hidden state are known when the next is there, or the answer has ended.
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
        """The frame that stands for no unit."""
        return self.units

    def set_spelling(self, tokenizer: Tokenizer) -> Self:
        """Learns the letters of the vocabulary; part of the weights from then on."""
        for token in range(self.config.vocabulary):
            letters = letters_of(tokenizer.decode([token], skip_special_tokens=True))
            self.spelling_VT[token] = torch.tensor(spread(letters, self.config.frames), dtype=torch.uint8)
        return self

    def set_output_table(self, table_VE: Tensor) -> Self:
        """Takes the language model's output table, which tells the token of a hidden state; not part of the weights."""
        wanted = (self.config.vocabulary, self.hidden_width)
        if table_VE.shape != wanted:
            raise InvalidInput("table", f"has shape {list(table_VE.shape)}, not {list(wanted)}")
        self._table_VE = table_VE
        return self

    def tokens(self, hidden_LE: Tensor) -> Tensor:
        """The likeliest token of each hidden state, [L] int64."""
        if self._table_VE is None:
            raise RuntimeError("this generator was not given the language model's output table")
        return F.linear(hidden_LE.to(self._table_VE), self._table_VE).argmax(-1)

    def new_state(self) -> CharacterUnitGeneratorState:
        """An answer that begins."""
        return CharacterUnitGeneratorState(self.blank)

    def predict(self, hidden_LE: Tensor) -> Tensor:
        """The likeliest frames of a whole answer, [T] int64, blanks among them. Raises InvalidInput as `step` does."""
        return self.step([self.new_state()], [hidden_LE], [True])[0]

    def step(
        self, states: Sequence[CharacterUnitGeneratorState], hidden: Sequence[Tensor], last: Sequence[bool]
    ) -> list[Tensor]:
        """Takes streams a step further, all in one batch.

        Args:
            states: The answers; each is taken on in place, and none where an error is raised.
            hidden: What is new in each: floats [L, E], L may be 0.
            last: Whether an answer ends here.

        Returns:
            For each its frames that are now certain, [T] int64, blanks among them; `collapse` makes units of them.

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
        """Frames [T] of each stream's last step to units [N]: repeats merged, across steps too, and blanks dropped."""
        return collapse(states, frames, self.blank)

    def check(self, hidden: Sequence[Tensor]) -> None:
        """Raises InvalidInput where hidden states are not floats [L, E] or not finite."""
        check_hidden(hidden, self.hidden_width)

    def logits(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        """For each whole answer of tokens [L] its logits [T, U]."""
        return self._run([Past() for _ in tokens], tokens, [True] * len(tokens))[0]

    def loss(self, tokens: Sequence[Tensor], units: Sequence[Tensor]) -> Tensor:
        """CTC loss of whole answers, [L] int64 tokens and [N] int64 units each, for each unit (a scalar).

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
        """[L] to [T, W]"""
        letters_LTW = self.letters(self.spelling_VT[tokens_L].long()) + self.places_TW
        return torch.flatten(letters_LTW, 0, 1)


def letters_of(text: str) -> list[int]:
    """Numbers of a text's letters, below LETTERS."""
    return [ord(letter) - _FIRST_LETTER if " " <= letter <= "~" else 0 for letter in text]


def spread(letters: Sequence[int], frames: int) -> list[int]:
    """Letters over so many frames, as evenly as whole numbers allow; none make zeros, those beyond are left out."""
    kept = list(letters[:frames]) or [0]
    return [kept[frame * len(kept) // frames] for frame in range(frames)]
