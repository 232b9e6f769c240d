"""What the text-only language model answers to written questions: the answers that spoken questions are trained toward.

Shapes: B questions of equal length, L positions, E width.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from more_itertools import chunked

from model_core.language.engine import LanguageModel
from model_core.language.prompt import Message, Role, render, splice

_BATCH = 32


@dataclass(frozen=True, slots=True)
class WrittenAnswer:
    """A text, and whether the model ended it itself; else it goes on."""

    text: str
    ended: bool


def written_answers(
    model: LanguageModel,
    questions: Sequence[str],
    cache: Path,
    max_tokens: int,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, WrittenAnswer]:
    """Greedy answers of the base model, or their first `max_tokens` tokens.

    Args:
        model: Answers without any adapter.
        questions: Each asked alone.
        cache: JSON file that keeps answers between runs.
        max_tokens: Longer answers are cut there.
        on_batch: Called with the questions done so far.
    """
    stored = json.loads(cache.read_text()) if cache.exists() else {}
    known = {question: WrittenAnswer(**answer) for question, answer in stored.items()}
    by_length = defaultdict(list)
    for question in questions:
        if question not in known:
            by_length[model.count_tokens(question)].append(question)
    for group in by_length.values():
        for batch in chunked(group, _BATCH):
            known |= dict(zip(batch, _answer(model, batch, max_tokens), strict=True))
            scratch = cache.with_suffix(".part")
            scratch.write_text(json.dumps({question: asdict(answer) for question, answer in known.items()}))
            scratch.replace(cache)
            if on_batch:
                on_batch(len(known))
    return {question: known[question] for question in questions}


@torch.inference_mode()
def _answer(model: LanguageModel, questions: Sequence[str], max_tokens: int) -> list[WrittenAnswer]:
    """Questions of one length need no padding, so that they share a batch as they are."""
    decoder, tokenizer = model.decoder, model.tokenizer
    end = tokenizer.token_to_id("<|im_end|>")
    prompts = [splice(render([Message(Role.USER, [q])]), tokenizer, decoder.embed_tokens).embeds for q in questions]
    embeds_BLE = torch.stack(prompts)
    cache = decoder.new_cache(max_tokens)
    columns = []
    for _ in range(max_tokens):
        token_B = decoder.logits(decoder(embeds_BLE, cache)[:, -1]).argmax(-1)
        columns.append(token_B)
        embeds_BLE = decoder.embed_tokens(token_B)[:, None]
        if all(end in row for row in torch.stack(columns, 1).tolist()):
            break
    rows = torch.stack(columns, 1).tolist()
    ends = [row.index(end) if end in row else None for row in rows]
    return [WrittenAnswer(tokenizer.decode(row[:at]), at is not None) for row, at in zip(rows, ends, strict=True)]
