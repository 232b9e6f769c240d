"""Settings come from flags and variables, are documented, and errors name the variable."""

import pytest

from services.gateway.settings import GatewaySettings
from services.language_model.settings import LanguageModelSettings
from services.shared import settings
from services.speech_encoder.settings import SpeechEncoderSettings
from services.speech_synthesizer.settings import SpeechSynthesizerSettings
from services.vision_encoder.settings import VisionEncoderSettings

ALL: list[type[settings.ServiceSettings]] = [
    SpeechEncoderSettings,
    VisionEncoderSettings,
    LanguageModelSettings,
    SpeechSynthesizerSettings,
]


def test_flags_take_precedence_over_variables_and_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LYRA_PORT", "1234")
    monkeypatch.setenv("LYRA_MAX_WAITING", "3")
    loaded = settings.load(LanguageModelSettings, "x", ["--port", "0"])
    assert (loaded.port, loaded.max_waiting, loaded.preset) == (0, 3, "nano")


def test_invalid_values_are_reported_by_flag_and_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LYRA_PORT", "often")
    with pytest.raises(SystemExit) as end:
        settings.load(LanguageModelSettings, "x", ["--grace-seconds=-1", "--device", "gpu"])
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert "--port (LYRA_PORT)" in told
    assert "--grace-seconds (LYRA_GRACE_SECONDS)" in told
    assert "--device (LYRA_DEVICE)" in told


@pytest.mark.parametrize("settings_class", ALL)
def test_every_setting_is_described_and_named_in_the_help(
    settings_class: type[settings.ServiceSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        settings.load(settings_class, "x", ["--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    for name, field in settings_class.model_fields.items():
        assert field.description
        assert f"LYRA_{name.upper()}" in "".join(told.split())


def test_adapters_to_load_at_start_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load(LanguageModelSettings, "x", []).adapters_at_start == []
    monkeypatch.setenv("LYRA_ADAPTERS", "meetings, captions")
    assert settings.load(SpeechEncoderSettings, "x", []).adapters_at_start == ["meetings", "captions"]


def test_ports_of_the_services_do_not_collide() -> None:
    loaded = [settings.load(settings_class, "x", []) for settings_class in ALL]
    ports = [port for one in loaded for port in (one.port, one.metrics_port)]
    assert len(set(ports)) == len(ports)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--speech-encoder-address", "speech"], "--speech-encoder-address (LYRA_SPEECH_ENCODER_ADDRESS)"),
        (["--ready-without", "vision"], "--ready-without (LYRA_READY_WITHOUT)"),
    ],
)
def test_an_invalid_address_or_service_name_is_reported(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        settings.load(GatewaySettings, "x", arguments)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "::", "lyra.example.com"])
def test_a_service_reachable_from_other_machines_requires_authentication(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LYRA_HOST", host)
    with pytest.raises(SystemExit) as end:
        settings.load(LanguageModelSettings, "x", [])
    assert end.value.code == 2
    assert "LYRA_SERVICE_TOKEN_FILE" in capsys.readouterr().err
    files = ["--service-tls-cert-file", "a", "--service-tls-key-file", "b", "--service-tls-ca-file", "c"]
    for known in (["--service-token-file", "token"], files, ["--allow-insecure"]):
        assert settings.load(LanguageModelSettings, "x", known).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_a_service_on_loopback_needs_no_token(host: str) -> None:
    assert settings.load(LanguageModelSettings, "x", ["--host", host]).host == host


@pytest.mark.parametrize("settings_class", [LanguageModelSettings, GatewaySettings])
def test_a_certificate_without_a_key_or_ca_is_refused(
    settings_class: type[settings.ProcessSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        settings.load(settings_class, "x", ["--service-tls-cert-file", "a"])
    assert end.value.code == 2
    assert "LYRA_SERVICE_TLS_KEY_FILE and LYRA_SERVICE_TLS_CA_FILE" in capsys.readouterr().err
