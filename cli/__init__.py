"""The `lyra` command."""

import os

# Idle threads sleep instead of spinning, which would slow down other work. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Disables ONNX Runtime's telemetry. Read when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
