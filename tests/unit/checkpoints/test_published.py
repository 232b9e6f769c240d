"""Published folders written by us and by other programs are read."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from torch import nn
from transformers import WhisperConfig, WhisperModel

from model_core.checkpoints.hifigan import vocoder_from_published
from model_core.checkpoints.peft_adapters import load_adapter, read_projector
from model_core.checkpoints.published import open_checkpoint, read_tokenizer, read_vocoder
from model_core.checkpoints.tensors import index_folder, stream
from model_core.errors import CheckpointError
from model_core.language.decoder import Decoder
from model_core.speech.unit_generator import UnitGenerator
from model_core.speech.whisper import WhisperEncoder
from model_core.vision.qwen import QwenVisionEncoder
from tests.unit.checkpoints import small
from tests.unit.checkpoints.small import IDS, SmallLyra, logits_of, on_meta


def assert_same(module: nn.Module, expected: nn.Module) -> None:
    assert module.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor), name


def load_language(folder: Path, dtype: torch.dtype = torch.float32) -> Decoder:
    checkpoint = open_checkpoint(folder)
    decoder: Decoder = on_meta(checkpoint.config.language)
    checkpoint.load_into(decoder, "language", dtype)
    for name, adapter in checkpoint.adapter_folders().items():
        load_adapter(decoder, name, adapter)
    return decoder


def as_one_file(folder: Path, suffix: str) -> None:
    """Merges the shards of a folder into one file of the other kind."""
    tensors = dict(stream(index_folder(folder)))
    for shard in folder.glob("model*"):
        shard.unlink()
    if suffix == ".safetensors":
        save_file(tensors, folder / "model.safetensors")
    else:
        torch.save(tensors, folder / "pytorch_model.bin")


def test_an_exported_folder_loads_back_to_identical_logits(lyra_model: SmallLyra, whole: Path) -> None:
    assert len(list(whole.glob("model-*.safetensors"))) > 2
    decoder = load_language(whole)
    assert decoder.config == lyra_model.decoder.config
    assert decoder.adapters == ("long_speech", "speech")
    for adapter in (None, "speech", "long_speech"):
        assert torch.equal(logits_of(decoder, IDS, adapter), logits_of(lyra_model.decoder, IDS, adapter))


def test_every_other_part_survives_export_and_import(lyra_model: SmallLyra, whole: Path) -> None:
    checkpoint = open_checkpoint(whole)
    projector, generator = checkpoint.speech_projector, checkpoint.config.generator
    assert projector is not None
    assert generator == UnitGenerator.Config(
        hidden_width=32, layers=2, width=16, heads=2, feed_forward=24, upsample=3, units=10
    )
    whisper: WhisperEncoder = on_meta(lyra_model.speech.config)
    tower: QwenVisionEncoder = on_meta(lyra_model.vision.config)
    parts = {
        "speech_projector": (on_meta(projector), lyra_model.projectors["speech"]),
        "speech_generator": (on_meta(generator), lyra_model.generator),
        "speech_tower": (whisper, lyra_model.speech),
        "vision_tower": (tower.vision_tower, lyra_model.vision.vision_tower),
    }
    for part, (module, expected) in parts.items():
        checkpoint.load_into(module, part)  # type: ignore[arg-type]
        assert_same(module, expected)
    for name, folder in checkpoint.adapter_folders().items():
        kept = read_projector(folder)
        assert kept is not None
        for tensor, expected_tensor in lyra_model.projectors[name].state_dict().items():
            assert torch.equal(kept[tensor], expected_tensor)
    assert read_tokenizer(whole).to_str() == lyra_model.tokenizer.to_str()


def test_the_vocoder_gives_the_same_audio_after_export_and_import(lyra_model: SmallLyra, whole: Path) -> None:
    file = open_checkpoint(whole).vocoder_file()
    assert file is not None
    vocoder = vocoder_from_published(*read_vocoder(file)).eval()
    code = torch.tensor([1, 4, 4, 9, 0])
    with torch.inference_mode():
        torch.testing.assert_close(vocoder(code), lyra_model.vocoder(code), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_single_file_of_either_format_is_read(lyra_model: SmallLyra, folder: Path, suffix: str) -> None:
    as_one_file(folder, suffix)
    assert torch.equal(logits_of(load_language(folder), IDS), logits_of(lyra_model.decoder, IDS))


def test_pickled_shards_are_read(lyra_model: SmallLyra, folder: Path) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for shard in folder.glob("model-*.safetensors"):
        torch.save(load_file(shard), shard.with_name(f"pytorch_{shard.stem}.bin"))
        shard.unlink()
    names = {name: f"pytorch_{Path(file).stem}.bin" for name, file in index["weight_map"].items()}
    (folder / "model.safetensors.index.json").unlink()
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    for adapter in ("speech_lora", "long_speech_lora"):
        weights = folder / adapter / "adapter_model.safetensors"
        torch.save(load_file(weights), weights.with_suffix(".bin"))
        weights.unlink()
    decoder = load_language(folder)
    for name in (None, "speech", "long_speech"):
        assert torch.equal(logits_of(decoder, IDS, name), logits_of(lyra_model.decoder, IDS, name))


def test_a_tied_output_layer_is_the_embedding_table_with_or_without_a_stored_copy(tmp_path: Path) -> None:
    model = small.make(tied=True)
    folder = model.export(tmp_path / "tied")
    expected = logits_of(model.decoder, IDS)
    assert torch.equal(logits_of(load_language(folder), IDS), expected)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    assert torch.equal(logits_of(load_language(folder), IDS), expected)


def test_weights_are_cast_as_they_are_read(lyra_model: SmallLyra, whole: Path) -> None:
    decoder = load_language(whole, torch.bfloat16)
    assert {parameter.dtype for parameter in decoder.parameters()} == {torch.bfloat16}
    assert torch.equal(decoder.norm.weight, lyra_model.decoder.norm.weight.bfloat16())


def test_encoders_are_read_from_their_own_folders_if_missing_in_the_checkpoint(
    lyra_model: SmallLyra, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=20, num_mel_bins=16, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, pad_token_id=0, bos_token_id=0,
        eos_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    theirs = WhisperModel(config)
    theirs.save_pretrained(tmp_path / "whisper-small")
    lyra_model.vision.vision_tower.save_pretrained(tmp_path / "Lyra" / "Small_ViT")
    towers = {"mm_speech_tower": "./model_zoo/audio/whisper-small", "mm_vision_tower": "/data/Small_ViT"}
    export_to = tmp_path / "Lyra" / "Lyra_Small"
    lyra_model.export(export_to, fields=towers)
    tensors = dict(stream(index_folder(export_to)))
    (export_to / "model.safetensors").unlink()
    save_file({name: each for name, each in tensors.items() if "_tower." not in name}, export_to / "model.safetensors")
    (tmp_path / "whisper-small").rename(export_to / "whisper-small")
    checkpoint = open_checkpoint(export_to)
    whisper: WhisperEncoder = on_meta(lyra_model.speech.config)
    checkpoint.load_into(whisper, "speech_tower")
    assert_same(whisper, theirs.encoder)
    tower = on_meta(lyra_model.vision.config).vision_tower
    checkpoint.load_into(tower, "vision_tower")
    assert_same(tower, lyra_model.vision.vision_tower)


def old_tokenizer(folder: Path, first_added: int) -> None:
    """Qwen2's older files: single bytes, then special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    (folder / "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>"]
    added = {str(first_added + index): {"content": token, "special": True} for index, token in enumerate(special)}
    config = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_a_tokenizer_in_the_older_format_is_read(tmp_path: Path) -> None:
    old_tokenizer(tmp_path, 256)
    tokenizer, text = read_tokenizer(tmp_path), "Was ist das? 12"
    assert tokenizer.encode(f"<|im_start|>{text}<|im_end|>").ids[0::16] == [257, 258]
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_special_token_with_another_id_is_named(tmp_path: Path) -> None:
    old_tokenizer(tmp_path, 300)
    with pytest.raises(CheckpointError, match=r"<\|endoftext\|> should be token 300"):
        read_tokenizer(tmp_path)


def test_a_failed_export_leaves_nothing_behind(lyra_model: SmallLyra, tmp_path: Path) -> None:
    class Broken:
        def save(self, path: str) -> None:
            raise OSError(f"no room for {path}")

    with pytest.raises(OSError, match="no room"):
        lyra_model.export(tmp_path / "made", tokenizer=Broken())
    assert list(tmp_path.iterdir()) == []
