"""`lyra keys` as a separate process that cannot write."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

NO_ROOM = ("prlimit", "--fsize=0")  # no file can grow by a single byte


def lyra_keys(home: Path, *arguments: str, within: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
    command = [*within, sys.executable, "-m", "cli", "keys", *arguments]
    environment = os.environ | {"LYRA_HOME": str(home)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_on_a_full_disk_no_key_is_shown_and_existing_keys_stay(tmp_path: Path) -> None:
    good = lyra_keys(tmp_path, "create", "before").stdout.strip()
    before = (tmp_path / "keys.json").read_text()
    result = lyra_keys(tmp_path, "create", "after", within=NO_ROOM)
    assert (result.returncode, result.stdout) == (1, "")
    assert "the key could not be stored, so it was not created: File too large" in result.stderr
    assert str(tmp_path) in result.stderr.replace("\n", "")
    assert "Traceback" not in result.stderr
    assert good.startswith("lyra_")
    assert (tmp_path / "keys.json").read_text() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["keys.json", "keys.lock"]


def test_a_failed_revocation_says_that_the_key_is_still_valid(tmp_path: Path) -> None:
    lyra_keys(tmp_path, "create", "x")
    key_id = next(word for word in lyra_keys(tmp_path, "list").stdout.split() if word.startswith("key_"))
    result = lyra_keys(tmp_path, "revoke", key_id, within=NO_ROOM)
    assert result.returncode == 1
    assert f"{key_id} could not be revoked" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("home", ["/proc/lyra", "/dev/null/lyra"])
@pytest.mark.parametrize("arguments", [("create", "x"), ("revoke", "key_x")])
def test_a_read_only_folder_is_a_readable_error(home: str, arguments: tuple[str, ...]) -> None:
    result = lyra_keys(Path(home), *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert home in result.stderr
    assert "Traceback" not in result.stderr
