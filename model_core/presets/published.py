"""The parts of a preset in the published layout, with the weights of a checkpoint or with random ones."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model_core.adapter_choice import SPEECH
from model_core.checkpoints.hifigan import vocoder_from_published
from model_core.checkpoints.peft_adapters import load_adapter, read_projector
from model_core.checkpoints.published import (
    PublishedCheckpoint,
    open_checkpoint,
    read_tokenizer,
    read_vocoder,
)
from model_core.checkpoints.published_config import published_fields
from model_core.checkpoints.whisper import load_transcriber
from model_core.engine.language_model import LanguageModel
from model_core.errors import CheckpointError
from model_core.kernels import fast_dtype
from model_core.language.decoder import DecoderStack
from model_core.language.extractor import ExtractionConfig
from model_core.presets.building import byte_tokenizer, on_meta, seeded
from model_core.presets.method import PublishedArchitecture
from model_core.speech.encoder import SpeechEncoder
from model_core.speech.random_transcriber import random_transcriber
from model_core.speech.unit_voice import UnitVoice
from model_core.vision.clip import ClipVisionEncoder
from model_core.vision.qwen import QwenVisionEncoder

# Fields in which a checkpoint may differ from its preset.
_FREE_FIELDS = {"max_position_embeddings", "model_type"}


class PublishedWeights:
    """Builds any part of a preset.

    Modules are built on the meta device and filled tensor by tensor, so a part takes little more memory than its
    weights.

    Args:
        name: The preset's.
        architecture: Its shapes.
        folder: A folder in the published layout; None for random weights, the same every time.
        device: Where the weights are loaded.

    Raises:
        CheckpointError: the folder is no checkpoint, or one of another model.
    """

    def __init__(
        self, name: str, architecture: PublishedArchitecture, folder: Path | None, device: torch.device | str = "cpu"
    ) -> None:
        self._architecture, self._device = architecture, device
        self._checkpoint = None if folder is None else open_checkpoint(folder)
        if self._checkpoint:
            _check_fits(name, architecture, self._checkpoint)

    def language_model(self) -> LanguageModel:
        """The decoder with every adapter."""
        architecture = self._architecture
        dtype = architecture.language_dtype or fast_dtype(self._device)
        if self._checkpoint is None:
            with seeded():
                return self._random_language_model()
        with on_meta():
            decoder = architecture.language.build()
        self._checkpoint.load_into(decoder, "language", dtype, self._device)
        for adapter, folder in self._checkpoint.adapter_folders().items():
            load_adapter(decoder, adapter, folder)
        extraction = _extraction(architecture, self._checkpoint)
        tokenizer = read_tokenizer(self._checkpoint.folder)
        return LanguageModel(architecture.model, decoder.to(dtype), tokenizer, architecture.template, extraction)

    def speech_encoder(self) -> SpeechEncoder:
        """Whisper's encoder, a projector for every adapter, and Whisper's decoder where it is there too."""
        config, checkpoint = self._architecture.speech_encoder, self._checkpoint
        if checkpoint is None:
            with seeded():
                encoder = config.build().to(self._device).eval()
            encoder.transcriber = random_transcriber(config.whisper.width, encoder.frames_with_tail, self._device)
            return encoder
        with on_meta():
            encoder = replace(config, adapters=()).build().eval()
        checkpoint.load_into(encoder.whisper, "speech_tower", device=self._device)
        for adapter, folder in checkpoint.adapter_folders().items():
            if (tensors := read_projector(folder)) is not None:
                encoder.add_projector(adapter, tensors)
        if SPEECH not in encoder.adapters:
            with on_meta():
                projector = config.projector.build()
            checkpoint.load_into(projector, "speech_projector", device=self._device)
            encoder.add_projector(SPEECH, projector.state_dict())
        tower = checkpoint.encoder_folder("speech_tower")
        encoder.transcriber = load_transcriber(tower, encoder.frames_with_tail, device=self._device) if tower else None
        return encoder

    def vision_encoder(self) -> QwenVisionEncoder | ClipVisionEncoder:
        """The vision tower, with its projector where it has one."""
        if self._checkpoint is None:
            with seeded():
                return self._architecture.vision_encoder.build().to(self._device)
        with on_meta():
            encoder = self._architecture.vision_encoder.build()
        self._checkpoint.load_into(encoder.vision_tower, "vision_tower", device=self._device)
        if isinstance(encoder, ClipVisionEncoder):
            self._checkpoint.load_into(encoder.mm_projector, "vision_projector", device=self._device)
        return encoder.eval().requires_grad_(False)

    def voice(self) -> UnitVoice:
        """Speech generator and vocoder."""
        architecture, checkpoint = self._architecture, self._checkpoint
        if checkpoint is None:
            with seeded():
                generator, vocoder = architecture.unit_generator.build(), architecture.vocoder.build()
                _randomize(generator, std=0.5)
            return UnitVoice(generator.to(self._device), vocoder.to(self._device))
        file = checkpoint.vocoder_file()
        if file is None:
            raise CheckpointError("vocoder", f"has no folder inside {checkpoint.folder} or beside it")
        with on_meta():
            generator = architecture.unit_generator.build()
        checkpoint.load_into(generator, "speech_generator", device=self._device)
        return UnitVoice(generator, vocoder_from_published(*read_vocoder(file)).to(self._device))

    def _random_language_model(self) -> LanguageModel:
        architecture = self._architecture
        decoder = architecture.language.build()
        _randomize(decoder, std=0.1)
        for adapter, config in architecture.adapters.items():
            decoder.add_adapter(adapter, config, architecture.adapter_projections)
        for name, parameter in decoder.named_parameters():
            # A new adapter has no effect; here each needs one of its own.
            if name.endswith("lora_B.weight"):
                nn.init.normal_(parameter, std=0.1)
        decoder = decoder.to(self._device)
        tokenizer = byte_tokenizer(*architecture.template.reserved)
        return LanguageModel(architecture.model, decoder, tokenizer, architecture.template, architecture.extraction)


def _randomize(stack: DecoderStack, std: float) -> None:
    """Draws the weights of all linear layers, large enough that answers and units vary."""
    for module in stack.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)


def _check_fits(name: str, architecture: PublishedArchitecture, checkpoint: PublishedCheckpoint) -> None:
    """Compares the shapes in the checkpoint's configuration with the preset's."""
    config = checkpoint.config
    generator = architecture.unit_generator if config.generator else None
    whisper, projector = architecture.speech_encoder.whisper, architecture.speech_encoder.projector
    expected: Mapping[str, Any] = published_fields(
        architecture.language,
        generator=generator,
        speech_tower=config.speech_tower,
        group=projector.group,
        encoder_width=whisper.width,
    )
    found: Mapping[str, Any] = published_fields(
        config.language,
        generator=config.generator,
        speech_tower=config.speech_tower,
        group=config.group,
        encoder_width=config.encoder_width,
    )
    for field in [*expected, *(field for field in found if field not in expected)]:
        if field not in _FREE_FIELDS and found.get(field) != expected.get(field):
            values = f"{found.get(field)!r} where preset {name} has {expected.get(field)!r}"
            raise CheckpointError(f"config.json: {field}", f"is {values}: this is another model's checkpoint")


def _extraction(architecture: PublishedArchitecture, checkpoint: PublishedCheckpoint) -> ExtractionConfig:
    """The checkpoint's own, or the preset's where the checkpoint drops nothing."""
    layers, block, keep_rate = architecture.language.layers, checkpoint.config.block_layers, checkpoint.config.keep_rate
    if keep_rate == 1 or not 0 < block < layers:
        return architecture.extraction
    return ExtractionConfig(blocks=round(layers / block), keep_rate=keep_rate)
