"""The `lyra` command."""

import os

# Threads that wait for work sleep: spinning ones stall each other where other work shares the cores. Read with torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
