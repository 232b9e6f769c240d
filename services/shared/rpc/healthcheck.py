"""`python -m services.shared.rpc.healthcheck`: checks the process of this container; the HEALTHCHECK of the images.

The process writes its ports to the file in LYRA_PORT_FILE, so one check works for every process on any port. It
requests /healthz from the gateway; /healthz on the metrics port from model services, which reports the gRPC health
status and needs no client certificate; /metrics from workers and the clock. Exit code 0 if healthy; otherwise 1, with
the reason on one line. Kubernetes does not use it: it probes the services directly.
"""

import json
import os
import sys
from http.client import HTTPConnection, HTTPException
from pathlib import Path

TIMEOUT_SECONDS = 5.0


class Unhealthy(Exception):
    """The process is not healthy; the message says why."""


def check(port_file: Path, host: str = "127.0.0.1") -> str:
    """Returns the response of a healthy process, for output.

    Args:
        port_file: File to which the process writes its ports once they are open.
        host: Address of the process.

    Raises:
        Unhealthy: The file does not exist, there is no response within TIMEOUT_SECONDS, or its status is not 200.
    """
    try:
        ports = json.loads(port_file.read_text())
        port = int(ports["port"])
        metrics_port = None if ports["metrics_port"] is None else int(ports["metrics_port"])
    except FileNotFoundError:
        raise Unhealthy(
            f"{port_file} does not exist: the process has not opened its ports, or runs without LYRA_PORT_FILE"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unhealthy(f"{port_file} cannot be read: {type(error).__name__}") from None
    if metrics_port is None:  # the gateway serves its metrics on its API port
        return _http(host, port, "/healthz")
    if metrics_port == port:  # workers and the clock have no other port
        return _http(host, port, "/metrics")
    return _http(host, metrics_port, "/healthz")


def _http(host: str, port: int, path: str) -> str:
    url = f"http://{host}:{port}{path}"
    connection = HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        raise Unhealthy(f"{url} does not respond: {type(error).__name__}") from None
    finally:
        connection.close()
    if status != 200:
        raise Unhealthy(f"{url} returned {status}")
    return f"{url} returned 200"


def main() -> int:
    """Returns the exit code."""
    port_file = os.environ.get("LYRA_PORT_FILE")
    if not port_file:
        print("LYRA_PORT_FILE is not set: it names the file to which the process writes its ports", file=sys.stderr)
        return 1
    try:
        print(check(Path(port_file)))
    except Unhealthy as reason:
        print(reason)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
