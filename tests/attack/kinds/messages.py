"""Fuzzed protobuf messages, over real gRPC, to every method of every service."""

import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from lyra.v1 import adapters_pb2, common_pb2, speech_encoder_pb2, speech_synthesizer_pb2, vision_encoder_pb2
from lyra.v1 import language_model_pb2 as language
from tests.attack.calls import Service, call, open_services
from tests.attack.kinds.media import silence
from tests.attack.mutations import changed_bytes
from tests.attack.registry import Outcome, Plan, attack
from tests.attack.target import SPEAKER, Target

_THREADS = 12
# PERMISSION_DENIED for what only operators may do, RESOURCE_EXHAUSTED if too much is requested.
_ALLOWED = (
    *("OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "FAILED_PRECONDITION"),
    *("PERMISSION_DENIED", "OUT_OF_RANGE"),
)


@dataclass(frozen=True, slots=True)
class Method:
    """A method, and valid messages in the order in which a client would send them."""

    service: str
    path: str
    messages: tuple[bytes, ...]
    streams: bool = True


@attack("fuzzed messages: changed, cut off, swapped, duplicated, in the wrong order, or noise")
def fuzzed(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("OK or a client error")
    wanted, sent, lock = plan.count(50_000, 600), 0, threading.Lock()
    methods = list(_methods())
    everything = [message for method in methods for message in method.messages]

    def work(seed: int, services: dict[str, Service]) -> None:
        nonlocal sent
        draw = random.Random(f"{plan.seed}:messages:{seed}")
        while sent < wanted:
            method = draw.choice(methods)
            messages = _fuzzed(draw, method, everything)
            answer = call(services[method.service], method.path, messages, streams=method.streams)
            with lock:
                sent += len(messages)
                outcome.add(answer, _ALLOWED, f"{method.path} {[each[:60].hex() for each in messages][:3]}")

    with open_services(target) as services, ThreadPoolExecutor(_THREADS) as pool:
        for each in [pool.submit(work, seed, services) for seed in range(_THREADS)]:
            each.result()
    outcome.note = f"{sent:,} messages in {outcome.tried:,} calls"
    return outcome


@attack("every method of every service, without a token or with a wrong one, and adapters with a gateway's")
def without_token(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("UNAUTHENTICATED; PERMISSION_DENIED for adapters")
    real = target.stack.service_token_file.read_text().strip()
    for token in ("", "x", real[:-1], real + "x", real.swapcase(), "*"):
        with open_services(target, token) as services:
            for method in _methods():
                answer = call(services[method.service], method.path, method.messages, streams=method.streams)
                outcome.add(answer, ("UNAUTHENTICATED",), f"{method.path} with {len(token)} characters")
    with open_services(target) as services:
        for method in _methods():
            if "LoadAdapter" in method.path:
                answer = call(services[method.service], method.path, method.messages, streams=False)
                outcome.add(answer, ("PERMISSION_DENIED",), method.path)
    return outcome


def _fuzzed(draw: random.Random, method: Method, everything: Sequence[bytes]) -> list[bytes]:
    """The method's messages, some of them mutated."""
    messages = list(method.messages)
    if method.streams:
        match draw.randrange(6):
            case 0:
                draw.shuffle(messages)
            case 1:
                messages.insert(draw.randrange(len(messages) + 1), draw.choice(everything))
            case 2:
                del messages[draw.randrange(len(messages))]
    for row in range(len(messages)):
        if draw.random() < 0.6:
            messages[row] = changed_bytes(draw, messages[row], everything)
    return messages


def _methods() -> Iterator[Method]:
    sound, picture = silence("flac", "flac", 1 / 3600), b"\x89PNG\r\n\x1a\n" + bytes(64)
    audio = speech_encoder_pb2.AudioHeader(encoded=speech_encoder_pb2.EncodedAudio())
    pcm = speech_encoder_pb2.AudioHeader(pcm=speech_encoder_pb2.PcmAudio(sample_rate=16_000, channels=1))
    kinds: tuple[tuple[str, Any, dict[str, str]], ...] = (
        ("Encode", speech_encoder_pb2.SpeechEncoderEncodeRequest, {"adapter": "speech"}),
        ("Transcribe", speech_encoder_pb2.TranscribeRequest, {"language": "en"}),
        ("Hear", speech_encoder_pb2.HearRequest, {"adapter": "speech", "language": "en"}),
    )
    for name, kind, more in kinds:
        for header, data in ((audio, sound), (pcm, bytes(8000))):
            messages = (kind(header=kind.Header(audio=header, **more)), kind(data=data))
            yield _method("speech_encoder", f"SpeechEncoder/{name}", *messages)
    vision = vision_encoder_pb2.VisionEncoderEncodeRequest
    yield _method(
        "vision_encoder",
        "VisionEncoder/Encode",
        vision(header=vision.Header(media_type="image/png")),
        vision(data=picture),
    )
    yield _method("language_model", "LanguageModel/Generate", *_prompt())
    voice = speech_synthesizer_pb2.SynthesizeRequest
    start = voice(header=voice.Header(speed=1.0))
    tensor = common_pb2.Tensor(dtype=common_pb2.ELEMENT_TYPE_FLOAT32, shape=[2, 16], data=bytes(128))
    yield _method("speech_synthesizer", "SpeechSynthesizer/Synthesize", start, voice(text_delta="Hello, world."))
    yield _method(SPEAKER, "SpeechSynthesizer/Synthesize", start, voice(hidden_states=tensor))
    count = language.CountTokensRequest(text="Hello")
    yield _method("language_model", "LanguageModel/CountTokens", count, streams=False)
    for service in ("language_model", "speech_encoder"):
        load = adapters_pb2.LoadAdapterRequest(name="acme-legal")
        yield _method(service, "Adapters/LoadAdapter", load, streams=False)
        yield _method(service, "Adapters/ListAdapters", adapters_pb2.ListAdaptersRequest(), streams=False)
    for service in ("SpeechEncoder", "VisionEncoder", "LanguageModel", "SpeechSynthesizer"):
        name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in service)[1:]
        yield _method(name, f"{service}/Describe", adapters_pb2.ListAdaptersRequest(), streams=False)


def _prompt() -> Iterator[Message]:
    sampling = language.SamplingParams(max_tokens=4, temperature=0.5, top_p=0.9, seed=1, stop=["x"])
    header = language.GenerateHeader(sampling_params=sampling, tenant="mallory", keep_rate=0.5, blocks=1)
    rows = common_pb2.Tensor(dtype=common_pb2.ELEMENT_TYPE_FLOAT32, shape=[4, 64], data=bytes(1024))
    chunk = common_pb2.TensorChunk(rows=rows, rows_total=4)
    yield language.GenerateRequest(header=header)
    yield language.GenerateRequest(message_start=language.MessageStart(role=language.ROLE_USER))
    yield language.GenerateRequest(text="What is this?")
    yield language.GenerateRequest(speech_tokens=common_pb2.SpeechTokens(end_seconds=1.0, tokens=chunk))
    grid: dict[str, Any] = {"grid_time": 1, "grid_height": 2, "grid_width": 2}
    yield language.GenerateRequest(vision_tokens=common_pb2.VisionTokens(tokens=chunk, **grid))


def _method(service: str, path: str, *messages: Message, streams: bool = True) -> Method:
    return Method(service, f"/lyra.v1.{path}", tuple(each.SerializeToString() for each in messages), streams)
