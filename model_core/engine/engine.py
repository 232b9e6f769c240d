"""The language model as services use it: a conversation in, an answer out, token by token.

Shapes: B sequences of a batch, L positions of the prompt, P positions of its prefix, E width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model_core.adapter_choice import BASE, choose_adapter
from model_core.engine.detokenizer import IncrementalDetokenizer
from model_core.engine.grammar import JsonGrammar
from model_core.engine.logprobs import token_logprobs
from model_core.engine.prefix_cache import Prefix, PrefixCache, prefix_key, storage_dtype
from model_core.engine.request import Delta, Finish, GenerationOptions, Usage
from model_core.engine.sampler import BatchSampler, RowSampling, SamplingFailed
from model_core.engine.sampling_params import SamplingParams
from model_core.errors import InvalidInput
from model_core.language.chat_template import CHATML, ChatTemplate, render
from model_core.language.decoder import Decoder
from model_core.language.extractor import Extraction, ExtractionConfig
from model_core.language.kv_cache import KeyValueCache
from model_core.language.lora import LoraWeights
from model_core.language.messages import Message
from model_core.language.splicing import SplicedPrompt, splice

# Positions that a key-value cache reserves for the answer before it has to grow.
_RESERVE = 256
# Shortest prefix, in positions, that is cheaper to cache than to compute again.
_MIN_PREFIX = 256


class LanguageModel:
    """A decoder with its tokenizer and adapters; answers one request at a time, or a batch.

    A request that names no adapter gets `speech` if its prompt holds speech, `long_speech` if that is several clips,
    `vision` if it holds pictures only, each if that adapter is resident; text alone runs on the base model.

    Args:
        model: Its name.
        decoder: With its adapters.
        tokenizer: The decoder's.
        template: Renders conversations for it.
        extraction: Default of requests that set neither keep rate nor blocks.
        window_tokens: Maximum number of speech tokens that it answers well from in one prompt; 0 for as many as the
            context holds.

    Attributes:
        prefix_cache: Caches long prompts up to their first instruction, so that the next question about the same
            recording skips their prefill. Off by default.
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
        self.prefix_cache = PrefixCache(0)
        self._sampler = BatchSampler()
        ids = map(tokenizer.token_to_id, template.stop_tokens)
        self._stop_ids = {token for token in ids if token is not None}
        self._json_grammar = JsonGrammar(tokenizer, decoder.config.vocabulary, self._stop_ids)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the resident adapters."""
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
            raise InvalidInput("adapter", f"{name!r} is already resident")
        self.decoder.load_adapter(name, weights)
        self.prefix_cache.clear()

    def unload_adapter(self, name: str) -> None:
        """Removes an adapter from memory. Raises InvalidInput if it is not resident."""
        self._check_adapter(name)
        self.decoder.remove_adapter(name)
        self.prefix_cache.clear()

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text."""
        return len(self.tokenizer.encode(text).ids)

    def check(self, options: GenerationOptions) -> None:
        """Checks what can be checked before the prompt is there.

        Raises:
            InvalidInput: the adapter is not resident, the extraction does not fit the layers, `max_tokens` is over the
                context length, or a biased token is not in the vocabulary.
        """
        if options.adapter not in ("", BASE):
            self._check_adapter(options.adapter)
        self._extraction(options).check(self.max_blocks)
        options.sampling.check_vocabulary(self.decoder.config.vocabulary)
        if (options.sampling.max_tokens or 0) > self.context_tokens:
            raise InvalidInput(
                "max_tokens",
                f"{options.sampling.max_tokens} is over the model's context of {self.context_tokens} tokens",
            )

    def generate(self, messages: list[Message], options: GenerationOptions) -> Iterator[Delta | Finish]:
        """Answers a conversation. Closing the iterator ends the work and frees its memory.

        Yields:
            One Delta per token, then one Finish.

        Raises:
            InvalidInput: on the first step, for options or a prompt that this model cannot take.
        """
        for _, event in self.generate_batch([(messages, options)]):
            yield event

    def generate_batch(
        self, requests: Sequence[tuple[list[Message], GenerationOptions]]
    ) -> Iterator[tuple[int, Delta | Finish]]:
        """Answers several conversations as one batch: each decoding step reads the weights once for all of them.

        In bfloat16 an answer may differ by a word from the one that the request gets alone.

        Yields:
            The index of a request with one of its events; for each request, what `generate` yields.

        Raises:
            InvalidInput: on the first step, for options or a prompt that this model cannot take.
        """
        running = {index: self._start(messages, options) for index, (messages, options) in enumerate(requests)}
        hidden = {index: self._prefill(sequence) for index, sequence in running.items()}
        while running:
            for index, hidden_E in hidden.items():
                sequence = running[index]
                if delta := self._sample(sequence, hidden_E):
                    yield index, delta
                if sequence.finished:
                    del running[index]
                    if rest := sequence.detokenizer.flush():
                        yield index, Delta(rest, 0, None)
                    yield index, Finish(sequence.reason, sequence.usage)
            hidden = self._decode(running)

    def _start(self, messages: list[Message], options: GenerationOptions) -> "_Sequence":
        self.check(options)
        with torch.inference_mode():
            prompt = splice(render(messages, self.template), self.tokenizer, self.decoder.embed_tokens)
        max_tokens = self._max_tokens(prompt, options.sampling)
        schema = options.sampling.json_schema
        constraint = self._json_grammar.compile(schema) if schema else None
        return _Sequence(
            prompt=prompt,
            max_tokens=max_tokens,
            adapter=self._adapter(prompt, options),
            tenant=options.tenant,
            hidden_states=options.hidden_states,
            extraction=Extraction(self._extraction(options), [prompt.context], [prompt.instruction]),
            sampling=RowSampling(options.sampling, prompt.text_ids.tolist(), constraint=constraint),
            detokenizer=IncrementalDetokenizer(
                self.tokenizer.decode, options.sampling.stop, options.sampling.end_loops
            ),
            cache=self.decoder.new_cache(min(max_tokens, _RESERVE)),
        )

    def _prefill(self, sequence: "_Sequence") -> Tensor:
        """Runs the prompt. Returns the hidden state [E] of its last position."""
        prompt, extraction = sequence.prompt, sequence.extraction if sequence.extraction.config.drops else None
        positions_3L = prompt.positions if self.decoder.config.rope_sections else _sequential(prompt.embeds)
        with torch.inference_mode():
            length = self._prefix_length(prompt)
            prefix_1PE = self._prefill_prefix(sequence, length, positions_3L, extraction) if length else None
            hidden_1LE: Tensor = self.decoder(
                prompt.embeds[None, length:],
                sequence.cache,
                sequence.adapter,
                positions_3L if extraction else positions_3L[:, length:],
                extraction=extraction,
                prefix_hidden=prefix_1PE if extraction else None,
            )
        return hidden_1LE[0, -1]

    def _prefix_length(self, prompt: SplicedPrompt) -> int:
        """Number of positions before the first instruction; 0 if they are too few or prefix caching is off."""
        instruction = prompt.instruction.nonzero()
        length = int(instruction[0]) if len(instruction) else 0
        return length if self.prefix_cache.max_bytes and length >= _MIN_PREFIX else 0

    def _prefill_prefix(
        self, sequence: "_Sequence", length: int, positions_3L: Tensor, extraction: Extraction | None
    ) -> Tensor:
        """Prefills the prefix, from the prefix cache if it is there, through the layers before anything is dropped.

        The sequence's key-value cache holds it afterwards. Returns its hidden states [1, P, E].
        """
        embeds_PE, layers = sequence.prompt.embeds[:length], len(self.decoder.layers)
        if extraction:
            layers = extraction.config.block_ends(layers)[0] + 1
        key = prefix_key(embeds_PE, positions_3L[:, :length], sequence.tenant, sequence.adapter or "", str(layers))
        prefix = self.prefix_cache.get(key)
        if prefix is None:
            cache = self.decoder.new_cache(0)
            hidden_1PE = self.decoder.prefill_prefix(
                embeds_PE[None], cache, sequence.adapter, positions_3L[:, :length], layers
            )
            prefix = Prefix(cache, hidden_1PE).to(storage_dtype(embeds_PE.dtype))
            self.prefix_cache.put(key, prefix)
        own = prefix.to(embeds_PE.dtype, min(sequence.max_tokens, _RESERVE) + len(sequence.prompt.embeds) - length)
        sequence.cache = own.cache
        return own.hidden_1PE

    def _sample(self, sequence: "_Sequence", hidden_E: Tensor) -> Delta | None:
        """Samples the next token; None for a stop token. Raises SamplingFailed if there is none."""
        with torch.inference_mode():
            logits_1V = self.decoder.logits(hidden_E)[None]
        (sampled,) = self._sampler.sample(logits_1V, [sequence.sampling])
        if isinstance(sampled, SamplingFailed):
            raise sampled
        sequence.token = sampled.id
        if sequence.token in self._stop_ids:
            sequence.reason, sequence.finished = "stop", True
            return None
        sequence.generated += 1
        text = sequence.detokenizer.push(sequence.token)
        if sequence.detokenizer.stopped:
            sequence.reason = "stop"
        sequence.finished = sequence.detokenizer.stopped or sequence.generated == sequence.max_tokens
        hidden_1E = hidden_E.float()[None] if sequence.hidden_states else None
        return Delta(text, 1, hidden_1E, token_logprobs(sampled, self.tokenizer))

    def _decode(self, running: Mapping[int, "_Sequence"]) -> dict[int, Tensor]:
        """One decoding step. Returns the hidden state [E] of each sequence's last token."""
        sequences = list(running.values())
        if not sequences:
            return {}
        with torch.inference_mode():
            device = self.decoder.embed_tokens.weight.device
            tokens_B1 = torch.tensor([[each.token] for each in sequences], device=device)
            positions_3B1 = None
            if self.decoder.config.rope_sections:
                positions_3B1 = torch.stack([each.next_position() for each in sequences], dim=1)
            hidden_B1E = self.decoder(
                self.decoder.embed_tokens(tokens_B1),
                [each.cache for each in sequences],
                [each.adapter for each in sequences],
                positions_3B1,
            )
        return dict(zip(running, hidden_B1E[:, 0], strict=True))

    def _max_tokens(self, prompt: SplicedPrompt, sampling: SamplingParams) -> int:
        """Most tokens that the answer may have."""
        available = self.context_tokens - len(prompt.embeds)
        if available < 1:
            raise InvalidInput(
                "messages", f"the prompt has {len(prompt.embeds)} tokens; the context holds {self.context_tokens}"
            )
        max_tokens = sampling.max_tokens or available
        if max_tokens > available:
            raise InvalidInput(
                "max_tokens",
                f"{max_tokens} is over the {available} tokens that the prompt leaves of {self.context_tokens}",
            )
        return max_tokens

    def _adapter(self, prompt: SplicedPrompt, options: GenerationOptions) -> str | None:
        if options.adapter:
            return None if options.adapter == BASE else options.adapter
        return choose_adapter(self.adapters, clips=prompt.clips, vision=bool(prompt.vision_tokens)) or None

    def _check_adapter(self, name: str) -> None:
        if name not in self.adapters:
            raise InvalidInput("adapter", f"{name[:100]!r} is not one of {', '.join((BASE, *self.adapters))}")

    def _extraction(self, options: GenerationOptions) -> ExtractionConfig:
        default = self.extraction
        return ExtractionConfig(
            default.blocks if options.blocks is None else options.blocks,
            default.keep_rate if options.keep_rate is None else options.keep_rate,
        )


@dataclass(slots=True, kw_only=True)
class _Sequence:
    """A request while it runs.

    Attributes:
        max_tokens: Most tokens that may be generated: what was asked for, or what the context leaves.
        token: The last one sampled.
        generated: Number of tokens so far.
    """

    prompt: SplicedPrompt
    max_tokens: int
    adapter: str | None
    tenant: str
    hidden_states: bool
    extraction: Extraction
    sampling: RowSampling
    detokenizer: IncrementalDetokenizer
    cache: KeyValueCache
    token: int = -1
    generated: int = 0
    finished: bool = False
    reason: Literal["stop", "length"] = "length"

    @property
    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=len(self.prompt.embeds),
            speech_tokens=self.prompt.speech_tokens,
            vision_tokens=self.prompt.vision_tokens,
            completion_tokens=self.generated,
            adapter=self.adapter or "",
            context_tokens=tuple(self.extraction.context_tokens[0]),
        )

    def next_position(self) -> Tensor:
        """[3, 1] position of the last token in time, height and width: text continues after the largest."""
        return (self.prompt.positions.max() + self.generated).expand(3, 1)


def _sequential(embeds_LE: Tensor) -> Tensor:
    """[3, L] positions 0 to L - 1."""
    return torch.arange(len(embeds_LE), device=embeds_LE.device).expand(3, -1)
