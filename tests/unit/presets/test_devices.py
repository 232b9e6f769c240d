"""Every part of every preset on a GPU gives the results of the CPU, and no tensor stays on the CPU."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from model_core.audio.tensors import SAMPLE_RATE, Clip
from model_core.checkpoints.peft_adapters import read_adapter, save_adapter
from model_core.engine.language_model import LanguageModel
from model_core.engine.request import Delta, GenerationOptions
from model_core.engine.sampling_params import SamplingParams
from model_core.errors import InvalidInput
from model_core.language.messages import Message, Part, Role, SpeechPart, VisionPart
from model_core.presets import build_language_model, build_speech_encoder, build_vision_encoder, build_voice
from model_core.presets.building import chosen_device
from model_core.speech.encoder import SpeechEncoder

RANDOM = ["tiny", "tiny-qwen2-vl"]
BUILDERS: list[Callable[..., object]] = [build_language_model, build_speech_encoder, build_vision_encoder, build_voice]
PICTURE = Image.effect_noise((60, 40), 80).convert("RGB")


def ask(*parts: Part) -> list[Message]:
    return [Message(Role.USER, list(parts))]


def clips() -> list[Tensor]:
    return [0.1 * torch.randn(int(seconds * SAMPLE_RATE)) for seconds in (2.0, 0.7)]


def answers(model: LanguageModel) -> list[list[tuple[str, Tensor | None]]]:
    torch.manual_seed(0)
    speech, picture = SpeechPart(torch.randn(300, model.width)), VisionPart(torch.randn(4, model.width), (1, 2, 2))
    requests = [
        (ask("hello"), GenerationOptions(sampling=SamplingParams(max_tokens=5), hidden_states=True)),
        (ask(speech, "what is said?"), GenerationOptions(sampling=SamplingParams(max_tokens=5), tenant="a")),
        (ask(speech, "and what else?"), GenerationOptions(sampling=SamplingParams(max_tokens=5), tenant="a")),
        (
            ask(speech, "what is said?"),
            GenerationOptions(sampling=SamplingParams(max_tokens=5), keep_rate=0.5, blocks=2),
        ),
        (ask(picture), GenerationOptions(sampling=SamplingParams(max_tokens=5, temperature=1.0, seed=5))),
    ]
    found: list[list[tuple[str, Tensor | None]]] = [[] for _ in requests]
    for number, event in model.generate_batch(requests):
        if isinstance(event, Delta):
            found[number].append((event.text, event.hidden_states))
    # Another question on the same cache.
    found.append([(each.text, None) for each in model.generate(*requests[2]) if isinstance(each, Delta)])
    return found


def lies_on(device: torch.device, *modules: nn.Module) -> bool:
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    # Lazily computed values are on no device yet.
    return all(tensor.device.type in (device.type, "meta") for tensor in tensors)


@pytest.mark.parametrize("preset", RANDOM)
def test_answers_are_the_same_as_on_the_cpu(gpu: torch.device, preset: str) -> None:
    there, here = build_language_model(preset, device=gpu), build_language_model(preset)
    assert lies_on(gpu, there.decoder)
    for found, expected in zip(answers(there), answers(here), strict=True):
        assert [text for text, _ in found] == [text for text, _ in expected]
        for (_, own), (_, other) in zip(found, expected, strict=True):
            assert (own is None) == (other is None)
            if own is not None and other is not None:
                torch.testing.assert_close(own.cpu(), other, atol=1e-4, rtol=1e-4)


def test_an_adapter_can_be_loaded_into_a_model_on_a_gpu(gpu: torch.device, tmp_path: Path) -> None:
    model = build_language_model("tiny", device=gpu)
    save_adapter(build_language_model("tiny").decoder, "speech", tmp_path / "mine")
    model.load_adapter("mine", read_adapter(model.decoder, tmp_path / "mine"))
    assert lies_on(gpu, model.decoder)
    options = GenerationOptions(sampling=SamplingParams(max_tokens=3), adapter="mine")
    assert [event for event in model.generate(ask("hello"), options) if isinstance(event, Delta)]


@pytest.mark.parametrize("preset", RANDOM)
def test_speech_is_encoded_and_transcribed_as_on_the_cpu(gpu: torch.device, preset: str) -> None:
    there, here = build_speech_encoder(preset, device=gpu), build_speech_encoder(preset)
    assert lies_on(gpu, there, *there.projectors.values())
    for found, expected in zip(heard(there), heard(here), strict=True):
        torch.testing.assert_close(found[0].cpu(), expected[0], atol=1e-4, rtol=1e-4)
        assert found[1] == expected[1]


def heard(encoder: SpeechEncoder) -> list[tuple[Tensor, str]]:
    torch.manual_seed(0)
    pieces = [Clip(0, 0.0, len(samples) / SAMPLE_RATE, samples) for samples in clips()]
    encoded = encoder.encode_clips(pieces, ["speech"] * len(pieces))
    written = [each for each in encoder.transcribe(encoded) if each is not None]
    return [
        (own.tokens_NE, " ".join(segment.text for segment in each.segments))
        for own, each in zip(encoded, written, strict=True)
    ]


@pytest.mark.parametrize("preset", RANDOM)
def test_images_and_videos_are_encoded_as_on_the_cpu(gpu: torch.device, preset: str) -> None:
    there, here = build_vision_encoder(preset, device=gpu), build_vision_encoder(preset)
    assert isinstance(there, nn.Module)
    assert lies_on(gpu, there)
    for found, expected in zip(there.encode([PICTURE] * 2), here.encode([PICTURE] * 2), strict=True):
        torch.testing.assert_close(found.tokens.cpu(), expected.tokens, atol=1e-4, rtol=1e-4)
    found, expected = there.encode_video([PICTURE] * 2), here.encode_video([PICTURE] * 2)
    torch.testing.assert_close(found.tokens.cpu(), expected.tokens, atol=1e-4, rtol=1e-4)


def test_answers_are_synthesized_as_on_the_cpu(gpu: torch.device) -> None:
    preset = "tiny-qwen2-vl"
    hidden_NE = np.random.default_rng(0).standard_normal((12, build_voice(preset).hidden_width)).astype(np.float32)
    spoken = []
    for device in (gpu, "cpu"):
        stream = build_voice(preset, device=device).new_stream()
        spoken.append(np.concatenate([*stream.push_hidden(hidden_NE), *stream.finish()]).astype(int))
    assert len(spoken[0]) > 0
    assert np.abs(spoken[0] - spoken[1]).max() <= 2


def test_a_checkpoint_is_loaded_onto_the_gpu(gpu: torch.device, folder: Path) -> None:
    preset = "tiny-qwen2-vl"
    model = build_language_model(preset, checkpoint=folder, device=gpu)
    encoder = build_speech_encoder(preset, checkpoint=folder, device=gpu)
    vision = build_vision_encoder(preset, checkpoint=folder, device=gpu)
    assert isinstance(vision, nn.Module)
    assert lies_on(gpu, model.decoder, encoder, *encoder.projectors.values(), vision)
    assert answers(model)
    build_voice(preset, checkpoint=folder, device=gpu)


@pytest.mark.parametrize("build", BUILDERS[:3])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named(build: Callable[..., object]) -> None:
    with pytest.raises(InvalidInput, match="cuda:1 is not available, this"):
        build("tiny", device="cuda:1")


def test_auto_selects_a_gpu_if_available() -> None:
    assert chosen_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert chosen_device("cpu") == torch.device("cpu")
