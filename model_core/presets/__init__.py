"""Presets: named sets of models that fit together, and the functions that build their parts.

`nano` needs the weights that `lyra weights pull nano` converts, and the trained parts beside this file. `tiny` is
random and needs nothing.
"""

# Imports stand inside the functions: a service loads the libraries of the one part that it builds, so that a voice
# needs no torch.

import os
from pathlib import Path
from typing import TYPE_CHECKING

from model_core.checkpoints.store import part_folder
from model_core.errors import UnknownPreset

if TYPE_CHECKING:
    from model_core.language.engine import LanguageModel
    from model_core.speech.encoder import SpeechEncoder
    from model_core.speech.voice import Voice
    from model_core.vision.encoder import VisionEncoder

PRESETS = ("nano", "tiny")
NANO_PARTS = Path(__file__).parent / "nano_parts"
PROJECTOR_FILE = "projector.safetensors"
VISION_PROJECTOR_FILE = "vision_projector.safetensors"


def lyra_home() -> Path:
    """`LYRA_HOME`, or `~/.cache/lyra`."""
    return Path(os.environ.get("LYRA_HOME") or "~/.cache/lyra").expanduser()


def build_speech_encoder(preset: str, home: Path | None = None, parts: Path = NANO_PARTS) -> "SpeechEncoder":
    """Whisper with the projectors of every adapter that has one. Raises UnknownPreset, WeightsMissing."""
    from model_core.presets import nano, tiny
    from model_core.presets.building import below, load, on_meta, read, seeded, trained
    from model_core.speech.encoder import SpeechEncoder
    from model_core.speech.transcriber import load_transcriber, random_transcriber

    if _check(preset) == "tiny":
        with seeded():
            encoder = SpeechEncoder(tiny.SPEECH_ENCODER).eval()
        encoder.transcriber = random_transcriber(tiny.SPEECH_ENCODER.whisper.width, encoder.frames)
        return encoder
    folder = part_folder(home or lyra_home(), preset, "speech_encoder")
    with on_meta():
        encoder = SpeechEncoder(nano.SPEECH_ENCODER)
    load(encoder.whisper, below(read(folder), "model.encoder."))
    for adapter, projector in encoder.projectors.items():
        load(projector, trained(parts / "adapters" / adapter / PROJECTOR_FILE))
    encoder.transcriber = load_transcriber(folder, encoder.frames)
    return encoder.eval()


def build_vision_encoder(preset: str, home: Path | None = None, parts: Path = NANO_PARTS) -> "VisionEncoder":
    """The picture encoder with its projector. Raises UnknownPreset, WeightsMissing."""
    from model_core.presets import nano, tiny
    from model_core.presets.building import load, on_meta, read, seeded, trained
    from model_core.vision.efficientnet import from_packaged_names

    if _check(preset) == "tiny":
        with seeded():
            return tiny.VISION_ENCODER.build()
    folder = part_folder(home or lyra_home(), preset, "vision_encoder")
    with on_meta():
        encoder = nano.VISION_ENCODER.build()
    load(encoder.backbone, from_packaged_names(read(folder)))
    load(encoder.projector, trained(parts / VISION_PROJECTOR_FILE))
    return encoder.eval()


def build_language_model(preset: str, home: Path | None = None, parts: Path = NANO_PARTS) -> "LanguageModel":
    """The decoder with every adapter. Raises UnknownPreset, WeightsMissing.

    Weights are bfloat16 where the processor multiplies it natively, float32 elsewhere.
    """
    import torch
    from tokenizers import Tokenizer

    from model_core.checkpoints.adapters import load_adapter
    from model_core.language.engine import LanguageModel
    from model_core.presets import nano, tiny
    from model_core.presets.building import below, fast_dtype, load, on_meta, read, seeded

    if _check(preset) == "tiny":
        with seeded():
            decoder = tiny.LANGUAGE.build()
            # Small embeddings let the layers decide, so that answers are more than the last letter again.
            torch.nn.init.normal_(decoder.embed_tokens.weight, std=0.1)
            for adapter in ("speech", "vision"):
                decoder.add_adapter(adapter, tiny.LORA, tiny.LORA_PROJECTIONS)
        return LanguageModel(tiny.LANGUAGE_MODEL, decoder, tiny.tokenizer(), ("speech", "vision"))
    folder = part_folder(home or lyra_home(), preset, "language")
    with on_meta():
        decoder = nano.LANGUAGE.build()
    load(decoder, below(read(folder), "model."), fast_dtype())
    adapters = tuple(sorted(path.parent.name for path in parts.glob("adapters/*/adapter_config.json")))
    for adapter in adapters:
        load_adapter(decoder, adapter, parts / "adapters" / adapter)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return LanguageModel(nano.LANGUAGE_MODEL, decoder.to(fast_dtype()), tokenizer, adapters)


def build_voice(preset: str, home: Path | None = None, threads: int = 1) -> "Voice":
    """The voice that speaks answers. Raises UnknownPreset, WeightsMissing."""
    from model_core.speech.voice import PiperVoice, TinyVoice

    if _check(preset) == "tiny":
        return TinyVoice()
    return PiperVoice.load(part_folder(home or lyra_home(), preset, "voice"), threads=threads)


def _check(preset: str) -> str:
    if preset not in PRESETS:
        raise UnknownPreset(f"{preset!r} is not a preset; there are {', '.join(PRESETS)}")
    return preset
