"""One stack that works on jobs, for all tests that leave it as it was: what they harm, they start again."""

from collections.abc import Iterator

import pytest

from tests.job_stack import JobStack, job_stack

# Callbacks to this machine are allowed, and tried again at once.
_CALLBACKS = (
    *("--outbound-allow-http", "--outbound-allowed-networks", "127.0.0.0/8"),
    *("--webhook-delays", ",".join(["0.2"] * 10)),
)


@pytest.fixture(scope="session")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobStack]:
    with job_stack(tmp_path_factory.mktemp("jobs"), gateway=_CALLBACKS, workers=_CALLBACKS) as stack:
        yield stack
