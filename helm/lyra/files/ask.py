"""Run by `helm test`: waits until the platform is ready, asks one question, and exits with 0 if it is answered."""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request

URL, KEY = os.environ["LYRA_URL"], os.environ.get("LYRA_API_KEY", "")
DEADLINE = time.monotonic() + 240
# Certificates are not verified: they need not contain the name of the Service inside the cluster.
CONTEXT = ssl._create_unverified_context() if URL.startswith("https:") else None


def get(path, body=None):
    headers = {"Content-Type": "application/json", "Authorization": "Bearer " + KEY}
    request = urllib.request.Request(URL + path, json.dumps(body).encode() if body else None, headers)
    try:
        with urllib.request.urlopen(request, timeout=120, context=CONTEXT) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except OSError as error:
        return 0, str(error)


status, answer = get("/readyz")
while status != 200 and time.monotonic() < DEADLINE:
    time.sleep(3)
    status, answer = get("/readyz")
print("ready:", status, answer)
if status != 200:
    sys.exit("the platform is not ready")
if not KEY:
    print("the Secret with the API keys has no key api-key: skipping the question")
    sys.exit(0)
question = [{"role": "user", "content": "What is the capital of France?"}]
status, answer = get(
    "/v1/chat/completions", {"model": os.environ["LYRA_MODEL"], "messages": question, "max_tokens": 32}
)
print("answer:", status, answer)
sys.exit(0 if status == 200 and answer["choices"][0]["message"]["content"] else "no answer")
