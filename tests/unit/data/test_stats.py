"""Statistics of a data set, and their comparison with the published data."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from model_core.data.data_errors import DataError
from model_core.data.published_shape import SHAPES, compare
from model_core.data.stats import Spread, light_samples, measure
from model_core.data.stats_report import markdown, write_stats
from tests.unit.data.samples import dialogue, encoded, picture, seen, speech, spoken, voice, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    both = replace(
        seen(9),
        id="both",
        turns=dialogue("<image>\n<speech>", "Many colours."),
        speech=(speech(9, 4.0, transcript="", voice_name="awb"),),
        source="other",
    )
    return write_folder(tmp_path / "data", [spoken(1), spoken(2, speech=(speech(2, 2.0, "x"),))], [seen(1), both])


def test_statistics_are_computed_from_the_samples(folder: Path) -> None:
    stats = measure(light_samples(folder), "instruct", count_tokens=lambda text: len(text.split()), tokenizer="words")
    assert (stats.samples, stats.tokenizer) == (4, "words")
    assert stats.mix == {"speech": 2, "image": 1, "image+speech": 1}
    assert stats.sources == {"test": 3, "other": 1}
    assert stats.voices == {"slt": 2, "awb": 1}
    assert stats.transcribed == 0.6667
    assert stats.values["seconds"] == [1.0, 2.0, 4.0]
    assert stats.values["answer_tokens"] == [12, 13, 9, 2]
    assert stats.values["prompt_tokens"] == [1, 1, 7, 2]
    assert stats.values["turns"] == [2, 2, 2, 2]
    assert stats.values["units"] == []


def test_without_a_tokenizer_four_letters_are_a_token(folder: Path) -> None:
    stats = measure(light_samples(folder), "instruct")
    assert stats.tokenizer == "one token per four characters"
    assert stats.values["prompt_tokens"][0] == round(len("<speech>") / 4)


def test_a_distribution_describes_its_values() -> None:
    spread = Spread.of([float(value) for value in range(1, 101)])
    assert (spread.count, spread.total, spread.least, spread.most) == (100, 5050, 1, 100)
    assert (spread.median, spread.mean, spread.p95) == (50.5, 50.5, 96)
    assert Spread.of([]) == Spread()


def test_statistics_are_written_as_json_table_and_plots(tmp_path: Path, folder: Path) -> None:
    write_stats(measure(light_samples(folder), "instruct", bad={"no-answer": 3}), tmp_path / "out")
    values = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert values["spread"]["seconds"]["median"] == 2.0
    assert values["bad"] == {"no-answer": 3}
    table = (tmp_path / "out" / "stats.md").read_text()
    assert "| speech | 2 | 50.0% |" in table
    assert "| no-answer | 3 | 100.0% |" in table
    assert "Lyra-MultiModal-1.5M" in table
    for name in ("durations.png", "tokens.png", "modalities.png"):
        with Image.open(tmp_path / "out" / name) as image:
            image.load()
            assert len(image.convert("L").getcolors() or ()) > 10
    assert len(list((tmp_path / "out").iterdir())) == 5


def test_a_published_file_is_counted_without_its_bad_samples(tmp_path: Path) -> None:
    (tmp_path / "1.wav").write_bytes(encoded(voice(1, 1.5), "WAV"))
    (tmp_path / "1.png").write_bytes(picture(1))
    turns = [{"from": "human", "value": "<image><speech>"}, {"from": "gpt", "value": "Noise."}]
    good = {"image": "1.png", "speech": "1.wav", "speech_asr": "What?", "conversations": turns}
    (tmp_path / "data.json").write_text(json.dumps([good, good | {"image": "2.png"}]))
    reasons: list[str] = []
    samples = light_samples(tmp_path / "data.json", on_error=lambda error: reasons.append(error.reason))
    stats = measure(samples, "instruct")
    assert (stats.mix, stats.values["seconds"], stats.transcribed) == ({"image+speech": 1}, [1.5], 1.0)
    assert reasons == ["missing-file"]


def test_the_published_statistics_are_consistent() -> None:
    for kind, shape in SHAPES.items():
        mix = dict.fromkeys(shape.modalities, 1000)
        seconds = [sum(shape.seconds) / 2] if shape.seconds else []
        assert all(line.agrees for line in compare(kind, shape.samples, mix, seconds))


def test_differences_from_the_published_statistics_are_reported() -> None:
    lines = {line.what: line for line in compare("long-speech", 1200, {"image": 200, "speech": 1000}, [1.0, 600.0])}
    assert {what: line.agrees for what, line in lines.items()} == {
        "samples": False,
        "image samples": False,
        "speech samples": True,
        "seconds of a recording": False,
    }
    assert lines["samples"].here == "1,200 (10.0%)"
    assert lines["seconds of a recording"].here == "1.0 to 600.0, 50.0% within"


def test_an_unknown_kind_and_an_empty_folder_are_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="song: is not a kind of data"):
        measure(light_samples(folder), "song")
    with pytest.raises(DataError, match="no sample to count"):
        measure(light_samples(write_folder(tmp_path / "none", [])), "align")


def test_a_bar_in_a_name_does_not_break_the_table(folder: Path) -> None:
    stats = replace(measure(light_samples(folder), "instruct"), sources={"a|b": 4})
    assert "| a/b | 4 | 100.0% |" in markdown(stats)
