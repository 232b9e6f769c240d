"""The `lyra` command."""

import os

# Threads that wait for work sleep: spinning ones stall each other where other work shares the cores. Read with torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# ONNX Runtime tells its makers about every process that loads it, unless told not to; read when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
