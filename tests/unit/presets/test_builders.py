"""Building the parts of a preset from a folder in the published layout, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import WhisperConfig, WhisperForConditionalGeneration

from model_core.audio.tensors import SAMPLE_RATE, split_clips
from model_core.checkpoints.exporting import export
from model_core.checkpoints.published import read_tokenizer
from model_core.errors import CheckpointError, InvalidInput, UnknownPreset, WeightsMissing
from model_core.language.chat_template import LLAMA3, QWEN2_VL
from model_core.language.extractor import ExtractionConfig
from model_core.presets import (
    PRESETS,
    WeightSource,
    build_language_model,
    build_speech_encoder,
    build_vision_encoder,
    build_voice,
)
from model_core.presets.building import byte_tokenizer, seeded
from model_core.presets.catalog.tiny_qwen2_vl import architecture
from model_core.presets.published import PublishedWeights
from model_core.speech.unit_voice import UnitVoice
from model_core.speech.whisper_tokens import TIMESTAMPS, random_tokenizer
from model_core.vision.clip import ClipVisionEncoder
from model_core.vision.qwen import QwenVisionEncoder

TINY = "tiny-qwen2-vl"
BUILDERS: list[Callable[..., object]] = [build_language_model, build_speech_encoder, build_vision_encoder, build_voice]
WEIGHTS = "model.safetensors"
WHISPER = "whisper-large-v3"
SHAPES = architecture()
OF_A_CHECKPOINT = [name for name, preset in PRESETS.items() if preset.weights is WeightSource.CHECKPOINT]


def voice_parts() -> UnitVoice:
    with seeded():
        return UnitVoice(SHAPES.unit_generator.build(), SHAPES.vocoder.build())


def clip(seconds: float) -> Tensor:
    return 0.1 * torch.randn(int(seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("adapter", [None, "speech", "long_speech"])
def test_a_checkpoint_of_the_miniature_gives_identical_logits(folder: Path, adapter: str | None) -> None:
    model, loaded = build_language_model(TINY), build_language_model(TINY, checkpoint=folder)
    ids = torch.tensor([model.tokenizer.encode("What is this?").ids])
    assert torch.equal(torch.tensor([loaded.tokenizer.encode("What is this?").ids]), ids)
    with torch.inference_mode():
        hidden, again = (each.decoder(each.decoder.embed_tokens(ids), adapter=adapter) for each in (model, loaded))
        assert torch.equal(loaded.decoder.logits(again), model.decoder.logits(hidden))


@pytest.mark.parametrize("adapter", ["speech", "long_speech"])
def test_a_checkpoint_of_the_miniature_gives_identical_speech_tokens(folder: Path, adapter: str) -> None:
    encoder, loaded = build_speech_encoder(TINY), build_speech_encoder(TINY, checkpoint=folder)
    assert torch.equal(loaded.encode([clip(1)], adapter)[0], encoder.encode([clip(1)], adapter)[0])


def test_a_checkpoint_of_the_miniature_gives_identical_vision_tokens(folder: Path) -> None:
    picture = Image.effect_noise((100, 60), 50).convert("RGB")
    before, after = (build_vision_encoder(TINY, checkpoint=path).encode([picture])[0] for path in (None, folder))
    assert before.grid == after.grid
    assert torch.equal(before.tokens, after.tokens)


def test_a_checkpoint_of_the_miniature_gives_an_identical_voice(folder: Path) -> None:
    hidden = np.random.default_rng(0).standard_normal((20, 32)).astype(np.float32)
    streams = [voice.new_stream() for voice in (voice_parts(), build_voice(TINY, checkpoint=folder))]
    sounds = [np.concatenate([*stream.push_hidden(hidden), *stream.finish()]) for stream in streams]
    assert len(sounds[0]) > 0
    np.testing.assert_allclose(sounds[0].astype(float), sounds[1].astype(float), atol=2)


def test_a_checkpoint_on_llama_and_clip_gives_identical_logits_and_vision_tokens(tmp_path: Path) -> None:
    language = replace(
        SHAPES.language, key_value_heads=2, rope_base=500_000.0, norm_epsilon=1e-5, qkv_bias=False, rope_sections=None
    )
    sight = ClipVisionEncoder.Config(
        model="clip", token_width=32, image_size=28, patch=14, width=8, layers=2, heads=2, feed_forward=16
    )
    shapes = replace(SHAPES, language=language, template=LLAMA3, vision_encoder=sight)
    with seeded():
        decoder, vision = language.build(), sight.build()
    export(tmp_path / "checkpoint", decoder=decoder, tokenizer=byte_tokenizer(*LLAMA3.reserved), vision=vision)

    weights = PublishedWeights("llama3", shapes, tmp_path / "checkpoint")
    picture = Image.effect_noise((100, 60), 50).convert("RGB")
    assert torch.equal(weights.vision_encoder().encode([picture])[0].tokens, vision.encode([picture])[0].tokens)
    model = weights.language_model()
    assert model.template is LLAMA3
    embeds_1LE = torch.randn(1, 5, 32)
    with torch.inference_mode():
        assert torch.equal(model.decoder.logits(model.decoder(embeds_1LE)), decoder.logits(decoder(embeds_1LE)))


def test_a_checkpoint_without_adapters_encodes_with_its_own_projector(folder: Path) -> None:
    expected = build_speech_encoder(TINY).encode([clip(1)], "speech")[0]
    for place in ("speech_lora", "long_speech_lora"):
        (folder / place).rename(folder / f"no_{place}")
    encoder = build_speech_encoder(TINY, checkpoint=folder)
    assert encoder.adapters == ("speech",)
    assert torch.equal(encoder.encode([clip(1)])[0], expected)
    assert build_language_model(TINY, checkpoint=folder).adapters == ()


def test_whisper_from_a_folder_beside_the_checkpoint_encodes_and_transcribes(folder: Path) -> None:
    tokens = random_tokenizer(["en", "de"])
    torch.manual_seed(0)
    whisper = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=tokens.get_vocab_size() + TIMESTAMPS,
            num_mel_bins=128,
            d_model=8,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=0,
            decoder_start_token_id=0,
        )
    ).eval()
    beside = folder.parent / WHISPER
    whisper.save_pretrained(beside)
    tokens.save(str(beside / "tokenizer.json"))
    (beside / "generation_config.json").write_text(json.dumps({"is_multilingual": True}))
    kept = {name: each for name, each in load_file(folder / WEIGHTS).items() if "speech_tower" not in name}
    save_file(kept, folder / WEIGHTS, {"format": "pt"})

    encoder = build_speech_encoder(TINY, checkpoint=folder)
    names = {name.removeprefix("model.encoder.") for name in whisper.state_dict() if "encoder." in name[:14]}
    assert names == set(encoder.whisper.state_dict())
    assert torch.equal(encoder.whisper.conv1.weight, whisper.model.encoder.conv1.weight)
    assert encoder.transcriber.languages == ("en", "de")
    for language in ("", "de"):
        for segment in encoder.transcriber.transcribe(split_clips(clip(0.3)), language):
            assert 0 <= segment.start_seconds <= segment.end_seconds <= 0.3
    with pytest.raises(InvalidInput, match="'fr' is not supported"):
        encoder.transcriber.transcribe([], "fr")


def test_a_checkpoint_that_includes_its_encoder_has_no_transcriber(folder: Path) -> None:
    assert not build_speech_encoder(TINY, checkpoint=folder).can_transcribe


def change_config(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def test_the_extractor_is_configured_by_the_checkpoint(folder: Path) -> None:
    assert build_language_model(TINY, checkpoint=folder).extraction == ExtractionConfig(4, 1.0)
    change_config(folder, compress_gap=2, keep_rate=0.7)
    assert build_language_model(TINY, checkpoint=folder).extraction == ExtractionConfig(2, 0.7)
    change_config(folder, compress_gap=33, keep_rate=0.7)
    assert build_language_model(TINY, checkpoint=folder).extraction == ExtractionConfig(4, 1.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("rope_theta", 10_000.0), ("rms_norm_eps", 1e-5), ("speech_encoder_ds_rate", 4), ("tie_word_embeddings", True)],
)
def test_a_checkpoint_of_another_shape_is_refused_by_field(folder: Path, field: str, value: object) -> None:
    change_config(folder, **{field: value})
    for build in BUILDERS:
        with pytest.raises(CheckpointError, match=rf"{field}.* where preset tiny-qwen2-vl has"):
            build(TINY, checkpoint=folder)


@pytest.mark.parametrize("preset", OF_A_CHECKPOINT)
def test_a_checkpoint_of_another_preset_is_refused(folder: Path, preset: str) -> None:
    with pytest.raises(CheckpointError, match=f"vocab_size: is 320 where preset {preset} has"):
        build_language_model(preset, checkpoint=folder)


def test_without_a_vocoder_there_is_no_voice(folder: Path) -> None:
    (folder / "vocoder" / "g_00500000").unlink()
    with pytest.raises(CheckpointError, match="vocoder"):
        build_voice(TINY, checkpoint=folder)


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("preset", OF_A_CHECKPOINT)
def test_a_preset_that_needs_a_checkpoint_names_its_option(build: Callable[..., object], preset: str) -> None:
    with pytest.raises(WeightsMissing, match=f"preset {preset} requires a checkpoint.*LYRA_CHECKPOINT"):
        build(preset)


@pytest.mark.parametrize("preset", ["nano", "tiny"])
def test_a_preset_with_its_own_weights_refuses_a_checkpoint(preset: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=f"preset {preset} has its own weights"):
        build_language_model(preset, checkpoint=tmp_path)


def test_the_error_about_an_unknown_preset_lists_all_presets() -> None:
    with pytest.raises(UnknownPreset, match=", ".join(PRESETS)):
        build_voice("giant")


@pytest.mark.parametrize("kind", ["tokenizer.json", "vocab.json and merges.txt"])
def test_both_kinds_of_tokenizer_files_are_read(tmp_path: Path, kind: str) -> None:
    made = byte_tokenizer(*QWEN2_VL.reserved)
    if kind == "tokenizer.json":
        made.save(str(tmp_path / kind))
    else:
        made.model.save(str(tmp_path))
        added = {str(token.content): index for index, token in made.get_added_tokens_decoder().items()}
        (tmp_path / "added_tokens.json").write_text(json.dumps(added))
        special = {"additional_special_tokens": list(added), "tokenizer_class": "Qwen2Tokenizer"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(special))
    text = "<|im_start|>user\nGrüße, 世界<|vision_start|>"
    read = read_tokenizer(tmp_path)
    assert read.encode(text, add_special_tokens=False).ids == made.encode(text).ids
    assert read.token_to_id("<|im_end|>") == made.token_to_id("<|im_end|>")


def test_a_checkpoint_without_a_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        build_language_model(TINY, checkpoint=folder)


def test_the_vision_encoder_of_a_checkpoint_is_frozen(folder: Path) -> None:
    encoder = build_vision_encoder(TINY, checkpoint=folder)
    assert isinstance(encoder, QwenVisionEncoder)
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
