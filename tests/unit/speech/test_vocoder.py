"""The unit vocoder: reference numbers, streams against one pass, foreign layouts, errors."""

import json
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from model_core.checkpoints.hifigan import vocoder_from_published, vocoder_to_published
from model_core.errors import CheckpointError, InvalidInput
from model_core.speech.vocoder import DurationPredictor, UnitVocoder

PARITY = Path(__file__).parents[2] / "data" / "parity"
UNITS = 30


def random_vocoder(seed: int = 3, **changes: Any) -> UnitVocoder:
    shape: dict[str, Any] = {
        "units": UNITS,
        "embedding_width": 6,
        "channels": 8,
        "upsample_rates": (3, 2),
        "upsample_kernels": (5, 4),
        "block_kernels": (3, 5),
        "block_dilations": ((1, 2), (1, 3)),
        "duration": DurationPredictor.Config(width=6, hidden_width=4),
    }
    torch.manual_seed(seed)
    vocoder = UnitVocoder.Config(**shape | changes).build().eval()
    for name, parameter in vocoder.named_parameters():  # loud enough that every layer and its edges matter
        nn.init.normal_(parameter, std=0.3 if "dur_predictor" not in name else 0.6)
    return vocoder.requires_grad_(False)


VOCODER = random_vocoder()


def reference() -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Weights, inputs and outputs, configuration of the reference numbers."""
    tensors = load_file(PARITY / "vocoder.safetensors")
    weights = {name.removeprefix("weight."): x for name, x in tensors.items() if name.startswith("weight.")}
    return weights, tensors, json.loads((PARITY / "vocoder_config.json").read_text())


def code(*units: int) -> Tensor:
    return torch.tensor(units, dtype=torch.int64)


def padded_pass(vocoder: UnitVocoder, frames_T: Tensor) -> Tensor:
    """One pass over complete unit frames with PyTorch's padding, as in HiFi-GAN's reference code."""

    def same(layer: Any, x: Tensor) -> Tensor:
        pad = (layer.kernel_size[0] - 1) * layer.dilation[0] // 2
        return F.conv1d(x, layer.weight, layer.bias, padding=pad, dilation=layer.dilation)

    x = same(vocoder.conv_pre, vocoder.dict(frames_T).T[None])
    kinds = len(vocoder.config.block_kernels)
    stages: list[Any] = list(vocoder.ups)
    blocks: list[Any] = list(vocoder.resblocks)
    for stage, up in enumerate(stages):
        rate, kernel = up.stride[0], up.kernel_size[0]
        x = F.conv_transpose1d(F.leaky_relu(x, 0.1), up.weight, up.bias, rate, (kernel - rate) // 2)
        total = torch.zeros_like(x)
        for block in blocks[stage * kinds : (stage + 1) * kinds]:
            y = x
            for first, second in zip(block.convs1, block.convs2, strict=True):
                y = y + same(second, F.leaky_relu(same(first, F.leaky_relu(y, 0.1)), 0.1))
            total = total + y
        x = total / kinds
    return same(vocoder.conv_post, F.leaky_relu(x, 0.01)).tanh().flatten()


def spoken_in_steps(vocoder: UnitVocoder, streams: list[list[list[int]]], *, durations: bool = True) -> list[Tensor]:
    """Steps several streams, each a list of chunks, as one batch; a stream ends with its last chunk."""
    states = [vocoder.new_state(durations=durations) for _ in streams]
    sounds: list[list[Tensor]] = [[] for _ in streams]
    for turn in range(max(map(len, streams))):
        rows = [row for row, chunks in enumerate(streams) if turn < len(chunks)]
        heard = vocoder.step(
            [states[row] for row in rows],
            [code(*streams[row][turn]) for row in rows],
            [turn == len(streams[row]) - 1 for row in rows],
        )
        for row, sound in zip(rows, heard, strict=True):
            sounds[row].append(sound)
    return [torch.cat(sound) for sound in sounds]


UNIT_CHUNKS = st.lists(st.lists(st.integers(0, UNITS - 1), max_size=9), min_size=1, max_size=6)


@pytest.mark.parametrize("durations", [False, True])
def test_the_reference_waveforms_are_reproduced(durations: bool) -> None:
    weights, tensors, config = reference()
    expected = tensors[f"waveform_with{'' if durations else 'out'}_duration"]
    sound = vocoder_from_published(weights, config)(tensors["code"], durations)
    torch.testing.assert_close(sound, expected, rtol=0, atol=1e-6)


def test_the_reference_durations_are_reproduced_exactly() -> None:
    weights, tensors, config = reference()
    vocoder = vocoder_from_published(weights, config)
    assert vocoder.predicted_durations(tensors["code"]).tolist() == tensors["duration"].tolist()


def test_single_units_reproduce_the_reference_waveform_too() -> None:
    weights, tensors, config = reference()
    vocoder = vocoder_from_published(weights, config)
    (sound,) = spoken_in_steps(vocoder, [[[unit] for unit in tensors["code"].tolist()]])
    torch.testing.assert_close(sound, tensors["waveform_with_duration"], rtol=0, atol=1e-6)


@settings(max_examples=30)
@given(st.lists(UNIT_CHUNKS, min_size=1, max_size=4), st.booleans())
def test_streams_in_any_chunks_and_batches_equal_one_pass(streams: list[list[list[int]]], durations: bool) -> None:
    for chunks, sound in zip(streams, spoken_in_steps(VOCODER, streams, durations=durations), strict=True):
        units = code(*chain.from_iterable(chunks))
        torch.testing.assert_close(sound, VOCODER(units, durations), rtol=0, atol=1e-5)


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from([(1, 1), (1, 3), (2, 2), (2, 4), (2, 8), (3, 3), (5, 11)]), min_size=1, max_size=3),
    st.lists(st.sampled_from([(1, (1,)), (3, (1, 2)), (5, (3, 1)), (7, (2, 5))]), min_size=1, max_size=3),
    st.lists(st.integers(0, UNITS - 1), min_size=1, max_size=12),
)
def test_vocoders_of_any_shape_equal_padded_convolutions(
    ups: list[tuple[int, int]], blocks: list[tuple[int, tuple[int, ...]]], units: list[int]
) -> None:
    vocoder = random_vocoder(
        upsample_rates=tuple(rate for rate, _ in ups),
        upsample_kernels=tuple(kernel for _, kernel in ups),
        block_kernels=tuple(kernel for kernel, _ in blocks),
        block_dilations=tuple(dilations for _, dilations in blocks),
    )
    (sound,) = spoken_in_steps(vocoder, [[[unit] for unit in units]], durations=False)
    assert len(sound) == len(units) * vocoder.config.samples_per_frame
    torch.testing.assert_close(sound, padded_pass(vocoder, code(*units)), rtol=0, atol=1e-5)


def test_a_unit_lasts_as_many_frames_as_predicted() -> None:
    units = code(*range(20))
    durations = VOCODER.predicted_durations(units)
    assert durations.min() == 1
    assert durations.max() > 1
    expected = padded_pass(VOCODER, units.repeat_interleave(durations))
    torch.testing.assert_close(VOCODER(units), expected, rtol=0, atol=1e-5)


def test_the_delay_of_a_stream_is_the_configured_one() -> None:
    state, heard = VOCODER.new_state(durations=False), 0
    for read in range(1, 20):
        heard += len(VOCODER.step([state], [code(read)], [False])[0])
        assert heard == max(0, read * VOCODER.config.samples_per_frame - VOCODER.config.delay)


def test_the_published_shape_has_a_delay_of_412_milliseconds() -> None:
    assert (UnitVocoder.Config().delay, UnitVocoder.Config().lookahead) == (6589, 21)
    assert UnitVocoder.Config().samples_per_frame == 320


def test_twice_the_speed_halves_the_durations() -> None:
    vocoder = random_vocoder()
    assert vocoder.dur_predictor
    vocoder.dur_predictor.proj.bias.fill_(2.5)
    units = code(*range(UNITS))
    lengths = [len(vocoder.step([vocoder.new_state(speed=speed)], [units], [True])[0]) for speed in (0.5, 1.0, 2.0)]
    assert lengths[0] == pytest.approx(2 * lengths[1], rel=0.1)
    assert lengths[2] == pytest.approx(lengths[1] / 2, rel=0.1)


@pytest.mark.parametrize("durations", [False, True])
def test_a_stream_without_units_is_silent(durations: bool) -> None:
    assert len(VOCODER(code(), durations)) == 0
    assert VOCODER.step([], [], []) == []


@pytest.mark.parametrize(
    "wrong", [code(UNITS), code(3, -1), code(1)[None], torch.tensor([1.0]), torch.tensor([True])], ids=str
)
def test_an_unknown_unit_is_refused_and_no_stream_advances(wrong: Tensor) -> None:
    states = [VOCODER.new_state(), VOCODER.new_state()]
    VOCODER.step(states, [code(1, 2, 3), code(4)], [False, False])
    untouched = deepcopy(states)
    with pytest.raises(InvalidInput, match="units"):
        VOCODER.step(states, [code(5), wrong], [False, False])
    for state, before in zip(states, untouched, strict=True):
        (sound,) = VOCODER.step([state], [code(6)], [True])
        assert torch.equal(sound, VOCODER.step([before], [code(6)], [True])[0])


def test_an_ended_stream_accepts_no_more_input() -> None:
    state = VOCODER.new_state()
    VOCODER.step([state], [code(1)], [True])
    with pytest.raises(InvalidInput, match="has ended"):
        VOCODER.step([state], [code(1)], [False])


def test_predicted_durations_are_refused_without_a_predictor() -> None:
    plain = random_vocoder(duration=None)
    with pytest.raises(InvalidInput, match="duration predictor"):
        plain(code(1))
    with pytest.raises(InvalidInput, match="speed"):
        plain.new_state(durations=False, speed=2.0)
    assert len(plain(code(1), False)) == plain.config.samples_per_frame


def test_the_published_layout_round_trips() -> None:
    vocoder = random_vocoder()
    state, config = vocoder_to_published(vocoder)
    assert {"conv_pre.weight_g", "ups.0.weight_v", "resblocks.3.convs2.1.bias", "dur_predictor.ln2.weight"} <= set(
        state
    )
    again = vocoder_from_published(state, json.loads(json.dumps(config)))
    assert again.config == vocoder.config
    units = code(*range(UNITS))
    torch.testing.assert_close(again(units), vocoder(units), rtol=0, atol=1e-6)


def test_tensors_of_the_published_layout_have_the_reference_s_names_and_shapes() -> None:
    weights, _, config = reference()
    written, _ = vocoder_to_published(vocoder_from_published(weights, config))
    assert {name: x.shape for name, x in written.items()} == {name: x.shape for name, x in weights.items()}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ups.1.bias", lambda state: state.pop("ups.1.bias")),
        ("conv_pre.weight_g", lambda state: state.pop("conv_pre.weight_g")),
        ("conv_pre.weight_g", lambda state: state.update({"conv_pre.weight_g": torch.ones(3, 1, 1)})),
        ("dict.weight", lambda state: state.update({"dict.weight": torch.zeros(7, 6)})),
        ("spkr.weight", lambda state: state.update({"spkr.weight": torch.zeros(2, 2)})),
        ("conv_post.bias", lambda state: state.update({"conv_post.bias": torch.tensor([float("nan")])})),
    ],
)
def test_a_mismatched_tensor_is_named(name: str, change: Any) -> None:
    state, config = vocoder_to_published(VOCODER)
    change(state)
    with pytest.raises(CheckpointError, match=name):
        vocoder_from_published(state, config)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_embeddings": 2**45}, "dict.weight"),
        ({"upsample_initial_channel": 2**20}, "conv_post.weight"),
        ({"num_embeddings": 2**62}, "config.json"),
        ({"num_embeddings": 10**30}, "config.json"),
        ({"num_embeddings": -1}, "config.json"),
        ({"upsample_rates": [3, 10**9], "upsample_kernel_sizes": [5, 10**9], "code_hop_size": 3 * 10**9}, "ups.1"),
    ],
)
def test_sizes_are_checked_before_memory_is_allocated(changes: dict[str, Any], named: str) -> None:
    state, config = vocoder_to_published(VOCODER)
    with pytest.raises(CheckpointError, match=named):
        vocoder_from_published(state, config | changes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("multispkr", "single"),
        ("model_in_dim", 7),
        ("code_hop_size", 320),
        ("upsample_kernel_sizes", [5]),
        ("upsample_kernel_sizes", [4, 4]),
        ("resblock_kernel_sizes", [4, 5]),
        ("resblock_dilation_sizes", [[1, 2]]),
        ("resblock_dilation_sizes", [[1, 2], [1, 1001]]),
        ("resblock_dilation_sizes", [[1, 2], [1, 0]]),
        ("resblock_dilation_sizes", [[1, 2], [1] * 100_000]),
        ("sampling_rate", 0),
        ("dur_predictor_params", {"encoder_embed_dim": 9, "var_pred_hidden_dim": 4, "var_pred_kernel_size": 3}),
        ("var_pred_kernel_size", None),
        ("num_embeddings", None),
    ],
)
def test_an_invalid_configuration_field_is_named(name: str, value: object) -> None:
    state, config = vocoder_to_published(VOCODER)
    if name == "var_pred_kernel_size":
        del config["dur_predictor_params"][name]
    elif value is None:
        del config[name]
    else:
        config[name] = value
    with pytest.raises(CheckpointError, match=name):
        vocoder_from_published(state, config)
