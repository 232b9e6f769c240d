"""Answers by a text-only language model, the training targets for spoken questions.

Shapes: B prompts of a batch, L positions, E width, V vocabulary.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from more_itertools import chunked
from torch import nn

from model_core.data.build.work import BuildContext
from model_core.data.files import written_aside
from model_core.engine.language_model import LanguageModel
from model_core.language.chat_template import render
from model_core.language.messages import Message, Role
from model_core.language.splicing import splice
from model_core.presets import build_language_model

# Prompts per cache file, and per batch of the model.
_CHUNK, _BATCH = 128, 32


@dataclass(frozen=True, slots=True)
class WrittenAnswer:
    """An answer, and whether the model ended it itself; otherwise it was cut off."""

    text: str
    ended: bool


def written_answers(
    model: LanguageModel,
    prompts: Sequence[str],
    cache: Path,
    max_tokens: int,
    on_answers: Callable[[int], None] | None = None,
) -> list[WrittenAnswer]:
    """Greedy answers of the base model, or their first `max_tokens` tokens.

    The batches depend only on the list of prompts, so that a resumed run computes the same floats.

    Args:
        model: The model, used without an adapter.
        prompts: Independent prompts.
        cache: Folder that caches answers between runs, one file per chunk of prompts.
        max_tokens: Longer answers are cut there.
        on_answers: Called with the number of answers so far.

    Returns:
        One answer per prompt, in order.
    """
    identity = f"{weights_sha256(model)} {max_tokens}"
    answers: list[WrittenAnswer] = []
    for chunk in chunked(prompts, _CHUNK):
        key = hashlib.sha256(json.dumps([identity, chunk]).encode()).hexdigest()
        path = cache / f"{key[:32]}.json"
        if not path.is_file():
            made = _answer_chunk(model, chunk, max_tokens)
            with written_aside(path) as partial:
                partial.write_text(json.dumps([asdict(answer) for answer in made]), encoding="utf-8")
        answers += [WrittenAnswer(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
        if on_answers:
            on_answers(len(answers))
    return answers


def answers_of(
    prompts: Sequence[str], preset: str, context: BuildContext, *, max_tokens: int, checkpoint: Path | None = None
) -> list[WrittenAnswer]:
    """Answers by a preset's language model, cached for all builds.

    Raises:
        UnknownPreset, WeightsMissing, InvalidInput: the model cannot be loaded.
    """
    if not prompts:
        return []
    model = build_language_model(preset, context.home, parts=None, checkpoint=checkpoint)
    step = f"answers by {preset}"
    return written_answers(
        model,
        prompts,
        context.home / "training" / "answers",
        max_tokens,
        lambda done: context.show(step, done, len(prompts), ""),
    )


def weights_sha256(model: LanguageModel) -> str:
    """A digest that identifies a model: over its norm weights, which differ between any two trained models."""
    digest = hashlib.sha256(model.model.encode())
    for module in model.decoder.modules():
        if isinstance(module, nn.RMSNorm):
            digest.update(module.weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _answer_chunk(model: LanguageModel, prompts: Sequence[str], max_tokens: int) -> list[WrittenAnswer]:
    """Batches prompts of similar length."""
    order = sorted(range(len(prompts)), key=lambda index: (model.count_tokens(prompts[index]), index))
    answers: dict[int, WrittenAnswer] = {}
    for batch in chunked(order, _BATCH):
        answers |= dict(zip(batch, _answer_batch(model, [prompts[index] for index in batch], max_tokens), strict=True))
    return [answers[index] for index in range(len(prompts))]


@torch.inference_mode()
def _answer_batch(model: LanguageModel, prompts: Sequence[str], max_tokens: int) -> list[WrittenAnswer]:
    """Each row has its own cache and leaves the batch when it ends."""
    decoder, tokenizer = model.decoder, model.tokenizer
    stops = {tokenizer.token_to_id(token) for token in model.template.stop_tokens} - {None}
    asked = [
        splice(render([Message(Role.USER, [prompt])], model.template), tokenizer, decoder.embed_tokens).embeds
        for prompt in prompts
    ]
    caches = [decoder.new_cache(max_tokens) for _ in asked]
    lengths = [len(embeds) for embeds in asked]
    hidden_BLE = decoder(nn.utils.rnn.pad_sequence(asked, batch_first=True), caches, lengths=lengths)
    last_BE = torch.stack([row[length - 1] for row, length in zip(hidden_BLE, lengths, strict=True)])
    tokens: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    running = list(range(len(prompts)))
    while True:
        next_B = decoder.logits(last_BE).argmax(-1).tolist()
        for row, token in zip(running, next_B, strict=True):
            ended[row] = token in stops
            if not ended[row]:
                tokens[row].append(token)
        running = [row for row in running if not ended[row] and len(tokens[row]) < max_tokens]
        if not running:
            break
        embeds_B1E = decoder.embed_tokens(torch.tensor([[tokens[row][-1]] for row in running]))
        last_BE = decoder(embeds_B1E, [caches[row] for row in running])[:, 0]
    return [WrittenAnswer(tokenizer.decode(ids).strip(), end) for ids, end in zip(tokens, ended, strict=True)]
