"""How pytest-xdist distributes tests: those that share a session stack go to one worker, the others go by file."""

import pytest
from xdist.scheduler import LoadGroupScheduling

# Fixtures of stacks that start once per session. Their tests run first, in this order: longest group first, so that all
# workers finish at about the same time.
SESSION_STACKS = ("jobs", "nano_stack", "tiny_stack")
_FOLDERS = ("e2e", "integration")  # run before the others, since their files take longest


def session_stack(item: pytest.Item) -> str | None:
    """The fixture of the session stack that a test needs, or None."""
    names = getattr(item, "fixturenames", ())
    return next((stack for stack in SESSION_STACKS if stack in names), None)


def position(item: pytest.Item) -> tuple[int, int]:
    """Sort key of a test: tests of the same stack run one after the other."""
    stack = session_stack(item)
    folder = next((folder for folder in _FOLDERS if folder in item.path.parts), None)
    return (
        len(SESSION_STACKS) if stack is None else SESSION_STACKS.index(stack),
        len(_FOLDERS) if folder is None else _FOLDERS.index(folder),
    )


def stop_session_stack(item: pytest.Item, stack: str) -> None:
    """Finishes the fixture of a stack now instead of at the end of the session; another test would start it again."""
    assert isinstance(item, pytest.Function)
    request = item._request
    for definition in request._arg2fixturedefs[stack]:
        definition.finish(request)  # type: ignore[arg-type]


class StackScheduling(LoadGroupScheduling):  # type: ignore[misc]
    """`--dist loadgroup`, except that tests without a group are distributed by file."""

    def _split_scope(self, nodeid: str) -> str:
        group: str = super()._split_scope(nodeid)
        return group if group != nodeid else nodeid.split("::", 1)[0]
