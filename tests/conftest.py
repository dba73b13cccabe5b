"""What tests start in processes of their own, and have ended for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.endtoend import SECRET, Shared
from tests.support import Group


@pytest.fixture
def group() -> Iterator[Group]:
    """What one test starts."""
    with Group() as started:
        yield started


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    """For tests that leave it as it was; no payload of theirs may be in any log in the end."""
    with Group() as group:
        proxy = group.proxy()
        for server_id, policy in ("100", "111"), ("101", "111"), ("200", "222"):
            group.pool_server(proxy.port, server_id, policy)
        yield Shared(group, proxy)
    for process in group.processes:
        assert SECRET not in process.log
