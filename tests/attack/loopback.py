"""No attack leaves this machine: an audit hook checks every connection and datagram of this process.

gRPC does not use Python's sockets; it only calls addresses of the stack, which `Target` checks.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

_EVENTS = ("socket.connect", "socket.sendto")
_guarding = False
_installed = False


class LeavesLoopback(RuntimeError):
    """An attack tried to connect to an address outside this machine."""


def check_loopback(host: str) -> None:
    """Raises LeavesLoopback for an address that is not 127.0.0.0/8 or ::1."""
    if host != "localhost" and not ip_address(host).is_loopback:
        raise LeavesLoopback(f"{host} is not on loopback")


@contextmanager
def loopback_only() -> Iterator[None]:
    """Inside it, no socket of this process connects or sends to another machine."""
    global _guarding, _installed
    if not _installed:
        sys.addaudithook(_audit)  # an audit hook cannot be removed; it checks `_guarding`
        _installed = True
    _guarding = True
    try:
        yield
    finally:
        _guarding = False


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _guarding and event in _EVENTS and isinstance(address := arguments[1], tuple):
        check_loopback(str(address[0]))
