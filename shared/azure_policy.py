"""Stored access policies: what tokens allow is kept in the account, and can be taken back there.

A token that names a policy works for as long as the policy exists. Azure takes up to 30 seconds to
notice a change (https://learn.microsoft.com/rest/api/storageservices/define-stored-access-policy).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from azure.storage.blob import AccessPolicy as BlobPolicy
from azure.storage.blob.aio import BlobServiceClient
from azure.storage.queue import AccessPolicy as QueuePolicy
from azure.storage.queue.aio import QueueServiceClient

from shared import azure_sdk
from shared.azure_sas import CALL_S, Grant, Validity
from shared.errors import QueueNotFound, UsageError
from shared.settings import StorageSettings

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


async def store_policy(
    settings: StorageSettings, name: str, grant: Grant, validity: Validity
) -> None:
    """Write what a grant allows under `name`, over what was there.

    Raises `UsageError` for a bad name, and where there is no room for one more policy.
    """
    _check(name)
    times = {"start": validity.start, "expiry": validity.expiry}
    await _change_container(settings, name, BlobPolicy(permission=grant.blobs, **times))
    for queue, permission in (
        (settings.queue, grant.queue),
        (settings.poison_queue, grant.poison),
    ):
        if permission:
            await _change_queue(settings, queue, name, QueuePolicy(permission, **times))


async def remove_policy(settings: StorageSettings, name: str) -> None:
    """Take `name` back from the container and both queues: its tokens are good for nothing.

    Raises `UsageError` when there was none of that name.
    """
    _check(name)
    found = await _change_container(settings, name, None)
    for queue in (settings.queue, settings.poison_queue):
        try:
            found |= await _change_queue(settings, queue, name, None)
        except QueueNotFound:
            continue
    if not found:
        raise UsageError(f"there is no policy {name} on {settings.container} or its queues")


def _check(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a policy name", remedy="use a-z, 0-9 and -")


async def _change_container(
    settings: StorageSettings, name: str, policy: BlobPolicy | None
) -> bool:
    """Put or remove one policy, leaving the others; tells whether it was there."""
    async with azure_sdk.connect(BlobServiceClient, "blob", settings, read_s=CALL_S) as service:
        client = service.get_container_client(settings.container)
        where = f"container {settings.container}"
        acl = await _attempt(where, lambda _: client.get_container_access_policy())
        stored: dict[str, Any] = {item.id: item.access_policy for item in acl["signed_identifiers"]}
        public = acl["public_access"]
        was_there = _change(stored, name, policy)
        await _write(
            where, lambda _: client.set_container_access_policy(stored, public_access=public)
        )
    return was_there


async def _change_queue(
    settings: StorageSettings, queue: str, name: str, policy: QueuePolicy | None
) -> bool:
    async with azure_sdk.connect(QueueServiceClient, "queue", settings, read_s=CALL_S) as service:
        client = service.get_queue_client(queue)
        where = f"queue {queue}"
        stored: dict[str, Any] = await _attempt(where, lambda _: client.get_queue_access_policy())
        was_there = _change(stored, name, policy)
        await _write(where, lambda _: client.set_queue_access_policy(stored))
    return was_there


def _change(stored: dict[str, Any], name: str, policy: object | None) -> bool:
    was_there = stored.pop(name, None) is not None
    if policy is not None:
        stored[name] = policy
    return was_there


async def _write(where: str, operation: Callable[[bool], Awaitable[Any]]) -> None:
    try:
        await _attempt(where, operation)
    except ValueError as error:
        raise UsageError(
            f"{where} has no room for one more policy", remedy="remove one: blindscore sas --revoke"
        ) from error


async def _attempt(where: str, operation: Callable[[bool], Awaitable[Any]]) -> Any:
    return await azure_sdk.attempt(operation, subject=where, timeout_s=CALL_S)
