"""Whisper in miniature: the shape that transformers and we both build, and clips to run it on."""

from typing import Any

import torch
from torch import Tensor
from transformers import WhisperConfig

from model_core.audio.tensors import SAMPLE_RATE, Clip

WIDTH = 16
HEADS = 2
LAYERS = 2
FEED_FORWARD = 32


def oracle_config(**more: Any) -> WhisperConfig:
    """The shape as a config of transformers."""
    return WhisperConfig(
        d_model=WIDTH,
        encoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        encoder_ffn_dim=FEED_FORWARD,
        decoder_layers=LAYERS,
        decoder_attention_heads=HEADS,
        decoder_ffn_dim=FEED_FORWARD,
        **more,
    )


def frames_of(clips: list[Tensor]) -> list[Tensor]:
    """Stands in for the encoder: 50 frames a second that depend on the samples."""
    return [clip[::320, None].expand(-1, WIDTH).contiguous() for clip in clips]


def clip(seconds: float, start: float = 0.0, level: float = 0.5) -> Clip:
    """A clip whose samples all have one level."""
    samples = torch.full((int(seconds * SAMPLE_RATE),), level)
    return Clip(0, start, start + seconds, samples)
