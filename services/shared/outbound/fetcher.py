"""The one way out to an address that a client names.

A name is resolved here, once; every address it has is checked; the connection goes to a checked address and to no other
(a name that resolves to something else a moment later changes nothing). TLS and the Host header keep the name. Proxies
of the environment are not used: they would resolve the name again, and from inside the network.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

import anyio
import httpx

from services.shared.outbound.addresses import may_be_called
from services.shared.outbound.settings import OutboundSettings
from services.shared.service_errors import InvalidInput

MAX_URL_CHARACTERS = 2048
CHECK_SECONDS = 5.0

_PORTS = {"https": 443, "http": 80}
_FIRST_FREE_PORT = 1024  # below, only the web's own two: no mail server is made to listen to a webhook
_LAST_PORT = 65535
_MOST_ADDRESSES = 4  # of a name that are tried

Resolve = Callable[[str, int], list[str]]


class FetchError(Exception):
    """A call had no answer. `str()` is safe to show: nothing in it tells about our own network."""


class Refused(FetchError):
    """The URL may not be called; trying again changes nothing."""


class Unreachable(FetchError):
    """Nobody answered, or not in time, or not in HTTP; another time may be better."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came back, redirects as they are.

    Attributes:
        headers: Their names in lower case.
        body: As sent, at most as many bytes as were asked for.
        whole: Whether `body` is all that there was.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool


def resolve_name(host: str, port: int) -> list[str]:
    """Addresses of `host` by the system's resolver, in its order; none where there is no such name.

    Raises OSError where the resolver cannot tell at the moment. Blocks.
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
    """Calls URLs that clients name. May be shared by threads and event loops: it holds no connection.

    Args:
        settings: What may be called beside the public internet over https.
        resolve: Addresses of a host; blocks, raises OSError where it cannot tell.
    """

    def __init__(self, settings: OutboundSettings, resolve: Resolve = resolve_name) -> None:
        self._schemes = ("https", "http") if settings.outbound_allow_http else ("https",)
        self._allowed = settings.allowed_networks
        self._resolve = resolve
        self._tls = httpx.create_ssl_context(trust_env=False)
        if settings.outbound_ca_file is not None:
            self._tls.load_verify_locations(settings.outbound_ca_file)

    async def check(self, url: str, field: str) -> None:
        """Returns where `url` may be called, as far as can be told now. A resolver that does not answer is no reason.

        Raises:
            InvalidInput: it may not: not https, no such name, an address that is not public, ...
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
    ) -> Fetched:
        """Calls `url` and follows no redirect.

        Args:
            seconds: For all of it: name, connection, TLS, request, answer.
            max_bytes: Of the answer's body that are read; 0 reads none and does not wait for it.

        Raises:
            Refused, Unreachable.
        """
        target = self._parse(url)
        try:
            async with asyncio.timeout(seconds):
                addresses = (await self._addresses(target))[:_MOST_ADDRESSES]
                # No connection may use up the time of those that come after it.
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
            raise Unreachable(_in_words(error)) from error
        raise Unreachable(_unknown(target))

    def _parse(self, url: str) -> httpx.URL:
        if len(url) > MAX_URL_CHARACTERS:
            raise Refused(f"a URL may have {MAX_URL_CHARACTERS} characters, this one has {len(url)}")
        try:
            target = httpx.URL(url)
            host = target.raw_host.decode("ascii")
        except (httpx.InvalidURL, ValueError):
            raise Refused("it is not a URL") from None
        if target.scheme not in self._schemes:
            raise Refused(f"has to begin with {' or '.join(f'{scheme}://' for scheme in self._schemes)}")
        if not host.strip("."):
            raise Refused("it names no host")
        if target.userinfo:
            raise Refused("must not hold a user name or a password")
        port = _PORTS[target.scheme] if target.port is None else target.port
        if not _FIRST_FREE_PORT <= port <= _LAST_PORT and port not in _PORTS.values():
            raise Refused(f"port {port} may not be called: 443, 80 and {_FIRST_FREE_PORT} to {_LAST_PORT} may")
        return target

    async def _addresses(self, target: httpx.URL) -> list[str]:
        """Addresses of the target, all of which may be called. Raises Refused, Unreachable."""
        host = target.raw_host.decode("ascii")
        port = _PORTS[target.scheme] if target.port is None else target.port
        try:
            # A resolver may take its time: the thread is left behind when ours is up, and takes nobody else's place.
            found = await anyio.to_thread.run_sync(
                self._resolve, host, port, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
            )
        except OSError:
            raise Unreachable(f"the host {target.host!r} cannot be looked up at the moment") from None
        if not all(may_be_called(ip_address(address), self._allowed) for address in found):
            raise Refused(_unknown(target))
        return found


def _unknown(target: httpx.URL) -> str:
    """The same words for a name that is only known inside and for one that is not: nobody learns which names are."""
    return f"the host {target.host!r} is not known, or not public"


def _request(
    client: httpx.AsyncClient, method: str, target: httpx.URL, address: str, headers: Mapping[str, str], body: bytes
) -> httpx.Request:
    """A request to `address` that names the target's host, in its Host header and to TLS."""
    named = {**headers, "host": target.netloc.decode("ascii"), "accept-encoding": "identity"}
    host = target.raw_host.decode("ascii").rstrip(".")
    extensions = {} if _is_address(host) else {"sni_hostname": host}
    return client.build_request(
        method, target.copy_with(host=address), headers=named, content=body, extensions=extensions
    )


async def _exchange(client: httpx.AsyncClient, request: httpx.Request, max_bytes: int) -> Fetched:
    response = await client.send(request, stream=True, follow_redirects=False)
    body, whole = bytearray(), False
    try:
        if max_bytes:
            async for block in response.aiter_raw():
                body += block
                if len(body) > max_bytes:
                    break
            else:
                whole = True
    finally:
        await response.aclose()
    return Fetched(response.status_code, dict(response.headers), bytes(body[:max_bytes]), whole)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _in_words(error: httpx.HTTPError) -> str:
    """What went wrong, without addresses."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate is not accepted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return "TLS could not be agreed on"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectError):
        return "the connection was not accepted"
    if isinstance(error, httpx.ProtocolError):
        return "the answer is not HTTP, or the connection was closed before it"
    return "the connection broke off"
