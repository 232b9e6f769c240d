"""The language model as services see it: a conversation in, an answer token by token out.

Shapes: L positions of the prompt, E width, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model_core.errors import InvalidInput
from model_core.language.decoder import Decoder
from model_core.language.prompt import Message, SplicedPrompt, render, splice
from model_core.language.sampling import Sampler, TextStream

BASE = "base"
_STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """How to answer.

    Args:
        max_tokens: Most tokens of the answer; 0 for as many as the context has room for.
        temperature: 0 (greedy) to 2.
        top_p: Share of probability that tokens are drawn from, over 0, at most 1.
        seed: Makes drawing repeatable.
        stop: Texts that end the answer.
        adapter: LoRA adapter; empty for the one that fits the prompt, `base` for none.
        hidden_states: Whether each token comes with its hidden state.
    """

    max_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    adapter: str = ""
    hidden_states: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request; `adapter` is empty where the base answered."""

    prompt_tokens: int
    speech_tokens: int
    vision_tokens: int
    completion_tokens: int
    adapter: str


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of the answer: text (may be empty), its tokens, and their hidden states [tokens, E] if wanted."""

    text: str
    tokens: int
    hidden_states: Tensor | None


@dataclass(frozen=True, slots=True)
class Finish:
    """The end: the model or a stop text ended the answer, or its length did."""

    reason: Literal["stop", "length"]
    usage: Usage


class LanguageModel:
    """A decoder with its tokenizer and adapters; answers one request at a time.

    Speech in the prompt switches the `speech` adapter on, a picture without speech the `vision` adapter; text alone
    runs on the untouched base.
    """

    def __init__(self, model: str, decoder: Decoder, tokenizer: Tokenizer, adapters: tuple[str, ...]) -> None:
        self.model = model
        self.decoder = decoder.eval()
        self.tokenizer = tokenizer
        self.adapters = adapters
        self.width = decoder.config.width
        self.context_tokens = decoder.config.context
        self._stop_ids = {tokenizer.token_to_id(token) for token in _STOP_TOKENS} - {None}

    def count_tokens(self, text: str) -> int:
        return len(self.tokenizer.encode(text).ids)

    def generate(self, messages: list[Message], options: GenerationOptions) -> Iterator[Delta | Finish]:
        """Answers a conversation. Closing the iterator ends the work and frees its memory.

        Yields:
            One Delta per token, then one Finish.

        Raises:
            InvalidInput: on the first step, naming what does not fit.
        """
        _check(options)
        with torch.inference_mode():
            prompt = splice(render(messages), self.tokenizer, self.decoder.embed_tokens)
        limit = self._answer_limit(prompt, options)
        adapter = self._adapter(prompt, options)
        sampler = Sampler(options.temperature, options.top_p, options.seed)
        stream = TextStream(self.tokenizer.decode, options.stop)
        cache = self.decoder.new_cache(prompt.embeds.shape[0] + min(limit, 256))
        embeds_1LE = prompt.embeds[None]
        reason: Literal["stop", "length"] = "length"
        produced = 0
        while produced < limit:
            with torch.inference_mode():
                hidden_E = self.decoder(embeds_1LE, cache, adapter)[0, -1]
                token = sampler.pick(self.decoder.logits(hidden_E))
                embeds_1LE = self.decoder.embed_tokens(torch.tensor([[token]]))
            if token in self._stop_ids:
                reason = "stop"
                break
            produced += 1
            yield Delta(stream.push(token), 1, hidden_E.float()[None] if options.hidden_states else None)
            if stream.stopped:
                reason = "stop"
                break
        if rest := stream.finish():
            yield Delta(rest, 0, None)
        usage = Usage(prompt.embeds.shape[0], prompt.speech_tokens, prompt.vision_tokens, produced, adapter or "")
        yield Finish(reason, usage)

    def _answer_limit(self, prompt: SplicedPrompt, options: GenerationOptions) -> int:
        room = self.context_tokens - prompt.embeds.shape[0]
        if room < 1:
            raise InvalidInput(
                "messages", f"the prompt has {prompt.embeds.shape[0]} tokens; the context holds {self.context_tokens}"
            )
        if options.max_tokens > room:
            raise InvalidInput(
                "max_tokens",
                f"{options.max_tokens} is over the {room} tokens that the prompt leaves of {self.context_tokens}",
            )
        return options.max_tokens or room

    def _adapter(self, prompt: SplicedPrompt, options: GenerationOptions) -> str | None:
        if options.adapter and options.adapter not in (BASE, *self.adapters):
            raise InvalidInput("adapter", f"{options.adapter!r} is not one of {', '.join((BASE, *self.adapters))}")
        fitting = "speech" if prompt.speech_tokens else "vision" if prompt.vision_tokens else BASE
        chosen = options.adapter or fitting
        return chosen if chosen in self.adapters else None


def _check(options: GenerationOptions) -> None:
    if options.max_tokens < 0:
        raise InvalidInput("max_tokens", f"{options.max_tokens} is below 0")
    if not 0 <= options.temperature <= 2:
        raise InvalidInput("temperature", f"{options.temperature} is not from 0 to 2")
    if not 0 < options.top_p <= 1:
        raise InvalidInput("top_p", f"{options.top_p} is not over 0 and at most 1")
    if len(options.stop) > 4 or not all(options.stop):
        raise InvalidInput("stop", "at most 4 texts, none of them empty")
