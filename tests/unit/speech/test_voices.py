"""Several voices of one preset, selected by name."""

import numpy as np
import pytest

from model_core.errors import InvalidInput
from model_core.speech.voice import TinyHiddenVoice, TinyVoice
from model_core.speech.voices import Voices, voice_named

HIDDEN = np.random.default_rng(0).standard_normal((3, TinyHiddenVoice.hidden_width)).astype(np.float32)


def test_the_first_voice_is_the_default() -> None:
    voices = Voices(TinyVoice(), TinyHiddenVoice())
    assert (voices.model, voices.hidden_width, voices.voices) == ("tiny-voice", 0, ("tiny", "tiny-hidden"))
    assert list(voices.new_stream().push("A whole sentence. And more"))
    assert Voices(TinyHiddenVoice(), TinyVoice()).hidden_width == TinyHiddenVoice.hidden_width


def test_a_named_voice_takes_its_own_kind_of_input() -> None:
    voices = Voices(TinyVoice(), TinyHiddenVoice())
    assert len(list(voices.new_stream("tiny-hidden").push_hidden(HIDDEN))) == 3
    assert voice_named(voices, "tiny-hidden").hidden_width == TinyHiddenVoice.hidden_width
    with pytest.raises(InvalidInput, match="hidden states"):
        list(voices.new_stream("tiny-hidden").push("text"))
    with pytest.raises(InvalidInput, match="text"):
        list(voices.new_stream("tiny").push_hidden(HIDDEN))


def test_an_unknown_voice_is_refused_listing_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="'bob' is not one of: tiny, tiny-hidden"):
        Voices(TinyVoice(), TinyHiddenVoice()).new_stream("bob")
    assert voice_named(TinyVoice(), "anything").voices == ("tiny",)
