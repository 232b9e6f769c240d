"""The engine: many requests answered by one model, step by step.

A step is one forward pass over a batch of segments: the next token of every answer, and chunks of prompts beside them.
`Scheduler` chooses the batch, `Runner` computes it, `BatchSampler` chooses the tokens; docs/engine.md explains why.
"""

import time
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from model_core.engine.batch import Segment
from model_core.engine.cost_model import CostModel
from model_core.engine.logprobs import token_logprobs
from model_core.engine.packed_weights import FloatWeights, Precision
from model_core.engine.page_pool import PAGE_SIZE, PagePool, PageShape
from model_core.engine.page_table import pages_for
from model_core.engine.prefix_cache import PrefixCache, page_keys
from model_core.engine.request import Delta, Event, Failure, Finish, FinishReason
from model_core.engine.runner import Runner, SegmentOutput
from model_core.engine.sampler import BatchSampler, SampledToken, SamplingFailed
from model_core.engine.scheduler import Batch, Scheduler
from model_core.engine.sequence import Sequence
from model_core.errors import InvalidInput, QueueFull
from model_core.language.decoder import Decoder

_SMOOTHING = 0.1  # weight of the latest answer in the moving average of lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Limits of the engine.

    Attributes:
        cache_bytes: Memory for keys and values.
        prefix_cache_bytes: As much of it as prefixes may occupy that no running request uses; 0 turns prefix caching
            off.
        cache_eight_bits: Whether they are stored in 8 bits.
        max_rows: Maximum number of sequences that run at the same time.
        max_waiting: Maximum number of sequences that wait beyond those.
        max_step_tokens: Maximum number of prompt tokens in a step.
        max_slowdown: How many times as long a step may take because of prompts as without them.
        precision: Of the decoder's weights when few rows are multiplied by them.
        float_weights: What becomes of the decoder's own weights, as in `JoinedProjection`.
    """

    cache_bytes: int = 512 * 2**20
    prefix_cache_bytes: int = 256 * 2**20
    cache_eight_bits: bool = False
    max_rows: int = 64
    max_waiting: int = 256
    max_step_tokens: int = 512
    max_slowdown: float = 1.8
    precision: Precision = "float"
    float_weights: FloatWeights = "shared"


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What the engine is doing.

    Attributes:
        waiting: Requests in the queue.
        running: Requests that run.
        pages_free: Pages that hold nothing.
        pages_used: Pages of running requests.
        pages_cached: Pages of cached prefixes that no running request uses.
        pages_by_block: Pages of running requests in the first, second, ... block of layers.
        prefix_lookups: Prompt tokens looked up in the prefix cache so far.
        prefix_hits: Those of them that were found.
        prompt_tokens: Prompt tokens processed so far.
        generated_tokens: Tokens generated so far.
        preemptions: Requests that lost their memory to others so far.
        steps: Steps so far.
    """

    waiting: int
    running: int
    pages_free: int
    pages_used: int
    pages_cached: int
    pages_by_block: tuple[int, ...]
    prefix_lookups: int
    prefix_hits: int
    prompt_tokens: int
    generated_tokens: int
    preemptions: int
    steps: int


class Engine:
    """Answers requests together. All methods are called from one thread.

    Args:
        decoder: The model; weights of neighbouring projections are joined in place.
        tokenizer: The decoder's.
        stop_ids: Tokens that end an answer.
        config: Limits.

    Attributes:
        single_thread_tokens: Up to so many tokens, the layers are computed by one CPU thread.
        stop_ids: Tokens that end an answer.
    """

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer, stop_ids: Set[int], config: EngineConfig) -> None:
        self.config = config
        model, weight = decoder.config, decoder.embed_tokens.weight
        shape = PageShape(
            heads=model.key_value_heads,
            head_width=model.head_width,
            dtype=weight.dtype,
            eight_bits=config.cache_eight_bits,
        )
        self.pool = PagePool(max(config.cache_bytes // shape.nbytes, model.layers), shape, weight.device)
        self.cache = PrefixCache(self.pool, config.prefix_cache_bytes // shape.nbytes)
        self.cost = CostModel(config.max_step_tokens, max_slowdown=config.max_slowdown)
        self.scheduler = Scheduler(self.pool, self.cache, self.cost, config.max_rows)
        self.runner = Runner(decoder, self.pool, config.precision, config.float_weights)
        self._sampler = BatchSampler()
        self._tokenizer = tokenizer
        self.stop_ids: Set[int] = stop_ids
        self._sequences: dict[str, Sequence] = {}
        self._counts: Counter[str] = Counter()
        self._threads = torch.get_num_threads()
        self._evicted: list[tuple[str, Event]] = []
        self._mean_answer = 64.0
        self.single_thread_tokens = 0

    @property
    def has_work(self) -> bool:
        """Whether any request has not ended, or its end has not been reported."""
        return bool(self._sequences or self._evicted)

    def add_request(self, sequence: Sequence) -> None:
        """Queues a request, as `LanguageModel.prepare` makes it.

        Where the queue is full, the latest request of the tenant that has the most gives way to a tenant with fewer.

        Raises:
            InvalidInput: its id is in use, or its prompt needs more memory than there is.
            QueueFull: nobody gives way.
        """
        if sequence.request_id in self._sequences:
            raise InvalidInput("request_id", f"{sequence.request_id!r} is already in use")
        if (needed := sequence.planned_pages(1)) > self.pool.pages:
            raise InvalidInput(
                "messages", f"the prompt needs {needed} pages of key-value cache, and there are {self.pool.pages}"
            )
        waiting, running = self.scheduler.waiting, self.scheduler.running
        if len(waiting) + len(running) >= self.config.max_rows + self.config.max_waiting:
            error = QueueFull(len(waiting), self.config.max_waiting, self._seconds_to_a_place())
            evicted = waiting.evictable(sequence)
            if evicted is None:
                raise error
            self._remove(evicted)
            self._evicted.append((evicted.request_id, Failure(error)))
        sequence.arrival = time.monotonic()
        self._sequences[sequence.request_id] = sequence
        self.scheduler.waiting.push(sequence)

    def abort(self, request_id: str) -> None:
        """Ends a request without an event and frees its memory; one that has ended already is ignored."""
        if sequence := self._sequences.pop(request_id, None):
            self.scheduler.remove(sequence)

    @torch.inference_mode()
    def step(self) -> list[tuple[str, Event]]:
        """Advances every running answer by a token, and prompts by as much as fits beside that.

        Returns:
            Request ids with what happened to them: a Delta for each token, and a Finish or a Failure at the end.
        """
        began = time.perf_counter()
        batch = self.scheduler.schedule()
        events, self._evicted = self._evicted, []
        for cut in batch.cut:
            events += [(cut.request_id, event) for event in self._finish_with_text(cut, "length")]
        if not batch.segments:
            return events
        self._use_threads(1 if batch.tokens <= self.single_thread_tokens else self._threads)
        outputs = self.runner.forward(batch.segments)
        sampled = [
            (segment, output) for segment, output in zip(batch.segments, outputs, strict=True) if segment.completes
        ]
        self._store(batch, outputs)
        events += self._sample(sampled)
        self.cost.observe(time.perf_counter() - began, batch.rows, batch.prompt_tokens)
        self._counts["steps"] += 1
        return events

    def abort_all(self) -> list[str]:
        """Ends every request without an event. Returns their ids."""
        aborted = list(self._sequences)
        for request_id in aborted:
            self.abort(request_id)
        return aborted

    def update_adapters(self) -> None:
        """Follows the decoder's resident adapters; no request may be running with one that has gone."""
        self.runner.update_adapters()

    def stats(self) -> EngineStats:
        """What the engine is doing."""
        running = self.scheduler.running
        blocks = max((len(each.groups) for each in running), default=0)
        by_block = [sum(each.groups[i].pages.size for each in running if i < len(each.groups)) for i in range(blocks)]
        return EngineStats(
            waiting=len(self.scheduler.waiting),
            running=len(running),
            pages_free=self.pool.free,
            pages_used=self.pool.allocated - self.cache.unused,
            pages_cached=self.cache.unused,
            pages_by_block=tuple(by_block),
            prefix_lookups=self.cache.lookups,
            prefix_hits=self.cache.hits,
            prompt_tokens=self._counts["prompt_tokens"],
            generated_tokens=self._counts["generated_tokens"],
            preemptions=self.scheduler.preemptions,
            steps=self._counts["steps"],
        )

    @staticmethod
    def _use_threads(threads: int) -> None:
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)

    def _store(self, batch: Batch, outputs: list[SegmentOutput]) -> None:
        """Moves every sequence on by what was computed."""
        for segment, output in zip(batch.segments, outputs, strict=True):
            sequence = segment.sequence
            for group in segment.groups:
                group.length += segment.count
            if not sequence.prefilling:
                for _ in range(segment.count):
                    sequence.pending.popleft()
                continue
            if sequence.block == 0:
                self._counts["prompt_tokens"] += segment.count
                self.scheduler.waiting.charge(sequence, prompt_tokens=segment.count)
            sequence.read_chunk(output.hidden, output.queries)
            if sequence.remaining:
                self._publish(sequence, complete=False)
                continue
            self._publish(sequence, complete=True)
            if sequence.last_block:
                sequence.begin_answer()
            else:
                sequence.next_block(self._last_keys(sequence))

    def _sample(self, ready: list[tuple[Segment, SegmentOutput]]) -> list[tuple[str, Event]]:
        # An answer that was preempted reads its tokens again: behind its prompt, nothing is sampled.
        ready = [(segment, output) for segment, output in ready if not segment.sequence.pending]
        if not ready:
            return []
        self._use_threads(self._threads)  # the output layer is large enough for all
        hidden_RE, logits_RV = self.runner.logits(torch.stack([output.hidden[-1] for _, output in ready]))
        tokens = self._sampler.sample(logits_RV, [segment.sequence.sampling for segment, _ in ready])
        events: list[tuple[str, Event]] = []
        for (segment, _), token, hidden_E in zip(ready, tokens, hidden_RE, strict=True):
            events += [(segment.sequence.request_id, event) for event in self._take(segment.sequence, token, hidden_E)]
        return events

    def _take(self, sequence: Sequence, token: SampledToken | SamplingFailed, hidden_E: torch.Tensor) -> list[Event]:
        """Adds a token to an answer. Returns its events."""
        if isinstance(token, SamplingFailed):
            self._remove(sequence)
            return [Failure(token)]
        if token.id in self.stop_ids:
            return self._finish_with_text(sequence, "stop")
        sequence.generated.append(token.id)
        sequence.pending.append(token.id)
        self._counts["generated_tokens"] += 1
        self.scheduler.waiting.charge(sequence, generated_tokens=1)
        text = sequence.detokenizer.push(token.id)
        hidden_1E = hidden_E.float()[None] if sequence.hidden_states else None
        events: list[Event] = [Delta(text, 1, hidden_1E, token_logprobs(token, self._tokenizer))]
        if sequence.detokenizer.stopped:
            return events + self._finish_with_text(sequence, "stop")
        if len(sequence.generated) == sequence.max_tokens:
            return events + self._finish_with_text(sequence, "length")
        return events

    def _finish_with_text(self, sequence: Sequence, reason: FinishReason) -> list[Event]:
        rest = sequence.detokenizer.flush()
        events: list[Event] = [Delta(rest, 0, None)] if rest else []
        return [*events, self._finish(sequence, reason)]

    def _seconds_to_a_place(self) -> float:
        """Estimated seconds until one of the requests that run or wait has ended."""
        rows = max(len(self.scheduler.running), 1)
        work = 0.0
        for sequence in (*self.scheduler.running, *self.scheduler.waiting):
            left = max(min(self._mean_answer, sequence.max_tokens) - len(sequence.generated), 1.0)
            work += self.cost.answer_seconds(sequence.remaining, left, rows)
        return work / len(self._sequences)

    def _finish(self, sequence: Sequence, reason: FinishReason) -> Finish:
        self._mean_answer += _SMOOTHING * (len(sequence.generated) - self._mean_answer)
        self._publish_answer(sequence)
        self._remove(sequence)
        return Finish(reason, sequence.usage)

    def _remove(self, sequence: Sequence) -> None:
        del self._sequences[sequence.request_id]
        self.scheduler.remove(sequence)

    def _last_keys(self, sequence: Sequence) -> torch.Tensor:
        """[K, L, D] keys of the last layer of the block that the prompt is in."""
        group = sequence.group
        pages = torch.from_numpy(group.pages[-1, : pages_for(group.length)]).to(self.runner.device)
        keys_1KSD, _ = self.pool.read(pages, 1)
        return keys_1KSD[0, :, : group.length]

    def _publish(self, sequence: Sequence, complete: bool) -> None:
        """Shares the prompt's pages of the first block as they fill; with an extraction, once the block is complete."""
        if sequence.block > 0:
            return
        if len(sequence.groups) == 1:
            self.cache.publish(sequence.page_keys, sequence.group)
        elif complete:
            self.cache.publish(sequence.page_keys[: sequence.reusable()], sequence.group, sequence.block_output())

    def _publish_answer(self, sequence: Sequence) -> None:
        """Shares the pages of the answer, for the next turn of the conversation."""
        if not self.cache.enabled or len(sequence.groups) > 1 or sequence.prefilling:
            return
        known = len(sequence.page_keys)
        group, embed = sequence.groups[0], self.runner.decoder.embed_tokens
        answer = torch.tensor(sequence.generated[: group.length - len(sequence.prompt.embeds)], dtype=torch.long)
        tail_LE = torch.cat((sequence.prompt.embeds[known * PAGE_SIZE :], embed(answer.to(self.runner.device))))
        first = sequence.end_position
        more = torch.arange(first, first + len(answer), device=self.runner.device).expand(3, -1)
        positions_3L = torch.cat((sequence.positions[:, known * PAGE_SIZE :], more), dim=1)
        parent = sequence.page_keys[-1] if known else sequence.root_key
        self.cache.publish([*sequence.page_keys, *page_keys(parent, tail_LE, positions_3L)], group)
