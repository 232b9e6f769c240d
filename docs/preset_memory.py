"""How much memory each service needs with each preset, from the presets' own shapes: `make docs`.

Writes helm/lyra/files/presets.yaml, by which the chart refuses what cannot fit, and the table of
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

PROCESS_MIB = 700  # Python, torch and what a request holds: nano's processes, less their weights
LOADING = 1.1  # of the weights, while they are loaded
CACHE_POSITIONS = 32_768  # of the prompt and answer that the language model's cache has room for
PREFIX_CACHE_MIB = 256  # default of LYRA_PREFIX_CACHE_MIB
HALF, WHOLE = 2, 4  # bytes of a number: bfloat16, float32

_HEAD = """\
# MiB that a service needs with a preset, and that its weights take on disk (disk). Rendered by `make docs`
# (docs/preset_memory.py) from the shapes of the presets; docs/deploy/gpu-sizing.md shows the arithmetic.
"""


@dataclass(frozen=True, slots=True)
class Need:
    """What one service needs with one preset. `bytes_each`: of a number; `cache`: MiB of the language model's cache."""

    component: str
    parameters: int
    bytes_each: int
    cache: int = 0

    @property
    def weights(self) -> int:
        """MiB."""
        return math.ceil(self.parameters * self.bytes_each / 2**20)

    @property
    def total(self) -> int:
        """MiB, rounded up to a hundred."""
        return math.ceil((self.weights * LOADING + PROCESS_MIB + self.cache) / 100) * 100


@cache
def needs(name: str) -> list[Need]:
    """Of the four services with a preset that runs a checkpoint."""
    preset = _architecture(name)
    with torch.device("meta"):
        decoder = preset.language.build()
        language = _count(decoder) + sum(_adapter(decoder, config, preset) for config in preset.adapters.values())
        speech = _count(preset.speech_encoder.build()) + preset.transcriber_parameters
        vision, voice = _count(preset.vision_encoder.build()), _count(preset.unit_generator.build())
    return [
        Need("speech-encoder", speech, WHOLE),
        Need("vision-encoder", vision, WHOLE),
        Need("language-model", language, HALF, _cache(preset)),
        Need("speech-synthesizer", voice, WHOLE),
    ]


def computed() -> list[str]:
    """The presets that run a checkpoint, by what they need."""
    names = [preset.name for preset in PRESETS.values() if preset.weights is WeightSource.CHECKPOINT]
    return sorted(names, key=lambda name: sum(need.total for need in needs(name)))


def disk(name: str) -> int:
    """MiB of a whole checkpoint with its encoders, in half precision as they are published."""
    return math.ceil(sum(need.parameters for need in needs(name)) * HALF * 1.05 / 2**20 / 100) * 100


def chart_table() -> str:
    """Of helm/lyra/files/presets.yaml."""
    measured = {preset.name: preset.memory for preset in PRESETS.values() if preset.memory}
    lines = [_row(name, memory.components, memory.disk) for name, memory in measured.items()]
    lines += [_row(name, {need.component: need.total for need in needs(name)}, disk(name)) for name in computed()]
    return _HEAD + "\n".join(lines) + "\n"


def page_table() -> str:
    """Of docs/deploy/gpu-sizing.md, between the markers."""
    return "\n".join([BEGIN, "", *_page_rows(), "", END])


def _page_rows() -> Iterator[str]:
    yield "| preset | service | parameters | bytes each | weights (GiB) | cache (GiB) | needed (GiB) |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name in computed():
        for need in needs(name):
            cache = f"{need.cache / 1024:.1f}" if need.cache else ""
            yield (
                f"| {name} | {need.component} | {need.parameters / 1e6:,.0f} M | {need.bytes_each} "
                f"| {need.weights / 1024:.1f} | {cache} | **{need.total / 1024:.1f}** |"
            )


def render_page(text: str) -> str:
    """The page with its table made anew."""
    before, rest = text.split(BEGIN)
    return before + page_table() + rest.split(END)[1]


def _row(name: str, mib: Mapping[str, int], on_disk: int) -> str:
    return f"{name}: {{{', '.join(f'{component}: {size}' for component, size in mib.items())}, disk: {on_disk}}}"


def _architecture(name: str) -> PublishedArchitecture:
    architecture = get_preset(name).architecture
    assert architecture is not None  # every preset that runs a checkpoint has one
    return architecture()


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _adapter(decoder: nn.Module, config: LoraConfig, preset: PublishedArchitecture) -> int:
    """Parameters of a low-rank update: of a layer from I to O, rank times I and O together."""
    layers = (
        module
        for name, module in decoder.named_modules()
        if name.rsplit(".", 1)[-1] in preset.adapter_projections and hasattr(module, "weight")
    )
    return sum(config.rank * sum(layer.weight.shape) for layer in layers)


def _cache(preset: PublishedArchitecture) -> int:
    """MiB of keys and values, when the extractor drops nothing, and of beginnings that are kept."""
    language = preset.language
    each = 2 * language.layers * language.key_value_heads * language.head_width * HALF
    return math.ceil(each * CACHE_POSITIONS / 2**20) + PREFIX_CACHE_MIB


if __name__ == "__main__":
    CHART_TABLE.write_text(chart_table())
    if PAGE.exists():
        PAGE.write_text(render_page(PAGE.read_text()))
