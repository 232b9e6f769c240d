"""A language model as a judge of answers, on any OpenAI-compatible server."""

import time

import httpx

from cli.failure import CommandFailed
from model_core.evaluation.mm_vet import Judge

_TIMEOUT_SECONDS = 120.0
_ATTEMPTS, _BUSY_SECONDS = 5, 5.0
_MAX_TOKENS = 3  # a score such as 0.4, as in the paper


def judge_at(url: str, model: str, key: str) -> Judge:
    """A judge that completes one message per call.

    Args:
        url: Base address of the API, for example `https://api.openai.com/v1`.
        model: Name of the model.
        key: May be empty.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    client = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=_TIMEOUT_SECONDS)

    def judge(prompt: str, temperature: float) -> str:
        messages = [{"role": "user", "content": prompt}]
        body = {"model": model, "messages": messages, "max_tokens": _MAX_TOKENS, "temperature": min(temperature, 2.0)}
        for attempt in range(_ATTEMPTS):
            try:
                response = client.post("/chat/completions", json=body)
            except httpx.HTTPError as error:
                raise CommandFailed(f"the judge at {url} cannot be reached ({error})", "see --judge") from error
            if response.status_code not in (429, 503) or attempt == _ATTEMPTS - 1:
                break
            time.sleep(float(response.headers.get("Retry-After") or _BUSY_SECONDS))
        try:
            return str(response.raise_for_status().json()["choices"][0]["message"]["content"] or "")
        except (httpx.HTTPStatusError, ValueError, KeyError, IndexError, TypeError) as error:
            reason = f"HTTP {response.status_code}: {response.text[:200]}"
            raise CommandFailed(
                f"the judge at {url} gave no answer ({reason})", "see --judge, --judge-model"
            ) from error

    return judge
