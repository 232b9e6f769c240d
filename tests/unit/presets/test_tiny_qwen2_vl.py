"""The miniature of the published models: transformers' Qwen2-VL computes the same, and its parts fit together."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from model_core.audio.tensors import SAMPLE_RATE
from model_core.engine.language_model import LanguageModel
from model_core.engine.request import Delta, Finish, GenerationOptions
from model_core.engine.sampling_params import SamplingParams
from model_core.language.chat_template import render
from model_core.language.messages import Message, Part, Role, SpeechPart, VisionPart
from model_core.language.splicing import SplicedPrompt, splice
from model_core.presets import build_language_model, build_speech_encoder, build_vision_encoder, build_voice
from model_core.presets.catalog.tiny_qwen2_vl import architecture

TINY = "tiny-qwen2-vl"
SHAPES = architecture()
IMAGE = 319  # an id that the tokenizer never produces
# After a clip with more frames than rows and columns, the published method continues after the last frame, but
# transformers 5 after the last row or column.
GRIDS = [(1, 1, 1), (1, 3, 5), (2, 3, 2)]
LONG_CLIP = (4, 2, 3)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return build_language_model(TINY)


@pytest.fixture(scope="module")
def oracle(model: LanguageModel) -> Qwen2VLForConditionalGeneration:
    language, vision = SHAPES.language, SHAPES.vision_encoder
    text = {
        "vocab_size": language.vocabulary,
        "hidden_size": language.width,
        "intermediate_size": language.feed_forward,
        "num_hidden_layers": language.layers,
        "num_attention_heads": language.heads,
        "num_key_value_heads": language.key_value_heads,
        "max_position_embeddings": language.context,
        "rms_norm_eps": language.norm_epsilon,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": language.rope_base,
            "mrope_section": list(language.rope_sections or ()),
        },
    }
    sight = {"depth": 1, "embed_dim": vision.width, "num_heads": 2, "hidden_size": language.width}
    config = Qwen2VLConfig(
        text_config=text, vision_config=sight, image_token_id=IMAGE, tie_word_embeddings=language.tied_output
    )
    built = Qwen2VLForConditionalGeneration(config).eval()
    weights = {name: tensor for name, tensor in model.decoder.state_dict().items() if "lora" not in name}
    built.lm_head.weight.data = weights.pop("lm_head.weight")
    built.model.language_model.load_state_dict(weights)
    return built


def logits(model: LanguageModel, embeds_LE: Tensor, positions: Tensor | None = None) -> Tensor:
    with torch.inference_mode():
        hidden_1LE: Tensor = model.decoder(embeds_LE[None], positions=positions)
        return model.decoder.logits(hidden_1LE)[0]


def oracle_logits(oracle: Qwen2VLForConditionalGeneration, embeds_LE: Tensor, positions_3L: Tensor) -> Tensor:
    with torch.inference_mode():
        output = oracle.model.language_model(inputs_embeds=embeds_LE[None], position_ids=positions_3L[:, None])
        return oracle.lm_head(output.last_hidden_state)[0]


def grid_of_noise(grid: tuple[int, int, int]) -> VisionPart:
    torch.manual_seed(0)
    return VisionPart(torch.randn(math.prod(grid), SHAPES.language.width), grid)


def question_about(seen: VisionPart, model: LanguageModel) -> list[Part]:
    return render([Message(Role.USER, [seen, "What is this?"])], model.template)


def spliced(runs: list[Part], model: LanguageModel) -> SplicedPrompt:
    with torch.inference_mode():
        return splice(runs, model.tokenizer, model.decoder.embed_tokens)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_logits_of_text_are_those_of_transformers(
    model: LanguageModel, oracle: Qwen2VLForConditionalGeneration
) -> None:
    ids = torch.tensor(model.tokenizer.encode("What does the sign at the corner say?").ids)
    with torch.inference_mode():
        expected = oracle(input_ids=ids[None]).logits[0]
        embeds_LE = model.decoder.embed_tokens(ids)
    assert_same(logits(model, embeds_LE), expected)


@pytest.mark.parametrize("grid", GRIDS)
def test_positions_and_logits_of_a_grid_are_those_of_transformers(
    model: LanguageModel, oracle: Qwen2VLForConditionalGeneration, grid: tuple[int, int, int]
) -> None:
    runs = question_about(grid_of_noise(grid), model)
    prompt = spliced(runs, model)
    ids = [
        token
        for run in runs
        for token in (model.tokenizer.encode(run).ids if isinstance(run, str) else [IMAGE] * math.prod(grid))
    ]
    time, height, width = grid
    kinds = torch.tensor([[int(token == IMAGE) for token in ids]])
    expected, _ = oracle.model.get_rope_index(
        torch.tensor([ids]), kinds, image_grid_thw=torch.tensor([[time, 2 * height, 2 * width]])
    )
    assert torch.equal(prompt.positions, expected[:, 0])
    assert_same(logits(model, prompt.embeds, prompt.positions), oracle_logits(oracle, prompt.embeds, expected[:, 0]))


def test_logits_after_a_long_clip_are_those_of_transformers_at_the_published_positions(
    model: LanguageModel, oracle: Qwen2VLForConditionalGeneration
) -> None:
    prompt = spliced(["a", grid_of_noise(LONG_CLIP), "b"], model)
    assert prompt.positions[:, [0, 1, 24, 25]].T.tolist() == [[0, 0, 0], [1, 1, 1], [4, 2, 3], [5, 5, 5]]
    assert_same(logits(model, prompt.embeds, prompt.positions), oracle_logits(oracle, prompt.embeds, prompt.positions))


def test_a_step_after_a_grid_has_the_position_of_transformers(
    model: LanguageModel, oracle: Qwen2VLForConditionalGeneration
) -> None:
    prompt = spliced(question_about(grid_of_noise((1, 3, 5)), model), model)
    following = (prompt.positions.max() + 1).expand(3, 1)
    with torch.inference_mode():
        step_1E = model.decoder.embed_tokens(torch.tensor([7]))
        expected = oracle_logits(
            oracle, torch.cat([prompt.embeds, step_1E]), torch.cat([prompt.positions, following], dim=1)
        )[-1]
        cache = model.decoder.new_cache()
        model.decoder(prompt.embeds[None], cache, positions=prompt.positions)
        hidden_11E = model.decoder(step_1E[None], cache, positions=following)
        assert_same(model.decoder.logits(hidden_11E)[0, 0], expected)


@pytest.mark.parametrize("part", [build_language_model, build_speech_encoder, build_vision_encoder])
def test_random_parts_are_reproducible(part: object) -> None:
    assert callable(part)
    torch.manual_seed(1)
    first = part(TINY)
    torch.manual_seed(2)
    second = part(TINY)
    ours, theirs = (getattr(built, "decoder", built).state_dict() for built in (first, second))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_building_a_part_does_not_change_the_random_state() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    build_language_model(TINY)
    build_voice(TINY)
    assert torch.equal(torch.rand(1), expected)


def answer(model: LanguageModel, parts: list[Part], **options: Any) -> tuple[str, list[Tensor], Finish]:
    text, hidden = "", []
    asked = GenerationOptions(sampling=SamplingParams(max_tokens=12), **options)
    for event in model.generate([Message(Role.USER, parts)], asked):
        if isinstance(event, Delta):
            text += event.text
            hidden += [event.hidden_states] if event.hidden_states is not None else []
        else:
            return text, hidden, event
    raise AssertionError("the answer did not finish")


def speech(seconds: float) -> list[SpeechPart]:
    encoder = build_speech_encoder(TINY)
    clips = [torch.randn(int(seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(0))]
    return [SpeechPart(tokens) for tokens in encoder.encode(clips)]


def test_one_recording_uses_the_speech_adapter_and_two_use_long_speech(model: LanguageModel) -> None:
    once, twice = speech(1), [*speech(1), *speech(2)]
    assert answer(model, [*once, "Repeat."])[2].usage.adapter == "speech"
    assert answer(model, [*twice, "Repeat."])[2].usage.adapter == "long_speech"


def test_adapters_change_the_answer_and_text_only_prompts_use_the_base_model(model: LanguageModel) -> None:
    answers = {adapter: answer(model, ["Hello"], adapter=adapter)[0] for adapter in ("base", "speech", "long_speech")}
    assert len(set(answers.values())) == 3
    assert answer(model, ["Hello"])[0] == answers["base"]


def test_pictures_recordings_and_text_give_text_and_audio(model: LanguageModel) -> None:
    picture = build_vision_encoder(TINY).encode([Image.new("RGB", (90, 60), "red")])[0]
    parts: list[Part] = [VisionPart(picture.tokens, picture.grid), *speech(1), "What is it?"]
    text, hidden, finish = answer(model, parts, hidden_states=True, keep_rate=0.5)
    assert text
    assert finish.usage.context_tokens == (306, 153, 76, 38)
    voice = build_voice(TINY)
    assert voice.hidden_width == hidden[0].shape[-1]
    stream = voice.new_stream()
    sound = [chunk for state in hidden for chunk in stream.push_hidden(state.numpy())]
    sound += list(stream.finish())
    assert np.abs(np.concatenate(sound)).max() > 1000
    assert sum(map(len, sound)) > SAMPLE_RATE / 4


def test_the_tokenizer_has_the_special_tokens_of_the_template(model: LanguageModel) -> None:
    marks = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|endoftext|>"]
    assert [len(model.tokenizer.encode(mark).ids) for mark in marks] == [1] * 5
    assert model.tokenizer.decode(model.tokenizer.encode("Grüße, 世界").ids) == "Grüße, 世界"
