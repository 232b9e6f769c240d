"""Server-side request forgery: internal addresses by notation, redirect or DNS rebinding, and endless responses."""

import asyncio
import gzip
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

import httpx
import psutil

from services.shared.outbound.fetcher import Fetcher, FetchError, FetchResult
from services.shared.outbound.settings import OutboundSettings
from tests.attack.listeners import Listener, ask_name_server, endless, fixed_response
from tests.attack.registry import Outcome, Plan, attack
from tests.attack.target import ATTACKER, Target
from tests.dns import NameServer
from tests.job_stack import speech

_SECONDS = 2.0
_MAX_SECONDS = 30.0  # with slack for a busy machine
_MAX_BYTES = 64 * 2**10
_PUBLIC = "127.0.0.2"  # stands for the internet: a setting allows it; 127.0.0.1 counts as internal
_MAX_GROWTH_MIB = 64.0

_SPELLINGS = (
    *("127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1"),
    *("127.0.0.1.", "127.000.000.001", "127.8.9.10", "0", "0.0.0.0", "localhost", "LOCALHOST", "localhost."),
    *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[64:ff9b::7f00:1]"),
    *("[64:ff9b::169.254.169.254]", "[::127.0.0.1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[fe80::1]", "[fc00::1]"),
    *("[fe80::1%25lo]", "[::1%25lo]", "[ff02::1]", "[fd00:ec2::254]", "169.254.169.254", "2852039166", "0xa9fea9fe"),
    *("10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    *("224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "192.88.99.1", "233.252.0.1"),
    *(
        "①②⑦.⓪.⓪.①",
        "\uff11\uff12\uff17.\uff10.\uff10.\uff11",
        "127。0。0。1",
        "127.0.0.1%00.example",
        "127.0.0.1\t",
        "user@127.0.0.1",
    ),
    *("example.com@127.0.0.1", "example.com:80@127.0.0.1", "127.0.0.1#@example.com", "127.0.0.1\\@example.com"),
    *("example.com%40127.0.0.1", "[127.0.0.1]", "", ".", "..", "%31%32%37.0.0.1", "127.0.0.1:25", "127.0.0.1:6379"),
)
_SCHEMES = ("https", "http", "file", "gopher", "ftp", "dict", "ldap", "data", "HTTPS", "//", "https:", "http+unix")


@attack("webhook URLs with an internal address in every notation and scheme")
def spelled(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("400 for each, and no call is made")
    draw = plan.random("spelled")
    with Listener() as canary, target.client(ATTACKER) as client:
        media = _recording(client)
        schemes = _SCHEMES if not plan.quick else _SCHEMES[:2]
        tries = [(scheme, host) for scheme in schemes for host in _SPELLINGS]
        for scheme, host in tries if not plan.quick else draw.sample(tries, 60):
            where = f"{host}:{canary.port}" if ":" not in host[-6:] else host
            url = f"{scheme}://{where}/" if scheme[-1] not in ":/" else f"{scheme}{where}/"
            webhook = {"url": url, "secret_id": target.secret_ids[ATTACKER]}
            response = client.post("/v1/jobs", json={"media_id": media, "webhook": webhook})
            outcome.add(str(response.status_code), ("400",), f"{url!r} {response.text[:200]}")
            outcome.require(
                response.status_code != 400 or "webhook" in response.text, f"{url!r}: {response.text[:200]}"
            )
        outcome.require(canary.connections == 0, f"{canary.connections} connections came")
    return outcome


@attack("redirects of every kind, to an internal server")
def redirected(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("returned, never followed")
    with Listener() as canary:
        targets = [
            f"http://127.0.0.1:{canary.port}/",
            f"//127.0.0.1:{canary.port}/",
            f"http://2130706433:{canary.port}/",
        ]
        for status in (300, 301, 302, 303, 305, 307, 308):
            for location in targets:
                head = f"HTTP/1.1 {status} Go\r\nLocation: {location}\r\nRefresh: 0;url={location}\r\n"
                with Listener(fixed_response(head.encode() + b"Content-Length: 0\r\n\r\n"), host=_PUBLIC) as server:
                    answer = _fetch(_fetcher(), f"http://{_PUBLIC}:{server.port}/")
                    outcome.add(answer, (str(status),), location)
        outcome.require(canary.connections == 0, f"{canary.connections} connections came")
    return outcome


@attack("DNS names that resolve differently between check and call, or to several addresses, from a real name server")
def rebound(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("204 from the address that was checked, or refused")
    faces = (["127.0.0.1"], [_PUBLIC], [_PUBLIC, "127.0.0.1"], ["127.0.0.1", _PUBLIC])
    answer = fixed_response(b"HTTP/1.1 204 No Content\r\n\r\n")
    with (
        Listener(host="127.0.0.1") as canary,
        NameServer("hooks.test", []) as names,
        Listener(answer, host=_PUBLIC, port=canary.port) as public,
    ):
        url = f"http://hooks.test:{public.port}/"
        fetcher = _fetcher(names)
        turns = cycle(faces)
        for _ in range(plan.count(400, 40)):
            names.addresses = [_PUBLIC]
            asyncio.run(fetcher.check(url, "webhook.url"))
            names.addresses = next(turns)
            inner = "127.0.0.1" in names.addresses
            outcome.add(_fetch(fetcher, url), ("refused",) if inner else ("204",), names.addresses)
        outcome.require(canary.connections == 0, f"{canary.connections} connections came")
    return outcome


@attack("endless responses: bodies, headers, 100 Continue, chunks, compression bombs, a byte a second")
def endless_answers(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome(f"an end within {_SECONDS:g} s and {_MAX_BYTES // 1024} KiB")
    ok, bomb = b"HTTP/1.1 200 OK\r\n", gzip.compress(bytes(64 * 2**20))
    zipped = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    block = b"x" * 65536
    answers = {
        "body without length": endless(ok + b"\r\n", block),
        "body of 2**62 bytes": endless(ok + b"Content-Length: 4611686018427387904\r\n\r\n", block),
        "chunks": endless(ok + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + block + b"\r\n"),
        "a chunk of 2**60 bytes": endless(ok + b"Transfer-Encoding: chunked\r\n\r\n1000000000000000\r\n", block),
        "headers": endless(ok, b"X-More: " + b"y" * 4096 + b"\r\n"),
        "one header": endless(ok + b"X-Long: ", block),
        "status line": endless(b"HTTP/1.1 200 ", block),
        "continues": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
        "64 MiB in a gzip": fixed_response(ok + zipped, bomb),
        "not HTTP": endless(b"", b"\x00\xff\x16\x03\x01" * 1000),
        "a byte a second": _slowly(ok + b"Content-Length: 1000\r\n\r\n"),
        "nothing": _slowly(b""),
        "closed at once": fixed_response(b""),
    }
    process, fetcher = psutil.Process(), _fetcher()
    before = process.memory_info().rss

    def ask(what: str) -> tuple[str, str, float]:
        with Listener(answers[what], host=_PUBLIC) as server:
            began = time.monotonic()
            return what, _fetch(fetcher, f"http://{_PUBLIC}:{server.port}/"), time.monotonic() - began

    with ThreadPoolExecutor(len(answers)) as pool:
        for what, came, seconds in pool.map(ask, list(answers) * plan.count(5, 1)):
            outcome.add(came, ("200", "unreachable"), what)
            outcome.require(seconds < _MAX_SECONDS, f"{what}: {seconds:.1f} s")
    growth = (process.memory_info().rss - before) / 2**20
    outcome.require(growth < _MAX_GROWTH_MIB, f"the fetcher's process grew by {growth:.0f} MiB")
    outcome.note = f"grew by {growth:.0f} MiB"
    return outcome


def _slowly(first: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(first)
        for _ in range(int(5 * _SECONDS)):
            time.sleep(1.0)
            connection.sendall(b"x")

    return answer


def _fetcher(names: NameServer | None = None) -> Fetcher:
    settings = OutboundSettings(outbound_allow_http=True, outbound_allowed_networks=f"{_PUBLIC}/32")
    return Fetcher(settings, ask_name_server(names)) if names is not None else Fetcher(settings)


def _fetch(fetcher: Fetcher, url: str) -> str:
    """The status, or a word for why there is none."""
    try:
        answer: FetchResult = asyncio.run(
            fetcher.fetch("POST", url, body=b"{}", seconds=_SECONDS, max_bytes=_MAX_BYTES)
        )
    except FetchError as error:
        return type(error).__name__.lower()
    assert len(answer.body) <= _MAX_BYTES
    return str(answer.status)


def _recording(client: httpx.Client) -> str:
    """The id of a small recording that the attacker owns."""
    response = client.post("/v1/media", files={"file": ("a.flac", speech(1))})
    response.raise_for_status()
    return str(response.json()["id"])
