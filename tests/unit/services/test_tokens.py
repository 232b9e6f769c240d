"""Token files: created once, and readable only by their owner."""

import stat
import sys
from pathlib import Path

import pytest

from services.shared.rpc import tokens
from services.shared.rpc.tokens import TokenFile, make_token_file


def test_a_file_is_created_once_and_only_for_its_owner(tmp_path: Path) -> None:
    path = make_token_file(tmp_path / "run" / "token")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made = TokenFile(path)
    assert len(made.first()) >= tokens.MIN_CHARACTERS
    assert TokenFile(make_token_file(path)).first() == made.first()
    assert TokenFile(make_token_file(tmp_path / "other")).first() != made.first()


def test_the_first_token_is_sent_and_every_token_is_accepted(tmp_path: Path) -> None:
    first, second = "a" * 32, "b" * 32
    (path := tmp_path / "token").write_text(f"\n  {first}  \n\n{second}\n")
    file = TokenFile(path)
    assert file.first() == first
    assert file.accepts(first)
    assert file.accepts(second)
    assert not any(file.accepts(wrong) for wrong in ("", first[:-1], first + second, "ä" * 32))


def test_the_command_creates_the_missing_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = make_token_file(tmp_path / "there")
    before = there.read_text()
    monkeypatch.setattr(sys, "argv", ["tokens", str(there), str(tmp_path / "new")])
    assert tokens.main() == 0
    assert there.read_text() == before
    shown = capsys.readouterr().out
    assert shown.splitlines() == [str(there), str(tmp_path / "new")]
    assert TokenFile(tmp_path / "new").first() not in shown
