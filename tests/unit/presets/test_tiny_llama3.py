"""The miniature of preset llama3: transformers' LLaMA computes the same, and its parts fit together."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from model_core.engine.language_model import LanguageModel
from model_core.engine.request import Delta, GenerationOptions
from model_core.engine.sampling_params import SamplingParams
from model_core.language.chat_template import LLAMA3
from model_core.language.messages import Message, Role, SpeechPart, VisionPart
from model_core.presets import build_language_model, build_speech_encoder, build_vision_encoder, build_voice
from model_core.presets.export import export_preset

TINY = "tiny-llama3"


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return build_language_model(TINY)


def test_logits_of_text_are_those_of_transformers(model: LanguageModel) -> None:
    config = model.decoder.config
    oracle = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.feed_forward,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.key_value_heads,
            max_position_embeddings=config.context,
            rms_norm_eps=config.norm_epsilon,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_base},
            tie_word_embeddings=config.tied_output,
        )
    ).eval()
    weights = {name: tensor for name, tensor in model.decoder.state_dict().items() if "lora" not in name}
    oracle.lm_head.weight.data = weights.pop("lm_head.weight")
    oracle.model.load_state_dict(weights)
    ids = torch.tensor([model.tokenizer.encode("What does the sign at the corner say?").ids])
    with torch.inference_mode():
        logits = model.decoder.logits(model.decoder(model.decoder.embed_tokens(ids)))
        torch.testing.assert_close(logits, oracle(input_ids=ids).logits, atol=1e-4, rtol=1e-4)


def test_pictures_and_recordings_give_text_and_audio(model: LanguageModel) -> None:
    picture = build_vision_encoder(TINY).encode([Image.new("RGB", (90, 60), "red")])[0]
    clip = torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    (tokens,) = build_speech_encoder(TINY).encode([clip])
    message = Message(Role.USER, [VisionPart(picture.tokens, picture.grid), SpeechPart(tokens), "What is it?"])
    options = GenerationOptions(sampling=SamplingParams(max_tokens=12), hidden_states=True)
    deltas = [event for event in model.generate([message], options) if isinstance(event, Delta)]
    assert "".join(delta.text for delta in deltas)
    stream = build_voice(TINY).new_stream()
    states = [delta.hidden_states.numpy() for delta in deltas if delta.hidden_states is not None]
    sound = [chunk for state in states for chunk in stream.push_hidden(state)]
    assert np.abs(np.concatenate([*sound, *stream.finish()])).max() > 0


def test_the_tokenizer_knows_the_special_tokens_of_llama_3(model: LanguageModel) -> None:
    assert model.template is LLAMA3
    assert [len(model.tokenizer.encode(token).ids) for token in LLAMA3.reserved] == [1] * 5


def test_an_exported_checkpoint_runs_as_the_preset(model: LanguageModel, tmp_path: Path) -> None:
    export_preset(TINY, tmp_path / "checkpoint")
    loaded = build_language_model(TINY, checkpoint=tmp_path / "checkpoint")
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        for adapter in (None, "speech", "long_speech"):
            hidden, again = (each.decoder(each.decoder.embed_tokens(ids), adapter=adapter) for each in (model, loaded))
            assert torch.equal(loaded.decoder.logits(again), model.decoder.logits(hidden))
