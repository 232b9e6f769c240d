"""The language model as services use it: a conversation in, an answer out, token by token.

Shapes: L positions of the prompt.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model_core.adapter_choice import BASE, choose_adapter
from model_core.engine.detokenizer import IncrementalDetokenizer
from model_core.engine.engine import Engine, EngineConfig
from model_core.engine.grammar import JsonGrammar
from model_core.engine.packed_weights import Precision
from model_core.engine.prefix_cache import page_keys, root_key
from model_core.engine.request import Delta, Event, Failure, Finish, GenerationOptions
from model_core.engine.sampler import RowSampling
from model_core.engine.sampling_params import SamplingParams
from model_core.engine.sequence import Sequence as RunningSequence
from model_core.errors import InvalidInput
from model_core.language.chat_template import CHATML, ChatTemplate, render
from model_core.language.decoder import Decoder
from model_core.language.extractor import ExtractionConfig
from model_core.language.lora import LoraWeights
from model_core.language.messages import Message
from model_core.language.splicing import SplicedPrompt, splice


class LanguageModel:
    """A decoder with its tokenizer and adapters, and the engine that answers with them.

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
        precision: Format of the weights that few rows are multiplied by; less than `float` where the checkpoint was
            quantized like that and loses nothing.

    Attributes:
        engine_config: Limits of the engine; set before the first request.
    """

    def __init__(
        self,
        model: str,
        decoder: Decoder,
        tokenizer: Tokenizer,
        template: ChatTemplate = CHATML,
        extraction: ExtractionConfig | None = None,
        window_tokens: int = 0,
        precision: Precision = "float",
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
        self.engine_config = EngineConfig(precision=precision)
        ids = map(tokenizer.token_to_id, template.stop_tokens)
        self._stop_ids = {token for token in ids if token is not None}
        self._json_grammar = JsonGrammar(tokenizer, decoder.config.vocabulary, self._stop_ids)
        self._engine: Engine | None = None
        self._numbers = count()
        self._mailboxes: dict[str, deque[Event]] = {}
        # Part of cached prefixes' keys: an adapter that is loaded anew may have other weights.
        self._adapter_changes = 0

    @property
    def engine(self) -> Engine:
        """The engine, made when it is first used."""
        if self._engine is None:
            self._engine = Engine(self.decoder, self.tokenizer, self._stop_ids, self.engine_config)
        return self._engine

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
        self._follow_adapters()

    def unload_adapter(self, name: str) -> None:
        """Removes an adapter from memory. Raises InvalidInput if it is not resident."""
        self._check_adapter(name)
        self.decoder.remove_adapter(name)
        self._follow_adapters()

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

    def prepare(self, messages: list[Message], options: GenerationOptions, request_id: str = "") -> RunningSequence:
        """A request for `engine.add_request`. May run in another thread than the engine.

        Raises:
            InvalidInput: this model cannot take the options or the prompt.
        """
        self.check(options)
        with torch.inference_mode():
            prompt = splice(render(messages, self.template), self.tokenizer, self.decoder.embed_tokens)
        extraction, adapter = self._extraction(options), self._adapter(prompt, options)
        positions_3L = prompt.positions if self.decoder.config.rope_sections else _sequential(prompt.embeds)
        first_layers = extraction.block_ends(self.max_blocks)[0] + 1 if extraction.drops else self.max_blocks
        root = root_key(options.tenant, adapter or "", str(self._adapter_changes if adapter else 0), str(first_layers))
        schema = options.sampling.json_schema
        constraint = self._json_grammar.compile(schema) if schema else None
        caching = self.engine_config.prefix_cache_bytes > 0
        return RunningSequence(
            request_id=request_id or f"request-{next(self._numbers)}",
            prompt=prompt,
            positions=positions_3L,
            max_tokens=self._max_tokens(prompt, options.sampling),
            adapter=adapter,
            tenant=options.tenant,
            priority=options.priority,
            hidden_states=options.hidden_states,
            extraction=extraction,
            layers=self.max_blocks,
            sampling=RowSampling(options.sampling, prompt.text_ids.tolist(), constraint=constraint),
            detokenizer=IncrementalDetokenizer(
                self.tokenizer.decode, options.sampling.stop, options.sampling.end_loops
            ),
            root_key=root,
            page_keys=page_keys(root, prompt.embeds, positions_3L) if caching else [],
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
        """Answers several conversations together, in the caller's thread, which must be the engine's only one.

        In bfloat16 an answer may differ by a word from the one that the request gets alone.

        Yields:
            The index of a request with one of its events; for each request, what `generate` yields.

        Raises:
            InvalidInput: on the first step, for options or a prompt that this model cannot take.
        """
        sequences = [self.prepare(messages, options) for messages, options in requests]
        running = {sequence.request_id: index for index, sequence in enumerate(sequences)}
        self._mailboxes |= {request_id: deque() for request_id in running}
        try:
            for sequence in sequences:
                self.engine.add_request(sequence)
            while running:
                self._step_unless_delivered(running)
                for request_id, index in list(running.items()):
                    mailbox = self._mailboxes[request_id]
                    while mailbox:
                        event = mailbox.popleft()
                        if isinstance(event, Failure):
                            raise event.error
                        if isinstance(event, Finish):
                            del running[request_id]
                        yield index, event
        finally:
            for sequence in sequences:
                self.engine.abort(sequence.request_id)
                self._mailboxes.pop(sequence.request_id, None)

    def _step_unless_delivered(self, running: dict[str, int]) -> None:
        """One step, unless the steps of another iterator have left events for these requests."""
        if not any(self._mailboxes[request_id] for request_id in running):
            for request_id, event in self.engine.step():
                self._mailboxes[request_id].append(event)

    def _follow_adapters(self) -> None:
        self._adapter_changes += 1
        if self._engine is not None:
            self._engine.update_adapters()

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


def _sequential(embeds_LE: Tensor) -> Tensor:
    """[3, L] positions 0 to L - 1."""
    return torch.arange(len(embeds_LE), device=embeds_LE.device).expand(3, -1)
