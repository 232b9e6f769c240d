"""The published presets on the meta device: names and shapes of transformers' models, and no memory."""

from typing import Any

import psutil
import pytest
import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    WhisperConfig,
    WhisperModel,
)
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from model_core.language.lora import AdaptedLinear
from model_core.presets import get_preset
from model_core.presets.method import PublishedArchitecture

MEBIBYTE = 2**20

# Values of the released config.json files.
QWEN2: dict[str, dict[str, Any]] = {
    "mini": {"vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28},
    "base": {"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28},
    "pro": {"vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80},
}
QWEN2_HEADS = {"mini": (12, 2), "base": (28, 4), "pro": (64, 8)}
LLAMA3: dict[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
WHISPER: dict[str, Any] = {
    "vocab_size": 51866,
    "num_mel_bins": 128,
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "decoder_layers": 1,
    "decoder_attention_heads": 20,
    "max_source_positions": 1500,
}


def preset(name: str) -> PublishedArchitecture:
    architecture = get_preset(name).architecture
    assert architecture is not None
    return architecture()


def on_meta(build: Any) -> Any:
    with torch.device("meta"):
        return build()


def shapes(module: nn.Module, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Names without `prefix` -> shapes; a tensor that is stored under two names counts once."""
    return {name.removeprefix(prefix): tuple(tensor.shape) for name, tensor in module.named_parameters()}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def qwen2(name: str) -> PreTrainedModel:
    heads, key_value_heads = QWEN2_HEADS[name]
    config = Qwen2Config(
        **QWEN2[name],
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        tie_word_embeddings=name == "mini",
    )
    return on_meta(lambda: Qwen2ForCausalLM(config))


@pytest.mark.parametrize(
    ("name", "parameters"), [("mini", 1_543_714_304), ("base", 7_615_616_512), ("pro", 72_706_203_648)]
)
def test_qwen2_language_models_have_the_tensors_of_transformers(name: str, parameters: int) -> None:
    ours = on_meta(preset(name).language.build)
    assert shapes(ours) == shapes(qwen2(name), "model.")
    assert count(ours) == parameters


def test_llama_3_has_the_tensors_of_transformers() -> None:
    ours = on_meta(preset("llama3").language.build)
    assert shapes(ours) == shapes(on_meta(lambda: LlamaForCausalLM(LlamaConfig(**LLAMA3))), "model.")
    assert count(ours) == 8_030_261_248


@pytest.mark.parametrize("name", ["mini", "base", "pro", "llama3"])
def test_the_speech_encoder_is_whisper_large(name: str) -> None:
    ours = on_meta(preset(name).speech_encoder.whisper.build)
    oracle = on_meta(lambda: WhisperModel(WhisperConfig(**WHISPER)).encoder)
    assert shapes(ours) == shapes(oracle)
    assert count(ours) == 636_968_960


@pytest.mark.parametrize(
    ("name", "parameters"), [("mini", 2_208_985_600), ("base", 8_291_375_616), ("pro", 73_405_560_320)]
)
def test_vision_tower_and_language_model_together_have_the_tensors_of_qwen2_vl(name: str, parameters: int) -> None:
    table = preset(name)
    tower = on_meta(table.vision_encoder.build).vision_tower
    config = Qwen2VLVisionConfig(hidden_size=table.language.width)
    assert shapes(tower) == shapes(on_meta(lambda: Qwen2VisionTransformerPretrainedModel(config)))
    assert count(tower) + count(on_meta(table.language.build)) == parameters


def test_llama_3_has_clip_vit_large_at_336_pixels() -> None:
    encoder = on_meta(preset("llama3").vision_encoder.build)
    config = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    assert shapes(encoder.vision_tower) == shapes(on_meta(lambda: CLIPVisionModel(config)))
    assert count(encoder.vision_tower) == 303_507_456
    assert shapes(encoder.mm_projector) == {
        "0.weight": (4096, 1024),
        "0.bias": (4096,),
        "2.weight": (4096, 4096),
        "2.bias": (4096,),
    }


@pytest.mark.parametrize(("name", "width"), [("mini", 1536), ("base", 3584), ("pro", 8192), ("llama3", 4096)])
def test_every_adapter_has_a_speech_projector_of_five_frames_and_2048_units(name: str, width: int) -> None:
    projectors = on_meta(preset(name).speech_encoder.build).projectors
    assert sorted(projectors) == ["long_speech", "speech"]
    for projector in projectors.values():
        assert shapes(projector) == {
            "linear1.weight": (2048, 6400),
            "linear1.bias": (2048,),
            "linear2.weight": (width, 2048),
            "linear2.bias": (width,),
        }


@pytest.mark.parametrize("name", ["mini", "base", "pro", "llama3"])
def test_adapters_have_rank_64_and_128_on_all_seven_projections_of_a_layer(name: str) -> None:
    table = preset(name)
    decoder = on_meta(table.language.build)
    with torch.device("meta"):
        for adapter, config in table.adapters.items():
            decoder.add_adapter(adapter, config, table.adapter_projections)
    adapted = [module for module in decoder.modules() if isinstance(module, AdaptedLinear)]
    assert len(adapted) == 7 * table.language.layers
    for adapter, rank, scale in (("speech", 64, 0.25), ("long_speech", 128, 2.0)):
        for module in adapted:
            update: Any = module.adapters[adapter]
            assert (update.lora_A.out_features, update.scale) == (rank, scale)


@pytest.mark.parametrize("name", ["mini", "base", "pro", "llama3"])
def test_the_speech_generator_has_the_published_shape(name: str) -> None:
    table = preset(name)
    config = Qwen2Config(
        hidden_size=4096, intermediate_size=11008, num_attention_heads=32, num_key_value_heads=32, num_hidden_layers=2
    )
    oracle = shapes(on_meta(lambda: Qwen2ForCausalLM(config)), "model.")
    expected = {name: shape for name, shape in oracle.items() if name.startswith("layers.")}
    ends = {"input_proj": (4096, table.language.width), "output_proj": (1001, 4096)}
    for end, shape in ends.items():
        expected |= {f"{end}.weight": shape, f"{end}.bias": shape[:1]}
    assert shapes(on_meta(table.unit_generator.build)) == expected
    assert table.unit_generator.upsample == 25


@pytest.mark.parametrize("name", ["mini", "base", "pro", "llama3"])
def test_the_vocoder_has_1000_units_of_20_ms_at_16_khz(name: str) -> None:
    vocoder = preset(name).vocoder
    assert (vocoder.units, vocoder.samples_per_frame, vocoder.sample_rate) == (1000, 320, 16_000)


@pytest.mark.parametrize(
    ("name", "rope_base", "sections", "epsilon"),
    [
        ("mini", 1e6, (16, 24, 24), 1e-6),
        ("base", 1e6, (16, 24, 24), 1e-6),
        ("pro", 1e6, (16, 24, 24), 1e-6),
        ("llama3", 5e5, None, 1e-5),
    ],
)
def test_hyperparameters_are_the_published_ones(
    name: str, rope_base: float, sections: tuple[int, int, int] | None, epsilon: float
) -> None:
    language = preset(name).language
    assert (language.rope_base, language.rope_sections, language.norm_epsilon) == (rope_base, sections, epsilon)
    assert language.head_width == 128


def test_the_largest_preset_takes_no_memory_before_its_weights_are_loaded() -> None:
    table = preset("pro")
    before = psutil.Process().memory_info().rss
    parts = [
        on_meta(config.build)
        for config in (table.language, table.speech_encoder, table.vision_encoder, table.unit_generator)
    ]
    assert all(parameter.is_meta for part in parts for parameter in part.parameters())
    assert psutil.Process().memory_info().rss - before < 64 * MEBIBYTE
