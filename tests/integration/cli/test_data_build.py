"""`lyra data build`: each kind from released packages only, read by the voice that is itself a package."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from model_core.data.dataset import ConversationDataset
from tests.unit.data.samples import encoded, voice

Build = Callable[..., Result]
KINDS = {
    "align": ("--source", "chitchat:3", "--source", "easy-vqa:2"),
    "instruct": ("--source", "facts:2", "--source", "easy-vqa:2", "--answers-by", "tiny", "--answer-tokens", 4),
    "long-speech": ("--source", "chitchat", "--readings", 6, "--recordings", 3, "--shortest", 5, "--longest", 12),
}


@pytest.fixture
def build() -> Build:
    """`build("align", "--source", "chitchat:3", "--out", folder)`, read by joe."""
    return lambda *options: CliRunner().invoke(
        app, ["data", "build", *(str(option) for option in options), "--voices", "joe"]
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_builds_reproducibly_from_packages(build: Build, tmp_path: Path, kind: str) -> None:
    for folder in ("a", "b"):
        result = build(kind, *KINDS[kind], "--out", tmp_path / folder)
        assert result.exit_code == 0, result.output
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    conversations = list(ConversationDataset(tmp_path / "a"))
    assert len(conversations) == {"align": 5, "instruct": 4, "long-speech": 3}[kind]
    assert any(conversation.speech for conversation in conversations)
    assert all(speech.transcript for conversation in conversations for speech in conversation.speech)


def test_a_different_command_in_the_same_folder_is_refused_with_the_difference(build: Build, tmp_path: Path) -> None:
    sentences = tmp_path / "mine.txt"
    sentences.write_text("It is late.\n")
    options = ("align", "--source", sentences, "--out", tmp_path / "a")
    assert build(*options).exit_code == 0
    result = build(*options, "--seed", 1)
    assert result.exit_code == 1
    assert "seed was 0 and is now 1" in result.stderr


def test_dropped_samples_are_reported_with_their_reason(build: Build, tmp_path: Path) -> None:
    (tmp_path / "here.flac").write_bytes(encoded(voice(0)))
    clips = tmp_path / "clips.jsonl"
    clips.write_text("".join(f'{{"audio": "{name}.flac", "text": "Said."}}\n' for name in ("here", "gone")))
    result = build("align", "--source", clips, "--out", tmp_path / "a")
    assert result.exit_code == 0
    assert "1 dropped (missing-file)" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("align", "--source", "no-such-texts"), "no-such-texts"),
        (("instruct", "--source", "gone.json"), "gone.json does not exist"),
        (("align", "--source", "chitchat:2", "--voices", "nobody"), "nobody"),
        (("long-speech", "--source", "chitchat", "--tasks", "sing"), "'sing' is not one of"),
    ],
)
def test_unknown_options_list_the_valid_ones(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    command = ["data", "build", *options, "--out", str(tmp_path / "a")]
    if "--voices" not in options:
        command += ["--voices", "joe"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code in (1, 2)
    assert said in result.stderr
