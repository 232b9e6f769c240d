"""`lyra data validate | stats | filter`: what they print, and their exit codes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from model_core.data.shards import read_manifest, shard_path
from tests.unit.data.samples import dialogue, picture, seen, spoken, write_folder

Lyra = Callable[..., Result]


@pytest.fixture
def lyra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lyra:
    monkeypatch.setenv("LYRA_HOME", str(tmp_path / "home"))
    return lambda *arguments: CliRunner().invoke(app, ["data", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    german = spoken(4, turns=dialogue("<speech>", "Die Katze schläft jeden Nachmittag auf dem roten Sofa."))
    return write_folder(tmp_path / "data", [spoken(1), german], [seen(1), replace(seen(1), id="copy")])


def test_a_valid_folder_exits_with_0(lyra: Lyra, folder: Path) -> None:
    result = lyra("validate", folder)
    assert (result.exit_code, result.stdout) == (0, "4 samples, no faults\n")


def test_faults_are_named_and_counted_and_exit_with_1(lyra: Lyra, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(picture(1))
    turns = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "Noise."}]
    records = [{"id": f"s{n}", "image": f"{n}.png", "conversations": turns[: 2 - n // 2]} for n in (0, 1, 2)]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(records))
    result = lyra("validate", path, "--report", tmp_path / "report.json")
    assert result.exit_code == 1
    assert "s0, images[0]:" in result.stdout
    assert "missing-file" in result.stdout
    assert "s2, turns: the last turn has no answer (no-answer)" in result.stdout
    assert "s1" not in result.stdout.replace(str(path), "")
    assert "2 faults in 3 samples" in result.stderr
    assert json.loads((tmp_path / "report.json").read_text())["reasons"] == {"missing-file": 1, "no-answer": 1}


def test_a_folder_without_data_says_what_to_do(lyra: Lyra, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    result = lyra("validate", tmp_path / "none")
    assert result.exit_code == 1
    assert "not a data folder" in result.stderr
    assert lyra("validate", tmp_path / "nowhere").exit_code == 2


def test_stats_print_the_table_and_write_the_files(lyra: Lyra, folder: Path, tmp_path: Path) -> None:
    result = lyra("stats", folder, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "# instruct: 4 samples" in result.stdout
    assert "four characters are counted as a token" in result.stderr
    assert json.loads((tmp_path / "out" / "stats.json").read_text())["samples"] == 4
    assert lyra("stats", folder, "--out", tmp_path / "out", "--kind", "song").exit_code == 1


def test_filter_prints_the_dropped_samples_by_reason(lyra: Lyra, folder: Path, tmp_path: Path) -> None:
    result = lyra("filter", folder, "--out", tmp_path / "out", "--language", "en", "--drop-duplicates")
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines() if "dropped" in line or "kept" in line] == [
        ["│", "dropped:", "duplicate", "│", "1", "│", "25.0%", "│"],
        ["│", "dropped:", "language", "│", "1", "│", "25.0%", "│"],
        ["│", "kept", "│", "2", "│", "50.0%", "│"],
    ]
    assert read_manifest(tmp_path / "out").dropped == {"duplicate": 1, "language": 1}


def test_filter_takes_blocked_words_from_a_file(lyra: Lyra, folder: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("katze\n")
    assert lyra("filter", folder, "--out", tmp_path / "out", "--blocked-words", words).exit_code == 0
    assert read_manifest(tmp_path / "out").dropped == {"blocked-words": 1}


def test_an_invalid_threshold_or_a_broken_source_exits_with_1(lyra: Lyra, folder: Path, tmp_path: Path) -> None:
    result = lyra("filter", folder, "--out", tmp_path / "out", "--max-silence", 1.5)
    assert (result.exit_code, "max_silence: 1.5 is not between 0 and 1" in result.stderr) == (1, True)
    assert not (tmp_path / "out").exists()
    shard_path(folder, 0).write_bytes(b"PAR1")
    result = lyra("filter", folder, "--out", tmp_path / "out", "--min-seconds", 1)
    assert (result.exit_code, "00000.parquet: has 4 bytes" in result.stderr) == (1, True)
