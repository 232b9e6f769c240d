"""Messages that none of our clients would send, to every method of a service.

`fuzz(address, token, count, seed)` sends them to a running service and counts how the calls ended. The same seed sends
the same messages: noise, messages of the right type with values of any kind, and the bytes of such messages with some
changed, cut off or repeated.
"""

import asyncio
import random
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, cast

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lyra.v1 import (
    adapters_pb2,
    language_model_pb2,
    speech_encoder_pb2,
    speech_synthesizer_pb2,
    vision_encoder_pb2,
)
from services.shared.rpc.credentials import SCHEME, TOKEN_METADATA

# How a call may end whatever is sent. Anything else, above all INTERNAL and UNKNOWN, is a bug in the service.
HARMLESS = frozenset(
    {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "CANCELLED", "UNIMPLEMENTED"}
)
SECONDS = 60.0  # per call: one that takes longer hangs
AT_ONCE = 16
_MAX_MESSAGES = 4  # per call
_END: Any = cast(Any, grpc.aio).EOF  # missing in gRPC's type stubs

_FILES = (adapters_pb2, language_model_pb2, speech_encoder_pb2, speech_synthesizer_pb2, vision_encoder_pb2, health_pb2)
_FLOATS = (0.0, 1.0, 0.5, -1.0, float("nan"), float("inf"), float("-inf"), 1e38, 1e-45, 65_504.0, 70_000.0)
_INTEGERS = (0, 1, 2, 3, 16, 64, 255, 8_000, 16_000, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1, -1, -(2**63))
_TEXTS = ("", "a", "Hello there", "base", "speech", "../adapters", "/etc/passwd", "\0", "image/png", "en", "é🎈" * 50)
_WIDTHS = (1, 8, 16, 32, 64)
_LIMITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}


def fuzz(address: str, token: str, count: int, seed: int) -> Counter[str]:
    """Sends `count` messages to the service at host:port.

    Args:
        address: host:port.
        token: Sent with each call; empty for none.
        count: Number of messages; a call has up to four.
        seed: Random seed.

    Returns:
        Number of calls by the name of their status.
    """

    async def run() -> Counter[str]:
        metadata = ((TOKEN_METADATA, SCHEME + token),) if token else ()
        async with grpc.aio.insecure_channel(address) as channel:
            return await fuzz_channel(channel, count, seed, metadata)

    return asyncio.run(run())


async def fuzz_channel(
    channel: grpc.aio.Channel, count: int, seed: int, metadata: tuple[tuple[str, str], ...] = ()
) -> Counter[str]:
    """`fuzz` on an open channel."""
    methods = [method for method in _methods() if await _has(channel, method.service)]
    ended: Counter[str] = Counter()
    room = asyncio.Semaphore(AT_ONCE)

    async def call(path: str, messages: list[bytes], hangs_up: bool) -> None:
        try:
            ended[await _call(channel, path, messages, metadata, hangs_up=hangs_up)] += 1
        finally:
            room.release()

    async with asyncio.TaskGroup() as group:
        for path, messages, hangs_up in _calls(methods, count, seed):
            await room.acquire()
            group.create_task(call(path, messages, hangs_up))
    return ended


def _calls(methods: Sequence["_Method"], count: int, seed: int) -> Iterator[tuple[str, list[bytes], bool]]:
    """Path, messages, and whether the client disconnects."""
    draw = random.Random(seed)
    while count > 0:
        method = draw.choice(methods)
        messages = [_message(draw, method.request) for _ in range(draw.randint(0, min(_MAX_MESSAGES, count)))]
        count -= max(1, len(messages))
        yield method.path, messages, draw.random() < 0.05


class _Method:
    """A method's path and its request type."""

    def __init__(self, service: str, name: str, request: Descriptor) -> None:
        self.service = service
        self.path = f"/{service}/{name}"
        self.request = request


def _methods() -> Iterator[_Method]:
    for file in _FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            # Watch never ends on its own.
            yield from (
                _Method(service.full_name, method.name, method.input_type)
                for method in service.methods
                if method.name != "Watch"
            )


async def _has(channel: grpc.aio.Channel, service: str) -> bool:
    if service == "grpc.health.v1.Health":
        return True
    try:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return False
        raise
    return True


async def _call(channel: grpc.aio.Channel, path: str, messages: list[bytes], metadata: Any, *, hangs_up: bool) -> str:
    """How a call with these messages ends. The responses are read and discarded."""
    method: Any = channel.stream_stream  # without serializers, which gRPC's type stubs require
    call = method(path)(timeout=SECONDS, metadata=metadata)
    try:
        for message in messages:
            await call.write(message)
        if hangs_up:
            call.cancel()
        else:
            await call.done_writing()
            while await call.read() is not _END:
                pass
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise
    code: grpc.StatusCode = await call.code()
    return code.name


def _message(draw: random.Random, kind: Descriptor) -> bytes:
    shape = draw.random()
    if shape < 0.1:
        return draw.randbytes(draw.randint(0, 200))
    if shape < 0.15:
        return _nested(draw)
    data = bytes(_filled(draw, kind).SerializeToString())
    return data if shape < 0.6 else _changed(draw, data)


def _changed(draw: random.Random, data: bytes) -> bytes:
    """Some bytes changed, cut off, inserted, or repeated."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        place = draw.randint(0, len(changed))
        match draw.randint(0, 4):
            case 0:
                changed[place : place + 1] = draw.randbytes(1)
            case 1:
                del changed[place:]
            case 2:
                changed[place:place] = draw.randbytes(draw.randint(1, 8))
            case 3:
                changed[place:place] = changed[: draw.randint(0, min(len(changed), 4096))]
            case _:
                changed[place:place] = b"\xff" * draw.randint(1, 11)  # endless varints
    return bytes(changed)


def _nested(draw: random.Random) -> bytes:
    """Messages nested deeper than a parser allows."""
    data = b""
    for _ in range(draw.randint(50, 300)):
        tag = bytes([draw.randint(1, 8) << 3 | 2])
        data = tag + _varint(len(data)) + data
    return data


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    return bytes([*data, number])


def _filled(draw: random.Random, kind: Descriptor) -> Any:
    """A message of this type with values of any kind."""
    message: Any = GetMessageClass(kind)()
    if kind.name == "Tensor":
        return _tensor(draw, message)
    for field in kind.fields:
        if draw.random() < (0.5 if field.containing_oneof is None else 1 / len(field.containing_oneof.fields)):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            entries = {_value(draw, key): _value(draw, value) for _ in range(draw.randint(0, 6))}
            getattr(message, field.name).update(entries)
        elif field.is_repeated:
            getattr(message, field.name).extend(_value(draw, field) for _ in range(draw.randint(0, 6)))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(_value(draw, field))
        else:
            setattr(message, field.name, _value(draw, field))
    if kind.name in ("GenerateHeader", "SamplingParams"):
        # Without a limit an answer would fill the context, which is slow and not an attack.
        message.max_tokens = draw.choice((1, 2, 3, 2**32 - 1))
    return message


def _value(draw: random.Random, field: FieldDescriptor) -> Any:
    if field.message_type is not None:
        return _filled(draw, field.message_type)
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return draw.choice(_FLOATS)
        case FieldDescriptor.CPPTYPE_BOOL:
            return draw.random() < 0.5
        case FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return draw.randbytes(draw.choice((0, 1, 3, 64, 2000)))
            return draw.choice(_TEXTS)
        case FieldDescriptor.CPPTYPE_ENUM if field.enum_type is not None and draw.random() < 0.8:
            return draw.choice(field.enum_type.values).number
        case kind:
            least, most = _LIMITS[kind]
            return draw.choice([number for number in _INTEGERS if least <= number <= most])


def _tensor(draw: random.Random, message: Any) -> Any:
    """Mostly valid, of any width and number of rows; sometimes with a shape that contradicts its data."""
    rows, width = draw.choice((0, 1, 1, 2, 5)), draw.choice(_WIDTHS)
    values = [draw.choice(_FLOATS) if draw.random() < 0.02 else draw.uniform(-2, 2) for _ in range(rows * width)]
    message.dtype = 1
    message.shape.extend((rows, width))
    message.data = struct.pack(f"<{len(values)}f", *values)
    match draw.randint(0, 9):
        case 0:
            message.dtype = draw.choice((0, 2, 3, 7))
        case 1:
            message.shape.append(draw.choice((0, 1, -1, 2**62)))
        case 2:
            message.shape[0] = draw.choice((-1, 2**62, 2**63 - 1))
    return message
