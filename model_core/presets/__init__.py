"""Presets: named sets of models that fit together, and the functions that build their parts.

`nano` needs the weights that `lyra weights pull nano` converts, and the trained parts beside this file. `mini`, `base`,
`pro` and `llama3` need a checkpoint: a folder in the published layout (`docs/checkpoints.md`). `tiny` and
`tiny-qwen2-vl` are random and need nothing; the latter is the published models in miniature and takes a checkpoint too.

Every builder takes the `device` that the weights come to lie on and the model computes on: `cpu`, `cuda`, `cuda:1` and
so on, or `auto`, the first GPU where there is one. It raises InvalidInput where that GPU is missing.
"""

# Imports stand inside the functions: a service loads the libraries of the one part that it builds, so that a voice
# needs no torch.

import importlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from model_core.checkpoints.store import part_folder
from model_core.errors import InvalidInput, UnknownPreset, WeightsMissing

if TYPE_CHECKING:
    import torch

    from model_core.engine.engine import LanguageModel
    from model_core.presets.published import PublishedWeights
    from model_core.speech.encoder import SpeechEncoder
    from model_core.speech.voice import Voice
    from model_core.vision.encoder import VisionEncoder

OF_A_CHECKPOINT = ("mini", "base", "pro", "llama3")
PRESETS = ("nano", *OF_A_CHECKPOINT, "tiny", "tiny-qwen2-vl")
NANO_PARTS = Path(__file__).parent / "nano_parts"
PROJECTOR_FILE = "projector.safetensors"
VISION_PROJECTOR_FILE = "vision_projector.safetensors"
SPEECH_GENERATOR_FOLDER = "speech_generator"


def lyra_home() -> Path:
    """`LYRA_HOME`, or `~/.cache/lyra`."""
    return Path(os.environ.get("LYRA_HOME") or "~/.cache/lyra").expanduser()


def build_speech_encoder(
    preset: str,
    home: Path | None = None,
    parts: Path | None = NANO_PARTS,
    checkpoint: Path | None = None,
    *,
    device: "torch.device | str" = "cpu",
    fast: bool = False,
) -> "SpeechEncoder":
    """Whisper with the projectors of every adapter that has one; nano's has none without trained parts.

    With `fast`, for serving, nano's multiplies in bfloat16 where the device does so natively, and on a CPU writes words
    in 8-bit integers. Otherwise its weights are the stored ones: training and exports want those.

    Raises UnknownPreset, WeightsMissing, InvalidInput.
    """
    if published := _published(preset, checkpoint, device):
        return published.speech_encoder()
    import torch

    from model_core.adapter_choice import SPEECH
    from model_core.checkpoints.whisper import load_transcriber
    from model_core.kernels import fast_dtype
    from model_core.presets import nano, tiny
    from model_core.presets.building import below, chosen_device, load, on_meta, read, seeded, trained
    from model_core.speech.ctranslate2_decoder import CTranslate2Decoder
    from model_core.speech.encoder import SpeechEncoder
    from model_core.speech.random_transcriber import random_transcriber

    device = chosen_device(device)
    if preset == "tiny":
        with seeded():
            encoder = SpeechEncoder(tiny.SPEECH_ENCODER).to(device).eval()
        encoder.transcriber = random_transcriber(tiny.SPEECH_ENCODER.whisper.width, encoder.frames_with_tail, device)
        return encoder
    folder = part_folder(home or lyra_home(), preset, "speech_encoder")
    with on_meta():
        encoder = SpeechEncoder(replace(nano.SPEECH_ENCODER, adapters=()))
    load(encoder.whisper, below(read(folder), "model.encoder."), device=device)
    if parts is not None:
        found = {path.parent.name for path in parts.glob(f"adapters/*/{PROJECTOR_FILE}")}
        for adapter in sorted({SPEECH} | found):
            encoder.add_projector(adapter, trained(parts / "adapters" / adapter / PROJECTOR_FILE))
    quick = None
    if fast and device.type == "cpu":
        # Words are written while the next clips are encoded: both with all threads would stand in each other's way.
        threads = max(1, torch.get_num_threads() // 2)
        words_folder = part_folder(home or lyra_home(), preset, "transcriber")
        quick = CTranslate2Decoder(words_folder, threads, encoder.whisper.config.width)
    encoder.transcriber = load_transcriber(folder, encoder.frames_with_tail, quick, device)
    if fast:
        encoder.set_compute_dtype(fast_dtype(device))
    return encoder.eval()


def build_vision_encoder(
    preset: str,
    home: Path | None = None,
    parts: Path | None = NANO_PARTS,
    checkpoint: Path | None = None,
    *,
    device: "torch.device | str" = "cpu",
) -> "VisionEncoder":
    """The picture encoder with its projector; nano's is random without trained parts.

    Raises UnknownPreset, WeightsMissing, InvalidInput.
    """
    if published := _published(preset, checkpoint, device):
        return published.vision_encoder()
    from model_core.presets import nano, tiny
    from model_core.presets.building import chosen_device, load, read, seeded, trained
    from model_core.vision.efficientnet import from_packaged_names

    device = chosen_device(device)
    if preset == "tiny":
        with seeded():
            return tiny.VISION_ENCODER.build().to(device)
    folder = part_folder(home or lyra_home(), preset, "vision_encoder")
    with seeded():
        encoder = nano.VISION_ENCODER.build()
    load(encoder.backbone, from_packaged_names(read(folder)))
    if parts is not None:
        load(encoder.projector, trained(parts / VISION_PROJECTOR_FILE))
    return encoder.to(device).eval()


def build_language_model(
    preset: str,
    home: Path | None = None,
    parts: Path | None = NANO_PARTS,
    checkpoint: Path | None = None,
    *,
    device: "torch.device | str" = "cpu",
) -> "LanguageModel":
    """The decoder with every adapter; nano has none without trained parts.

    Weights are bfloat16 where the device multiplies it natively, float32 elsewhere. Raises UnknownPreset,
    WeightsMissing, InvalidInput.
    """
    if published := _published(preset, checkpoint, device):
        return published.language_model()
    import torch
    from tokenizers import Tokenizer

    from model_core.checkpoints.peft_adapters import load_adapter
    from model_core.engine.engine import LanguageModel
    from model_core.kernels import fast_dtype
    from model_core.presets import nano, tiny
    from model_core.presets.building import below, chosen_device, load, on_meta, read, seeded

    device = chosen_device(device)
    if preset == "tiny":
        with seeded():
            decoder = tiny.LANGUAGE.build()
            # Small embeddings let the layers decide, so that answers are more than the last letter again.
            torch.nn.init.normal_(decoder.embed_tokens.weight, std=0.1)
            for adapter in ("speech", "vision"):
                decoder.add_adapter(adapter, tiny.LORA, tiny.LORA_PROJECTIONS)
        return LanguageModel(tiny.LANGUAGE_MODEL, decoder.to(device), tiny.tokenizer())
    folder = part_folder(home or lyra_home(), preset, "language")
    with on_meta():
        decoder = nano.LANGUAGE.build()
    load(decoder, below(read(folder), "model."), fast_dtype(device), device)
    for config in sorted(parts.glob("adapters/*/adapter_config.json")) if parts is not None else ():
        load_adapter(decoder, config.parent.name, config.parent)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    decoder = decoder.to(fast_dtype(device))
    return LanguageModel(
        nano.LANGUAGE_MODEL, decoder, tokenizer, extraction=nano.EXTRACTION, window_tokens=nano.WINDOW_TOKENS
    )


def build_voice(
    preset: str,
    home: Path | None = None,
    threads: int = 1,
    checkpoint: Path | None = None,
    parts: Path | None = NANO_PARTS,
    *,
    device: "torch.device | str" = "cpu",
) -> "Voice":
    """The voice that speaks answers, or several by name, the default one first.

    Nano's are the Piper voice, which speaks from text, and where trained parts hold one the generated voice, which
    speaks from hidden states. The Piper voice runs on the CPU wherever the other does. Raises UnknownPreset,
    WeightsMissing, InvalidInput.
    """
    if published := _published(preset, checkpoint, device):
        return published.voice()
    from model_core.speech.voice import PiperVoice, TinyHiddenVoice, TinyVoice
    from model_core.speech.voices import Voices

    if preset == "tiny":
        return Voices(TinyVoice(), TinyHiddenVoice())
    home = home or lyra_home()
    piper = PiperVoice.load(part_folder(home, preset, "voice"), threads=threads)
    if parts is None or not (parts / SPEECH_GENERATOR_FOLDER).is_dir():
        return piper
    from model_core.presets import nano
    from model_core.presets.building import chosen_device
    from model_core.presets.nano_voice import generated_voice

    generated = generated_voice(home, parts / SPEECH_GENERATOR_FOLDER, chosen_device(device))
    both: list[Voice] = [generated, piper]
    return Voices(*sorted(both, key=lambda voice: nano.DEFAULT_VOICE not in voice.voices))


def _published(preset: str, checkpoint: Path | None, device: "torch.device | str") -> "PublishedWeights | None":
    """The weights of a preset of the published method; None for the other presets."""
    if preset not in PRESETS:
        raise UnknownPreset(f"{preset!r} is not a preset; there are {', '.join(PRESETS)}")
    if preset in ("nano", "tiny"):
        if checkpoint is not None:
            raise InvalidInput("checkpoint", f"preset {preset} has weights of its own and takes none")
        return None
    if preset in OF_A_CHECKPOINT and checkpoint is None:
        raise WeightsMissing(
            f"preset {preset} runs a checkpoint of yours: name its folder, with LYRA_CHECKPOINT or --checkpoint"
        )
    from model_core.presets.building import chosen_device
    from model_core.presets.published import PublishedWeights

    table = importlib.import_module(f"model_core.presets.{preset.replace('-', '_')}").PRESET
    return PublishedWeights(preset, table, checkpoint, chosen_device(device))
