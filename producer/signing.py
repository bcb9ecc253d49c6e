"""Manifests in the account: signed by the key owner, so that nobody else can change one unnoticed.

The blob is JSON, in exactly these bytes:

    {"signature":"<64 hex digits>","manifest":<the manifest>}

The signature is HMAC-SHA256, under a key derived from the run's secret key (`KeyFile.derive`), of
the manifest's bytes as they stand there. They are checked before anything of them is parsed.
"""

from __future__ import annotations

import hmac
import re

from shared import blobnames
from shared.errors import BlobNotFound, RunError
from shared.messages import Manifest
from shared.ports import BlobStore

MAX_MANIFEST_BYTES = 1 << 30

_SIGNED = re.compile(rb'\{"signature":"([0-9a-f]{64})","manifest":(.*)\}', re.DOTALL)


class ManifestSigner:
    """Writes a key's manifests, and reads only those it has written."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __repr__(self) -> str:
        return "ManifestSigner(key=<redacted>)"

    async def write(self, store: BlobStore, manifest: Manifest) -> None:
        """Sign a manifest and put it where its run's is."""
        await store.replace(
            blobnames.manifest(manifest.run), self.seal(manifest), content_type="application/json"
        )

    async def read(self, store: BlobStore, run: str) -> Manifest:
        """A run's manifest. Raises `RunError` for an unknown run, and unless the signature is
        ours."""
        return self.open(await _fetch(store, run), run=run)

    def seal(self, manifest: Manifest) -> bytes:
        """The signed form of a manifest."""
        body = manifest.encode()
        return b'{"signature":"%s","manifest":%s}' % (self._sign(body).hex().encode(), body)

    def open(self, blob: bytes, *, run: str) -> Manifest:
        """The manifest in a signed blob. Raises `RunError`."""
        signed = _SIGNED.fullmatch(blob)
        if signed is None or not hmac.compare_digest(
            bytes.fromhex(signed[1].decode()), self._sign(signed[2])
        ):
            raise RunError(
                f"the manifest of run {run} is {'not signed' if signed is None else 'altered'}: "
                "it is not what this key's owner wrote",
                remedy="find out who can write to the account; on the machine that produced it, "
                f"blindscore produce --resume {run} writes it anew",
            )
        return Manifest.decode(signed[2], run=run)

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")


async def read_unverified(store: BlobStore, run: str) -> Manifest:
    """What the account says is the run's manifest: to find out its key, or to show.

    Raises `RunError` for an unknown run, and for what is no manifest at all.
    """
    blob = await _fetch(store, run)
    signed = _SIGNED.fullmatch(blob)
    return Manifest.decode(signed[2] if signed else blob, run=run)


async def complete_manifest(store: BlobStore, run: str, signer: ManifestSigner) -> Manifest | None:
    """A run's manifest if it is signed and complete. None else: then there is work left."""
    try:
        manifest = await signer.read(store, run)
    except RunError:
        return None
    return manifest if manifest.complete else None


async def _fetch(store: BlobStore, run: str) -> bytes:
    try:
        return await store.read(blobnames.manifest(run), limit=MAX_MANIFEST_BYTES)
    except BlobNotFound as error:
        raise RunError(
            f"unknown run {run}: the account has no manifest of it",
            remedy="blindscore status lists the runs",
        ) from error
