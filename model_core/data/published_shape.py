"""Statistics of the data that Lyra was trained on, for comparison.

From arXiv 2412.09501 (sections 3.4 and 4.1, appendix) and the repository that came with it: Lyra-MultiModal-1.5M holds
image-speech, text-image and text-speech instructions, their speech by a text-to-speech system; Lyra-LongSpeech-12K
holds recordings "from several minutes to two hours" with questions about them. Proportions of the modalities and the
distribution of durations were not published.
"""

from dataclasses import dataclass

CLIP_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedShape:
    """What is known about a published data set.

    Attributes:
        name: Its name.
        samples: Approximate number of samples.
        modalities: All its modalities; empty if not published.
        seconds: Minimum and maximum duration of a recording, if published.
    """

    name: str
    samples: int
    modalities: frozenset[str] = frozenset()
    seconds: tuple[float, float] | None = None


SHAPES = {
    "align": PublishedShape(
        name="Lyra's pre-training data",
        samples=1_200_000,
        modalities=frozenset({"speech"}),
        seconds=(0.0, CLIP_SECONDS),
    ),
    "instruct": PublishedShape(
        name="Lyra-MultiModal-1.5M",
        samples=1_500_000,
        modalities=frozenset({"image+speech", "image", "speech"}),
        seconds=(0.0, CLIP_SECONDS),
    ),
    "long-speech": PublishedShape(
        name="Lyra-LongSpeech-12K",
        samples=12_000,
        modalities=frozenset({"speech"}),
        seconds=(120.0, 7200.0),
    ),
    "speech-generation": PublishedShape(name="Lyra's speech-generation data", samples=227_000),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One line of the comparison."""

    what: str
    published: str
    here: str
    agrees: bool


def compare(kind: str, samples: int, mix: dict[str, int], seconds: list[float]) -> list[Comparison]:
    """Compares a data set with the published one of its kind.

    Args:
        kind: `align`, `instruct`, `long-speech` or `speech-generation`.
        samples: Number of samples.
        mix: Number of samples of each modality.
        seconds: Duration of each recording.
    """
    shape = SHAPES[kind]
    lines = [
        Comparison(
            what="samples",
            published=f"{shape.samples:,}",
            here=f"{samples:,} ({samples / shape.samples:.1%})",
            agrees=samples >= 0.9 * shape.samples,
        ),
    ]
    if shape.modalities:
        lines += [_modality(name, shape, mix, samples) for name in sorted(shape.modalities | mix.keys())]
    if seconds and shape.seconds:
        shortest, longest = shape.seconds
        within = sum(shortest <= each <= longest for each in seconds) / len(seconds)
        lines.append(
            Comparison(
                what="seconds of a recording",
                published=f"{shortest:g} to {longest:g}",
                here=f"{min(seconds):.1f} to {max(seconds):.1f}, {within:.1%} within",
                agrees=within >= 0.95,
            )
        )
    return lines


def _modality(name: str, shape: PublishedShape, mix: dict[str, int], samples: int) -> Comparison:
    count = mix.get(name, 0)
    return Comparison(
        what=f"{name} samples",
        published="some" if name in shape.modalities else "none",
        here=f"{count:,} ({count / max(samples, 1):.1%})",
        agrees=(count > 0) == (name in shape.modalities),
    )
