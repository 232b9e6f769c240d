"""One stack with job workers for all tests that leave it unchanged: they restart what they stop."""

from collections.abc import Iterator

import pytest

from tests.job_stack import JobStack, job_stack

# Callbacks to this machine are allowed, and retried at once.
_CALLBACKS = (
    *("--outbound-allow-http", "--outbound-allowed-networks", "127.0.0.0/8"),
    *("--webhook-delays", ",".join(["0.2"] * 10)),
)


@pytest.fixture(scope="session")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobStack]:
    with job_stack(tmp_path_factory.mktemp("jobs"), gateway=_CALLBACKS, workers=_CALLBACKS) as stack:
        yield stack
