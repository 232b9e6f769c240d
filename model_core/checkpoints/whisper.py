"""Whisper's decoder from a folder in Hugging Face's layout."""

from pathlib import Path

import torch
from tokenizers import Tokenizer

from model_core.checkpoints.tensors import index_folder, read_json, stream
from model_core.errors import CheckpointError
from model_core.speech.ctranslate2_decoder import CTranslate2Decoder
from model_core.speech.transcriber import EncodeFrames, Transcriber
from model_core.speech.whisper_decoder import WhisperDecoder

_DECODER_PREFIXES = ("model.decoder.", "decoder.")
_MIN_MULTILINGUAL_VOCABULARY = 51_865  # English-only checkpoints have one token less


def load_transcriber(
    folder: Path,
    encode_frames: EncodeFrames,
    greedy_decoder: CTranslate2Decoder | None = None,
    device: torch.device | str = "cpu",
) -> Transcriber | None:
    """The transcriber of a Whisper folder in Hugging Face's layout; None where it has an encoder only.

    The folder holds `config.json`, weights with the names of transformers' `WhisperForConditionalGeneration` or
    `WhisperModel`, and `tokenizer.json`. A `generation_config.json` may state whether it is multilingual.

    Raises:
        CheckpointError: a file or tensor is missing or does not fit.
    """
    stored = index_folder(folder)
    prefix = next((each for each in _DECODER_PREFIXES if each + "embed_tokens.weight" in stored), None)
    if prefix is None:
        return None
    config = read_json(folder / "config.json")
    with torch.device("meta"):
        decoder = WhisperDecoder.Config(
            vocabulary=config["vocab_size"],
            width=config["d_model"],
            layers=config["decoder_layers"],
            heads=config["decoder_attention_heads"],
            feed_forward=config["decoder_ffn_dim"],
            max_tokens=config["max_target_positions"],
        ).build()
    for name, own in decoder.state_dict().items():
        if prefix + name not in stored:
            raise CheckpointError(prefix + name, f"is missing from {folder}")
        if own.shape != stored[prefix + name].shape:
            shape = list(stored[prefix + name].shape)
            raise CheckpointError(prefix + name, f"has shape {shape}, expected {list(own.shape)}")
    wanted = {name: stored[prefix + name] for name in decoder.state_dict()}
    tensors = {name: tensor.to(device) for name, tensor in stream(wanted, torch.float32)}
    decoder.load_state_dict(tensors, assign=True)
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError("tokenizer.json", f"is missing from {folder}")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    generation = folder / "generation_config.json"
    multilingual = config["vocab_size"] >= _MIN_MULTILINGUAL_VOCABULARY
    if generation.is_file():
        multilingual = bool(read_json(generation).get("is_multilingual", multilingual))
    return Transcriber(decoder, tokenizer, encode_frames, multilingual=multilingual, greedy_decoder=greedy_decoder)
