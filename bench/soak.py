"""Soak test with clients that disconnect midway: it must leave no running work, and memory must not grow.

python -m bench.soak --requests 300
"""

import random
import sys
import time
from dataclasses import asdict
from itertools import islice
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from bench.first_audio import CASES
from bench.machine import describe, stack_memory
from bench.report import command_line, write
from cli.client import GatewayClient
from cli.connection import Connection
from cli.serve import running_stack
from services.operations.local.stack import GATEWAY, Stack

WARM_UP = 30
GROWTH_MIB = 64  # tolerance for allocators; a leak of 1 MiB per request would be several times this
SETTLE_SECONDS = 20.0
RUNNING = ("lyra_requests_running", "lyra_requests_waiting", "lyra_model_running")


def running_work(stack: Stack) -> float:
    """Calls in progress, waiting or being processed in all processes, without requests for metrics."""
    total = 0.0
    for name, process in stack.processes.items():
        port = process.port if name == GATEWAY else process.metrics_port
        text = httpx.get(f"http://{process.host}:{port}/metrics", trust_env=False).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in RUNNING and not sample.labels.get("method", "").endswith("/metrics"):
                    total += sample.value
    return total


def hang_up(connection: Connection, case: int, pieces: int) -> None:
    """Asks a question, reads some pieces of the answer, and closes the connection."""
    spoken: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"format": "pcm16"}}
    with GatewayClient(connection) as client:
        stream = client.chat(CASES[case % len(CASES)].parts, max_tokens=200, **spoken)
        for _ in islice(stream, pieces):
            pass
        stream.close()


def wait_until_idle(stack: Stack) -> float:
    """Seconds until no work is left running, at most SETTLE_SECONDS."""
    began = time.monotonic()
    while running_work(stack) and time.monotonic() - began < SETTLE_SECONDS:
        time.sleep(0.1)
    return time.monotonic() - began


def main() -> None:
    parser = command_line("soak", __doc__)
    parser.add_argument("--requests", type=int, default=300, help="number of requests (default 300)")
    parser.add_argument("--preset", default="nano", help="weights to run (default nano)")
    options = parser.parse_args()
    draw = random.Random(0)
    with running_stack(options.preset, "127.0.0.1", 0, whole=False) as stack:
        connection = Connection(stack.url, stack.key)
        curve = []
        for number in range(WARM_UP + options.requests):
            if number >= WARM_UP and (number - WARM_UP) % 25 == 0:
                wait_until_idle(stack)
                curve.append({"requests": number - WARM_UP, **asdict(stack_memory(stack))})
                print(curve[-1], file=sys.stderr)
            hang_up(connection, number, draw.randrange(4))
        settled = wait_until_idle(stack)
        curve.append({"requests": options.requests, **asdict(stack_memory(stack))})
        left = running_work(stack)
    growth = round(curve[-1]["pss_mib"] - curve[0]["pss_mib"], 1)
    report = {
        "preset": options.preset,
        "machine": describe(),
        "requests": options.requests,
        "memory": curve,
        "growth_pss_mib": growth,
        "work_left": left,
        "seconds_until_idle": round(settled, 2),
    }
    write(report, options.out)
    print(f"{options.requests} clients disconnected: memory grew by {growth} MiB, {left:g} calls are still running")
    if left or growth > GROWTH_MIB:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
