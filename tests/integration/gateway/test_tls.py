"""The gateway serves HTTPS itself: real handshakes with certificates of a test CA."""

import asyncio
import contextlib
import functools
import ssl
from pathlib import Path

import httpx
import pytest
import trustme

from services.gateway.http.certificates import ServerCertificate
from services.gateway.settings import GatewaySettings
from services.operations.local.process import https_is_ready
from services.operations.local.stack import Stack
from services.shared.reloading_files import SecretFileError
from tests.integration.gateway.conftest import until
from tests.integration.gateway.processes import GatewayProcess, gateway_process

HOST = "127.0.0.1"


class Pair:
    """The gateway's certificate and key, which can be replaced."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key = folder / "tls.crt", folder / "tls.key"

    def issue(self, authority: trustme.CA, *, key_of: trustme.CA | None = None) -> None:
        """Writes a new pair; with `key_of`, the key of another certificate."""
        issued = authority.issue_cert(HOST)
        self.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        other = issued if key_of is None else key_of.issue_cert(HOST)
        self.key.write_bytes(other.private_key_pem.bytes())

    @property
    def arguments(self) -> list[str]:
        return ["--gateway-tls-cert-file", str(self.cert), "--gateway-tls-key-file", str(self.key)]


def trusting(*authorities: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for authority in authorities:
        authority.configure_trust(context)
    return context


async def serial(gateway: GatewayProcess, context: ssl.SSLContext) -> str:
    """Serial number of the certificate that a new connection gets."""
    _, writer = await asyncio.open_connection(HOST, gateway.port, ssl=context)
    certificate = writer.get_extra_info("peercert")
    writer.transport.abort()
    return str(certificate["serialNumber"])


async def test_https_serves_requests_and_plain_http_is_rejected(tmp_path: Path) -> None:
    authority, pair = trustme.CA(), Pair(tmp_path)
    pair.issue(authority)
    async with gateway_process(tmp_path, *pair.arguments) as gateway:
        url, context = f"https://{HOST}:{gateway.port}", trusting(authority)
        headers = {"Authorization": f"Bearer {gateway.secret}"}
        async with httpx.AsyncClient(base_url=url, verify=context, headers=headers, timeout=60) as client:
            assert (await client.get("/healthz")).json() == {"status": "ok"}
            question = {"model": "lyra-tiny", "messages": [{"role": "user", "content": "Hi"}]}
            assert (await client.post("/v1/chat/completions", json=question)).status_code == 200
            large = await client.post("/v1/chat/completions", content=b"0," * 5_000_000)
            assert large.status_code in (400, 413)
        answers = functools.partial(https_is_ready, path="/healthz")
        assert await asyncio.to_thread(answers, HOST, gateway.port)

        async with httpx.AsyncClient() as plain:
            with pytest.raises(httpx.TransportError):
                await plain.get(f"http://{HOST}:{gateway.port}/healthz")
        old = trusting(authority)
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await serial(gateway, old)


async def test_a_new_certificate_is_used_without_a_restart_and_an_invalid_one_is_ignored(tmp_path: Path) -> None:
    authority, pair = trustme.CA(), Pair(tmp_path)
    pair.issue(authority)
    context = trusting(authority)
    async with gateway_process(tmp_path, *pair.arguments) as gateway:
        first = await serial(gateway, context)
        reader, writer = await asyncio.open_connection(HOST, gateway.port, ssl=context)

        async def renewed() -> bool:
            return await serial(gateway, context) != first

        pair.issue(authority)
        await until(renewed)
        second = await serial(gateway, context)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")  # an open connection continues

        pair.issue(authority, key_of=trustme.CA())  # the key does not match
        assert await serial(gateway, context) == second
        pair.cert.unlink()
        assert await serial(gateway, context) == second

        async def mended() -> bool:
            return await serial(gateway, context) != second

        pair.issue(authority)
        await until(mended)


@pytest.mark.parametrize(("header_seconds", "ended"), [(1, 3), (60, 1)])
async def test_stalled_handshakes_count_as_connections_and_are_closed(
    tmp_path: Path, header_seconds: int, ended: int
) -> None:
    """By a timeout, and earlier, the oldest one, if another connection needs its slot."""
    authority, pair = trustme.CA(), Pair(tmp_path)
    pair.issue(authority)
    limits = [f"--header-seconds={header_seconds}", "--max-connections=3", "--max-idle-connections=3"]
    async with gateway_process(tmp_path, *pair.arguments, *limits) as gateway, contextlib.AsyncExitStack() as stack:
        silent = [await asyncio.open_connection(HOST, gateway.port) for _ in range(3)]
        for _, writer in silent:
            stack.callback(writer.transport.abort)
        if header_seconds == 1:
            for reader, _ in silent:
                await _ends(reader)
        async with httpx.AsyncClient(verify=trusting(authority)) as client:
            metrics = (await client.get(f"https://{HOST}:{gateway.port}/metrics")).text
        await _ends(silent[0][0])
        assert f"lyra_connections_open {4 - ended}.0" in metrics
        assert ('lyra_connections_cut_total{reason="idle"} 1.0' in metrics) is (header_seconds == 60)


async def _ends(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""


@pytest.mark.parametrize("broken", ["no files", "no key in it", "another key"])
def test_an_unusable_certificate_is_an_error_at_startup(tmp_path: Path, broken: str) -> None:
    pair = Pair(tmp_path)
    if broken != "no files":
        pair.issue(trustme.CA(), key_of=trustme.CA())
    if broken == "no key in it":
        pair.key.write_text("")
    with pytest.raises(SecretFileError, match="not a certificate and its key"):
        ServerCertificate(pair.cert, pair.key)


def test_a_certificate_needs_its_key() -> None:
    with pytest.raises(ValueError, match="LYRA_GATEWAY_TLS_KEY_FILE"):
        GatewaySettings.model_validate({"gateway_tls_cert_file": "tls.crt"})


@pytest.mark.full
def test_the_local_stack_serves_https_if_it_has_a_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, pair = trustme.CA(), Pair(tmp_path)
    pair.issue(authority)
    monkeypatch.setenv("LYRA_GATEWAY_TLS_CERT_FILE", str(pair.cert))
    monkeypatch.setenv("LYRA_GATEWAY_TLS_KEY_FILE", str(pair.key))
    with Stack(preset="tiny", home=tmp_path / "home", threads=1, announce=False, jobs=False) as stack:
        assert stack.url.startswith("https://")
        assert httpx.get(f"{stack.url}/readyz", verify=trusting(authority)).status_code == 200
