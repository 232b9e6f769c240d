"""Preset nano: small open models that one CPU runs, and our parts between them.

The shapes are in `model_core/presets/nano.py`, the parts trained here in `model_core/presets/nano_parts`.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from model_core.checkpoints.store import part_folder
from model_core.presets.nano_packages import PACKAGES
from model_core.presets.preset import BuildOptions, MeasuredMemory, Preset, WeightSource

if TYPE_CHECKING:
    from model_core.engine.language_model import LanguageModel
    from model_core.presets.stages import StageTable
    from model_core.speech.character_unit_generator import CharacterUnitGenerator
    from model_core.speech.encoder import SpeechEncoder
    from model_core.speech.voice import Voice
    from model_core.vision.encoder import VisionEncoder

NANO_PARTS = Path(__file__).parent.parent / "nano_parts"


def _folder(options: BuildOptions, part: str) -> Path:
    return part_folder(options.home, "nano", part)


def speech_encoder(options: BuildOptions) -> "SpeechEncoder":
    """Whisper tiny.en, and a projector for each adapter of the trained parts."""
    import torch

    from model_core.adapter_choice import SPEECH
    from model_core.checkpoints.whisper import load_transcriber
    from model_core.kernels import fast_dtype
    from model_core.presets import PROJECTOR_FILE, nano
    from model_core.presets.building import below, chosen_device, load, on_meta, read, trained
    from model_core.speech.ctranslate2_decoder import CTranslate2Decoder
    from model_core.speech.encoder import SpeechEncoder

    device, folder = chosen_device(options.device), _folder(options, "speech_encoder")
    with on_meta():
        encoder = SpeechEncoder(replace(nano.SPEECH_ENCODER, adapters=()))
    load(encoder.whisper, below(read(folder), "model.encoder."), device=device)
    if options.parts is not None:
        adapters = options.parts / "adapters"
        found = {path.parent.name for path in adapters.glob(f"*/{PROJECTOR_FILE}")}
        for adapter in sorted({SPEECH} | found):
            encoder.add_projector(adapter, trained(adapters / adapter / PROJECTOR_FILE))
    greedy_decoder = None
    if options.fast and device.type == "cpu":
        # Clips are transcribed while the next ones are encoded; with all threads each, both would be slower.
        threads = max(1, torch.get_num_threads() // 2)
        greedy_decoder = CTranslate2Decoder(_folder(options, "transcriber"), threads, encoder.whisper.config.width)
    encoder.transcriber = load_transcriber(folder, encoder.frames_with_tail, greedy_decoder, device)
    if options.fast:
        encoder.set_compute_dtype(fast_dtype(device))
    return encoder.eval()


def vision_encoder(options: BuildOptions) -> "VisionEncoder":
    """EfficientNet-Lite0 with the trained projector, or a random one."""
    from model_core.checkpoints.efficientnet import own_names
    from model_core.presets import VISION_PROJECTOR_FILE, nano
    from model_core.presets.building import chosen_device, load, read, seeded, trained

    device, folder = chosen_device(options.device), _folder(options, "vision_encoder")
    with seeded():
        encoder = nano.VISION_ENCODER.build()
    load(encoder.backbone, own_names(read(folder)))
    if options.parts is not None:
        load(encoder.projector, trained(options.parts / VISION_PROJECTOR_FILE))
    return encoder.to(device).eval()


def language_model(options: BuildOptions) -> "LanguageModel":
    """SmolLM2-135M-Instruct with every adapter of the trained parts."""
    import torch
    from tokenizers import Tokenizer

    from model_core.checkpoints.peft_adapters import load_adapter
    from model_core.engine.language_model import LanguageModel
    from model_core.kernels import fast_dtype
    from model_core.presets import nano
    from model_core.presets.building import below, chosen_device, load, on_meta, read

    device, folder = chosen_device(options.device), _folder(options, "language")
    with on_meta():
        decoder = nano.LANGUAGE.build()
    load(decoder, below(read(folder), "model."), fast_dtype(device), device)
    if options.parts is not None:
        for config in sorted(options.parts.glob("adapters/*/adapter_config.json")):
            load_adapter(decoder, config.parent.name, config.parent)
    return LanguageModel(
        nano.LANGUAGE_MODEL,
        decoder.to(fast_dtype(device)),
        Tokenizer.from_file(str(folder / "tokenizer.json")),
        extraction=nano.EXTRACTION,
        window_tokens=nano.WINDOW_TOKENS,
        # The checkpoint has groups of 32 weights in 4 bits. The kernel takes bfloat16 only.
        precision="int4" if device.type == "cpu" and fast_dtype(device) == torch.bfloat16 else "float",
    )


def voice(options: BuildOptions) -> "Voice":
    """The Piper voice, and where the trained parts have a speech generator the generated voice."""
    from model_core.presets import SPEECH_GENERATOR_FOLDER
    from model_core.speech.voice import PiperVoice
    from model_core.speech.voices import Voices

    piper = PiperVoice.load(_folder(options, "voice"), threads=options.threads)
    if options.parts is None or not (options.parts / SPEECH_GENERATOR_FOLDER).is_dir():
        return piper
    from model_core.presets import nano
    from model_core.presets.building import chosen_device
    from model_core.presets.nano_voice import generated_voice

    device = chosen_device(options.device)
    both: list[Voice] = [generated_voice(options.home, options.parts / SPEECH_GENERATOR_FOLDER, device), piper]
    return Voices(*sorted(both, key=lambda each: nano.DEFAULT_VOICE not in each.voices))


def training() -> "StageTable":
    """Hyperparameters of each stage."""
    from model_core.presets.nano import TRAINING

    return TRAINING


def unit_generator() -> "CharacterUnitGenerator.Config":
    """Shape of the generated voice's speech generator."""
    from model_core.presets.nano import UNIT_GENERATOR

    return UNIT_GENERATOR


PRESET = Preset(
    name="nano",
    description="small open models that one CPU runs, and our parts between them",
    weights=WeightSource.PACKAGES,
    speech_encoder=speech_encoder,
    vision_encoder=vision_encoder,
    language_model=language_model,
    voice=voice,
    packages=PACKAGES,
    shipped_parts=NANO_PARTS,
    training=training,
    unit_generator=unit_generator,
    # Under a job of two hours, with a little room.
    memory=MeasuredMemory(
        components={
            "speech-encoder": 1200,
            "vision-encoder": 400,
            "language-model": 1550,
            "speech-synthesizer": 700,
        },
        disk=600,
    ),
)
