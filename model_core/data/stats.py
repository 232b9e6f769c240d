"""Statistics of a data set: durations, tokens and modalities, compared with the published data."""

import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model_core.data.data_errors import DataError
from model_core.data.published_json import OnError, read_published_json
from model_core.data.published_shape import SHAPES, Comparison, compare
from model_core.data.rows import LightSample, to_light_sample, to_row
from model_core.data.shards import open_shard, read_light_group, read_manifest

CountTokens = Callable[[str], int]

# Figures and their titles.
VALUES = {
    "seconds": "seconds of a recording",
    "prompt_tokens": "text tokens before the answers",
    "answer_tokens": "tokens of the answers",
    "turns": "turns of a sample",
    "units": "unit frames of an answer",
}
_CHARACTERS_PER_TOKEN = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Summary statistics of a figure; all 0 without values. The fields are keys of `stats.json`."""

    count: int = 0
    total: float = 0.0
    least: float = 0.0
    median: float = 0.0
    mean: float = 0.0
    p95: float = 0.0
    most: float = 0.0

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Summarises values."""
        if not values:
            return cls()
        ordered = sorted(values)
        return cls(
            count=len(ordered),
            total=round(sum(ordered), 3),
            least=round(ordered[0], 3),
            median=round(statistics.median(ordered), 3),
            mean=round(statistics.fmean(ordered), 3),
            p95=round(ordered[min(int(0.95 * len(ordered)), len(ordered) - 1)], 3),
            most=round(ordered[-1], 3),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The statistics of a data set.

    Attributes:
        kind: `align`, `instruct`, `long-speech` or `speech-generation`.
        samples: Number of samples.
        bad: Number of invalid samples of a published file that were skipped, by reason.
        mix: Number of samples of each modality.
        sources: Number of samples of each source, most frequent first.
        voices: Number of recordings of each voice, most frequent first.
        transcribed: Share of recordings with a transcript.
        tokenizer: Name of the tokenizer that counted.
        values: All values: `seconds` of recordings, `prompt_tokens` and `answer_tokens` of samples, `turns` of samples,
            `units` of answers.
        published: Comparison with the published data of that kind.
    """

    kind: str
    samples: int
    bad: dict[str, int]
    mix: dict[str, int]
    sources: dict[str, int]
    voices: dict[str, int]
    transcribed: float
    tokenizer: str
    values: dict[str, list[float]]
    published: list[Comparison]

    def to_json(self) -> str:
        """Everything as JSON, with summaries in place of the values."""
        values: dict[str, Any] = {
            "kind": self.kind,
            "samples": self.samples,
            "bad": self.bad,
            "modalities": self.mix,
            "sources": self.sources,
            "voices": self.voices,
            "transcribed": self.transcribed,
            "tokenizer": self.tokenizer,
            "spread": {name: asdict(Spread.of(found)) for name, found in self.values.items()},
            "published": {"name": SHAPES[self.kind].name, "lines": [asdict(line) for line in self.published]},
        }
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def light_samples(
    path: Path, *, media_root: Path | None = None, on_error: OnError | None = None
) -> Iterator[LightSample]:
    """The samples of a folder, without reading media, or of a published file, whose media are decoded.

    Raises:
        DataError: the folder or file is incomplete.
        SampleError: a sample of the file is invalid, and there is no `on_error`.
    """
    if not path.is_dir():
        for conversation in read_published_json(path, media_root or path.parent, on_error=on_error):
            yield to_light_sample(to_row(conversation))
        return
    for shard in read_manifest(path).shards:
        with open_shard(path / shard.file) as file:
            for group in range(file.num_row_groups):
                yield from read_light_group(file, path / shard.file, group)


def measure(
    samples: Iterable[LightSample],
    kind: str,
    *,
    count_tokens: CountTokens | None = None,
    tokenizer: str = "",
    bad: dict[str, int] | None = None,
) -> Stats:
    """Computes the statistics.

    Args:
        samples: The samples; iterated once.
        kind: The published data set to compare with.
        count_tokens: Counts the tokens of a text; by default, four characters are one token.
        tokenizer: Name of that tokenizer.
        bad: Number of skipped samples, by reason; read at the end.

    Raises:
        DataError: the kind does not exist, or there is no sample.
    """
    if kind not in SHAPES:
        raise DataError(kind, f"is not a kind of data; those are {', '.join(SHAPES)}")
    count = count_tokens or (lambda text: round(len(text) / _CHARACTERS_PER_TOKEN))
    mix: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    voices: Counter[str] = Counter()
    transcribed = 0
    values: dict[str, list[float]] = {name: [] for name in VALUES}
    for sample in samples:
        mix[sample.modality] += 1
        sources[sample.source or "unknown"] += 1
        voices.update(voice or "unknown" for voice in sample.voices)
        transcribed += sum(bool(transcript) for transcript in sample.transcripts)
        answers = sum(count(text) for text in sample.answers)
        values["seconds"] += sample.seconds
        values["answer_tokens"].append(answers)
        values["prompt_tokens"].append(sum(count(turn.text) for turn in sample.turns) - answers)
        values["turns"].append(len(sample.turns))
        values["units"] += sample.unit_counts
    if not mix:
        raise DataError(kind, "there is no sample to count")
    return Stats(
        kind=kind,
        samples=mix.total(),
        bad=dict(bad or {}),
        mix=dict(mix.most_common()),
        sources=dict(sources.most_common()),
        voices=dict(voices.most_common()),
        transcribed=round(transcribed / max(len(values["seconds"]), 1), 4),
        tokenizer=tokenizer if count_tokens else "one token per four characters",
        values=values,
        published=compare(kind, mix.total(), dict(mix), values["seconds"]),
    )
