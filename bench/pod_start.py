"""Start-up time of each model service, from process start to readiness: that of a new pod without its image pull.

python -m bench.pod_start --repeats 3
"""

import statistics
import tempfile
import time
from pathlib import Path

from bench.machine import describe
from bench.report import command_line, write
from services.operations.local.process import LocalProcess, ProcessSpec, grpc_is_serving
from services.operations.local.stack import SERVICES
from services.shared.settings import default_home

_TIMEOUT_SECONDS = 300.0


def start_seconds(name: str, preset: str, home: Path) -> float:
    """Seconds until a model service is SERVING. Raises StackError if it exits before that."""
    arguments = ["--preset", preset, "--home", str(home), "--metrics-port", "0"]
    spec = ProcessSpec(name, f"services.{name}", arguments, grpc_is_serving)
    with tempfile.TemporaryDirectory() as folder:
        process = LocalProcess(spec, host="127.0.0.1", port=0, run_dir=Path(folder), log_dir=Path(folder))
        began = time.monotonic()
        try:
            process.start()
            process.wait_ready(_TIMEOUT_SECONDS)
            return time.monotonic() - began
        finally:
            process.stop(0.0)


def main() -> None:
    parser = command_line("pod_start", __doc__)
    parser.add_argument("--repeats", type=int, default=3, help="number of starts of each service (default 3)")
    parser.add_argument("--preset", default="nano", help="weights to load (default nano)")
    options = parser.parse_args()
    services = {}
    for name in SERVICES:
        seconds = [round(start_seconds(name, options.preset, default_home()), 2) for _ in range(options.repeats)]
        services[name] = {"median": statistics.median(seconds), "all": seconds}
        print(f"{name}: {services[name]['median']:.1f} s")
    write({"preset": options.preset, "machine": describe(), "seconds": services}, options.out)


if __name__ == "__main__":
    main()
