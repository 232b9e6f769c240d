"""What users see when a service dies: immediate clear errors, and answers again once it is back."""

import base64
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import httpx
import psutil
import pytest

from services.operations.local.stack import SERVICES, Stack
from tests.clients import Clients
from tests.paths import EXAMPLES


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Each test restarts what it stopped."""
    with Stack(preset="tiny", home=tmp_path_factory.mktemp("stack"), threads=1, jobs=False) as running:
        yield running


def spoken_question(stack: Stack, max_tokens: int = 4) -> httpx.Response:
    """A spoken question about a picture with a spoken answer, which needs all four services."""
    sound = base64.b64encode((EXAMPLES / "question.wav").read_bytes()).decode()
    picture = base64.b64encode((EXAMPLES / "picture.png").read_bytes()).decode()
    content = [
        {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
    ]
    body = {
        "model": f"lyra-{stack.preset}",
        "messages": [{"role": "user", "content": content}],
        "modalities": ["text", "audio"],
        "audio": {"voice": "", "format": "pcm16"},
        "max_tokens": max_tokens,
    }
    headers = {"Authorization": f"Bearer {stack.key}"}
    return httpx.post(f"{stack.url}/v1/chat/completions", json=body, headers=headers, timeout=60, trust_env=False)


def until(holds: Callable[[], bool]) -> None:
    """Polls until `holds()`, limited by the test's timeout."""
    while not holds():
        time.sleep(0.05)


class Load(Clients):
    """Clients that keep asking, and their results."""

    def __init__(self, stack: Stack, clients: int) -> None:
        super().__init__(*[self._ask] * clients)
        self.statuses: Counter[int] = Counter()
        self.errors: list[str] = []
        self._stack = stack

    def _ask(self) -> None:
        response = spoken_question(self._stack)
        self.statuses[response.status_code] += 1
        if response.status_code != 200:
            self.errors.append(response.text)
            assert response.headers["retry-after"]


@pytest.mark.parametrize("name", SERVICES)
def test_sigkill_of_a_service_under_load_causes_only_clear_errors(stack: Stack, name: str) -> None:
    others = {each: stack.processes[each].pid for each in stack.processes if each != name}
    with Load(stack, clients=3) as load:
        until(lambda: load.statuses[200] > 3)
        stack.kill(name)
        until(lambda: load.statuses[503] > 3)
        stack.restart(name)
        answered = load.statuses[200]
        until(lambda: load.statuses[200] > answered + 3)
    assert load.failures == []
    assert set(load.statuses) <= {200, 503}
    assert all(name.replace("_", " ") in error for error in load.errors)
    assert not any(word in error for error in load.errors for word in ("Traceback", "127.0.0.1", "grpc"))
    assert {each: stack.processes[each].pid for each in others} == others
    assert spoken_question(stack).status_code == 200


def test_sigterm_lets_a_running_answer_finish(stack: Stack) -> None:
    process = psutil.Process(stack.processes["language_model"].pid)
    responses: list[httpx.Response] = []
    client = threading.Thread(target=lambda: responses.append(spoken_question(stack, max_tokens=800)))
    client.start()
    metrics = f"http://127.0.0.1:{stack.processes['language_model'].metrics_port}/metrics"
    until(lambda: 'lyra_model_running{service="language_model"} 1.0' in httpx.get(metrics, trust_env=False).text)
    process.send_signal(signal.SIGTERM)
    client.join()
    assert responses[0].status_code == 200, responses[0].text
    assert responses[0].json()["usage"]["completion_tokens"] > 0
    until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    assert spoken_question(stack).status_code == 503
    stack.restart("language_model")
    # The gateway checks about once a second.
    until(lambda: spoken_question(stack).status_code == 200)
