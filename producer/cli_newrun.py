"""What a new run is to be like: its scheme, its key, its blocks.

As its owner wishes; where nothing is wished, what suits the data and what the endpoint offers.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from producer import coding, options
from producer.canaries import data_rows
from producer.choose import choose, offered_schemes
from producer.datasets import Dataset
from producer.keylife import require_published
from producer.keys import KeyFile, KeyRing
from producer.offer import Offer, fetch_offer
from producer.runs import RunRecord
from producer.schemes import client_scheme
from shared import blobnames, cli, packed
from shared.errors import UsageError
from shared.messages import utc_now
from shared.settings import StorageSettings
from shared.storage import open_store

stderr = Console(stderr=True, markup=False, emoji=False)

TYPICAL_CLASSES = 10
"""Taken where no endpoint was asked."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What its owner says of a run; empty, 0 or "auto" leaves it to us."""

    scheme: str = options.AUTO
    preset: str = ""
    key: str = ""
    endpoint: str = ""
    rows_per_job: int = 0
    input_bound: float = 0.0
    canaries: int = 0


def decide(
    source: Dataset, wishes: Wishes, ring: KeyRing, settings: StorageSettings
) -> tuple[RunRecord, KeyFile]:
    """The record of a new run of these rows, and its key.

    Raises `UsageError`, `SecretKeyError`, `EndpointError`, `StorageError`, and `DatasetError`: the
    bound of rows that have none of their own is looked for in all of them, once there is a key for
    them that scorers can find.
    """
    offer = cli.run(_offer(wishes.endpoint, source)) if wishes.endpoint else None
    key_file = (
        ring.load(ring.files.resolve(wishes.key), to_encrypt=True)
        if wishes.key
        else ring.newest(_scheme(wishes, source, offer))
    )
    scheme = key_file.scheme
    rows_per_job = wishes.rows_per_job
    default = client_scheme(scheme).rows_per_job(key_file.preset)
    cli.run(require_key(key_file.key_id, settings))
    if offer is not None:
        offer.require_scheme(scheme)
        offer.require_input_bound(scheme, wishes.input_bound or source.input_bound)
        rows_per_job = offer.rows_per_job(scheme, rows_per_job, default=default)
    rows_per_job = data_rows(rows_per_job or default, wishes.canaries)
    record = RunRecord(
        run=blobnames.new_run_id(),
        scheme=scheme,
        key_id=key_file.key_id,
        container=settings.container,
        queue=settings.queue,
        dataset=source.spec,
        features=source.features,
        input_bound=wishes.input_bound or source.input_bound,
        preset=_preset(wishes.preset, key_file, offer, source, rows_per_job),
        rows_per_job=rows_per_job,
        canaries=wishes.canaries,
        created_at=utc_now(),
        offer=offer,
    )
    return record, key_file


async def require_key(key_id: str, settings: StorageSettings) -> None:
    """Raises `KeyUnknown` when scorers would not find it."""
    async with open_store(settings) as store:
        await require_published(store, key_id)


async def _offer(endpoint: str, source: Dataset) -> Offer:
    offer = await fetch_offer(endpoint, token=options.endpoint_token())
    offer.require_features(source.features)
    return offer


def _scheme(wishes: Wishes, source: Dataset, offer: Offer | None) -> str:
    if wishes.scheme != options.AUTO:
        return wishes.scheme
    if wishes.preset:
        return packed.SCHEME
    choice = choose(
        rows=source.rows,
        features=source.features,
        classes=offer.classes if offer else TYPICAL_CLASSES,
        offered=offered_schemes(offer),
    )
    _say(f"scheme {choice.scheme}: {choice.reason}")
    return choice.scheme


def _preset(
    wanted: str, key_file: KeyFile, offer: Offer | None, source: Dataset, rows_per_job: int
) -> str:
    """How the values of a run are coded. Raises `UsageError`."""
    if key_file.scheme != packed.SCHEME:
        if wanted:
            raise UsageError(
                f"--preset is for runs in packed, the key is for {key_file.scheme}",
                remedy="its preset was chosen with keygen",
            )
        return ""
    rows = rows_per_job if source.rows is None else min(rows_per_job, source.rows)
    chosen = coding.choose_coding(key_file.preset, offer, wanted=wanted, rows=rows)
    if chosen.reason:
        _say(f"preset {chosen.preset}: {chosen.reason}")
    return chosen.preset


def _say(what: str) -> None:
    stderr.print(what, soft_wrap=True, highlight=False)
