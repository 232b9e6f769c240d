from services.shared.pipeline.messages import Segment
from services.shared.pipeline.transcripts import plain_text, to_srt, to_vtt

SEGMENTS = [
    Segment(0.0, 1.5, " Hello there.", -0.1, 0.0),
    Segment(3599.9996, 3661.25, " A <b> &\n\n--> B", -0.2, 0.0),
]


def test_plain_text_is_one_line() -> None:
    assert plain_text(SEGMENTS[:1] * 2) == "Hello there. Hello there."
    assert plain_text([Segment(0, 1, "  ", 0, 1)]) == ""


def test_srt_is_numbered_with_decimal_commas() -> None:
    assert to_srt(SEGMENTS) == (
        "1\n00:00:00,000 --> 00:00:01,500\nHello there.\n\n2\n01:00:00,000 --> 01:01:01,250\nA <b> & -> B\n\n"
    )


def test_vtt_has_its_header_and_escapes_markup() -> None:
    assert to_vtt(SEGMENTS) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello there.\n\n"
        "01:00:00.000 --> 01:01:01.250\nA &lt;b&gt; &amp; -&gt; B\n\n"
    )
