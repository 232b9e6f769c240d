"""A complete miniature Lyra with random weights and every part of a published folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from model_core.checkpoints.exporting import export
from model_core.language.decoder import Decoder
from model_core.language.lora import PROJECTIONS, LoraConfig
from model_core.presets import tiny
from model_core.speech.projector import SpeechProjector
from model_core.speech.unit_generator import UnitGenerator
from model_core.speech.vocoder import DurationPredictor, UnitVocoder
from model_core.speech.whisper import WhisperEncoder
from model_core.vision.qwen import QwenVisionEncoder

LANGUAGE: dict[str, Any] = {
    "vocabulary": 320,
    "width": 32,
    "layers": 3,
    "heads": 2,
    "key_value_heads": 1,
    "feed_forward": 48,
    "context": 256,
    "rope_base": 1e6,
    "norm_epsilon": 1e-6,
    "qkv_bias": True,
    "rope_sections": (2, 3, 3),
}
RANKS = {"speech": LoraConfig(rank=2, alpha=4), "long_speech": LoraConfig(rank=5, alpha=10)}


@dataclass(frozen=True)
class SmallLyra:
    decoder: Decoder
    tokenizer: Tokenizer
    speech: WhisperEncoder
    projectors: dict[str, SpeechProjector]
    vision: QwenVisionEncoder
    generator: UnitGenerator
    vocoder: UnitVocoder

    def export(self, folder: Path, **changes: Any) -> Path:
        parts = {
            "decoder": self.decoder,
            "tokenizer": self.tokenizer,
            "speech": self.speech,
            "speech_projectors": self.projectors,
            "vision": self.vision,
            "speech_generator": self.generator,
            "vocoder": self.vocoder,
        }
        export(folder, **{**parts, **changes})
        return folder


def make(tied: bool = False) -> SmallLyra:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = Decoder.Config(**LANGUAGE, tied_output=tied).build().eval()
        for name, lora in RANKS.items():
            decoder.add_adapter(name, lora, PROJECTIONS)
        randomize(decoder)
        projector = SpeechProjector.Config(encoder_width=8, model_width=32, group=5, hidden_width=12)
        return SmallLyra(
            decoder=decoder,
            tokenizer=tiny.tokenizer(),
            speech=WhisperEncoder.Config(mel_bins=16, width=8, layers=1, heads=2, feed_forward=16).build().eval(),
            projectors={name: projector.build() for name in RANKS},
            vision=QwenVisionEncoder.Config(model="small-vit", token_width=32, width=16, layers=1, heads=2).build(),
            generator=UnitGenerator.Config(hidden_width=32, width=16, heads=2, feed_forward=24, upsample=3, units=10)
            .build()
            .eval(),
            vocoder=UnitVocoder.Config(
                units=10,
                embedding_width=8,
                channels=32,
                block_kernels=(3,),
                block_dilations=((1,),),
                duration=DurationPredictor.Config(width=8, hidden_width=8),
            )
            .build()
            .eval(),
        )


def randomize(module: nn.Module) -> None:
    """Randomizes biases and adapters too, so that misplaced tensors are noticed."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)


def on_meta(config: Any) -> Any:
    with torch.device("meta"):
        return config.build().eval()


@torch.inference_mode()
def logits_of(decoder: Decoder, ids: Tensor, adapter: str | None = None) -> Tensor:
    return decoder.logits(decoder(decoder.embed_tokens(ids), adapter=adapter))


IDS = torch.tensor([[7, 300, 12, 99, 5, 41, 255, 3, 3, 18]])
