"""`lyra media` against a gateway process and a real object store."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from services.gateway.http.keys import KeyStore
from services.operations.local.process import ProcessSpec, serves_metrics
from services.shared.storage.settings import StoreSettings
from tests.integration.gateway.conftest import wav
from tests.servers import start_process, store_environment

Lyra = Callable[..., Result]


@pytest.fixture
def lyra(tmp_path: Path, store_settings: StoreSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lyra]:
    """`lyra("media", "list")` against a gateway without model services."""
    arguments = ["--home", str(tmp_path)]
    environment = store_environment(store_settings)
    spec = ProcessSpec("gateway", "services.gateway", arguments, serves_metrics, environment=environment)
    with ExitStack() as cleanup:
        process = start_process(spec, 0, tmp_path / "run", cleanup)
        monkeypatch.setenv("LYRA_URL", f"http://{process.address}")
        monkeypatch.setenv("LYRA_API_KEY", KeyStore(tmp_path).create("acme")[1])
        yield lambda *given: CliRunner().invoke(app, [str(each) for each in given])


@pytest.mark.parametrize("options", [(), ("--direct",)], ids=["through the gateway", "past it"])
def test_media_can_be_uploaded_shown_listed_and_deleted(lyra: Lyra, tmp_path: Path, options: tuple[str, ...]) -> None:
    file = tmp_path / "tune.wav"
    file.write_bytes(wav(600.0))
    uploaded = lyra("media", "upload", file, *options)
    assert uploaded.exit_code == 0, uploaded.output
    media_id = uploaded.stdout.strip()
    assert lyra("media", "upload", file).stdout.strip() == media_id
    shown = json.loads(lyra("media", "show", media_id).stdout)
    assert (shown["id"], shown["filename"], shown["bytes"]) == (media_id, "tune.wav", file.stat().st_size)
    assert [each["id"] for each in json.loads(lyra("media", "list", "--json").stdout)] == [media_id]
    assert lyra("media", "delete", media_id).exit_code == 0
    assert json.loads(lyra("media", "list", "--json").stdout) == []


@pytest.mark.parametrize("options", [(), ("--direct",)], ids=["through the gateway", "past it"])
def test_a_file_that_is_not_media_is_refused_with_a_readable_error(
    lyra: Lyra, tmp_path: Path, options: tuple[str, ...]
) -> None:
    file = tmp_path / "note.txt"
    file.write_text("not a recording")
    result = lyra("media", "upload", file, *options)
    assert result.exit_code == 1
    assert "file: does not decode" in result.stderr


def test_missing_media_is_a_readable_error(lyra: Lyra) -> None:
    for media_id, word in (("media-" + "0" * 32, "no media"), (f"..{os.sep}jobs", "not a media id")):
        result = lyra("media", "show", media_id)
        assert result.exit_code == 1
        assert word in result.stderr
