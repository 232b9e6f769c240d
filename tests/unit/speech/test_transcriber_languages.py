"""Transcripts in many languages, and an English-only decoder."""

import pytest
import torch
from torch import Tensor

from model_core.errors import InvalidInput
from model_core.speech.random_transcriber import random_transcriber
from model_core.speech.transcriber import DecodingOptions, Transcriber
from model_core.speech.whisper_decoder import DecoderState, WhisperDecoder
from model_core.speech.whisper_tokens import TIMESTAMPS, WhisperTokens, random_tokenizer
from tests.unit.speech.tiny_whisper import WIDTH, clip, frames_of

MULTILINGUAL_TOKENIZER = random_tokenizer(["en", "de", "yue"])
MULTILINGUAL = WhisperTokens(
    MULTILINGUAL_TOKENIZER, MULTILINGUAL_TOKENIZER.get_vocab_size() + TIMESTAMPS, multilingual=True
)


class Listener(WhisperDecoder):
    """Records the tokens that it is given."""

    asked: list[list[int]]

    def forward(self, tokens_BL: Tensor, state: DecoderState) -> Tensor:
        self.asked.append(tokens_BL[0].tolist())
        return super().forward(tokens_BL, state)


def listener(favourite: str) -> Listener:
    """A decoder whose first guess at any language is `favourite`."""
    torch.manual_seed(2)
    made = Listener(
        WhisperDecoder.Config(vocabulary=MULTILINGUAL.vocabulary, width=WIDTH, layers=1, heads=2, feed_forward=32)
    )
    made.asked = []
    made.layer_norm.bias.data.fill_(1.0)
    made.layer_norm.weight.data.zero_()
    made.embed_tokens.weight.data[MULTILINGUAL.languages[favourite]] = 5.0
    return made


def multilingual(decoder: WhisperDecoder) -> Transcriber:
    options = DecodingOptions(max_tokens=4, temperatures=(0.0,))
    return Transcriber(decoder, MULTILINGUAL_TOKENIZER, frames_of, options, multilingual=True)


def test_languages_are_those_of_the_tokenizer_or_only_english() -> None:
    assert multilingual(listener("de")).languages == ("en", "de", "yue")
    assert random_transcriber(WIDTH, frames_of).languages == ("en",)


@pytest.mark.parametrize("language", ["de", "english", "EN"])
def test_an_english_only_model_refuses_other_languages(language: str) -> None:
    with pytest.raises(InvalidInput, match="English") as refused:
        random_transcriber(WIDTH, frames_of).transcribe([clip(1)], language)
    assert refused.value.field == "language"


def test_a_multilingual_transcript_starts_with_its_language_and_task() -> None:
    decoder = listener("de")
    list(multilingual(decoder).transcribe([clip(1)], "yue"))
    transcribe = MULTILINGUAL_TOKENIZER.token_to_id("<|transcribe|>")
    assert decoder.asked[:2] == [[MULTILINGUAL.start], [MULTILINGUAL.languages["yue"], transcribe]]


def test_an_unspecified_language_is_detected_in_the_first_clip() -> None:
    decoder = listener("de")
    list(multilingual(decoder).transcribe([clip(1), clip(2)]))
    assert decoder.asked[0] == [MULTILINGUAL.start]
    assert decoder.asked[2][0] == MULTILINGUAL.languages["de"]


def test_a_language_unknown_to_a_multilingual_model_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'fr' is not supported"):
        multilingual(listener("de")).transcribe([clip(1)], "fr")


def test_a_transcript_contains_no_language_token() -> None:
    logits = torch.zeros(MULTILINGUAL.vocabulary)
    logits[MULTILINGUAL.first_timestamp :] = -20
    first = MULTILINGUAL.first_timestamp
    free = MULTILINGUAL.allowed(logits, [first, 5], first + 100) > float("-inf")
    assert not any(bool(free[token]) for token in MULTILINGUAL.languages.values())
