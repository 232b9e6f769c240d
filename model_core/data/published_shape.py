"""The shape of the data that Lyra was trained on, to set one's own beside it.

From arXiv 2412.09501 (sections 3.4 and 4.1, appendix) and the repository that came with it: Lyra-MultiModal-1.5M holds
image-speech, text-image and text-speech instructions, their speech by a text-to-speech system; Lyra-LongSpeech-12K
holds recordings "from several minutes to two hours" with questions about them. Shares of the modalities and a
distribution of durations were not published.
"""

from dataclasses import dataclass

CLIP_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedShape:
    """What is known of a published data set.

    Attributes:
        name: What it is called.
        samples: How many it has, about.
        modalities: Those that it has, and no others; none where that was not told.
        seconds: Shortest and longest recording, where that was told.
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
    """A data set beside the published one of its kind.

    Args:
        kind: `align`, `instruct`, `long-speech` or `speech-generation`.
        samples: How many it has.
        mix: Samples of each modality.
        seconds: Of each recording.
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
        least, most = shape.seconds
        within = sum(least <= each <= most for each in seconds) / len(seconds)
        lines.append(
            Comparison(
                what="seconds of a recording",
                published=f"{least:g} to {most:g}",
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
