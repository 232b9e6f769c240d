import pytest

from services.gateway.settings import GatewaySettings
from services.shared.settings import load


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LYRA_RATE_LIMIT_PER_KEY", each)
        for each in ("600", "600/fortnight", "0/minute", "1/second;5/minute", "-1/minute")
    ]
    + [("LYRA_RATE_LIMIT_PER_ADDRESS", "many"), ("LYRA_RATE_LIMIT_FAILED_KEYS", "20/minute or so")]
    + [("LYRA_TRUSTED_PROXIES", each) for each in ("10.0.0.0/33", "10.0.0.1/8", "ingress", "*", "0.0.0.0/0", "::/0")],
)
def test_an_invalid_value_is_a_one_line_error_naming_the_setting(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as ended:
        load(GatewaySettings, "gateway", [])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert variable in told
    assert value.split(";")[0].split(" ")[0] in told


@pytest.mark.parametrize("value", ["", "600/minute", "20/10 seconds", "20 per 10 seconds", "1/day"])
def test_rates_may_be_written_in_several_notations(value: str) -> None:
    assert load(GatewaySettings, "gateway", ["--rate-limit-per-key", value]).rate_limit_per_key == value


def test_proxies_are_addresses_and_networks() -> None:
    settings = load(GatewaySettings, "gateway", ["--trusted-proxies", "10.0.0.0/8, 192.0.2.1,2001:db8::/32,"])
    assert [str(each) for each in settings.proxies] == ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"]
