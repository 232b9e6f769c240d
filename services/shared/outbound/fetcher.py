"""Requests to URLs that clients provide, with protection against SSRF.

A name is resolved once, all its addresses are checked, and the connection goes to a checked address (so DNS rebinding
has no effect). TLS and the Host header use the name. Proxies of the environment are not used: they would resolve the
name again, from inside the network.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

import anyio
import httpx

from services.shared.outbound.addresses import is_allowed
from services.shared.outbound.settings import OutboundSettings
from services.shared.service_errors import InvalidInput

MAX_URL_CHARACTERS = 2048
CHECK_SECONDS = 5.0

_PORTS = {"https": 443, "http": 80}
_FIRST_UNPRIVILEGED_PORT = 1024  # below, only 80 and 443: webhooks must not reach mail servers and the like
_LAST_PORT = 65535
_MAX_ADDRESSES = 4  # of a name that are tried

Resolve = Callable[[str, int], list[str]]


class FetchError(Exception):
    """A request had no response. The message is safe to show: it reveals nothing about the internal network."""


class Refused(FetchError):
    """The URL is not allowed; a retry would fail, too."""


class Unreachable(FetchError):
    """There was no response, not in time, or not in HTTP; a retry may succeed."""


@dataclass(frozen=True, slots=True)
class FetchResult:
    """A response; redirects are not followed.

    Attributes:
        headers: With lower-case names.
        body: Raw bytes, truncated to the requested maximum.
        complete: Whether `body` is not truncated.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool


def resolve_name(host: str, port: int) -> list[str]:
    """Resolves `host` with the system's resolver, keeping its order; empty if there is no such name. Blocks.

    Raises OSError if the resolver fails.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        return []
    except socket.gaierror as error:
        if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA):
            return []
        raise
    return list(dict.fromkeys(str(each[4][0]) for each in found))


class Fetcher:
    """Requests URLs that clients provide. May be shared by threads and event loops: it holds no connections.

    Args:
        settings: What is allowed besides the public internet over https.
        resolve: Resolves a host; blocks, raises OSError if it fails.
    """

    def __init__(self, settings: OutboundSettings, resolve: Resolve = resolve_name) -> None:
        self._schemes = ("https", "http") if settings.outbound_allow_http else ("https",)
        self._allowed = settings.allowed_networks
        self._resolve = resolve
        self._tls = httpx.create_ssl_context(trust_env=False)
        if settings.outbound_ca_file is not None:
            self._tls.load_verify_locations(settings.outbound_ca_file)

    async def check(self, url: str, field: str) -> None:
        """Checks whether `url` is allowed, as far as that can be determined now: a failing resolver is not an error.

        Raises:
            InvalidInput: The URL is not allowed: not https, no such name, an address that is not public, ...
        """
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                target = self._parse(url)
                if not await self._addresses(target):
                    raise Refused(_unknown(target))
        except Refused as error:
            raise InvalidInput(field, str(error)) from error
        except (Unreachable, TimeoutError):
            return

    async def fetch(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        seconds: float,
        max_bytes: int,
    ) -> FetchResult:
        """Requests `url`. Redirects are not followed.

        Args:
            seconds: Timeout of everything: name resolution, connection, TLS, request, response.
            max_bytes: Bytes of the response body to read; 0 does not wait for it.

        Raises:
            Refused, Unreachable.
        """
        target = self._parse(url)
        try:
            async with asyncio.timeout(seconds):
                addresses = (await self._addresses(target))[:_MAX_ADDRESSES]
                # An unreachable address must not use up the time of the next ones.
                limits = httpx.Timeout(seconds, connect=seconds / max(1, len(addresses)))
                async with httpx.AsyncClient(verify=self._tls, timeout=limits, trust_env=False) as client:
                    for left, address in zip(reversed(range(len(addresses))), addresses, strict=True):
                        request = _request(client, method, target, address, headers or {}, body)
                        try:
                            return await _exchange(client, request, max_bytes)
                        except (httpx.ConnectError, httpx.ConnectTimeout):
                            if not left:
                                raise
        except (TimeoutError, httpx.TimeoutException):
            raise Unreachable(f"no answer within {seconds:g} s") from None
        except httpx.HTTPError as error:
            raise Unreachable(_describe(error)) from error
        raise Unreachable(_unknown(target))

    def _parse(self, url: str) -> httpx.URL:
        if len(url) > MAX_URL_CHARACTERS:
            raise Refused(f"{len(url)} characters are over the limit of {MAX_URL_CHARACTERS} for a URL")
        try:
            target = httpx.URL(url)
            host = target.raw_host.decode("ascii")
        except (httpx.InvalidURL, ValueError):
            raise Refused("is not a URL") from None
        if target.scheme not in self._schemes:
            raise Refused(f"has to start with {' or '.join(f'{scheme}://' for scheme in self._schemes)}")
        if not host.strip("."):
            raise Refused("has no host")
        if target.userinfo:
            raise Refused("must not contain a user name or password")
        port = _PORTS[target.scheme] if target.port is None else target.port
        if not _FIRST_UNPRIVILEGED_PORT <= port <= _LAST_PORT and port not in _PORTS.values():
            raise Refused(f"port {port} is not 80, 443 or one of {_FIRST_UNPRIVILEGED_PORT} to {_LAST_PORT}")
        return target

    async def _addresses(self, target: httpx.URL) -> list[str]:
        """The target's addresses, all of which are allowed. Raises Refused, Unreachable."""
        host = target.raw_host.decode("ascii")
        port = _PORTS[target.scheme] if target.port is None else target.port
        try:
            # A resolver may hang: its thread is abandoned on timeout, and does not count against other threads.
            found = await anyio.to_thread.run_sync(
                self._resolve, host, port, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
            )
        except OSError:
            raise Unreachable(f"the host {target.host!r} cannot be resolved at the moment") from None
        if not all(is_allowed(ip_address(address), self._allowed) for address in found):
            raise Refused(_unknown(target))
        return found


def _unknown(target: httpx.URL) -> str:
    """The same message for internal and nonexistent names, so that nobody can find out which names exist."""
    return f"the host {target.host!r} is unknown or not public"


def _request(
    client: httpx.AsyncClient, method: str, target: httpx.URL, address: str, headers: Mapping[str, str], body: bytes
) -> httpx.Request:
    """A request to `address` with the target's host in the Host header and in TLS (SNI)."""
    named = {**headers, "host": target.netloc.decode("ascii"), "accept-encoding": "identity"}
    host = target.raw_host.decode("ascii").rstrip(".")
    extensions = {} if _is_address(host) else {"sni_hostname": host}
    return client.build_request(
        method, target.copy_with(host=address), headers=named, content=body, extensions=extensions
    )


async def _exchange(client: httpx.AsyncClient, request: httpx.Request, max_bytes: int) -> FetchResult:
    response = await client.send(request, stream=True, follow_redirects=False)
    body, complete = bytearray(), False
    try:
        if max_bytes:
            async for block in response.aiter_raw():
                body += block
                if len(body) > max_bytes:
                    break
            else:
                complete = True
    finally:
        await response.aclose()
    return FetchResult(response.status_code, dict(response.headers), bytes(body[:max_bytes]), complete)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _describe(error: httpx.HTTPError) -> str:
    """Describes the error without revealing addresses."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate is not valid: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return "the TLS handshake failed"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectError):
        return "the connection failed"
    if isinstance(error, httpx.ProtocolError):
        return "the response is not HTTP, or the connection was closed before it"
    return "the connection was interrupted"
