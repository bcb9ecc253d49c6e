"""Keys as people and programs read them: what is public of them, never the secret."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from producer.keylife import Use
from producer.keyrecord import KeyRecord
from shared.ports import BlobInfo

SHORT_ID = 8
"""Characters of an id that a table shows: enough to name the key by."""


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What is known of one key."""

    key_id: str
    record: KeyRecord | None
    """None: its file can't be used."""
    problem: str
    """Why it can't; else empty."""
    uses: Sequence[Use]
    expired: bool
    asked: bool
    """Whether the account was asked."""
    blob: BlobInfo | None
    """Its key blob there."""


def summary(facts: KeyFacts) -> dict[str, Any]:
    """What the table says, for programs.

    `published` is null where the account was not asked; what only the file could tell, where it
    can't be used.
    """
    record = facts.record
    return {
        "key_id": facts.key_id,
        "problem": facts.problem or None,
        "scheme": record.scheme if record else None,
        "preset": record.preset if record else None,
        "created_at": _iso(record.created_at) if record else None,
        "expires_at": _iso(record.expires_at) if record else None,
        "expired": facts.expired,
        "protection": record.protection if record else None,
        "published": facts.blob is not None if facts.asked else None,
        "runs": len(facts.uses),
        "runs_not_collected": sum(use.collected_at is None for use in facts.uses),
    }


def whole(facts: KeyFacts, path: Path) -> dict[str, Any]:
    """Everything but the secret."""
    lock, blob = facts.record.lock if facts.record else None, facts.blob
    return summary(facts) | {
        "file": str(path),
        "lock": lock.model_dump(mode="json", exclude={"nonce", "salt"}) if lock else None,
        "published_at": _iso(blob.modified_at) if blob else None,
        "published_bytes": blob.size if blob else None,
        "runs": [
            {
                "run": use.record.run,
                "created_at": _iso(use.record.created_at),
                "collected_at": _iso(use.collected_at),
            }
            for use in facts.uses
        ],
    }


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2)


def as_table(found: Sequence[KeyFacts]) -> Table:
    """A row for each key; days in UTC."""
    table = Table()
    for heading in ("key", "scheme", "created", "expires", "lock", "public", "runs"):
        table.add_column(heading, no_wrap=heading not in {"scheme", "runs"})  # 80 columns suffice
    for facts in found:
        record, said = facts.record, summary(facts)
        waiting = said["runs_not_collected"]
        about = ("", "", "", "unusable")
        if record:
            about = (
                f"{record.scheme} {record.preset or ''}".strip(),
                _day(record.created_at),
                "expired" if facts.expired else _day(record.expires_at),
                record.protection,
            )
        table.add_row(
            f"{facts.key_id[:SHORT_ID]}…",
            *about,
            {True: "yes", False: "no", None: "?"}[said["published"]],
            f"{said['runs']:,}" + (f", {waiting:,} not collected" if waiting else ""),
        )
    return table


def _iso(at: datetime | None) -> str | None:
    return at.astimezone(UTC).isoformat(timespec="seconds") if at else None


def _day(at: datetime | None) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d}" if at else "never"
