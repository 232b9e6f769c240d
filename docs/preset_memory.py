"""Computes the memory that each service needs with each preset, from the shapes of the presets: `make docs`.

Writes helm/lyra/files/presets.yaml, which the chart uses to reject presets that do not fit, and the table in
docs/deploy/gpu-sizing.md.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import nn

from model_core.language.lora import LoraConfig
from model_core.presets import PRESETS, WeightSource, get_preset
from model_core.presets.method import PublishedArchitecture

ROOT = Path(__file__).parent.parent
CHART_TABLE = ROOT / "helm/lyra/files/presets.yaml"
PAGE = ROOT / "docs/deploy/gpu-sizing.md"
BEGIN, END = "<!-- rendered by docs/preset_memory.py -->", "<!-- end -->"

PROCESS_MIB = 700  # Python, torch and a request: measured with nano's processes, without their weights
LOADING = 1.1  # peak memory while loading, relative to the weights
CACHE_POSITIONS = 32_768  # of prompt and answer, in the language model's key-value cache
PREFIX_CACHE_MIB = 256  # default of LYRA_PREFIX_CACHE_MIB
BF16_BYTES, FP32_BYTES = 2, 4

_HEAD = """\
# Memory of each service with a preset, and disk space of its weights (disk), in MiB. Rendered by `make docs`
# (docs/preset_memory.py) from the shapes of the presets; docs/deploy/gpu-sizing.md shows the calculation.
"""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Memory of one service with one preset.

    Attributes:
        component: The service, as in the chart's labels.
        parameters: Number of parameters.
        parameter_bytes: Bytes per parameter.
        cache: Key-value cache and prefix cache of the language model, in MiB.
    """

    component: str
    parameters: int
    parameter_bytes: int
    cache: int = 0

    @property
    def weights(self) -> int:
        """Weights in MiB."""
        return math.ceil(self.parameters * self.parameter_bytes / 2**20)

    @property
    def total(self) -> int:
        """Total in MiB, rounded up to a multiple of 100."""
        return math.ceil((self.weights * LOADING + PROCESS_MIB + self.cache) / 100) * 100


@cache
def needs(name: str) -> list[MemoryNeed]:
    """Memory of the four services with a preset that requires a checkpoint."""
    preset = _architecture(name)
    with torch.device("meta"):
        decoder = preset.language.build()
        language = _count(decoder) + sum(_adapter(decoder, config, preset) for config in preset.adapters.values())
        speech = _count(preset.speech_encoder.build()) + preset.transcriber_parameters
        vision, voice = _count(preset.vision_encoder.build()), _count(preset.unit_generator.build())
    return [
        MemoryNeed("speech-encoder", speech, FP32_BYTES),
        MemoryNeed("vision-encoder", vision, FP32_BYTES),
        MemoryNeed("language-model", language, BF16_BYTES, _cache(preset)),
        MemoryNeed("speech-synthesizer", voice, FP32_BYTES),
    ]


def computed() -> list[str]:
    """The presets that require a checkpoint, smallest first."""
    names = [preset.name for preset in PRESETS.values() if preset.weights is WeightSource.CHECKPOINT]
    return sorted(names, key=lambda name: sum(need.total for need in needs(name)))


def disk(name: str) -> int:
    """Size in MiB of a checkpoint with its encoders, which are published in half precision."""
    return math.ceil(sum(need.parameters for need in needs(name)) * BF16_BYTES * 1.05 / 2**20 / 100) * 100


def chart_table() -> str:
    """Content of helm/lyra/files/presets.yaml."""
    measured = {preset.name: preset.memory for preset in PRESETS.values() if preset.memory}
    lines = [_row(name, memory.components, memory.disk) for name, memory in measured.items()]
    lines += [_row(name, {need.component: need.total for need in needs(name)}, disk(name)) for name in computed()]
    return _HEAD + "\n".join(lines) + "\n"


def page_table() -> str:
    """The table of docs/deploy/gpu-sizing.md, with its markers."""
    return "\n".join([BEGIN, "", *_page_rows(), "", END])


def _page_rows() -> Iterator[str]:
    yield "| preset | service | parameters | bytes per parameter | weights (GiB) | cache (GiB) | needed (GiB) |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name in computed():
        for need in needs(name):
            cache = f"{need.cache / 1024:.1f}" if need.cache else ""
            yield (
                f"| {name} | {need.component} | {need.parameters / 1e6:,.0f} M | {need.parameter_bytes} "
                f"| {need.weights / 1024:.1f} | {cache} | **{need.total / 1024:.1f}** |"
            )


def render_page(text: str) -> str:
    """The page with its table replaced."""
    before, rest = text.split(BEGIN)
    return before + page_table() + rest.split(END)[1]


def _row(name: str, mib: Mapping[str, int], on_disk: int) -> str:
    return f"{name}: {{{', '.join(f'{component}: {size}' for component, size in mib.items())}, disk: {on_disk}}}"


def _architecture(name: str) -> PublishedArchitecture:
    architecture = get_preset(name).architecture
    assert architecture is not None  # every preset with a checkpoint has one
    return architecture()


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _adapter(decoder: nn.Module, config: LoraConfig, preset: PublishedArchitecture) -> int:
    """Parameters of a LoRA adapter: rank x (inputs + outputs) for each layer."""
    layers = (
        module
        for name, module in decoder.named_modules()
        if name.rsplit(".", 1)[-1] in preset.adapter_projections and hasattr(module, "weight")
    )
    return sum(config.rank * sum(layer.weight.shape) for layer in layers)


def _cache(preset: PublishedArchitecture) -> int:
    """Key-value cache without extraction, and the prefix cache, in MiB."""
    language = preset.language
    each = 2 * language.layers * language.key_value_heads * language.head_width * BF16_BYTES
    return math.ceil(each * CACHE_POSITIONS / 2**20) + PREFIX_CACHE_MIB


if __name__ == "__main__":
    CHART_TABLE.write_text(chart_table())
    if PAGE.exists():
        PAGE.write_text(render_page(PAGE.read_text()))
