"""`python -m services.operations.local.child MODULE ...`: runs a module in a process that never outlives the stack.

`python -m services.operations.local.child --program PATH ...` does the same for a program. Files and sockets that the
process creates are accessible to its owner only.
"""

import os
import runpy
import sys

from services.shared.parents import exit_with_parent


def main() -> None:
    """Ties this process to its parent, then runs the module or executes the program."""
    exit_with_parent(int(os.environ["LYRA_STACK_PID"]))
    os.umask(0o077)
    if sys.argv[1] == "--program":
        os.execv(sys.argv[2], sys.argv[2:])
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
