"""Joins the transcripts of a recording's clips."""

from collections.abc import Mapping

from model_core.audio.cuts import Cut
from model_core.audio.joining import Segment as Spoken
from model_core.audio.joining import join_transcripts
from services.shared.jobs.model import ClipResult, Plan, Segment


def join_clips(plan: Plan, results: Mapping[int, ClipResult]) -> tuple[Segment, ...]:
    """All segments of the clips that are done, in order; words in the overlap of two clips appear once."""
    clips = [
        (
            Cut(clip.index, clip.start_seconds, clip.end_seconds, clip.overlap_seconds),
            [Spoken(each.start_seconds, each.end_seconds, each.text) for each in results[clip.index].segments],
        )
        for clip in plan.clips
        if clip.index in results
    ]
    return tuple(
        Segment(start_seconds=round(each.start, 3), end_seconds=round(each.end, 3), text=each.text)
        for each in join_transcripts(clips, plan.seconds)
    )
