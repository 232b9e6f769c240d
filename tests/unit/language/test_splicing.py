"""Splicing text, speech and vision tokens into one prompt."""

import pytest
import torch
from torch import nn

from model_core.errors import InvalidInput
from model_core.language.messages import Part, SpeechPart, VisionPart
from model_core.language.splicing import splice
from model_core.presets import tiny

TOKENIZER = tiny.tokenizer()
EMBED = nn.Embedding(TOKENIZER.get_vocab_size(), 16)


def test_text_is_embedded_around_speech_and_vision_tokens() -> None:
    picture, speech = VisionPart(torch.randn(2, 16), (1, 1, 2)), SpeechPart(torch.randn(3, 16), clips=2)
    prompt = splice(["ab", picture, "c", speech], TOKENIZER, EMBED)
    text = EMBED(torch.tensor(TOKENIZER.encode("abc").ids))
    torch.testing.assert_close(prompt.embeds, torch.cat((text[:2], picture.tokens, text[2:], speech.tokens)))
    assert (prompt.vision_tokens, prompt.speech_tokens, prompt.clips) == (2, 3, 2)


def test_tokens_of_another_width_are_refused() -> None:
    with pytest.raises(InvalidInput, match="width 17; the model has 16"):
        splice([SpeechPart(torch.randn(3, 17))], TOKENIZER, EMBED)


def test_positions_of_a_picture_are_its_frame_row_and_column() -> None:
    runs: list[Part] = ["ab", VisionPart(torch.zeros(6, 16), (1, 2, 3)), "c", SpeechPart(torch.zeros(2, 16))]
    prompt = splice(runs, TOKENIZER, EMBED)
    assert prompt.positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 7],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7],
    ]
    assert prompt.context.tolist() == [False] * 2 + [True] * 6 + [False] + [True] * 2
    assert prompt.instruction.tolist() == [False] * 8 + [True] + [False] * 2
