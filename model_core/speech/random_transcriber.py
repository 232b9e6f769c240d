"""A transcriber with random weights, for tests and the tiny presets: needs no files."""

import torch

from model_core.speech.transcriber import DecodingOptions, EncodeFrames, Transcriber
from model_core.speech.whisper_decoder import WhisperDecoder
from model_core.speech.whisper_tokens import TIMESTAMPS, random_tokenizer


def random_transcriber(
    width: int, encode_frames: EncodeFrames, device: torch.device | str = "cpu", *, seed: int = 0
) -> Transcriber:
    """A transcriber whose decoder has one layer and a vocabulary of single letters.

    Args:
        width: D, the width of the encoder's frames.
        encode_frames: As for `Transcriber`.
        device: Where the decoder lies.
        seed: Of its weights.
    """
    tokenizer = random_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = WhisperDecoder.Config(
            vocabulary=tokenizer.get_vocab_size() + TIMESTAMPS, width=width, layers=1, heads=2, feed_forward=2 * width
        ).build()
    options = DecodingOptions(max_tokens=24, temperatures=(0.0,))
    return Transcriber(decoder.to(device), tokenizer, encode_frames, options)
