"""The published layout is read directly; faults are named, and only the media folder is read."""

import json
from pathlib import Path
from typing import Any

import pytest

from model_core.data.conversation import Speech, Turn
from model_core.data.data_errors import DataError, Reason, SampleError
from model_core.data.media import Limits
from model_core.data.published_json import read_published_json
from model_core.language.messages import Role
from tests.unit.data.samples import encoded, picture, voice
from tests.videos import make_video


@pytest.fixture
def media(tmp_path: Path) -> Path:
    root = tmp_path / "media"
    (root / "coco").mkdir(parents=True)
    (root / "coco" / "1.jpg").write_bytes(picture(1, "JPEG"))
    (root / "2.png").write_bytes(picture(2))
    (root / "1.wav").write_bytes(encoded(voice(1, 1.5), "WAV"))
    (root / "long.flac").write_bytes(encoded(voice(2, 2.0)))
    (tmp_path / "secret.png").write_bytes(picture(3))
    return root


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[index % 2], "value": text} for index, text in enumerate(texts)]


def written(folder: Path, records: object, name: str = "data.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(records))
    return path


ASKED = turns("<image>\n<speech>", "A cat.")


def test_the_published_layout_reads_directly(tmp_path: Path, media: Path) -> None:
    (media / "film.mp4").write_bytes(make_video(seconds=1))
    records = [
        {"id": "a", "image": "coco/1.jpg", "speech": "1.wav", "speech_asr": "What is this?", "conversations": ASKED},
        {"id": 7, "conversations": [{"from": "system", "value": "Be brief."}, *turns("Who?", "Me.")]},
        {"speech_id": "lyra_mm_9", "long_speech": "long.flac", "conversations": turns("<speech>\nSum up.", "Tones.")},
        {"id": "u", "images": ["2.png"], "tgt_unit": "<12><904>", "conversations": turns("<image>What?", "Noise.")},
        {"id": "v", "video": "film.mp4", "conversations": turns("<video>\nWhat?", "Noise.")},
        {"conversations": turns("Who?", "Me.", "<image>", "You."), "image": ["2.png"], "source": "mine"},
    ]
    found = list(read_published_json(written(tmp_path, records), media))
    assert [sample.id for sample in found] == ["a", "7", "lyra_mm_9", "u", "v", "#5"]
    assert found[0].images == ((media / "coco" / "1.jpg").read_bytes(),)
    assert found[0].speech == (Speech(data=(media / "1.wav").read_bytes(), seconds=1.5, transcript="What is this?"),)
    assert found[0].turns[0] == Turn(role=Role.USER, text="<image>\n<speech>")
    assert found[1].turns[0].role is Role.SYSTEM
    assert (found[2].speech[0].seconds, found[2].speech[0].transcript) == (2.0, "")
    assert found[3].units == ((12, 904),)
    assert found[4].modality == "video"
    assert (found[5].modality, found[5].source) == ("image", "mine")


def test_json_lines_are_read_and_ids_of_one_picture_are_made_distinct(tmp_path: Path, media: Path) -> None:
    record = json.dumps({"id": "a", "image": "2.png", "conversations": turns("<image>What?", "Noise.")})
    path = tmp_path / "data.jsonl"
    path.write_text(f"{record}\n\n{record}\n")
    assert [sample.id for sample in read_published_json(path, media)] == ["a", "a#1"]


def bad(media: Path) -> dict[str, tuple[dict[str, Any], Reason]]:
    """Records with one fault each, and the reason it is counted under."""
    (media / "noise.mp3").write_bytes(b"no sound at all" * 99)
    (media / "empty.wav").write_bytes(b"")
    (media / "long.wav").write_bytes(encoded(voice(1, 4.0), "WAV"))
    (media / "no.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 99)
    (media / "cut.jpg").write_bytes(picture(1, "JPEG", (64, 64))[:-400])
    (media / "large.png").write_bytes(picture(1, size=(101, 100)))
    (media / "really.png").write_bytes(picture(1, "JPEG"))
    (media / "no.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + b"\0" * 99)
    (media / "way.png").symlink_to(media.parent / "secret.png")
    told, look = turns("<speech>", "Yes."), turns("<image>", "Yes.")
    return {
        "list": ([], Reason.NOT_A_SAMPLE),  # type: ignore[dict-item]
        "turns": ({"conversations": "Who?"}, Reason.NOT_A_SAMPLE),
        "turn": ({"conversations": [{"from": "human"}]}, Reason.NOT_A_SAMPLE),
        "role": ({"conversations": [{"from": "robot", "value": "Who?"}]}, Reason.ROLES),
        "first": ({"conversations": turns("Who?", "Me.")[1:]}, Reason.ROLES),
        "none": ({"conversations": []}, Reason.NO_ANSWER),
        "open": ({"conversations": turns("Who?")}, Reason.NO_ANSWER),
        "more": ({"conversations": look}, Reason.MORE_PLACEHOLDERS),
        "fewer": ({"image": "2.png", "conversations": turns("Who?", "Me.")}, Reason.FEWER_PLACEHOLDERS),
        "missing": ({"speech": "none.wav", "conversations": told}, Reason.MISSING_FILE),
        "folder": ({"image": "coco", "conversations": look}, Reason.MISSING_FILE),
        "up": ({"image": "../secret.png", "conversations": look}, Reason.OUTSIDE_ROOT),
        "root": ({"image": str(media.parent / "secret.png"), "conversations": look}, Reason.OUTSIDE_ROOT),
        "link": ({"image": "way.png", "conversations": look}, Reason.OUTSIDE_ROOT),
        "name": ({"image": [7], "conversations": look}, Reason.NOT_A_SAMPLE),
        "noise": ({"speech": "noise.mp3", "conversations": told}, Reason.AUDIO),
        "empty": ({"speech": "empty.wav", "conversations": told}, Reason.FILE_SIZE),
        "long": ({"speech": "long.wav", "conversations": told}, Reason.AUDIO),
        "broken": ({"image": "no.png", "conversations": look}, Reason.IMAGE),
        "cut": ({"image": "cut.jpg", "conversations": look}, Reason.IMAGE),
        "large": ({"image": "large.png", "conversations": look}, Reason.IMAGE_SIZE),
        "other": ({"image": "really.png", "conversations": look}, Reason.IMAGE_FORMAT),
        "film": ({"video": "no.mp4", "conversations": turns("<video>", "Yes.")}, Reason.VIDEO),
        "asr": (
            {"speech": "1.wav", "speech_asr": ["a", "b"], "conversations": told},
            Reason.NOT_A_SAMPLE,
        ),
        "units": ({"tgt_unit": "12 904", "conversations": turns("Who?", "Me.")}, Reason.UNITS),
    }


def test_each_fault_is_named_and_the_valid_samples_are_read(tmp_path: Path, media: Path) -> None:
    faults = bad(media)
    records = [record | {"id": name} if record else record for name, (record, _) in faults.items()]
    good = {"id": "good", "conversations": turns("Who?", "Me.")}
    errors: list[SampleError] = []
    limits = Limits(audio_seconds=3, pixels=10_000)
    path = written(tmp_path, [*records, good])
    found = list(read_published_json(path, media, limits=limits, on_error=errors.append))
    assert [sample.id for sample in found] == ["good"]
    expected = {name if record else "#0": reason for name, (record, reason) in faults.items()}
    assert {error.sample: error.reason for error in errors} == expected


def test_without_a_fault_counter_the_first_bad_sample_raises(tmp_path: Path, media: Path) -> None:
    path = written(tmp_path, [{"id": "open", "conversations": turns("Who?")}])
    with pytest.raises(SampleError, match=r"sample open, turns: the last turn has no answer"):
        list(read_published_json(path, media))


@pytest.mark.parametrize("text", ['[{"id": 1}, {"id"', "[1, 2", "no json", '{"id": 1}\n{"id"'])
def test_a_truncated_or_invalid_json_file_is_named(tmp_path: Path, media: Path, text: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"data\.json: is not a complete JSON list"):
        list(read_published_json(path, media, on_error=lambda error: None))
    with pytest.raises(DataError, match="is not a file"):
        list(read_published_json(tmp_path / "other.json", media))
