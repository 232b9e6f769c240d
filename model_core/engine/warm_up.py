"""Measures an engine before its first request: how long its steps take, and how many CPU threads suit them."""

import statistics
import time

import torch

from model_core.engine.cost_model import CostModel
from model_core.engine.engine import Engine
from model_core.engine.language_model import LanguageModel
from model_core.engine.request import GenerationOptions
from model_core.engine.sampling_params import SamplingParams
from model_core.errors import InvalidInput
from model_core.language.messages import Message, Role

# Numbers of answers that are advanced together, and for how many steps.
_ROWS = (1, 4, 16)
_STEPS = 3
# Fewer threads leave cores to other processes: more have to be faster by this factor.
_WORTHWHILE = 1.1
# A model whose steps take longer is not measured in larger ones, which would delay its start.
_LONG_STEP_SECONDS = 0.5


def warm_up(model: LanguageModel) -> None:
    """Teaches a model's engine the cost of its steps, so that its first requests are scheduled well.

    On a CPU, it also finds up to how many tokens a step is computed about as fast by one thread as by all: handing
    small products to another thread takes longer than computing them.
    """
    engine, threads = model.engine, torch.get_num_threads()
    # No answer may end while it is timed.
    stop_ids, engine.stop_ids = engine.stop_ids, frozenset()
    rows = [count for count in _ROWS if count <= engine.config.max_rows]
    engine.single_thread_tokens = 0
    if engine.runner.device.type == "cpu" and threads > 1:
        for count in rows:
            several, enough = _decode(model, count), engine.single_thread_tokens
            engine.single_thread_tokens = count
            if _decode(model, count) > several * _WORTHWHILE:
                engine.single_thread_tokens = enough
                break
            if several > _LONG_STEP_SECONDS:
                break
    engine.cost.forget()
    for count in rows:
        if _decode(model, count) > _LONG_STEP_SECONDS:
            break
    _read_prompts(model, engine.cost)
    engine.cache.clear()
    engine.stop_ids = stop_ids
    torch.set_num_threads(threads)  # for threads to come


def _decode(model: LanguageModel, rows: int) -> float:
    """Median seconds of a step that advances so many answers."""
    engine = model.engine
    ids = [_add(model, "Hello") for _ in range(rows)]
    engine.step()  # admits all for whom there is memory
    while any(sequence.prefilling for sequence in engine.scheduler.running):
        engine.step()
    seconds = statistics.median(_step_seconds(engine) for _ in range(_STEPS))
    for request_id in ids:
        engine.abort(request_id)
    return seconds


def _read_prompts(model: LanguageModel, cost: CostModel) -> None:
    """Reads prompts in chunks of every size."""
    limit, size = cost.max_tokens, cost.min_tokens
    while size <= limit:
        cost.max_tokens = size
        try:
            request_id = _add(model, f"{size} " * size)
        except InvalidInput:  # more than the context or the memory holds
            break
        seconds = max(_step_seconds(model.engine) for _ in range(2))
        model.engine.abort(request_id)
        if seconds > _LONG_STEP_SECONDS:
            break
        size *= 4
    cost.max_tokens = limit


def _add(model: LanguageModel, text: str) -> str:
    sampling = SamplingParams(temperature=1.0)
    sequence = model.prepare([Message(Role.USER, [text])], GenerationOptions(sampling=sampling))
    model.engine.add_request(sequence)
    return sequence.request_id


def _step_seconds(engine: Engine) -> float:
    began = time.perf_counter()
    engine.step()
    return time.perf_counter() - began
