"""Recordings made once and kept as encoder frames: the encoder is frozen, so training never runs it again.

A shard is one safetensors file: `frames` [sum of T, D] float16 of its recordings, one after the other, and `lengths`
[recordings] int32; texts and voices are in its header. A shard is written under another name and renamed when whole.

Shapes: T encoder frames (50 a second), D encoder width.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from more_itertools import chunked
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from model_core.speech.voice import PiperVoice
from model_core.training.speakers import speak

SHARD_SIZE = 250
_BATCH = 10

FrameEncoder = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True, slots=True)
class Utterance:
    """One text, read once."""

    text: str
    voice: str
    seed: int


@dataclass(frozen=True, slots=True)
class Recording:
    """An utterance and its encoder frames [T, D] float16."""

    utterance: Utterance
    frames: Tensor


def record(
    name: str,
    utterances: Iterable[Utterance],
    cache: Path,
    encode: FrameEncoder,
    piper: PiperVoice | None,
    on_shard: Callable[[int], None] | None = None,
) -> None:
    """Reads and encodes whatever utterances are not in the cache yet.

    Args:
        name: Of this collection.
        utterances: In an order that does not change between runs.
        cache: Folder for collections.
        encode: Frames of a batch of clips.
        piper: The Piper voice, or None where no utterance needs it.
        on_shard: Called with the recordings done so far.
    """
    folder = cache / name
    folder.mkdir(parents=True, exist_ok=True)
    done = 0
    for number, shard in enumerate(chunked(utterances, SHARD_SIZE)):
        path = folder / f"{number:04}.safetensors"
        if not path.exists():
            frames: list[Tensor] = []
            for batch in chunked(shard, _BATCH):
                clips = [torch.from_numpy(speak(u.text, u.voice, u.seed, piper)) for u in batch]
                frames += [frame.to(torch.float16) for frame in encode(clips)]
            _write_shard(path, shard, frames)
        done += len(shard)
        if on_shard:
            on_shard(done)


def load_recordings(name: str, cache: Path) -> list[Recording]:
    """Every recording of a collection that is in the cache, in order."""
    recordings = []
    for path in sorted((cache / name).glob("*.safetensors")):
        with safe_open(path, "pt") as shard:
            utterances = [Utterance(**row) for row in json.loads(shard.metadata()["utterances"])]
            lengths = shard.get_tensor("lengths").tolist()
            pieces = shard.get_tensor("frames").split(lengths)
        recordings += [Recording(u, frames) for u, frames in zip(utterances, pieces, strict=True)]
    return recordings


def _write_shard(path: Path, utterances: Iterable[Utterance], frames: list[Tensor]) -> None:
    tensors = {"frames": torch.cat(frames), "lengths": torch.tensor([len(f) for f in frames], dtype=torch.int32)}
    metadata = {"utterances": json.dumps([asdict(utterance) for utterance in utterances])}
    scratch = path.with_suffix(".part")
    save_file(tensors, scratch, metadata)
    scratch.replace(path)
