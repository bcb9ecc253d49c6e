"""Azurite for tests that want real storage: one server a test process, own names for each test."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog
from pydantic import SecretStr

from deploy.local.azurite import Azurite
from shared.settings import StorageSettings
from shared.storage import Storage, ensure_storage, open_storage


@pytest.fixture(autouse=True)
def fresh_logging() -> None:
    """No test sees the log level that another one chose."""
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    """A server on free ports, in memory; installed from the lock file the first time."""
    with Azurite() as server:
        yield server


@pytest.fixture
def storage_settings(azurite: Azurite) -> StorageSettings:
    """A container and a queue that no other test uses and that don't exist yet."""
    own = secrets.token_hex(6)
    return StorageSettings(
        connection_string=SecretStr(azurite.connection_string),
        container=f"test-{own}",
        queue=f"jobs-{own}",
    )


@pytest.fixture
async def storage(storage_settings: StorageSettings) -> AsyncIterator[Storage]:
    """The container and the queues of `storage_settings`, created and open."""
    await ensure_storage(storage_settings)
    async with open_storage(storage_settings) as opened:
        yield opened
