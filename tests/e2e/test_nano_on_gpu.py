"""All of preset nano on a GPU, or on a device simulated on the CPU that refuses operations across devices."""

import torch
from torch import nn

from model_core.engine.request import Delta, GenerationOptions
from model_core.engine.sampling_params import SamplingParams
from model_core.language.messages import Part, SpeechPart, VisionPart
from model_core.presets import build_language_model, build_speech_encoder, build_vision_encoder, build_voice
from tests.unit.presets.test_devices import PICTURE, ask, clips, lies_on


def test_every_part_of_nano_runs_on_a_gpu(gpu: torch.device) -> None:
    encoder, model = build_speech_encoder("nano", device=gpu, fast=True), build_language_model("nano", device=gpu)
    vision, voice = build_vision_encoder("nano", device=gpu), build_voice("nano", device=gpu)
    assert isinstance(vision, nn.Module)
    assert lies_on(gpu, encoder, *encoder.projectors.values(), vision, model.decoder)
    (tokens,) = encoder.encode(clips()[1:])
    (seen,) = vision.encode([PICTURE])
    parts: tuple[Part, ...] = (VisionPart(seen.tokens, seen.grid), SpeechPart(tokens), "what is this?")
    options = GenerationOptions(sampling=SamplingParams(max_tokens=2), hidden_states=True)
    states = [event.hidden_states for event in model.generate(ask(*parts), options) if isinstance(event, Delta)]
    stream = voice.new_stream("nano")
    for state in states:
        assert state is not None
        list(stream.push_hidden(state.float().cpu().numpy()))
    assert sum(len(samples) for samples in stream.finish()) > 0
