"""Forged tensors, sent directly to the services: false shapes, non-finite numbers, rows that never arrive."""

import struct
from collections.abc import Iterator
from typing import Any

from lyra.v1 import common_pb2, language_model_pb2, speech_synthesizer_pb2
from tests.attack.calls import Service, call, open_services
from tests.attack.registry import Outcome, Plan, attack
from tests.attack.target import SPEAKER, Target

_FLOAT32, _FLOAT16, _BFLOAT16 = (
    common_pb2.ELEMENT_TYPE_FLOAT32,
    common_pb2.ELEMENT_TYPE_FLOAT16,
    common_pb2.ELEMENT_TYPE_BFLOAT16,
)
_MAX_SIZE = 2**63 - 1
_REFUSED = ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
# Non-finite and extreme float32 values: infinities, quiet and signalling NaN, the largest, the smallest, -0.
_NOT_FINITE = (0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFFFFFFF)
_EXTREME = (0x7F7FFFFF, 0xFF7FFFFF, 0x00000001, 0x80000000)


@attack("tensors with false shape, dtype or bytes, at the speech synthesizer")
def synthesizer_shapes(target: Target, plan: Plan) -> Outcome:
    return _synthesizer(target, [(what, [each]) for what, each in _false_shapes(_width(target))], _REFUSED)


@attack("non-finite hidden states, at the speech synthesizer")
def synthesizer_numbers(target: Target, plan: Plan) -> Outcome:
    width = _width(target)
    tries = [(f"0x{bits:08x} at {place}", [_with(bits, place, 3, width)]) for bits in _NOT_FINITE for place in (0, -1)]
    return _synthesizer(target, tries, _REFUSED)


@attack("extreme hidden states, and the largest accepted number of them, at the speech synthesizer")
def synthesizer_extremes(target: Target, plan: Plan) -> Outcome:
    width = _width(target)
    tries = [(f"0x{bits:08x}", [_with(bits, place, 3, width)]) for bits in _EXTREME for place in (0, -1)]
    tries += [("empty, many times", [_tensor([0, width], b"")] * 1000)]
    tries += [("300 tokens, one by one", [_tensor([1, width], bytes(4 * width))] * 300)]
    return _synthesizer(target, tries, ("OK", *_REFUSED))


@attack("speech and vision tokens with false shape, order, grid or total, at the language model")
def language_model_tokens(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("INVALID_ARGUMENT for each")
    with open_services(target) as services:
        width = _token_width(services["language_model"])
        for what, parts in _prompts(width):
            outcome.add(_generate(services["language_model"], parts), _REFUSED, what)
    return outcome


@attack("non-finite speech and vision tokens, at the language model")
def language_model_numbers(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("INVALID_ARGUMENT for each")
    with open_services(target) as services:
        width = _token_width(services["language_model"])
        for bits in _NOT_FINITE:
            chunk = common_pb2.TensorChunk(rows=_with(bits, 0, 4, width), rows_total=4)
            for part in (_speech(chunk), _vision(chunk, (1, 2, 2))):
                outcome.add(_generate(services["language_model"], [part]), _REFUSED, f"0x{bits:08x}")
    return outcome


def _false_shapes(width: int) -> Iterator[tuple[str, common_pb2.Tensor]]:
    """Tensors that are not [N, width]."""
    good = bytes(4 * width)
    shapes: dict[str, list[int]] = {
        "no shape": [],
        "one dimension": [width],
        "three": [1, 1, width],
        "nine": [1] * 8 + [width],
        "a thousand": [1] * 1000,
        "another width": [1, width + 1],
        "negative": [-1, width],
        "twice negative": [-1, -width],
        "2**62 rows": [2**62, width],
        "a product of 2**64": [2**32, 2**32],
        "a product that wraps to one row": [_MAX_SIZE, _MAX_SIZE],
        "more rows than bytes": [2, width],
        "no width": [1, 0],
    }
    for what, shape in shapes.items():
        yield what, _tensor(shape, good)
    for dtype in (0, 4, 99, -1, 2**31 - 1):
        yield f"type {dtype}", common_pb2.Tensor(dtype=dtype, shape=[1, width], data=good)  # type: ignore[arg-type]
    for dtype in (_FLOAT16, _BFLOAT16):
        yield "bytes of another type", common_pb2.Tensor(dtype=dtype, shape=[1, width], data=good)
    for size in (0, 1, 4 * width - 1, 4 * width + 1):
        yield f"{size} bytes", _tensor([1, width], bytes(size))
    yield "3 MiB", _tensor([3 * 2**18 // width, width], bytes(3 * 2**18 // width * width * 4))
    yield "no tensor", common_pb2.Tensor()


def _prompts(width: int) -> Iterator[tuple[str, list[language_model_pb2.GenerateRequest]]]:
    for what, tensor in _false_shapes(width):
        chunk = common_pb2.TensorChunk(rows=tensor, rows_total=1)
        yield f"speech: {what}", [_speech(chunk)]
        yield f"vision: {what}", [_vision(chunk, (1, 1, 1))]
    row = _tensor([1, width], bytes(4 * width))
    for what, offset, total in (
        ("2**32 rows announced", 0, 2**32 - 1),
        ("begins in the middle", 7, 8),
        ("rows beyond the total", 0, 0),
        ("rows that never come", 0, 2),
    ):
        yield what, [_speech(common_pb2.TensorChunk(rows=row, row_offset=offset, rows_total=total))]
    two = common_pb2.TensorChunk(rows=row, rows_total=2)
    yield "the first row twice", [_speech(two), _speech(two)]
    yield "another total", [_speech(two), _speech(common_pb2.TensorChunk(rows=row, row_offset=1, rows_total=3))]
    yield "a picture within a recording", [_speech(two), _vision(two, (1, 1, 2))]
    one = common_pb2.TensorChunk(rows=row, rows_total=1)
    yield "the seventh clip first", [_speech(one, clip=7)]
    for grid in ((0, 0, 0), (2**16, 2**16, 1), (2**32 - 1, 2**32 - 1, 2**32 - 1), (1, 1, 2), (2**31, 2, 1)):
        yield f"a grid of {grid}", [_vision(one, grid)]
    adapters = [_speech(one, adapter="speech"), _speech(one, clip=1, adapter="vision")]
    yield "two projectors", adapters


def _tensor(shape: list[int], data: bytes) -> common_pb2.Tensor:
    return common_pb2.Tensor(dtype=_FLOAT32, shape=shape, data=data)


def _with(bits: int, place: int, rows: int, width: int) -> common_pb2.Tensor:
    """[rows, width] zeros, with one number of these bits at the first or last position."""
    numbers = [0] * (rows * width)
    numbers[place] = bits
    return _tensor([rows, width], struct.pack(f"<{len(numbers)}I", *numbers))


def _speech(chunk: common_pb2.TensorChunk, clip: int = 0, adapter: str = "") -> language_model_pb2.GenerateRequest:
    tokens = common_pb2.SpeechTokens(clip_index=clip, end_seconds=1.0, tokens=chunk, adapter=adapter)
    return language_model_pb2.GenerateRequest(speech_tokens=tokens)


def _vision(chunk: common_pb2.TensorChunk, grid: tuple[int, int, int]) -> language_model_pb2.GenerateRequest:
    time, height, width = grid
    tokens = common_pb2.VisionTokens(tokens=chunk, grid_time=time, grid_height=height, grid_width=width)
    return language_model_pb2.GenerateRequest(vision_tokens=tokens)


def _generate(service: Service, parts: list[language_model_pb2.GenerateRequest]) -> str:
    start = language_model_pb2.MessageStart(role=language_model_pb2.ROLE_USER)
    requests = [
        language_model_pb2.GenerateRequest(header=language_model_pb2.GenerateHeader(max_tokens=2)),
        language_model_pb2.GenerateRequest(message_start=start),
        *parts,
        language_model_pb2.GenerateRequest(text="What is this?"),
    ]
    return call(service, "/lyra.v1.LanguageModel/Generate", [each.SerializeToString() for each in requests])


def _synthesizer(target: Target, tries: list[tuple[str, list[common_pb2.Tensor]]], allowed: tuple[str, ...]) -> Outcome:
    """Sends the tensors to a voice that speaks from hidden states, and to one that speaks from text."""
    outcome = Outcome(f"{' or '.join(allowed)} for each")
    with open_services(target) as services:
        for name in (SPEAKER, "speech_synthesizer"):
            for what, tensors in tries:
                requests: list[Any] = [speech_synthesizer_pb2.SynthesizeRequest(header={})]  # type: ignore[arg-type]
                requests += [speech_synthesizer_pb2.SynthesizeRequest(hidden_states=each) for each in tensors]
                sent = [each.SerializeToString() for each in requests]
                answer = call(services[name], "/lyra.v1.SpeechSynthesizer/Synthesize", sent)
                outcome.add(answer, allowed, f"{name}: {what}")
    return outcome


def _width(target: Target) -> int:
    """Width of the hidden states that the synthesizer beside the stack accepts."""

    with open_services(target) as services:
        describe = services[SPEAKER].channel.unary_unary(
            "/lyra.v1.SpeechSynthesizer/Describe",
            request_serializer=None,
            response_deserializer=speech_synthesizer_pb2.SpeechSynthesizerDescribeResponse.FromString,
        )
        width = int(describe(b"", metadata=services[SPEAKER].metadata).hidden_width)
    assert width > 0
    return width


def _token_width(service: Service) -> int:
    describe = service.channel.unary_unary(
        "/lyra.v1.LanguageModel/Describe",
        request_serializer=None,
        response_deserializer=language_model_pb2.LanguageModelDescribeResponse.FromString,
    )
    return int(describe(b"", metadata=service.metadata).model.token_width)
