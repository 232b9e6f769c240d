"""Log-probabilities as requests get them: with the text and the bytes of each token."""

from dataclasses import dataclass
from functools import cache

from tokenizers import Tokenizer

from model_core.engine.sampler import SampledToken


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely a token was.

    Attributes:
        token: Its text; U+FFFD in place of bytes that are no whole character.
        token_bytes: Its bytes in UTF-8.
        logprob: Its log-probability.
        top_logprobs: The most likely tokens in its place, in descending order, as many as requested.
    """

    token: str
    token_bytes: bytes
    logprob: float
    top_logprobs: tuple["TokenLogprob", ...] = ()


def token_logprobs(sampled: SampledToken, tokenizer: Tokenizer) -> tuple[TokenLogprob, ...]:
    """One entry for a token whose log-probability was requested, else none.

    Args:
        sampled: The token.
        tokenizer: A byte-level one.
    """
    if sampled.logprob is None:
        return ()
    top = tuple(_entry(token, logprob, tokenizer) for token, logprob in sampled.top_logprobs)
    return (_entry(sampled.id, sampled.logprob, tokenizer, top),)


def _entry(
    token: int, logprob: float, tokenizer: Tokenizer, top_logprobs: tuple[TokenLogprob, ...] = ()
) -> TokenLogprob:
    data = token_bytes(token, tokenizer)
    return TokenLogprob(data.decode(errors="replace"), data, logprob, top_logprobs)


def token_bytes(token: int, tokenizer: Tokenizer) -> bytes:
    """Bytes of a token of a byte-level tokenizer; empty for ids that have none, as where a vocabulary is padded."""
    name = tokenizer.id_to_token(token) or ""
    alphabet = _byte_alphabet()
    # Special and added tokens are written as they are.
    return bytes(alphabet[each] for each in name) if alphabet.keys() >= set(name) else name.encode()


@cache
def _byte_alphabet() -> dict[str, int]:
    """The characters that stand for bytes in byte-level vocabularies (GPT-2): printable ones for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
