"""Media: small files that decode to hours or gigabytes, unexpected channel layouts and formats, damaged files."""

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from itertools import chain, cycle

import av
from av.audio.stream import AudioStream
from PIL import Image

from tests.attack.registry import Outcome, Plan, attack
from tests.attack.target import ATTACKER, MODEL, Target, chat
from tests.job_stack import speech
from tests.pictures import noise

# 429 if the attacker tries too often, 507 if the store is full: neither is harmful.
_KEPT, _REFUSED = ("200", "201"), ("400", "413", "415", "422", "429")
_ANSWERED = (*_KEPT, *_REFUSED)
_CODECS = {"aac": "mp4", "vorbis": "ogg", "libopus": "ogg", "flac": "flac", "libmp3lame": "mp3"}
_RATE = 48_000


@attack("hours of silence in a few hundred KiB of AAC, Vorbis, Opus, FLAC and MP3, transcribed and uploaded")
def hours_of_silence(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("refused as too long, or stored as what it claims to be")
    hours = plan.count(20, 2)
    with target.client(ATTACKER) as client:
        for codec, container in _CODECS.items():
            file = silence(codec, container, hours)
            form = {"file": (f"bomb.{container}", file)}
            response = client.post("/v1/audio/transcriptions", files=form, data={"model": MODEL})
            outcome.add(str(response.status_code), _REFUSED, f"{codec} {len(file):,} bytes: {response.text[:200]}")
            response = client.post("/v1/media", files=form)
            outcome.add(str(response.status_code), _ANSWERED, f"{codec} {len(file):,} bytes: {response.text[:200]}")
            outcome.note += f"{codec} {hours} h in {len(file) // 1024} KiB; "
    return outcome


@attack("small files with huge pictures, colour profiles or texts", max_gateway_mib=1500)
def picture_bombs(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("refused, or stored and described within the limits")
    with target.client(ATTACKER) as client:
        for what, file in _pictures():
            response = client.post("/v1/media", files={"file": ("bomb.png", file)})
            outcome.add(str(response.status_code), _ANSWERED, f"{what}: {response.text[:200]}")
            if response.status_code == 200:
                url = f"media:{response.json()['id']}"
                parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
                messages = [{"role": "user", "content": parts}]
                response = client.post("/v1/chat/completions", json=chat(messages=messages))
                outcome.add(str(response.status_code), _ANSWERED, f"{what}, in a chat: {response.text[:200]}")
    return outcome


@attack("zip bombs, compressed bodies, archives and playlists, wherever a file or a body is accepted")
def archives(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("refused: nothing compressed is opened")
    bomb = zlib.compress(bytes(2**26))
    gzipped = zlib.compress(bytes(2**26), wbits=31)
    files = {
        "zip of 64 MiB": _zip_of(bytes(2**26)),
        "zip in a zip": _zip_of(_zip_of(bytes(2**26))),
        "gzip": gzipped,
        "zlib": bomb,
        "a playlist of local files": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "a list of files": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "an SVG of the web": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1/"/></svg>',
        "an XML of entities": b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><l>&b;</l>',
        "a GIF": _saved(noise(8, 8), "GIF"),
        "a TIFF": _saved(noise(8, 8), "TIFF"),
        "a BMP": _saved(noise(8, 8), "BMP"),
    }
    with target.client(ATTACKER) as client:
        for what, file in files.items():
            for path in ("/v1/media", "/v1/audio/transcriptions", "/v1/jobs"):
                form = {"model": MODEL} if "audio" in path else {}
                response = client.post(path, files={"file": ("a.wav", file)}, data=form)
                outcome.add(str(response.status_code), _REFUSED, f"{path} {what}: {response.text[:200]}")
        for encoding, body in (("gzip", gzipped), ("deflate", bomb), ("br", bomb), ("zstd", bomb)):
            for path in ("/v1/chat/completions", "/v1/audio/speech", "/v1/jobs", "/v1/media/uploads"):
                headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
                response = client.post(path, content=body, headers=headers)
                outcome.add(str(response.status_code), _REFUSED, f"{path} {encoding}: {response.text[:200]}")
    return outcome


@attack("recordings with every channel layout of FFmpeg, in every supported codec")
def layouts(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("transcribed, or 400")
    layouts = (
        "mono",
        "stereo",
        "2.1",
        "3.0",
        "4.0",
        "quad",
        "5.0",
        "5.1",
        "6.1",
        "7.0",
        "7.1",
        "7.1(wide)",
        "octagonal",
    )
    with target.client(ATTACKER) as client:
        for codec, container in (*_CODECS.items(), ("pcm_s16le", "wav"), ("pcm_f32le", "wav")):
            for layout in layouts:
                try:
                    file = silence(codec, container, 2 / 3600, layout)
                except (av.FFmpegError, ValueError):
                    continue  # the codec has no such layout
                response = client.post("/v1/media", files={"file": (f"a.{container}", file)})
                outcome.add(str(response.status_code), _ANSWERED, f"{codec} {layout}: {response.text[:200]}")
    return outcome


@attack("recordings and pictures with bytes changed, removed, duplicated or cut off", quick=True)
def damaged(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("transcribed, or 400")
    draw = plan.random("damaged")
    files = [(name, file) for name, file in _whole_files()]
    with target.client(ATTACKER) as client:
        for number in range(plan.count(3000, 60)):
            name, file = files[number % len(files)]
            broken = _damaged(draw, file)
            response = client.post("/v1/media", files={"file": (name, broken)})
            outcome.add(str(response.status_code), _ANSWERED, f"{name} of try {number}: {response.text[:200]}")
            if name.endswith((".ogg", ".flac", ".wav", ".mp3", ".mp4")) and number % 3 == 0:
                form = {"file": (name, broken)}
                response = client.post("/v1/audio/transcriptions", files=form, data={"model": MODEL})
                outcome.add(
                    str(response.status_code), _ANSWERED, f"{name} of try {number}, heard: {response.text[:200]}"
                )
    return outcome


@cache
def silence(codec: str, container: str, hours: float, layout: str = "") -> bytes:
    """A file with so many hours of silence. One second is encoded, and its packets are repeated."""
    rate = 16_000 if hours >= 1 and codec != "libopus" else _RATE
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        # FFmpeg's own Vorbis encoder supports only stereo.
        stream: AudioStream = output.add_stream(
            codec, rate=rate, layout=layout or ("stereo" if codec == "vorbis" else "mono")
        )  # type: ignore[assignment]
        stream.options = {"strict": "-2"}
        packets = [(bytes(packet), packet.duration or 0) for packet in _second(stream, rate)]
        at, end = 0, int(hours * 3600 * rate)
        for data, duration in chain(packets, cycle(packets[len(packets) // 2 :])):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, rate)
            packet.pts = packet.dts = at
            packet.duration = duration
            output.mux(packet)
            at += duration
            if at >= end:
                break
    return file.getvalue()


def _second(stream: AudioStream, rate: int) -> "Iterator[av.Packet[AudioStream]]":
    context = stream.codec_context
    context.open()
    size = context.frame_size or 1024
    frame = av.AudioFrame(format=context.format.name, layout=context.layout.name, samples=size)
    for plane in frame.planes[: context.layout.nb_channels]:  # PyAV reports nine channels instead of eight
        plane.update(bytes(plane.buffer_size))
    frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
    for number in range(rate // size):
        frame.pts = number * size
        yield from stream.encode(frame)


def _pictures() -> Iterator[tuple[str, bytes]]:
    for width, height in (
        (1, 1),
        (65535, 65535),
        (2**31 - 1, 2**31 - 1),
        (20_000, 20_000),
        (12_000, 12_000),
        (2**31 - 1, 1),
    ):
        yield f"PNG of {width} x {height} in a header alone", _png(width, height, b"")
    yield "PNG of 12,000 x 12,000 black pixels", _png(12_000, 12_000, zlib.compress(bytes(12_000 * 12_001), 9))
    yield "PNG of 5,000 x 5,000 black pixels", _png(5_000, 5_000, zlib.compress(bytes(5_000 * 5_001), 9))
    good = zlib.compress(bytes(8 * 9))
    for kind, head in ((b"zTXt", b"Comment\0\0"), (b"iCCP", b"icc\0\0"), (b"iTXt", b"Comment\0\1\0\0\0")):
        chunk = (kind, head + zlib.compress(bytes(2**28), 9))
        yield f"PNG with 256 MiB of {kind.decode()}", _png(8, 8, good, chunk)
        yield (
            f"PNG with {kind.decode()} a thousand times",
            _png(8, 8, good, *[(kind, head + zlib.compress(bytes(2**20)))] * 1000),
        )
    yield "PNG of 100,000 chunks", _png(8, 8, good, *[(b"tEXt", b"a\0b")] * 100_000)
    yield "WebP of 16,383 x 16,383", b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f" + struct.pack("<I", 0x0FFFFFFF) + bytes(9)
    yield (
        "JPEG of 65,535 x 65,535",
        _saved(noise(8, 8), "JPEG").replace(b"\x00\x08\x00\x08\x03", b"\xff\xff\xff\xff\x03", 1),
    )
    yield "animated WebP of 500 frames", _animated("WEBP", 500)
    yield "animated PNG of 500 frames", _animated("PNG", 500)


def _png(width: int, height: int, pixels: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """An 8-bit grey PNG, with the given chunks before its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    between = b"".join(chunk(kind, data) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + head + between + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _animated(kind: str, frames: int) -> bytes:
    file = io.BytesIO()
    pictures = [Image.new("L", (64, 64), number % 256) for number in range(frames)]
    pictures[0].save(file, format=kind, save_all=True, append_images=pictures[1:])
    return file.getvalue()


def _saved(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind)
    return file.getvalue()


def _zip_of(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.wav", content)
    return file.getvalue()


def _whole_files() -> Iterator[tuple[str, bytes]]:
    yield "a.flac", speech(1)
    for codec, container in _CODECS.items():
        yield f"{codec}.{container}", silence(codec, container, 1 / 3600)
    yield "a.wav", silence("pcm_s16le", "wav", 1 / 3600)
    for kind in ("PNG", "JPEG", "WEBP"):
        yield f"a.{kind.lower()}", _saved(noise(32, 32), kind)


def _damaged(draw: random.Random, file: bytes) -> bytes:
    data = bytearray(file)
    match draw.randrange(4):
        case 0:
            for _ in range(draw.randrange(1, 20)):
                data[draw.randrange(len(data))] = draw.randrange(256)
        case 1:
            del data[draw.randrange(len(data)) :]
        case 2:
            begin = draw.randrange(len(data))
            del data[begin : begin + draw.randrange(1, 200)]
        case _:
            begin = draw.randrange(len(data))
            data[begin:begin] = data[begin : begin + draw.randrange(1, 2000)] * draw.randrange(1, 5)
    return bytes(data)
