"""Whisper's vocabulary, and which tokens may follow: the rules for timestamps that it was trained with.

Shapes: V vocabulary.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

SECONDS_PER_TIMESTAMP = 0.02
TIMESTAMPS = 1501  # 0 to 30 s
MAX_FIRST_TIMESTAMP = 50  # 1 s: segments of speech that starts later still start with their clip

# Music, stage directions and speaker labels: transcripts hold spoken words only, so no token may start with these.
_SYMBOLS = [
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *("<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("', "((", "))", "(((", ")))", "[[", "]]", "{{", "}}"),
    *("♪♪", "♪♪♪"),
]
_NOTES = [*"♩♪♫♬♭♮♯"]
_SPECIAL = ["startoftranscript", "translate", "transcribe", "startoflm", "startofprev", "nocaptions", "notimestamps"]
_NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")  # in newer and older tokenizers
_LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")


@dataclass(frozen=True)
class WhisperTokens:
    """The vocabulary of an English-only or a multilingual Whisper. Timestamps come last, 0.02 s apart."""

    tokenizer: Tokenizer
    vocabulary: int
    multilingual: bool = False

    @cached_property
    def end(self) -> int:
        return self._id("<|endoftext|>")

    @cached_property
    def start(self) -> int:
        """The token that every transcript starts with."""
        return self._id("<|startoftranscript|>")

    @cached_property
    def languages(self) -> dict[str, int]:
        """Token of each supported language by its code; empty for an English-only model."""
        if not self.multilingual:
            return {}
        between = range(self.start + 1, self._id("<|translate|>"))
        named = {token: _LANGUAGE.fullmatch(self.tokenizer.id_to_token(token) or "") for token in between}
        return {match[1]: token for token, match in named.items() if match}

    def task(self, language: str) -> list[int]:
        """Tokens between the start of a transcript in `language` and its first timestamp."""
        return [self.languages[language], self._id("<|transcribe|>")] if self.multilingual else []

    @cached_property
    def no_speech(self) -> int:
        """The token whose probability after the start is that of no speech."""
        known = [token for token in _NO_SPEECH if self.tokenizer.token_to_id(token) is not None]
        return self._id(known[0] if known else _NO_SPEECH[0])

    @cached_property
    def first_timestamp(self) -> int:
        """The token of 0.00 s."""
        return self._id("<|notimestamps|>") + 1

    @property
    def timestamps(self) -> int:
        """Number of timestamp tokens."""
        return self.vocabulary - self.first_timestamp

    def text(self, tokens: list[int]) -> str:
        """The text of tokens, without special tokens and timestamps."""
        text: str = self.tokenizer.decode([token for token in tokens if token < self.end], skip_special_tokens=True)
        return text

    @cached_property
    def suppressed(self) -> Tensor:
        """[V] bool: tokens that are never generated."""
        banned = torch.zeros(self.vocabulary, dtype=torch.bool)
        banned[[self._id(f"<|{name}|>") for name in _SPECIAL if name != "nocaptions"]] = True
        banned[[self.no_speech, *self.languages.values()]] = True
        banned[self._non_speech()] = True
        return banned

    @cached_property
    def suppressed_first(self) -> Tensor:
        """[V] bool: tokens that a transcript may not start with: all but timestamps within the first second."""
        banned = torch.ones(self.vocabulary, dtype=torch.bool)
        banned[self.first_timestamp : self.first_timestamp + MAX_FIRST_TIMESTAMP + 1] = False
        return banned

    def allowed(self, logits_V: Tensor, generated: list[int], last_timestamp: int) -> Tensor:
        """Logits with forbidden tokens at minus infinity.

        Timestamps come in pairs (end of one segment, start of the next), except before the end of the text; they never
        decrease, no segment is empty, and none ends after `last_timestamp`.

        Args:
            logits_V: [V] of the next token.
            generated: Tokens after the prompt.
            last_timestamp: Token of the latest time that is allowed.
        """
        logits_V = logits_V.masked_fill(self.suppressed, float("-inf"))
        self.mask_forbidden(logits_V, generated, last_timestamp)
        return logits_V

    def mask_forbidden(self, logits_V: Tensor, generated: list[int], last_timestamp: int) -> None:
        """As `allowed`, in place, for logits whose suppressed tokens are at minus infinity already."""
        first = self.first_timestamp
        logits_V[last_timestamp + 1 :] = float("-inf")
        if not generated:
            logits_V.masked_fill_(self.suppressed_first, float("-inf"))
            return
        closing = generated[-1] >= first and len(generated) > 1 and generated[-2] < first
        if generated[-1] >= first:
            if closing:
                logits_V[: self.end] = float("-inf")
            else:
                logits_V[first:] = float("-inf")
        latest = max((token for token in generated if token >= first), default=first)
        logits_V[first : latest if closing else latest + 1] = float("-inf")
        # Where a timestamp is more likely than any single word, it has to come next.
        if logits_V[first:].logsumexp(0) > logits_V[:first].max():
            logits_V[:first] = float("-inf")

    def _non_speech(self) -> list[int]:
        spellings = [" -", " '"]  # hyphens and quotes inside words are allowed
        spellings += [spelled for symbol in [*_SYMBOLS, *_NOTES] for spelled in (symbol, f" {symbol}")]
        encoded = {spelled: self._encode(spelled) for spelled in spellings}
        banned = {tokens[0] for spelled, tokens in encoded.items() if len(tokens) == 1 or spelled.strip() in _NOTES}
        return sorted(banned)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _id(self, token: str) -> int:
        found: int | None = self.tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"the tokenizer has no token {token}: it is not Whisper's")
        return found


def random_tokenizer(languages: Sequence[str] = ()) -> Tokenizer:
    """A byte-level tokenizer without merges, with Whisper's special tokens: for random models, needs no file."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    start, *others = _SPECIAL
    tokenizer.add_special_tokens([f"<|{name}|>" for name in ("endoftext", start, *languages, *others)])
    return tokenizer
