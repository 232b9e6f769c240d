"""Inspects a published folder part by part: what it holds, and every problem that would keep it from loading."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from model_core.checkpoints.hifigan import vocoder_from_published
from model_core.checkpoints.peft_adapters import index_projector, open_adapter
from model_core.checkpoints.published import (
    PublishedCheckpoint,
    open_checkpoint,
    problems_of,
    read_tokenizer,
    read_vocoder,
)
from model_core.checkpoints.published_names import PARTS, Part
from model_core.checkpoints.published_shapes import expected_module, named_parts
from model_core.checkpoints.tensors import StoredTensor, stream
from model_core.errors import CheckpointError

OnTensor = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class PartReport:
    """A part of the checkpoint; `place` is the name of its folder, empty for the checkpoint itself."""

    part: str
    place: str
    tensors: int
    parameters: int
    size_bytes: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """An adapter: its LoRA configuration, and whether it has a speech projector."""

    name: str
    rank: int
    alpha: float
    projections: tuple[str, ...]
    parameters: int
    projector: bool


@dataclass(slots=True)
class Report:
    """The result of an inspection.

    Attributes:
        folder: The checkpoint's.
        model_type: As in its config; empty if that cannot be read.
        parts: The parts that were found.
        adapters: The adapters that were found.
        problems: Pairs of a tensor, field or file and what is wrong with it; the folder loads if there are none.
    """

    folder: Path
    model_type: str = ""
    parts: list[PartReport] = field(default_factory=list)
    adapters: list[AdapterReport] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)

    @property
    def loads(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        problems = [{"name": name, "message": message} for name, message in self.problems]
        return asdict(self) | {"folder": str(self.folder), "problems": problems, "loads": self.loads}


def inspect(folder: Path, values: bool = True, on_tensor: OnTensor | None = None) -> Report:
    """Inspects a published folder; problems are reported, not raised.

    Args:
        folder: The checkpoint's.
        values: Whether to read every tensor, one at a time, and look for NaN; otherwise only headers are read.
        on_tensor: Called with tensors read and total tensors.
    """
    report = Report(folder)
    try:
        checkpoint = open_checkpoint(folder)
    except CheckpointError as error:
        report.problems.append((error.name, error.message))
        return report
    report.model_type = checkpoint.config.model_type
    report.problems += [(name, "is unknown") for name in checkpoint.unknown]
    sound: list[StoredTensor] = []
    for part in PARTS:
        sound += _inspect_part(checkpoint, part, report)
    for name, adapter_folder in checkpoint.adapter_folders().items():
        sound += _inspect_adapter(checkpoint, name, adapter_folder, report)
    _inspect_vocoder(checkpoint, report)
    try:
        read_tokenizer(folder)
    except CheckpointError as error:
        report.problems.append((error.name, error.message))
    if values:
        report.problems += _bad_values(sound, on_tensor)
    return report


def _inspect_part(checkpoint: PublishedCheckpoint, part: Part, report: Report) -> Sequence[StoredTensor]:
    if part not in checkpoint.tensors and part not in named_parts(checkpoint.config):
        return ()
    try:
        stored = checkpoint.stored(part)
    except CheckpointError as missing:
        report.problems.append((missing.name, missing.message))
        return ()
    tensors = tuple(stored.values())
    folder = tensors[0].file.parent if tensors else checkpoint.folder
    report.parts.append(_part_report(part, "" if folder == checkpoint.folder else folder.name, tensors))
    try:
        with torch.device("meta"):
            module = expected_module(checkpoint.config, part, stored)
        problems = list(problems_of(part, module.state_dict(), stored))
    except CheckpointError as error:
        problems = [error]
    report.problems += [(problem.name, problem.message) for problem in problems]
    return tensors


def _inspect_adapter(
    checkpoint: PublishedCheckpoint, name: str, folder: Path, report: Report
) -> Sequence[StoredTensor]:
    try:
        with torch.device("meta"):
            decoder = checkpoint.config.language.build()
        adapter = open_adapter(folder)
        adapter.check_against(decoder)
        projector = index_projector(folder) or {}
        if projector:
            expected_module(checkpoint.config, "speech_projector", projector)
    except CheckpointError as error:
        report.problems.append((f"{folder.name}: {error.name}", error.message))
        return ()
    report.adapters.append(
        AdapterReport(
            name,
            adapter.config.rank,
            adapter.config.alpha,
            adapter.projections,
            adapter.parameters,
            bool(projector),
        )
    )
    return (*adapter.tensors.values(), *projector.values())


def _inspect_vocoder(checkpoint: PublishedCheckpoint, report: Report) -> None:
    file = checkpoint.vocoder_file()
    if file is None:
        if checkpoint.config.generator:
            report.problems.append(("vocoder", f"is missing: it is neither inside {checkpoint.folder} nor next to it"))
        return
    try:
        state, config = read_vocoder(file)
        vocoder_from_published(state, config)
    except CheckpointError as error:
        report.problems.append((f"vocoder: {error.name}", error.message))
        return
    stored = [StoredTensor(file, name, tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()]
    report.parts.append(_part_report("vocoder", file.parent.name, stored))


def _part_report(part: str, place: str, stored: Sequence[StoredTensor]) -> PartReport:
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in stored)
    return PartReport(
        part,
        place,
        len(stored),
        sum(tensor.parameters for tensor in stored),
        sum(tensor.size_bytes for tensor in stored),
        tuple(dtype for dtype, _ in dtypes.most_common()),
    )


def _bad_values(sound: Sequence[StoredTensor], on_tensor: OnTensor | None) -> Iterator[tuple[str, str]]:
    for done, tensor in enumerate(sound):
        if on_tensor:
            on_tensor(done, len(sound))
        try:
            for _ in stream({tensor.name: tensor}):
                pass
        except CheckpointError as error:
            yield error.name, error.message
    if on_tensor:
        on_tensor(len(sound), len(sound))
