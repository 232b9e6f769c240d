"""A cache of a data set's encoder features: the encoders are frozen, so training needs to run them only once.

Below the data set's folder there is one safetensors file per shard: `values` are all features, flattened, as float16;
the header has their shapes, which sample they belong to, and the shard's SHA-256. Files are written atomically, and
recomputed if the shard has changed.

Shapes: T encoder frames, D encoder width, C H W an image's feature grid, N vision tokens, E language-model width.
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

_MAX_SECONDS = 2 * 3600.0
_MAX_PIXELS = 50_000_000
_MAX_FRAMES = 32
_CLIP_BATCH = 10
_CACHED_IMAGES = 4096


@dataclass(frozen=True, slots=True)
class Features:
    """Encoder features of a conversation's media.

    Attributes:
        clips: For each recording, the frames [T, D] of its clips of at most 30 s.
        visual_features: For each image, then for each video: features [frames, ...] if the encoder has a trainable
            projector, otherwise vision tokens [N, E].
        grids: The grid of vision tokens of each: time, height, width.
    """

    clips: tuple[tuple[Tensor, ...], ...] = ()
    visual_features: tuple[Tensor, ...] = ()
    grids: tuple[Grid, ...] = ()


class Encoders:
    """A preset's frozen encoders.

    Args:
        speech: The speech encoder; its projectors are not used. None if no sample has speech.
        vision: None if no sample has images.
    """

    def __init__(self, speech: SpeechEncoder | None, vision: VisionEncoder | None) -> None:
        self.speech = speech
        self.vision = vision
        # Data sets ask many questions about the same image.
        self._cached_image = lru_cache(maxsize=_CACHED_IMAGES)(self._image)

    @property
    def name(self) -> str:
        """Name of these encoders' features."""
        return "+".join(encoder.model for encoder in (self.speech, self.vision) if encoder)

    @torch.inference_mode()
    def features(self, conversation: Conversation) -> Features:
        """Raises InvalidInput, naming the sample, if a media file cannot be decoded or there is no encoder for it."""
        where = f"sample {conversation.id}"
        clips = [self._frames(s.data, f"{where}, speech[{row}]") for row, s in enumerate(conversation.speech)]
        visual = []
        for row, data in enumerate(conversation.images):
            try:
                visual.append(self._cached_image(data))
            except InvalidInput as error:
                raise InvalidInput(f"{where}, images[{row}]", error.message) from error
        visual += [self._video(data, f"{where}, videos[{row}]") for row, data in enumerate(conversation.videos)]
        return Features(tuple(clips), tuple(values for values, _ in visual), tuple(grid for _, grid in visual))

    def _frames(self, data: bytes, field: str) -> tuple[Tensor, ...]:
        if self.speech is None:
            raise InvalidInput(field, "this stage was started without a speech encoder")
        clips = [clip.samples for clip in split_clips(decode_audio(data, max_seconds=_MAX_SECONDS, field=field))]
        frames: list[Tensor] = []
        for some in chunked(clips, _CLIP_BATCH):
            frames += self.speech.frames(some)
        return tuple(frame.half() for frame in frames)

    def _image(self, data: bytes) -> tuple[Tensor, Grid]:
        images = [decode_image(data, max_pixels=_MAX_PIXELS, field="image")]
        vision = self._vision("image")
        if isinstance(vision, ProjectedVisionEncoder):
            return vision.features(images).half(), (1, vision.side, vision.side)
        tokens = vision.encode(images)[0]
        return tokens.tokens.half(), tokens.grid

    def _video(self, data: bytes, field: str) -> tuple[Tensor, Grid]:
        frames = sample_frames(
            data, max_frames=_MAX_FRAMES, max_seconds=_MAX_SECONDS, max_pixels=_MAX_PIXELS, field=field
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
    """The cached features of a data set, by sample.

    Args:
        dataset: The data set.
        encoders: Compute missing features.
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
        """Computes missing features, shard by shard; each of several processes takes every `world`-th shard.

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
    """One file of features; tensors are read on demand."""

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
            visual_features=tuple(self._tensor(number) for number in sample["seen"]),
            grids=tuple((t, h, w) for t, h, w in sample["grids"]),
        )

    def _tensor(self, number: int) -> Tensor:
        values: Tensor = self._values[self._starts[number] : self._starts[number + 1]]
        return values.view(self._header["shapes"][number])


def _write(path: Path, made: list[Features], shard: ShardEntry) -> None:
    """Samples refer to tensors by number, so that the features of a shared image are stored once."""
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
            "seen": [number_of(values) for values in row.visual_features],
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
