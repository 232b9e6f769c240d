from pathlib import Path

import pytest
from pydantic import ValidationError

from services.shared.webhooks.settings import WebhookSettings


def test_secrets_are_in_the_home_unless_a_file_is_named(tmp_path: Path) -> None:
    assert WebhookSettings().secrets_path(tmp_path) == tmp_path / "webhook_secrets.json"
    mounted = tmp_path / "mounted.json"
    assert WebhookSettings(webhook_secrets_file=mounted).secrets_path(tmp_path) == mounted


@pytest.mark.parametrize("delays", ["1,x", "-1", "nan", "5,inf"])
def test_invalid_delays_are_refused_at_start(delays: str) -> None:
    with pytest.raises(ValidationError, match="webhook_delays"):
        WebhookSettings(webhook_delays=delays)


def test_without_delays_a_callback_is_attempted_once() -> None:
    assert WebhookSettings(webhook_delays="").schedule().delays == ()
