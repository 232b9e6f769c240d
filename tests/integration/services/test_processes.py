"""Services as processes: signals, exit codes, and a complete stack."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
import torch

from lyra.v1 import language_model_pb2, language_model_pb2_grpc
from lyra.v1.language_model_pb2 import CountTokensRequest, GenerateHeader, GenerateRequest, MessageStart
from services.operations.local.process import LocalProcess, ProcessSpec, StackError, grpc_is_serving
from services.operations.local.stack import CLOCK, GATEWAY, SERVICES, STORES, WORKERS, Stack, StackRunning
from services.shared.rpc.channels import open_channel
from services.shared.service_errors import Unavailable, from_rpc_error
from tests.callers import shows
from tests.conftest import StartStack

StartProcess = Callable[..., LocalProcess]


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator[StartProcess]:
    """Starts a service of preset tiny as a separate process."""
    started: list[LocalProcess] = []

    def start(name: str, *arguments: str) -> LocalProcess:
        common = ["--preset", "tiny", "--home", str(tmp_path), "--threads", "1", "--metrics-port", "0", *arguments]
        spec = ProcessSpec(name, f"services.{name}", common, grpc_is_serving)
        process = LocalProcess(spec, host="127.0.0.1", port=0, run_dir=tmp_path, log_dir=tmp_path)
        started.append(process)
        process.start()
        return process

    yield start
    for process in started:
        process.stop(5)


async def prompt(max_tokens: int = 0) -> AsyncIterator[GenerateRequest]:
    yield GenerateRequest(header=GenerateHeader(max_tokens=max_tokens))
    yield GenerateRequest(message_start=MessageStart(role=language_model_pb2.ROLE_USER))
    yield GenerateRequest(text="Hello")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_terminated_process_finishes_its_answer_and_exits_with_zero(
    start_process: StartProcess, number: signal.Signals
) -> None:
    process = start_process("language_model", "--grace-seconds", "60")
    process.wait_ready(180)
    async with open_channel(process.address) as channel:
        stub = language_model_pb2_grpc.LanguageModelStub(channel)
        answer = aiter(stub.Generate(prompt()))
        await anext(answer)
        process.signal(number)
        events = [event async for event in answer]
        assert events[-1].HasField("finish")
    assert await asyncio.to_thread(process.wait, 120)
    assert process.exit_code == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_ends_the_process_with_a_hint(start_process: StartProcess) -> None:
    process = start_process("language_model", "--device", "cuda")
    with pytest.raises(StackError, match=r"cuda is not available, this .*: name another device, or auto"):
        process.wait_ready(180)
    assert process.exit_code == 1


def test_missing_weights_end_the_process_with_a_hint(start_process: StartProcess) -> None:
    process = start_process("language_model", "--preset", "nano")
    with pytest.raises(StackError, match="lyra weights pull nano"):
        process.wait_ready(180)
    assert process.exit_code == 1


def test_a_missing_adapter_ends_the_process_with_its_name(start_process: StartProcess) -> None:
    process = start_process("language_model", "--adapters", "nowhere")
    with pytest.raises(StackError, match="LYRA_ADAPTERS: 'nowhere' is not in"):
        process.wait_ready(180)
    assert process.exit_code == 1


def test_a_port_in_use_ends_the_process_with_its_number(start_process: StartProcess, tmp_path: Path) -> None:
    first = start_process("vision_encoder")
    first.wait_ready(180)
    other_dir = tmp_path / "other"
    other_dir.mkdir()
    second = LocalProcess(first.spec, host=first.host, port=first.port, run_dir=other_dir, log_dir=other_dir)
    second.start()
    with pytest.raises(StackError, match=f"cannot listen.*{first.port}"):
        second.wait_ready(180)
    assert second.exit_code == 1


def test_the_synthesizer_runs_without_torch() -> None:
    check = (
        "import sys; from services.speech_synthesizer.servicer import DEFINITION; "
        "from model_core.presets import build_voice; build_voice('tiny'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize("part", ["language_model", "speech_encoder", "voice"])
def test_published_presets_without_vision_run_without_transformers(part: str) -> None:
    check = (
        f"import sys; from model_core import presets; presets.build_{part}('tiny-qwen2-vl'); "
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_a_stack_serves_requests_and_records_its_address(tiny_stack: Stack) -> None:
    state = json.loads(tiny_stack.stack_file.read_text())
    assert (state["url"], state["key"], state["pid"]) == (tiny_stack.url, tiny_stack.key, os.getpid())
    assert set(state["services"]) == set(SERVICES)
    assert stat.S_IMODE(tiny_stack.stack_file.stat().st_mode) == 0o600
    tokens = [Path(state[f"{name}_token_file"]) for name in ("service", "operator")]
    assert [stat.S_IMODE(path.stat().st_mode) for path in tokens] == [0o600, 0o600]
    assert tokens[0].read_text() != tokens[1].read_text()
    headers = {"authorization": f"Bearer {tiny_stack.key}"}
    answer = httpx.get(f"{tiny_stack.url}/v1/models", headers=headers, trust_env=False)
    assert answer.status_code == 200
    assert httpx.get(f"{tiny_stack.url}/v1/models", trust_env=False).status_code == 401
    assert tiny_stack.exited() == []


def test_second_stack_in_the_same_home_is_refused(tiny_stack: Stack) -> None:
    with pytest.raises(StackRunning, match=tiny_stack.url), Stack(preset="tiny", home=tiny_stack.home):
        pass
    assert tiny_stack.stack_file.exists()


async def test_a_killed_service_is_detected_and_restarts_on_its_port(start_stack: StartStack) -> None:
    stack = start_stack()
    address = stack.processes["language_model"].address
    async with open_channel(address, shows(stack.service_token_file)) as channel:
        stub = language_model_pb2_grpc.LanguageModelStub(channel)
        assert (await stub.CountTokens(CountTokensRequest(text="a"))).tokens == 1
        stack.kill("language_model")
        assert stack.exited() == ["language_model"]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.CountTokens(CountTokensRequest(text="a"))
        assert isinstance(from_rpc_error("language_model", refused.value), Unavailable)
        await asyncio.to_thread(stack.restart, "language_model")
        assert stack.processes["language_model"].address == address
        request = CountTokensRequest(text="a")
        assert (await stub.CountTokens(request, wait_for_ready=True, timeout=60)).tokens == 1
    pids = [process.pid for process in stack.processes.values()]
    stack.stop()
    assert not any(psutil.pid_exists(pid) for pid in pids if pid)
    assert not stack.stack_file.exists()


def _serve(home: Path, tmp_path: Path) -> "tuple[subprocess.Popen[bytes], Path]":
    command = [sys.executable, "-m", "services.operations.local", "--preset", "tiny", "--port", "0", "--threads", "1"]
    with (tmp_path / "serve.log").open("wb") as log:
        process = subprocess.Popen([*command, "--home", str(home)], stdout=log, stderr=log)
    stack_file = home / "run" / "stack.json"
    while not stack_file.exists():
        assert process.poll() is None, (tmp_path / "serve.log").read_text()
        time.sleep(0.05)
    return process, stack_file


def test_lyra_serve_restarts_dead_processes_and_leaves_no_orphans_when_killed(tmp_path: Path) -> None:
    process, stack_file = _serve(tmp_path / "home", tmp_path)
    try:
        state = json.loads(stack_file.read_text())
        host, port = state["services"]["vision_encoder"]["address"].split(":")
        children = psutil.Process(process.pid).children()
        victim = next(child for child in children if "services.vision_encoder" in child.cmdline())
        assert len(children) == len((*SERVICES, *STORES, *WORKERS, CLOCK, GATEWAY))
        victim.kill()
        victim.wait(10)
        while not grpc_is_serving(host, int(port)):
            assert process.poll() is None
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.wait()
    assert not psutil.wait_procs(children, timeout=60)[1]
