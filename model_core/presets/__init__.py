"""Presets: named sets of models that fit together, and functions that build their parts.

`registry` knows them all; `catalog` has a module for each; `preset` is their type. What they share is beside them:
`method` (figures of the published method), `published` (parts from a checkpoint in the published layout), `building`
(random and loaded modules), `stages` (hyperparameters of training). docs/architecture.md has the table of presets.
"""

# Builders are imported where a part is built: a service loads the libraries of its own part alone, so that a voice
# needs no torch.

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from model_core.errors import InvalidInput
from model_core.presets.catalog.nano import NANO_PARTS
from model_core.presets.preset import SHIPPED, BuildOptions, PartsFolder, Preset, WeightSource
from model_core.presets.registry import PRESETS, get_preset, lyra_home, packaged_parts

if TYPE_CHECKING:
    import torch

    from model_core.engine.language_model import LanguageModel
    from model_core.speech.encoder import SpeechEncoder
    from model_core.speech.voice import Voice
    from model_core.vision.encoder import VisionEncoder

__all__ = [
    "NANO_PARTS",
    "PRESETS",
    "PROJECTOR_FILE",
    "SHIPPED",
    "SPEECH_GENERATOR_FOLDER",
    "VISION_PROJECTOR_FILE",
    "BuildOptions",
    "PartsFolder",
    "Preset",
    "WeightSource",
    "build_language_model",
    "build_speech_encoder",
    "build_vision_encoder",
    "build_voice",
    "get_preset",
    "lyra_home",
    "packaged_parts",
]

# Names in a folder of trained parts.
PROJECTOR_FILE = "projector.safetensors"
VISION_PROJECTOR_FILE = "vision_projector.safetensors"
SPEECH_GENERATOR_FOLDER = "speech_generator"

Part = TypeVar("Part")


def build_speech_encoder(
    preset: str,
    home: Path | None = None,
    parts: PartsFolder = SHIPPED,
    checkpoint: Path | None = None,
    *,
    device: "torch.device | str" = "cpu",
    fast: bool = False,
) -> "SpeechEncoder":
    """Whisper's encoder with a speech projector for each adapter that has one; nano has none without trained parts.

    With `fast`, for serving, nano computes in bfloat16 where the device does so natively, and on a CPU transcribes in
    8-bit integers. Otherwise the weights are as stored, which is what training and exports need.

    Args:
        preset: Its name.
        home: Cache of pulled weights; None for `lyra_home()`.
        parts: Folder of parts trained here; None for none.
        checkpoint: Folder in the published layout, for presets that run one.
        device: Where the weights are and the model runs, as in `BuildOptions`.
        fast: Whether the encoder is for serving.

    Raises:
        UnknownPreset: There is no such preset.
        WeightsMissing: Its weights have not been pulled, or its checkpoint is not named or not whole.
        InvalidInput: The preset lacks the part or takes no checkpoint, or the GPU that `device` names is missing.
    """
    chosen = get_preset(preset)
    options = replace(_options(chosen, home, parts, checkpoint, device), fast=fast)
    return _build(chosen, "speech encoder", chosen.speech_encoder, options)


def build_vision_encoder(
    preset: str,
    home: Path | None = None,
    parts: PartsFolder = SHIPPED,
    checkpoint: Path | None = None,
    *,
    device: "torch.device | str" = "cpu",
) -> "VisionEncoder":
    """The image encoder with its projector, which for nano is random without trained parts.

    Arguments and errors are those of `build_speech_encoder`.
    """
    chosen = get_preset(preset)
    options = _options(chosen, home, parts, checkpoint, device)
    return _build(chosen, "vision encoder", chosen.vision_encoder, options)


def build_language_model(
    preset: str,
    home: Path | None = None,
    parts: PartsFolder = SHIPPED,
    checkpoint: Path | None = None,
    *,
    device: "torch.device | str" = "cpu",
) -> "LanguageModel":
    """The decoder with all its adapters, of which nano has none without trained parts.

    Weights are bfloat16 where the device multiplies it natively, float32 elsewhere. Arguments and errors are those of
    `build_speech_encoder`.
    """
    chosen = get_preset(preset)
    options = _options(chosen, home, parts, checkpoint, device)
    return _build(chosen, "language model", chosen.language_model, options)


def build_voice(
    preset: str,
    home: Path | None = None,
    threads: int = 1,
    checkpoint: Path | None = None,
    parts: PartsFolder = SHIPPED,
    *,
    device: "torch.device | str" = "cpu",
) -> "Voice":
    """The voice that speaks answers, or several by name, the default one first.

    Nano has the Piper voice, which speaks from text, and where trained parts hold one a generated voice, which speaks
    from hidden states. The Piper voice always runs on the CPU, with `threads` threads. Other arguments and errors are
    those of `build_speech_encoder`.
    """
    chosen = get_preset(preset)
    options = replace(_options(chosen, home, parts, checkpoint, device), threads=threads)
    return _build(chosen, "voice", chosen.voice, options)


def _options(
    preset: Preset, home: Path | None, parts: PartsFolder, checkpoint: Path | None, device: "torch.device | str"
) -> BuildOptions:
    folder = preset.parts_folder(parts)
    return BuildOptions(home=home or lyra_home(), parts=folder, checkpoint=checkpoint, device=device)


def _build(preset: Preset, part: str, builder: Callable[[BuildOptions], Part] | None, options: BuildOptions) -> Part:
    preset.check_checkpoint(options.checkpoint)
    if builder is None:
        raise InvalidInput("preset", f"preset {preset.name} has no {part}")
    return builder(options)
