"""Nothing of an attack leaves this machine: every connection and datagram of the process is checked by Python itself.

gRPC connects past Python's sockets; what it calls are addresses of the stack, which `Target` checks.
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
    """An attack would have called an address that is not this machine's."""


def check_loopback(host: str) -> None:
    """Raises LeavesLoopback for an address that is not 127.0.0.0/8 or ::1."""
    if host != "localhost" and not ip_address(host).is_loopback:
        raise LeavesLoopback(f"{host} is not on loopback")


@contextmanager
def loopback_only() -> Iterator[None]:
    """While it runs, no socket of this process connects or sends to another machine."""
    global _guarding, _installed
    if not _installed:
        sys.addaudithook(_audit)  # for the life of the process; it looks at `_guarding`
        _installed = True
    _guarding = True
    try:
        yield
    finally:
        _guarding = False


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _guarding and event in _EVENTS and isinstance(address := arguments[1], tuple):
        check_loopback(str(address[0]))
