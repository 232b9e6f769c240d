"""Stacks of two commits on this machine, each run from a checkout of its own."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.engine.figures import ROOT, clean_environment, git
from cli.connection import Connection
from model_core.presets import lyra_home

BEFORE, AFTER = "before", "after"

# Runs in the checkout, with what is there: a stack without stores until standard input closes.
_PROGRAM = """
import json, pathlib, sys
from services.operations.local.stack import Stack
home, threads = pathlib.Path(sys.argv[1]), int(sys.argv[2])
with Stack(preset="nano", home=home, threads=threads, announce=False, jobs=False) as stack:
    print(json.dumps([stack.url, stack.key]), flush=True)
    sys.stdin.read()
"""


@contextmanager
def running(before: str, threads: int) -> Iterator[dict[str, Connection]]:
    """A stack of this checkout, and one of the commit `before` unless that is empty.

    Both run the packages that are installed here. One that is not asked anything takes no processor time.
    """
    with ExitStack() as cleanup:
        trees = {BEFORE: cleanup.enter_context(_checkout(before))} if before else {}
        trees[AFTER] = ROOT
        yield {name: cleanup.enter_context(_stack(tree, threads)) for name, tree in trees.items()}


@contextmanager
def _checkout(commit: str) -> Iterator[Path]:
    """The files of a commit in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        git("worktree", "add", "--detach", str(tree), commit)
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


@contextmanager
def _stack(tree: Path, threads: int) -> Iterator[Connection]:
    """The stack of a checkout, with empty folders beside this machine's weights."""
    with tempfile.TemporaryDirectory() as home:
        Path(home, "weights").symlink_to(lyra_home() / "weights")
        environment = clean_environment(PYTHONPATH=f"{tree}:{tree / 'protos'}")
        command = [sys.executable, "-c", _PROGRAM, home, str(threads)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=tree, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                line = process.stdout.readline()
                if not line:
                    raise SystemExit(f"the stack of {tree} did not start; its errors are above")
                yield Connection(*json.loads(line))
            finally:
                process.stdin.close()
                process.wait()
