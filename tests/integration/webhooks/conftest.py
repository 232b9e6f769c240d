"""Receivers, and a fetcher that may call them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from services.shared.outbound.fetcher import Fetcher, resolve_name
from services.shared.outbound.settings import OutboundSettings
from tests.integration.webhooks.receiver import Receiver

StartReceiver = Callable[..., Receiver]
LOOPBACK = "127.0.0.0/8,::1/128"


@pytest.fixture
def start_receiver() -> Iterator[StartReceiver]:
    """Starts a receiver: `start_receiver(Reply(500), Reply(204))`."""
    with ExitStack() as cleanup:

        def start(*arguments: Any, **options: Any) -> Receiver:
            receiver = Receiver(*arguments, **options)
            cleanup.callback(receiver.close)
            return receiver

        yield start


def fetcher(resolve: Callable[[str, int], list[str]] = resolve_name, **settings: Any) -> Fetcher:
    """A fetcher that may call http and loopback, unless `settings` say otherwise."""
    values = {"outbound_allow_http": True, "outbound_allowed_networks": LOOPBACK, **settings}
    return Fetcher(OutboundSettings(**values), resolve)
