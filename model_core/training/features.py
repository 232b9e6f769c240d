"""Encoder features of a data set, computed once: the encoders are frozen, so training need never run them again.

Beside each shard of the data lies one safetensors file for each encoder: `values` are its features one after the other
as float16; its header tells their shapes, whose they are and the shard's SHA-256. A file is written aside and renamed
when whole; one of another shard is made anew.

Shapes: T encoder frames, D encoder width, C H W a picture's feature grid, N vision tokens, E language-model width.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from more_itertools import chunked
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from model_core.audio.tensors import decode_audio, split_clips
from model_core.data.conversation import Conversation
from model_core.data.dataset import ConversationDataset
from model_core.data.files import written_aside
from model_core.data.shards import ShardEntry
from model_core.errors import InvalidInput
from model_core.speech.encoder import SpeechEncoder
from model_core.vision.encoder import ProjectedVisionEncoder, VisionEncoder
from model_core.vision.image import decode_image
from model_core.vision.video import sample_frames

Progress = Callable[[int, int], None]
Grid = tuple[int, int, int]

_LONGEST_SECONDS = 2 * 3600.0
_MOST_PIXELS = 50_000_000
_MOST_FRAMES = 32
_CLIPS_AT_ONCE = 10
_KEPT_PICTURES = 4096


@dataclass(frozen=True, slots=True)
class Features:
    """What the encoders make of a conversation's media.

    Attributes:
        clips: For each recording the frames [T, D] of its clips of at most 30 s.
        seen: For each picture and then each video what the vision encoder makes of it: [frames, ...] features where
            the encoder has a projector that learns, [N, E] vision tokens else.
        grids: The grid of vision tokens of each, in time, height and width.
    """

    clips: tuple[tuple[Tensor, ...], ...] = ()
    seen: tuple[Tensor, ...] = ()
    grids: tuple[Grid, ...] = ()


class Encoders:
    """A preset's frozen encoders, as training uses them.

    Args:
        speech: Whisper with anything; its projectors are not used.
        vision: None where no sample has pictures.
    """

    def __init__(self, speech: SpeechEncoder | None, vision: VisionEncoder | None) -> None:
        self.speech = speech
        self.vision = vision
        # Many questions are asked about one picture.
        self._seen = lru_cache(maxsize=_KEPT_PICTURES)(self._picture)

    @property
    def name(self) -> str:
        """Names the features that they make."""
        return "+".join(encoder.model for encoder in (self.speech, self.vision) if encoder)

    @torch.inference_mode()
    def features(self, conversation: Conversation) -> Features:
        """Raises InvalidInput, naming the sample, where a medium does not decode, or no encoder is there for it."""
        where = f"sample {conversation.id}"
        clips = [self._frames(s.data, f"{where}, speech[{row}]") for row, s in enumerate(conversation.speech)]
        seen = []
        for row, data in enumerate(conversation.images):
            try:
                seen.append(self._seen(data))
            except InvalidInput as error:
                raise InvalidInput(f"{where}, images[{row}]", error.message) from error
        seen += [self._video(data, f"{where}, videos[{row}]") for row, data in enumerate(conversation.videos)]
        return Features(tuple(clips), tuple(values for values, _ in seen), tuple(grid for _, grid in seen))

    def _frames(self, data: bytes, field: str) -> tuple[Tensor, ...]:
        if self.speech is None:
            raise InvalidInput(field, "this stage was started without a speech encoder")
        clips = [clip.samples for clip in split_clips(decode_audio(data, max_seconds=_LONGEST_SECONDS, field=field))]
        frames: list[Tensor] = []
        for some in chunked(clips, _CLIPS_AT_ONCE):
            frames += self.speech.frames(some)
        return tuple(frame.half() for frame in frames)

    def _picture(self, data: bytes) -> tuple[Tensor, Grid]:
        images = [decode_image(data, max_pixels=_MOST_PIXELS, field="image")]
        vision = self._vision("image")
        if isinstance(vision, ProjectedVisionEncoder):
            return vision.features(images).half(), (1, vision.side, vision.side)
        tokens = vision.encode(images)[0]
        return tokens.tokens.half(), tokens.grid

    def _video(self, data: bytes, field: str) -> tuple[Tensor, Grid]:
        frames = sample_frames(
            data, max_frames=_MOST_FRAMES, max_seconds=_LONGEST_SECONDS, max_pixels=_MOST_PIXELS, field=field
        )
        vision = self._vision(field)
        if isinstance(vision, ProjectedVisionEncoder):
            return vision.features(frames).half(), (len(frames), vision.side, vision.side)
        tokens = vision.encode_video(frames)
        return tokens.tokens.half(), tokens.grid

    def _vision(self, field: str) -> VisionEncoder:
        if self.vision is None:
            raise InvalidInput(field, "this stage was started without a vision encoder")
        return self.vision


class FeatureCache:
    """The features of a data set by sample, from its folder.

    Args:
        dataset: Its shards are what features are made of.
        encoders: Make what is missing.
    """

    def __init__(self, dataset: ConversationDataset, encoders: Encoders) -> None:
        self.dataset = dataset
        self.encoders = encoders
        self.folder = dataset.folder / "features" / encoders.name
        self._open: dict[int, _Shard] = {}
        self._starts: list[int] = [0]
        for shard in dataset.manifest.shards:
            self._starts.append(self._starts[-1] + shard.samples)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return all(_is_of(self._path(number), shard) for number, shard in enumerate(self.dataset.manifest.shards))

    def fill(self, progress: Progress | None = None, rank: int = 0, world: int = 1) -> None:
        """Computes what is missing, shard by shard; of several processes each takes every `world`-th shard.

        Raises:
            InvalidInput: as `Encoders.features` does.
            DataError: the disk is full.
        """
        for number, shard in enumerate(self.dataset.manifest.shards):
            if number % world == rank and not _is_of(self._path(number), shard):
                samples = range(self._starts[number], self._starts[number + 1])
                _write(self._path(number), [self.encoders.features(self.dataset[index]) for index in samples], shard)
            if progress:
                progress(self._starts[number + 1], len(self.dataset))

    def __getitem__(self, index: int) -> Features:
        number = bisect_right(self._starts, index) - 1
        if number not in self._open:
            self._open[number] = _Shard(self._path(number))
        return self._open[number].read(index - self._starts[number])

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05}.safetensors"


class _Shard:
    """One file of features; tensors are read out of it as they are asked for."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, "pt")
        self._values = self._file.get_slice("values")  # type: ignore[no-untyped-call]
        self._header: dict[str, Any] = json.loads(self._file.metadata()["features"])  # type: ignore[no-untyped-call]
        sizes = (math.prod(shape) for shape in self._header["shapes"])
        self._starts = [0, *accumulate(sizes)]

    def read(self, row: int) -> Features:
        sample = self._header["samples"][row]
        return Features(
            clips=tuple(tuple(self._tensor(clip) for clip in clips) for clips in sample["clips"]),
            seen=tuple(self._tensor(number) for number in sample["seen"]),
            grids=tuple((t, h, w) for t, h, w in sample["grids"]),
        )

    def _tensor(self, number: int) -> Tensor:
        values: Tensor = self._values[self._starts[number] : self._starts[number + 1]]
        return values.view(self._header["shapes"][number])


def _write(path: Path, made: list[Features], shard: ShardEntry) -> None:
    """Samples name their tensors by number: what several of them show is stored once."""
    tensors: list[Tensor] = []
    numbers: dict[int, int] = {}

    def number_of(tensor: Tensor) -> int:
        if id(tensor) not in numbers:
            numbers[id(tensor)] = len(tensors)
            tensors.append(tensor)
        return numbers[id(tensor)]

    samples = [
        {
            "clips": [[number_of(clip) for clip in clips] for clips in row.clips],
            "seen": [number_of(values) for values in row.seen],
            "grids": row.grids,
        }
        for row in made
    ]
    header = {"shapes": [list(tensor.shape) for tensor in tensors], "samples": samples}
    values = torch.cat([tensor.flatten() for tensor in tensors]) if tensors else torch.zeros(0, dtype=torch.float16)
    with written_aside(path) as scratch:
        save_file({"values": values}, scratch, {"features": json.dumps(header), "sha256": shard.sha256})


def _is_of(path: Path, shard: ShardEntry) -> bool:
    if not path.is_file():
        return False
    with safe_open(path, "pt") as file:
        return bool((file.metadata() or {}).get("sha256") == shard.sha256)
