"""Every preset by name: each module of `model_core/presets/catalog` defines one as `PRESET`."""

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from model_core.checkpoints.packages import PackagedPart
from model_core.errors import UnknownPreset
from model_core.presets import catalog
from model_core.presets.preset import Preset, WeightSource


def _discover() -> dict[str, Preset]:
    """Presets with packaged weights, then those that require a checkpoint, then random ones, each sorted by name."""
    modules = (import_module(f"{catalog.__name__}.{module.name}") for module in iter_modules(catalog.__path__))
    sources = list(WeightSource)
    found: list[Preset] = sorted(
        (module.PRESET for module in modules), key=lambda preset: (sources.index(preset.weights), preset.name)
    )
    return {preset.name: preset for preset in found}


PRESETS: Mapping[str, Preset] = _discover()


def get_preset(name: str) -> Preset:
    """The preset of that name. Raises UnknownPreset."""
    if name not in PRESETS:
        raise UnknownPreset(f"{name!r} is not a preset; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def packaged_parts(name: str) -> Mapping[str, PackagedPart]:
    """The packages of a preset's open weights, by part. Raises UnknownPreset for one that has none."""
    parts = get_preset(name).packages
    if not parts:
        packaged = ", ".join(preset.name for preset in PRESETS.values() if preset.packages)
        raise UnknownPreset(f"preset {name!r} has no packaged weights; only {packaged} has")
    return parts


def lyra_home() -> Path:
    """`LYRA_HOME`, or `~/.cache/lyra`."""
    return Path(os.environ.get("LYRA_HOME") or "~/.cache/lyra").expanduser()
