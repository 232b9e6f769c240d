"""The language model as services see it: a conversation in, an answer token by token out.

Shapes: B answers in step, L positions of the prompt, E width, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model_core.adapter_choice import choose_adapter
from model_core.engine.prefix_cache import Prefix, PrefixCache, kept_in, key_of
from model_core.engine.sampling import Sampler, TextStream
from model_core.errors import InvalidInput
from model_core.language.chat_template import CHATML, ChatTemplate, render
from model_core.language.decoder import Decoder
from model_core.language.extractor import Extraction, ExtractionConfig
from model_core.language.kv_cache import KeyValueCache
from model_core.language.lora import LoraWeights
from model_core.language.messages import Message
from model_core.language.splicing import SplicedPrompt, splice

BASE = "base"
# Positions that a cache has room for behind the prompt before it grows.
_ROOM = 256
# Positions that are cheaper to keep than to read again.
_LEAST_KEPT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """How to answer.

    Args:
        max_tokens: Most tokens of the answer; 0 for as many as the context has room for.
        temperature: 0 (greedy) to 2.
        top_p: Share of probability that tokens are drawn from, over 0, at most 1.
        seed: Makes drawing repeatable.
        stop: Texts that end the answer.
        end_loops: Whether an answer that says the same again and again ends there.
        adapter: LoRA adapter; empty for the one that fits the prompt, `base` for none.
        keep_rate: Share of the context tokens kept after each block, over 0, at most 1 (off); None for the model's own.
        blocks: Blocks of layers, 1 (off) to the number of layers; None for the model's own.
        hidden_states: Whether each token comes with its hidden state.
        owner: Whose request it is: what is kept of it helps nobody else.
    """

    max_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    end_loops: bool = False
    adapter: str = ""
    keep_rate: float | None = None
    blocks: int | None = None
    hidden_states: bool = False
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request.

    Attributes:
        adapter: Empty where the base answered.
        context_tokens: Context tokens that each block of layers saw, the first block first.
    """

    prompt_tokens: int
    speech_tokens: int
    vision_tokens: int
    completion_tokens: int
    adapter: str
    context_tokens: tuple[int, ...]


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
    """A decoder with its tokenizer and adapters; answers one request at a time, or several in step.

    Speech in the prompt switches the `speech` adapter on, speech of several clips `long_speech`, a picture without
    speech the `vision` adapter, each where it is resident; text alone runs on the untouched base.

    Args:
        model: Name.
        decoder: With its adapters.
        tokenizer: The decoder's.
        template: How conversations are written down for it.
        extraction: What a request gets that names neither keep rate nor blocks.
        window_tokens: Most speech tokens that it answers well from at once; 0 for as many as the context holds.

    Attributes:
        prefixes: Keeps long beginnings of prompts up to their first instruction, so that the next question about the
            same recording does not have them read again. It has no room unless it is given some.
    """

    def __init__(
        self,
        model: str,
        decoder: Decoder,
        tokenizer: Tokenizer,
        template: ChatTemplate = CHATML,
        extraction: ExtractionConfig | None = None,
        window_tokens: int = 0,
    ) -> None:
        self.model = model
        self.decoder = decoder.eval()
        self.tokenizer = tokenizer
        self.template = template
        self.extraction = extraction or ExtractionConfig()
        self.window_tokens = window_tokens
        self.width = decoder.config.width
        self.context_tokens = decoder.config.context
        self.max_blocks = decoder.config.layers
        self.prefixes = PrefixCache(0)
        self._stop_ids = {tokenizer.token_to_id(token) for token in template.stop_tokens} - {None}

    @property
    def adapters(self) -> tuple[str, ...]:
        """Adapters that requests may name."""
        return self.decoder.adapters

    def load_adapter(self, name: str, weights: LoraWeights) -> None:
        """Makes an adapter resident.

        Args:
            name: What requests call it.
            weights: Checked against the decoder (`checkpoints.peft_adapters.read_adapter`).

        Raises:
            InvalidInput: another adapter has that name.
        """
        if name in (BASE, *self.adapters):
            raise InvalidInput("adapter", f"{name!r} is resident already")
        self.decoder.load_adapter(name, weights)
        self.prefixes.clear()

    def unload_adapter(self, name: str) -> None:
        """Takes an adapter out of memory. Raises InvalidInput where it is not resident."""
        self._check_adapter(name)
        self.decoder.remove_adapter(name)
        self.prefixes.clear()

    def count_tokens(self, text: str) -> int:
        return len(self.tokenizer.encode(text).ids)

    def generate(self, messages: list[Message], options: GenerationOptions) -> Iterator[Delta | Finish]:
        """Answers a conversation. Closing the iterator ends the work and frees its memory.

        Yields:
            One Delta per token, then one Finish.

        Raises:
            InvalidInput: on the first step, naming what does not fit.
        """
        for _, event in self.generate_together([(messages, options)]):
            yield event

    def generate_together(
        self, requests: Sequence[tuple[list[Message], GenerationOptions]]
    ) -> Iterator[tuple[int, Delta | Finish]]:
        """Answers several conversations in step: each step reads the weights once for all of them.

        In a number format as coarse as bfloat16 an answer may differ by a word from the one that it gets alone.

        Yields:
            The number of a request with one of its events; for each what `generate` yields.

        Raises:
            InvalidInput: on the first step, naming what does not fit.
        """
        writing = {number: self._begin(messages, options) for number, (messages, options) in enumerate(requests)}
        hidden = {number: self._read(answer) for number, answer in writing.items()}
        while writing:
            for number, hidden_E in hidden.items():
                answer = writing[number]
                if delta := self._write(answer, hidden_E):
                    yield number, delta
                if answer.ended:
                    del writing[number]
                    if rest := answer.stream.finish():
                        yield number, Delta(rest, 0, None)
                    yield number, Finish(answer.reason, answer.usage)
            hidden = self._step(writing)

    def _begin(self, messages: list[Message], options: GenerationOptions) -> "_Answer":
        _check(options)
        config = self._extraction(options)
        if options.adapter not in ("", BASE):
            self._check_adapter(options.adapter)
        with torch.inference_mode():
            prompt = splice(render(messages, self.template), self.tokenizer, self.decoder.embed_tokens)
        limit = self._answer_limit(prompt, options)
        return _Answer(
            prompt=prompt,
            limit=limit,
            adapter=self._adapter(prompt, options),
            owner=options.owner,
            hidden_states=options.hidden_states,
            extraction=Extraction(config, [prompt.context], [prompt.instruction]),
            sampler=Sampler(options.temperature, options.top_p, options.seed),
            stream=TextStream(self.tokenizer.decode, options.stop, options.end_loops),
            cache=self.decoder.new_cache(min(limit, _ROOM)),
        )

    def _read(self, answer: "_Answer") -> Tensor:
        """Hidden state [E] behind the prompt."""
        prompt, dropping = answer.prompt, answer.extraction if answer.extraction.config.drops else None
        where = prompt.positions if self.decoder.config.rope_sections else _counted(prompt.embeds)
        with torch.inference_mode():
            length = self._length_to_keep(prompt)
            ahead = self._begin_reading(answer, length, where, dropping) if length else None
            hidden_1LE: Tensor = self.decoder(
                prompt.embeds[None, length:],
                answer.cache,
                answer.adapter,
                where if dropping else where[:, length:],
                extraction=dropping,
                ahead=ahead if dropping else None,
            )
        return hidden_1LE[0, -1]

    def _length_to_keep(self, prompt: SplicedPrompt) -> int:
        """How many positions are before the first instruction; 0 where they are too few, or nothing is kept."""
        asked = prompt.instruction.nonzero()
        length = int(asked[0]) if len(asked) else 0
        return length if self.prefixes.most_bytes and length >= _LEAST_KEPT else 0

    def _begin_reading(self, answer: "_Answer", length: int, where: Tensor, dropping: Extraction | None) -> Tensor:
        """Has the first positions read by the layers before anything is dropped, or remembers it: they are in the
        answer's cache then. Returns their hidden states [1, P, E]."""
        embeds, layers = answer.prompt.embeds[:length], len(self.decoder.layers)
        if dropping:
            layers = dropping.config.block_ends(layers)[0] + 1
        key = key_of(embeds, where[:, :length], answer.owner, answer.adapter or "", str(layers))
        prefix = self.prefixes.find(key)
        if prefix is None:
            prefix = self._read_beginning(embeds, answer.adapter, where[:, :length], layers)
            self.prefixes.keep(key, prefix)
        own = prefix.to(embeds.dtype, min(answer.limit, _ROOM) + len(answer.prompt.embeds) - length)
        answer.cache = own.cache
        return own.hidden_1PE

    def _read_beginning(self, embeds_PE: Tensor, adapter: str | None, positions_3P: Tensor, layers: int) -> Prefix:
        """What the first layers make of a beginning, as it is kept."""
        cache = self.decoder.new_cache(0)
        hidden_1PE = self.decoder.read_ahead(embeds_PE[None], cache, adapter, positions_3P, layers)
        return Prefix(cache, hidden_1PE).to(kept_in(embeds_PE.dtype))

    def _write(self, answer: "_Answer", hidden_E: Tensor) -> Delta | None:
        """The next token of an answer; None where it is the end."""
        with torch.inference_mode():
            answer.token = answer.sampler.pick(self.decoder.logits(hidden_E))
        if answer.token in self._stop_ids:
            answer.reason, answer.ended = "stop", True
            return None
        answer.produced += 1
        delta = Delta(answer.stream.push(answer.token), 1, hidden_E.float()[None] if answer.hidden_states else None)
        if answer.stream.stopped:
            answer.reason = "stop"
        answer.ended = answer.stream.stopped or answer.produced == answer.limit
        return delta

    def _step(self, writing: Mapping[int, "_Answer"]) -> dict[int, Tensor]:
        """Hidden states [E] behind the last tokens of all answers."""
        answers = list(writing.values())
        if not answers:
            return {}
        with torch.inference_mode():
            tokens_B1 = torch.tensor([[each.token] for each in answers], device=self.decoder.embed_tokens.weight.device)
            where = None
            if self.decoder.config.rope_sections:
                where = torch.stack([each.next_position() for each in answers], dim=1)
            adapters = [each.adapter for each in answers]
            hidden_B1E = self.decoder(
                self.decoder.embed_tokens(tokens_B1), [each.cache for each in answers], adapters, where
            )
        return dict(zip(writing, hidden_B1E[:, 0], strict=True))

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
        if options.adapter:
            return None if options.adapter == BASE else options.adapter
        return choose_adapter(self.adapters, clips=prompt.clips, vision=bool(prompt.vision_tokens)) or None

    def _check_adapter(self, name: str) -> None:
        if name not in self.adapters:
            raise InvalidInput("adapter", f"{name!r} is not one of {', '.join((BASE, *self.adapters))}")

    def _extraction(self, options: GenerationOptions) -> ExtractionConfig:
        own = self.extraction
        config = ExtractionConfig(
            own.blocks if options.blocks is None else options.blocks,
            own.keep_rate if options.keep_rate is None else options.keep_rate,
        )
        config.check(self.max_blocks)
        return config


@dataclass(slots=True, kw_only=True)
class _Answer:
    """An answer that is being written."""

    prompt: SplicedPrompt
    limit: int
    adapter: str | None
    owner: str
    hidden_states: bool
    extraction: Extraction
    sampler: Sampler
    stream: TextStream
    cache: KeyValueCache
    token: int = -1
    produced: int = 0
    ended: bool = False
    reason: Literal["stop", "length"] = "length"

    @property
    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=len(self.prompt.embeds),
            speech_tokens=self.prompt.speech_tokens,
            vision_tokens=self.prompt.vision_tokens,
            completion_tokens=self.produced,
            adapter=self.adapter or "",
            context_tokens=tuple(self.extraction.context_tokens[0]),
        )

    def next_position(self) -> Tensor:
        """[3, 1] of the last token in time, height and width: text goes on behind the largest."""
        return (self.prompt.positions.max() + self.produced).expand(3, 1)


def _counted(embeds_LE: Tensor) -> Tensor:
    """[3, L]: positions from 0 on."""
    return torch.arange(len(embeds_LE), device=embeds_LE.device).expand(3, -1)


def _check(options: GenerationOptions) -> None:
    if options.max_tokens < 0:
        raise InvalidInput("max_tokens", f"{options.max_tokens} is below 0")
    if not 0 <= options.temperature <= 2:
        raise InvalidInput("temperature", f"{options.temperature} is not from 0 to 2")
    if not 0 < options.top_p <= 1:
        raise InvalidInput("top_p", f"{options.top_p} is not over 0 and at most 1")
    if len(options.stop) > 4 or not all(options.stop):
        raise InvalidInput("stop", "at most 4 texts, none of them empty")
