"""The target: a local stack of preset tiny with its own home and three tenants."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from services.gateway.http.keys import KeyStore
from services.operations.local.process import LocalProcess, ProcessSpec, grpc_is_serving
from services.operations.local.stack import GATEWAY, SERVICES, Stack
from services.shared.webhooks.secrets import FILE_NAME, SecretStore
from tests.attack.loopback import check_loopback

ATTACKER, VICTIM, BYSTANDER = "mallory", "alice", "bob"
MODEL = "lyra-tiny"
CLIENT_SECONDS = 120.0  # long enough for a busy machine
# A rate-limited fuzzer tests nothing. The limits on invalid keys stay as they are.
_UNLIMITED = ("--rate-limit-per-key", "10000000/minute", "--rate-limit-per-address", "10000000/minute")
# Speaks from hidden states, unlike the voice of preset tiny.
SPEAKER = "hidden_state_synthesizer"


@dataclass(frozen=True, slots=True)
class Target:
    """A running stack.

    Attributes:
        keys: API key of each tenant.
        secret_ids: Id of a webhook secret of each tenant.
        speaker: A speech synthesizer that speaks from hidden states, beside the stack.
    """

    stack: Stack
    home: Path
    keys: Mapping[str, str]
    secret_ids: Mapping[str, str]
    speaker: LocalProcess

    @property
    def url(self) -> str:
        return self.stack.url

    @property
    def port(self) -> int:
        """Port of the gateway."""
        return self.stack.processes[GATEWAY].port

    def headers(self, tenant: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[tenant]}"}

    def client(self, tenant: str, *, connections: int = 100) -> httpx.Client:
        """A client with the tenant's key; close it."""
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        return httpx.Client(
            base_url=self.url, headers=self.headers(tenant), timeout=CLIENT_SECONDS, trust_env=False, limits=limits
        )

    def services(self) -> dict[str, str]:
        """host:port of the model services, by name."""
        addresses = {name: self.stack.processes[name].address for name in SERVICES} | {SPEAKER: self.speaker.address}
        for address in addresses.values():
            check_loopback(address.rpartition(":")[0])
        return addresses


def chat(text: str = "Hello", **options: object) -> dict[str, object]:
    """Body of a small chat request."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 1, **options}


@contextmanager
def running_target() -> Iterator[Target]:
    """Starts it in a temporary folder, and stops it."""
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="lyra-attack-")))
        folder.chmod(0o711)  # so that the stack alone decides what others can read
        home = folder / "home"
        keys, secrets = KeyStore(home), SecretStore(home / FILE_NAME)
        tenants = (ATTACKER, VICTIM, BYSTANDER)
        made = {tenant: keys.create(tenant)[1] for tenant in tenants}
        secret_ids = {tenant: secrets.create(tenant).id for tenant in tenants}
        arguments = {GATEWAY: ("--job-event-seconds", "0.5", *_UNLIMITED)}
        stack = cleanup.enter_context(
            Stack(preset="tiny", home=home, threads=1, jobs=True, announce=False, arguments=arguments)
        )
        speaker = cleanup.enter_context(_speaker(home, stack.service_token_file))
        target = Target(stack, home, made, secret_ids, speaker)
        check_loopback(stack.processes[GATEWAY].host)
        target.services()
        yield target


@contextmanager
def _speaker(home: Path, token_file: Path) -> Iterator[LocalProcess]:
    flags: tuple[str, ...] = ("--preset", "tiny-qwen2-vl", "--home", str(home), "--threads", "1", "--metrics-port", "0")
    flags = (*flags, "--service-token-file", str(token_file))
    spec = ProcessSpec(SPEAKER, "services.speech_synthesizer", flags, grpc_is_serving)
    process = LocalProcess(spec, host="127.0.0.1", port=0, run_dir=home / "run", log_dir=home / "logs")
    process.start()
    try:
        process.wait_ready(CLIENT_SECONDS)
        yield process
    finally:
        process.stop(10.0)
