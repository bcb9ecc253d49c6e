"""A key's life: made, published, replaced, retired; and which runs still need it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from producer import keyseal, keyvault
from producer.keyphrase import Passphrases
from producer.keyrecord import KeyRecord
from producer.keys import KeyRing, Locker, new_record
from producer.runs import RunFolder, RunRecord, known_runs
from producer.schemes import client_scheme
from shared import blobnames, cli
from shared.errors import AccessDenied, BlobNotFound, KeyUnknown
from shared.messages import utc_now
from shared.ports import BlobInfo, BlobStore
from shared.settings import StorageSettings
from shared.storage import open_store

MAX_DAYS = 36_500
"""Of a key's life: a hundred years."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """How a key is to be made."""

    scheme: str
    preset: str = ""
    locker: Locker = keyseal.unlocked
    lifetime: timedelta | None = None


def choose_locker(vault: str, passphrases: Passphrases, *, ask: bool) -> Locker:
    """How a new key's secret is kept: in a vault, under a passphrase that is given or is to be
    asked for, or plain. Raises `UsageError`."""
    if vault:
        return partial(keyvault.lock, vault=vault)
    if ask or passphrases.given() is not None:
        return partial(keyseal.under_passphrase, passphrase=passphrases.new())
    return keyseal.unlocked


def lifetime_of(days: int) -> timedelta | None:
    """None for 0: for ever."""
    return timedelta(days=days) if days else None


def make_key(new: NewKey, ring: KeyRing, settings: StorageSettings) -> tuple[KeyRecord, Path]:
    """Make a key, publish its evaluation keys, and only then write its file.

    Killed before the end it leaves no secret, and at worst a public blob that nobody names: the
    newest key of the folder is always one that scorers can find. Raises `SecretKeyError`,
    `UsageError`, `StorageError`.
    """
    ring.files.require_writable()
    key = client_scheme(new.scheme).generate(new.preset)
    now = utc_now()
    expires_at = (now + new.lifetime).replace(microsecond=0) if new.lifetime else None
    record = new_record(key, locker=new.locker, now=now, expires_at=expires_at)
    cli.run(_publish(record, key.evaluation_keys(), settings))
    return record, ring.files.add(record)


def successor(old: KeyRecord, ring: KeyRing, *, days: int | None = None) -> NewKey:
    """How to make a key like another: its scheme, preset and lock.

    It lives as long, unless `days` tells how long; 0 for ever.
    """
    opened = ring.open(old)
    try:
        preset = opened.preset
    finally:
        opened.wipe()
    locker = opened.locker if old.lock else choose_locker("", ring.passphrases, ask=False)
    return NewKey(old.scheme, preset, locker, _lifetime(old) if days is None else lifetime_of(days))


def _lifetime(record: KeyRecord) -> timedelta | None:
    if record.expires_at is None:
        return None
    lifetime = record.expires_at - record.created_at.replace(microsecond=0)
    return min(lifetime, timedelta(days=MAX_DAYS))


async def _publish(record: KeyRecord, evaluation_keys: bytes, settings: StorageSettings) -> None:
    async with open_store(settings) as store:
        await store.create(
            blobnames.key(record.key_id),
            evaluation_keys,
            content_type="application/octet-stream",
            metadata=blob_metadata(record),
        )


def blob_metadata(record: KeyRecord) -> dict[str, str]:
    """What a key blob says besides its bytes."""
    metadata = {"scheme": record.scheme}
    if record.expires_at is not None:
        expires_at = record.expires_at.astimezone(UTC)
        metadata[blobnames.EXPIRES_AT] = expires_at.isoformat(timespec="seconds")
    return metadata


async def require_published(store: BlobStore, key_id: str) -> None:
    """Raises `KeyUnknown` for a key that no scorer finds; says nothing to who may not look."""
    try:
        await store.stat(blobnames.key(key_id))
    except BlobNotFound as error:
        raise KeyUnknown(
            f"the public half of key {key_id} is not in the account: every job would fail",
            remedy=f"blindscore key rotate {key_id} (or keygen), and produce anew",
        ) from error
    except AccessDenied:
        return


async def published(store: BlobStore) -> dict[str, BlobInfo]:
    """The key blobs in the account, by key id."""
    prefix = blobnames.key("")
    return {blob.name.removeprefix(prefix): blob async for blob in store.list(prefix)}


@dataclass(frozen=True, slots=True)
class Use:
    """A run of this machine under some key."""

    record: RunRecord
    collected_at: datetime | None
    """When all of it was; None: not yet, as far as this machine knows."""


def uses(home: Path) -> Mapping[str, list[Use]]:
    """This machine's runs by key id, oldest first; an empty list for other keys."""
    found: defaultdict[str, list[Use]] = defaultdict(list)
    for record in known_runs(home):
        found[record.key_id].append(Use(record, RunFolder(home, record.run).collected_at()))
    return found


@dataclass(frozen=True, slots=True)
class Waiting:
    """A run that is not collected, as far as this machine knows."""

    run: str
    place: str
    """Where it is, if that is not the container that was asked, or nowhere in it; else empty."""


async def not_collected(store: BlobStore, container: str, home: Path, key_id: str) -> list[Waiting]:
    """Runs under a key whose results may still be wanted. `store` is of `container`.

    Also those that are not there: what is kept of a run doesn't say which account it is in, so
    they may be in another one.
    """
    return [
        Waiting(use.record.run, await _place(store, container, use.record))
        for use in uses(home)[key_id]
        if use.collected_at is None
    ]


async def _place(store: BlobStore, container: str, record: RunRecord) -> str:
    if record.container != container:
        return f"in container {record.container}"
    # by listing, which whoever may delete keys may do, and need not read
    async for _ in store.list(blobnames.manifest(record.run)):
        return ""
    return "not in this account"
