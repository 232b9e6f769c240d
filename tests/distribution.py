"""How pytest-xdist spreads tests over workers: those of a session's stack go to one worker, others go by file."""

import pytest
from xdist.scheduler import LoadGroupScheduling

# Stacks that are started once a session, by fixture. Their tests run first, in this order: the longest group first, so
# that all workers end at about the same time.
SESSION_STACKS = ("jobs", "nano_stack", "tiny_stack")
_FOLDERS = ("e2e", "integration")  # run before the others, because their files take longest


def session_stack(item: pytest.Item) -> str | None:
    """The fixture of the session's stack that a test needs, if it needs one."""
    names = getattr(item, "fixturenames", ())
    return next((stack for stack in SESSION_STACKS if stack in names), None)


def position(item: pytest.Item) -> tuple[int, int]:
    """Sorts tests by when they run; tests of a stack become neighbours."""
    stack = session_stack(item)
    folder = next((folder for folder in _FOLDERS if folder in item.path.parts), None)
    return (
        len(SESSION_STACKS) if stack is None else SESSION_STACKS.index(stack),
        len(_FOLDERS) if folder is None else _FOLDERS.index(folder),
    )


def stop_session_stack(item: pytest.Item, stack: str) -> None:
    """Ends the fixture of a stack now instead of at the end of the session; another test would start it again."""
    assert isinstance(item, pytest.Function)
    request = item._request
    for definition in request._arg2fixturedefs[stack]:
        definition.finish(request)  # type: ignore[arg-type]


class StackScheduling(LoadGroupScheduling):  # type: ignore[misc]
    """`--dist loadgroup`, except that a file whose tests are in no group stays together too."""

    def _split_scope(self, nodeid: str) -> str:
        group: str = super()._split_scope(nodeid)
        return group if group != nodeid else nodeid.split("::", 1)[0]
