"""Compares our implementation with reference values of the published method.

The folder contains inputs, small random weights and the method's outputs for them; its README.md says how they were
made. An output agrees if every value is within a relative 1e-4 of the reference. Differences of values near 0, those
smaller than the output's largest value (1 at most), are relative to that largest value.

Shapes: L sequence, S text tokens, H heads, D head width, E width.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model_core.checkpoints.hifigan import vocoder_from_published
from model_core.checkpoints.tensors import read_json
from model_core.errors import CheckpointError
from model_core.language.extractor import context_scores, kept_positions
from model_core.speech.projector import SpeechProjector
from model_core.speech.unit_generator import UnitGenerator
from model_core.training.regularizer import contrastive_cost, regularizer_loss, soft_dtw

TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One of our outputs compared with the reference.

    Args:
        file: Name of the reference file.
        output: Name of the output, with its case if there are several.
        values: Number of values compared.
        absolute: Largest absolute difference; for indices, how many differ.
        relative: Largest relative difference, as the tolerance defines it; for indices, the share that differs.
        indices: Whether the values are indices, which must be equal.
        problem: Why no comparison was possible; empty otherwise.
    """

    file: str
    output: str = ""
    values: int = 0
    absolute: float = 0.0
    relative: float = 0.0
    indices: bool = False
    problem: str = ""

    @property
    def agrees(self) -> bool:
        """Whether our output matches the reference."""
        # NaN does not agree.
        return not self.problem and (self.absolute == 0 if self.indices else self.relative <= TOLERANCE)


class Output(NamedTuple):
    """Our output and the reference's.

    `near_zero` is the magnitude below which values count as near 0; by default the output's largest, 1 at most.
    """

    name: str
    ours: Tensor
    reference: Tensor
    near_zero: float | None = None


class Reference:
    """The tensors of one reference file; errors name tensors that are missing or have the wrong shape.

    Args:
        path: A safetensors file.

    Raises:
        CheckpointError: the file is missing or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise CheckpointError(path.name, f"is missing from {path.parent}")
        try:
            self.tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(path.name, f"cannot be read: {error}") from error

    def values(self, name: str, dims: int) -> Tensor:
        """A tensor of `dims` dimensions as float32."""
        return self._tensor(name, dims, floating=True).float()

    def indices(self, name: str, dims: int) -> Tensor:
        """A tensor of `dims` dimensions of integers or booleans."""
        return self._tensor(name, dims, floating=False)

    def number(self, name: str) -> float:
        """The only value of a tensor, rounded to what was written: float32's 0.7 is 0.7."""
        found = self.values(name, 1)
        if len(found) != 1:
            raise CheckpointError(name, f"has {len(found)} values, not 1")
        return float(f"{found.item():.6g}")

    def cases(self, word: str) -> list[str]:
        """The names `word0`, `word1`, ... for which there are tensors."""
        found = {name.partition(".")[0] for name in self.tensors if name.startswith(word) and "." in name}
        if not found:
            raise CheckpointError(self.path.name, f"has no {word}0")
        return sorted(found, key=lambda case: (len(case), case))

    def weights(self) -> dict[str, Tensor]:
        """The tensors below `weight.`, as float32."""
        found = {name: tensor.float() for name, tensor in self.tensors.items() if name.startswith("weight.")}
        if not found:
            raise CheckpointError(self.path.name, "has no weights")
        return {name.removeprefix("weight."): tensor for name, tensor in found.items()}

    def _tensor(self, name: str, dims: int, *, floating: bool) -> Tensor:
        if name not in self.tensors:
            raise CheckpointError(name, f"is missing from {self.path.name}")
        tensor = self.tensors[name]
        if tensor.ndim != dims or tensor.is_floating_point() != floating:
            kind = "floats" if floating else "integers"
            found = f"{tensor.dtype} of shape {list(tensor.shape)}"
            raise CheckpointError(name, f"is {found}; it must be {kind} with {dims} dimensions")
        return tensor


def check_parity(folder: Path) -> list[Comparison]:
    """Computes and compares every output of every file; a failure becomes a Comparison with a problem."""
    with torch.random.fork_rng(devices=[]):
        return list(chain.from_iterable(_checked(folder / name, check) for name, check in _CHECKS.items()))


def compare(file: str, output: Output) -> Comparison:
    """Compares our output with the reference: floats by difference, everything else as indices."""
    ours, reference = output.ours, output.reference
    if ours.shape != reference.shape:
        problem = f"ours has shape {list(ours.shape)}, the reference {list(reference.shape)}"
        return Comparison(file=file, output=output.name, problem=problem)
    count = reference.numel()
    if not count:
        return Comparison(file=file, output=output.name, problem="the reference is empty")
    if not reference.is_floating_point():
        differing = int((ours != reference).sum())
        share = differing / count
        return Comparison(file=file, output=output.name, values=count, absolute=differing, relative=share, indices=True)
    ours, reference = ours.detach().double(), reference.double()
    differences, sizes = (ours - reference).abs(), reference.abs()
    near_zero = output.near_zero or min(1.0, sizes.max().item()) or 1.0
    relative = (differences / sizes.clamp(min=near_zero)).max().item()
    return Comparison(file=file, output=output.name, values=count, absolute=differences.max().item(), relative=relative)


Check = Callable[[Reference], Iterable[Output]]


def _checked(path: Path, check: Check) -> Iterator[Comparison]:
    try:
        for output in check(Reference(path)):
            yield compare(path.name, output)
    except (RuntimeError, ValueError, IndexError) as error:
        # Our errors, and torch's where weights and inputs do not fit.
        yield Comparison(file=path.name, problem=" ".join(str(error).split()))


def _regularizer(stored: Reference) -> Iterator[Output]:
    for case in stored.cases("dtw"):
        speech, text = (stored.values(f"{case}.{name}", 2)[None].requires_grad_() for name in ("speech", "text"))
        temperature, lengths = stored.number(f"{case}.temperature"), ([speech.shape[1]], [text.shape[1]])
        value = soft_dtw(contrastive_cost(speech, text, lengths[1], temperature), *lengths)
        loss = regularizer_loss(speech, text, *lengths, temperature)
        gradients = torch.autograd.grad(loss, (speech, text))
        yield Output(f"{case}.value", value, stored.values(f"{case}.value", 1))
        yield Output(f"{case}.loss", loss[None], stored.values(f"{case}.loss", 1))
        for name, gradient in zip(("grad_speech", "grad_text"), gradients, strict=True):
            # The reference computes gradients in float32, which differ from float64's by up to 1e-4.
            yield Output(f"{case}.{name}", gradient[0], stored.values(f"{case}.{name}", 2), near_zero=1.0)


@torch.inference_mode()
def _projector(stored: Reference) -> Iterator[Output]:
    frames, output = stored.values("input", 3), stored.values("output", 3)
    projector = SpeechProjector.Config(encoder_width=frames.shape[-1], model_width=output.shape[-1]).build()
    projector.load_state_dict(stored.weights())
    yield Output("output", projector(frames), output)


@torch.inference_mode()
def _extractor(stored: Reference) -> Iterator[Output]:
    for case in stored.cases("case"):
        q_HLD, k_HLD = (stored.values(f"{case}.{name}", 3).transpose(0, 1) for name in ("query", "key"))
        context_L, instruction_L = (
            stored.indices(f"{case}.{name}_mask", 1).bool() for name in ("context", "instruction")
        )
        scores = context_scores(q_HLD[:, instruction_L], k_HLD, context_L)
        kept = kept_positions(scores, context_L, stored.number(f"{case}.keep_rate"))
        yield Output(f"{case}.score", scores, stored.values(f"{case}.score", 1))
        yield Output(f"{case}.kept_index", kept, stored.indices(f"{case}.kept_index", 1))


@torch.inference_mode()
def _speech_generator(stored: Reference) -> Iterator[Output]:
    sizes = stored.indices("config", 1).tolist()
    names = ("hidden_width", "layers", "width", "heads", "feed_forward", "upsample", "units")
    if len(sizes) != len(names) or min(sizes) < 1:
        raise CheckpointError("config", f"{sizes} is not {len(names)} sizes: {', '.join(names)}")
    generator = UnitGenerator.Config(**dict(zip(names, sizes, strict=True))).build().eval()
    generator.load_state_dict(stored.weights())
    frames = generator.predict(stored.values("predict.hidden", 2))
    yield Output("predict.frames", frames, stored.indices("predict.frames", 1))
    targets = (stored.indices(f"loss.{name}", 2) for name in ("labels", "units"))
    loss = generator.loss(stored.values("loss.hidden", 3), *targets)
    yield Output("loss.value", loss[None], stored.values("loss.value", 1))


@torch.inference_mode()
def _vocoder(stored: Reference) -> Iterator[Output]:
    config = read_json(stored.path.with_name("vocoder_config.json"))
    vocoder, code = vocoder_from_published(stored.weights(), config), stored.indices("code", 1)
    yield Output("duration", vocoder.predicted_durations(code), stored.indices("duration", 1))
    for name, durations in (("waveform_without_duration", False), ("waveform_with_duration", True)):
        yield Output(name, vocoder(code, durations=durations), stored.values(name, 1))


_CHECKS: dict[str, Check] = {
    "regularizer.safetensors": _regularizer,
    "projector.safetensors": _projector,
    "extractor.safetensors": _extractor,
    "speech_generator.safetensors": _speech_generator,
    "vocoder.safetensors": _vocoder,
}
