"""`python -m services.shared.rpc.healthcheck`: whether the process of this container is well; an image's HEALTHCHECK.

It asks the process that wrote the file that LYRA_PORT_FILE names, so one check fits every service on any port: a model
service for /healthz beside its metrics, which knows the gRPC health and needs no certificate; the gateway for
/healthz; workers and clock for their metrics. Exit code 0: well; 1: not, and one line says why. Kubernetes asks the
services itself and does not need this.
"""

import json
import os
import sys
from http.client import HTTPConnection, HTTPException
from pathlib import Path

SECONDS = 5.0  # that an answer may take


class Unwell(Exception):
    """The process does not do what it is there for; the message says why."""


def check(port_file: Path, host: str = "127.0.0.1") -> str:
    """What the process said of itself.

    Args:
        port_file: That the process writes once its ports are open.
        host: To ask it at.

    Raises:
        Unwell: There is no such file, nobody answers within SECONDS, or the answer is not that all is well.
    """
    try:
        ports = json.loads(port_file.read_text())
        port = int(ports["port"])
        metrics_port = None if ports["metrics_port"] is None else int(ports["metrics_port"])
    except FileNotFoundError:
        raise Unwell(
            f"{port_file} is not there: the process has not opened its ports, or not been told to write it"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unwell(f"{port_file} cannot be read: {type(error).__name__}") from None
    if metrics_port is None:  # the gateway, whose metrics have no port of their own
        return _http(host, port, "/healthz")
    if metrics_port == port:  # a worker or the clock, which have no other
        return _http(host, port, "/metrics")
    return _http(host, metrics_port, "/healthz")


def _http(host: str, port: int, path: str) -> str:
    url = f"http://{host}:{port}{path}"
    connection = HTTPConnection(host, port, timeout=SECONDS)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        raise Unwell(f"{url} does not answer: {type(error).__name__}") from None
    finally:
        connection.close()
    if status != 200:
        raise Unwell(f"{url} answers {status}")
    return f"{url} answers 200"


def main() -> int:
    """Returns the exit code."""
    port_file = os.environ.get("LYRA_PORT_FILE")
    if not port_file:
        print("LYRA_PORT_FILE is not set: name the file that the process writes its ports to", file=sys.stderr)
        return 1
    try:
        print(check(Path(port_file)))
    except Unwell as reason:
        print(reason)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
