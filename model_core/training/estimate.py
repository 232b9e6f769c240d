"""Estimates a run before it starts: parameters, tokens, memory, compute and time. Nothing is written.

Activation memory and compute follow from the model's shapes and the samples' approximate lengths. Time is measured on
real batches if the encoders' features are cached, and otherwise derived from the compute.

Shapes in the formulas: E width, K width of keys and of values, F feed-forward width, L positions of a sample.
"""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from statistics import fmean

import torch
from more_itertools import chunked
from torch import Tensor, nn

from model_core.language.decoder import Decoder
from model_core.training.align import Align
from model_core.training.dataset import MixtureSampler
from model_core.training.instruct import Instruct
from model_core.training.stage_run import StageRun
from model_core.training.trainer import global_batch

ACTIVATIONS = "(8 E + 2 K + 4 F) a position and layer"
RECOMPUTED = "E a position and layer, and one layer's (8 E + 2 K + 4 F) a position"

_SAMPLED_TEXTS = 400
_TIMED_STEPS = 2
_PRODUCT = 1024  # rows and columns of the matrices whose product is timed


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The estimated cost of a run.

    Attributes:
        trained, frozen: Numbers of parameters.
        samples: Samples per epoch, weights included.
        left_out: Number of samples left out, by reason.
        batch: Samples per step, over all processes.
        share: Samples that a process computes at a time.
        processes: Number of processes.
        steps: Optimiser steps.
        epochs: Passes over the data.
        positions: Positions per step, padding included.
        answer_tokens: Answer tokens per step.
        memory: Bytes per process, by purpose.
        activations: The formula of the language model's activation memory.
        flops: Operations per step, over all processes.
        seconds: Time per step.
        timed: How `seconds` was obtained.
    """

    trained: int
    frozen: int
    samples: int
    batch: int
    share: int
    processes: int
    steps: int
    epochs: float
    positions: int
    answer_tokens: int
    memory: dict[str, int]
    activations: str
    flops: float
    seconds: float
    timed: str
    left_out: dict[str, int] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, str]]:
        """Labels and formatted values."""
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.left_out.items())) or "none"
        batch = f"{self.batch:,}"
        if self.share < self.batch:
            batch += f": {self.processes} processes, {self.share} samples at a time"
        memory = [(f"  {name}", _size(size)) for name, size in self.memory.items()]
        return [
            ("parameters trained", f"{self.trained:,}"),
            ("parameters frozen", f"{self.frozen:,}"),
            ("samples an epoch", f"{self.samples:,}"),
            ("samples left out", left_out),
            ("steps", f"{self.steps:,} ({self.epochs:.2f} epochs)"),
            ("samples a step", batch),
            ("positions a step", f"{self.positions:,}, padding included"),
            ("answer tokens a step", f"{self.answer_tokens:,}"),
            ("memory a process", _size(sum(self.memory.values()))),
            *memory,
            ("  activations are", self.activations),
            ("work a step", f"{self.flops / 1e12:.3g} TFLOP"),
            ("time a step", f"{self.seconds:.3g} s, {self.timed}"),
            ("time in all", _duration(self.seconds * self.steps)),
        ]

    def table(self) -> str:
        """`rows` as two aligned columns."""
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def estimate(run: StageRun) -> Estimate:
    """Estimates a run from its data, timing its first steps. Raises InvalidInput as `StageRun` does."""
    options, arguments, data = run.options, run.arguments, run.train_data
    module, share = run.assembly.module, int(run.arguments.train_batch_size)
    batch = global_batch(arguments)
    sampler = MixtureSampler(data.lengths, data.shares, batch, options.seed)
    shares = list(chunked(sampler, share))
    longest = [max(data.lengths[index] for index in taken) for taken in shares]
    padded = [length * len(taken) for length, taken in zip(longest, shares, strict=True)]
    positions = round(sum(padded) / len(shares) * (batch / share))
    answers = _answer_tokens(run) * batch
    trained = _parameters(module, learns=True)
    work = _Work(run.models.decoder, module, options.checkpointing, arguments.bf16)
    flops = work.flops(positions, fmean(longest), answers, trained)
    if data.prepared:
        seconds = _timed(run, shares) * (batch / share / arguments.world_size)
        timed = f"measured on {_TIMED_STEPS} batches"
    else:
        speed = _speed(arguments.device, arguments.bf16)
        seconds = flops / speed / arguments.world_size
        timed = f"a lower bound at this machine's {speed / 1e9:.0f} GFLOP/s (the encoders' features are not cached yet)"
    chosen = sum(round(count * weight) for count, weight in data.shares)
    return Estimate(
        trained=trained,
        frozen=_parameters(module, learns=False),
        samples=chosen,
        left_out=dict(data.left_out),
        batch=batch,
        share=share,
        processes=arguments.world_size,
        steps=run.steps,
        epochs=run.steps * batch / chosen,
        positions=positions,
        answer_tokens=round(answers),
        memory=_memory(module, trained, work, max(padded), round(answers * share / batch)),
        activations=work.formula,
        flops=flops,
        seconds=seconds,
        timed=timed,
    )


class _Work:
    """Compute and activation memory of a step, from the shape of the decoder.

    A matrix of n weights takes 2 n operations per position, and in the backward pass as many for its input and for
    trainable weights. Stage 1 against the embedding table does not run the decoder; stage 4 runs it without gradient.
    """

    def __init__(self, decoder: Decoder, module: nn.Module, checkpointing: bool, bfloat16: bool) -> None:
        self.config = decoder.config
        self.checkpointing = checkpointing
        self.bytes = 2 if bfloat16 else 4
        runs = any(part is decoder for part in module.modules())
        learns = isinstance(module, Instruct)
        self.passes = (2 + checkpointing if learns else 1) if runs else 0
        self.keeps = runs and learns
        self.rows = len(module.vocabulary) + 1 if isinstance(module, Align) else 0
        self.layer_weights = sum(weight.numel() for weight in decoder.layers[0].parameters() if weight.dim() == 2)

    @property
    def formula(self) -> str:
        """The formula of the activation memory, in words."""
        if self.rows:
            return f"3 times the log-probabilities of {self.rows:,} tokens a position"
        if not self.keeps:
            return "not counted: the language model stores none, the trained module few"
        return RECOMPUTED if self.checkpointing else ACTIVATIONS

    def flops(self, positions: float, length: float, answers: float, trained: int) -> float:
        """Operations of a step with `positions` positions, in samples of about `length` positions."""
        config = self.config
        products = 2 * self.layer_weights * config.layers * positions
        attention = 2 * config.width * length * config.layers * positions  # half of it is masked
        logits = 2 * config.width * config.vocabulary * answers
        return self.passes * (products + attention + logits) + 6 * trained * positions

    def activations(self, positions: int, answers: int) -> int:
        """Bytes stored for the backward pass, for the positions and answer tokens computed at a time."""
        if self.rows:
            return 3 * positions * self.rows * 4
        if not self.keeps:
            return 0
        config = self.config
        keys = config.key_value_heads * config.head_width
        layer = 8 * config.width + 2 * keys + 4 * config.feed_forward
        kept = config.layers * config.width + layer if self.checkpointing else config.layers * layer
        logits = 3 * answers * config.vocabulary * 4  # with their float32 copy and their gradient
        return positions * kept * self.bytes + logits


def _memory(module: nn.Module, trained: int, work: _Work, positions: int, answers: int) -> dict[str, int]:
    tensors: dict[int, Tensor] = {id(each): each for each in (*module.parameters(), *module.buffers())}
    return {
        "weights": sum(each.numel() * each.element_size() for each in tensors.values()),
        "gradients (4 bytes)": 4 * trained,
        "AdamW's moments (8 bytes)": 8 * trained,
        "activations": work.activations(positions, answers),
    }


def _parameters(module: nn.Module, *, learns: bool) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad == learns)


def _answer_tokens(run: StageRun) -> float:
    """Answer tokens per sample, averaged over some samples."""
    samples = run.train_data.samples
    some = samples[:: max(len(samples) // _SAMPLED_TEXTS, 1)]
    texts = [answer for sample in some for answer in sample.answers]
    counted = run.models.tokenizer.encode_batch(texts, add_special_tokens=False)
    return sum(len(encoding.ids) + 1 for encoding in counted) / len(some)


def _timed(run: StageRun, shares: Sequence[Sequence[int]]) -> float:
    """Seconds per micro-batch of a process, measured on the first ones; at a learning rate of 0, no weight changes."""
    module, device = run.assembly.module.to(run.arguments.device).train(), run.arguments.device
    if run.options.checkpointing and isinstance(module, Instruct):
        module.activation_checkpointing_enable()
    optimiser = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.0)
    seconds = []
    for taken in islice(shares, 1 + _TIMED_STEPS):
        batch = run.assembly.collate([run.train_data[index] for index in taken])
        batch = {name: values.to(device) for name, values in batch.items()}
        _synchronise(device)
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16) if run.arguments.bf16 else nullcontext():
            loss: Tensor = module(**batch)["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
        _synchronise(device)
        seconds.append(time.perf_counter() - start)
    return fmean(seconds[1:] or seconds)  # the first one also allocates buffers


def _speed(device: torch.device, bfloat16: bool) -> float:
    """Operations per second in matrix multiplications."""
    matrix = torch.ones(_PRODUCT, _PRODUCT, device=device, dtype=torch.bfloat16 if bfloat16 else torch.float32)
    best = math.inf
    for _ in range(5):
        _synchronise(device)
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        _synchronise(device)
        best = min(best, time.perf_counter() - start)
    return 2 * _PRODUCT**3 / best


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _size(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
