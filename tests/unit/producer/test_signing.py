"""A manifest is its key owner's, byte for byte, or it is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from producer.keys import CANARIES, ROWS, SIGNING
from producer.signing import ManifestSigner, complete_manifest, read_unverified
from shared import blobnames
from shared.errors import RunError
from shared.messages import JobEntry, Manifest
from tests.fakes import FakeStore
from tests.unit.producer.pipeline import KEY, new_key

SIGNER = ManifestSigner(KEY.derive(SIGNING))


def manifest(*, complete: bool = True) -> Manifest:
    entries = [
        JobEntry(job=blobnames.job_id(i), first_row=4 * i, rows=4, sha256=f"{i:064x}")
        for i in range(3)
    ]
    return Manifest(
        run="run-1",
        scheme="direct",
        key_id=KEY.key_id,
        features=6,
        rows=12,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        complete=complete,
        canaries=2,
        jobs=tuple(entries),
    )


def test_what_was_signed_is_read_back() -> None:
    assert SIGNER.open(SIGNER.seal(manifest()), run="run-1") == manifest()


def test_the_blob_is_json_with_the_signature_beside_the_manifest() -> None:
    fields = json.loads(SIGNER.seal(manifest()))
    assert set(fields) == {"signature", "manifest"}
    assert Manifest.model_validate(fields["manifest"]) == manifest()


def test_a_change_of_any_single_byte_is_refused() -> None:
    blob = SIGNER.seal(manifest())
    for index in range(len(blob)):
        changed = bytearray(blob)
        changed[index] ^= 1
        with pytest.raises(RunError, match=r"run run-1 is (altered|not signed)") as told:
            SIGNER.open(bytes(changed), run="run-1")
        assert "produce --resume run-1" in told.value.remedy


@pytest.mark.parametrize("end", [0, 1, 100, -1])
def test_a_torn_manifest_is_refused(end: int) -> None:
    with pytest.raises(RunError, match=r"run-1 is (altered|not signed)"):
        SIGNER.open(SIGNER.seal(manifest())[:end], run="run-1")


def test_an_unsigned_manifest_is_refused_and_still_shown() -> None:
    with pytest.raises(RunError, match="run-1 is not signed"):
        SIGNER.open(manifest().encode(), run="run-1")


def test_another_keys_signature_is_refused() -> None:
    other = ManifestSigner(new_key().derive(SIGNING))
    with pytest.raises(RunError, match="altered"):
        SIGNER.open(other.seal(manifest()), run="run-1")


def test_another_runs_manifest_is_refused() -> None:
    with pytest.raises(RunError, match="says it is run run-1"):
        SIGNER.open(SIGNER.seal(manifest()), run="run-2")


async def test_in_the_account() -> None:
    store = FakeStore()
    with pytest.raises(RunError, match="unknown run run-1"):
        await SIGNER.read(store, "run-1")
    assert await complete_manifest(store, "run-1", SIGNER) is None
    await SIGNER.write(store, manifest(complete=False))
    assert await SIGNER.read(store, "run-1") == manifest(complete=False)
    assert await complete_manifest(store, "run-1", SIGNER) is None
    await SIGNER.write(store, manifest())
    assert await complete_manifest(store, "run-1", SIGNER) == manifest()
    assert await read_unverified(store, "run-1") == manifest()
    await store.replace(blobnames.manifest("run-1"), manifest().encode(), content_type="x")
    assert await read_unverified(store, "run-1") == manifest()
    assert await complete_manifest(store, "run-1", SIGNER) is None


def test_each_purpose_has_a_key_of_its_own_and_none_is_the_secret() -> None:
    derived = [KEY.derive(purpose) for purpose in (SIGNING, CANARIES, ROWS)]
    assert len({*derived}) == 3
    assert all(len(key) == 32 and key not in KEY.secret_bytes() for key in derived)
    assert KEY.derive(SIGNING) == derived[0]
    assert new_key().derive(SIGNING) != derived[0]
    assert "redacted" in repr(SIGNER)
