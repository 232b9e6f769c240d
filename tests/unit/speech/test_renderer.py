"""A vocoder whose units are rendered to the latents of another voice's HiFi-GAN: streams, one pass, foreign weights."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from model_core.checkpoints.piper import read_hifigan
from model_core.errors import CheckpointError
from model_core.speech.hifigan import HifiGan, HifiGanShape
from model_core.speech.streaming import ConvStack, Layer, Past, run
from model_core.speech.vocoder import DurationPredictor, FrameRenderer, UnitVocoder

SHAPE = {
    "channels": 8,
    "upsample_rates": (4, 2),
    "upsample_kernels": (8, 4),
    "block_kernels": (3, 5),
    "block_dilations": ((1, 2), (2, 6)),
    "paired": False,
}
LAYERS = (Layer(kernel=5, ahead=2), Layer(kernel=3, dilation=2, ahead=0), Layer(kernel=3, dilation=2, ahead=3))


def random_vocoder() -> UnitVocoder:
    torch.manual_seed(0)
    vocoder = UnitVocoder.Config(
        units=20,
        embedding_width=6,
        duration=DurationPredictor.Config(width=6, hidden_width=4, ahead=1),
        renderer=FrameRenderer.Config(width=6, latents=5, layers=LAYERS),
        **SHAPE,  # type: ignore[arg-type]
    ).build()
    for name, parameter in vocoder.named_parameters():
        if not name.startswith("renderer"):
            torch.nn.init.normal_(parameter, std=0.4)
    assert vocoder.renderer is not None
    vocoder.renderer.mean.normal_()
    return vocoder.eval().requires_grad_(False)


VOCODER = random_vocoder()
UNITS = torch.randint(0, 20, (30,), generator=torch.Generator().manual_seed(2))


@settings(max_examples=25)
@given(st.lists(st.integers(0, len(UNITS)), max_size=6).map(sorted))
def test_chunks_of_any_size_give_the_audio_of_one_pass(cuts: list[int]) -> None:
    state, pieces = VOCODER.new_state(), list(UNITS.tensor_split(cuts))
    heard = [VOCODER.step([state], [piece], [False])[0] for piece in pieces]
    heard += VOCODER.step([state], [UNITS[:0]], [True])
    whole = VOCODER(UNITS)
    assert len(whole) == int(VOCODER.predicted_durations(UNITS).sum()) * VOCODER.config.samples_per_frame
    torch.testing.assert_close(torch.cat(heard), whole, atol=1e-5, rtol=1e-4)


def test_the_delay_is_the_lookahead_of_renderer_and_hifigan() -> None:
    config, state = VOCODER.config, VOCODER.new_state(durations=False)
    assert config.delay == config.hifigan_delay + 5 * config.samples_per_frame
    sound = VOCODER.step([state], [UNITS], [False])[0]
    assert len(sound) == len(UNITS) * config.samples_per_frame - config.delay


def test_a_stack_equals_its_convolutions_padded_by_their_lookahead() -> None:
    torch.manual_seed(0)
    stack, x_CL = ConvStack(4, LAYERS).eval(), torch.randn(4, 15)
    expected_LC = x_CL.T
    for norm, conv, mix, layer in zip(stack.norms, stack.convs, stack.mixes, LAYERS, strict=True):
        before = (layer.kernel - 1) * layer.dilation - layer.ahead
        padded = F.pad(norm(expected_LC).T, (before, layer.ahead))
        seen = F.conv1d(padded[None], conv.weight, conv.bias, dilation=layer.dilation)[0]  # type: ignore[arg-type]
        expected_LC = expected_LC + mix(F.gelu(seen.T))
    (found,), _ = run(stack, [Past()], [x_CL], [True], stack.delay)
    torch.testing.assert_close(found, expected_LC.T)


def test_type_2_blocks_equal_hifigans_reference_code() -> None:
    torch.manual_seed(0)
    shape = HifiGanShape(**SHAPE)  # type: ignore[arg-type]
    gan, x = HifiGan(5, shape).eval(), torch.randn(1, 5, 9)

    def same(layer: torch.nn.Conv1d, x: Tensor) -> Tensor:
        pad = (layer.kernel_size[0] - 1) * layer.dilation[0] // 2
        return F.conv1d(x, layer.weight, layer.bias, padding=pad, dilation=layer.dilation)

    (found,), _ = run(gan.waveform, [Past()], [x[0]], [True], -(-shape.hifigan_delay // shape.samples_per_frame))
    y = same(gan.conv_pre, x)
    for stage, up in enumerate(gan.ups):
        rate, kernel = shape.upsample_rates[stage], shape.upsample_kernels[stage]
        y = F.conv_transpose1d(F.leaky_relu(y, 0.1), up.weight, up.bias, rate, (kernel - rate) // 2)  # type: ignore[arg-type]
        total = torch.zeros_like(y)
        for block in gan.resblocks[stage * 2 : stage * 2 + 2]:
            z = y
            for layer in block.convs1:  # type: ignore[union-attr]
                z = z + same(layer, F.leaky_relu(z, 0.1))
            total = total + z
        y = total / 2
    torch.testing.assert_close(found, same(gan.conv_post, F.leaky_relu(y, 0.01)).tanh()[0])


def save_onnx(path: Path, tensors: dict[str, Tensor]) -> None:
    named = [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in tensors.items()]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "voice", [value], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    graph.initializer.extend(named)
    onnx.save(helper.make_model(graph), path)


def test_the_decoder_of_a_piper_voice_is_loaded_by_name(tmp_path: Path) -> None:
    gan = HifiGan(5, HifiGanShape(**SHAPE))  # type: ignore[arg-type]
    stored = {f"dec.{name.replace('convs1', 'convs')}": tensor for name, tensor in gan.state_dict().items()}
    del stored["dec.conv_post.bias"]
    save_onnx(tmp_path / "voice.onnx", {**stored, "enc_p.emb": torch.zeros(3)})
    read = read_hifigan(tmp_path / "voice.onnx")
    assert read.keys() == gan.state_dict().keys()
    np.testing.assert_array_equal(read["ups.0.weight"], gan.state_dict()["ups.0.weight"])
    assert read["conv_post.bias"].tolist() == [0.0]


def test_an_onnx_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    save_onnx(tmp_path / "other.onnx", {"weights": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"dec\.conv_pre\.weight"):
        read_hifigan(tmp_path / "other.onnx")
