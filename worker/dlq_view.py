"""Dead letters as people and programs read them: no secrets, and nothing that moves a cursor."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from typing import Any

from rich.table import Table
from rich.text import Text

from worker.dlq import Letter

_SECRET_FIELDS = frozenset({"conn_str", "connection_string", "token", "authorization", "password"})
_SECRET = re.compile(r"(?i)(accountkey=|sharedaccesssignature=|\bsig=|bearer\s+)[^;&\s\"']+")
_HIDDEN = "<redacted>"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
SHORT_ID = 8


def summary(letter: Letter) -> dict[str, Any]:
    """What the table says, and a little more."""
    envelope = letter.envelope
    return {
        "id": letter.id,
        "run": letter.run,
        "job": letter.job,
        "code": letter.code,
        "reason": _without_secrets(envelope.reason) if envelope else "",
        "failed_at": (envelope.failed_at if envelope else letter.delivery.inserted_at).isoformat(),
        "deliveries": envelope.deliveries if envelope else None,
        "attempts": envelope.attempts if envelope else None,
        "status": envelope.status if envelope else None,
        "trace_id": envelope.trace_id if envelope else "",
    }


def whole(letter: Letter) -> dict[str, Any]:
    """Everything there is of a letter: the envelope, and the message in it taken apart."""
    if letter.envelope is None:
        return {"id": letter.id, "code": letter.code, "message": _message(letter.delivery.body)}
    fields = letter.envelope.model_dump(mode="json", exclude={"message", "encoding"})
    message = {"message": _message(letter.envelope.original)}
    return {
        "id": letter.id,
        "run": letter.run,
        "job": letter.job,
        "trace_id": letter.envelope.trace_id,
        **_tree_without_secrets(fields),
        **message,
    }


def as_json(value: Any) -> str:
    """Indented, in ASCII: what a stranger wrote can't control a terminal."""
    return json.dumps(value, indent=2)


def as_table(letters: Iterable[Letter]) -> Table:
    """One line a letter; the first column's beginning of the id is enough for the others."""
    table = Table()
    for name in ("id", "run/job", "code"):
        table.add_column(name, no_wrap=True)
    table.add_column("reason", overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_column("when", no_wrap=True)
    table.add_column("deliveries", justify="right", no_wrap=True)
    for letter in letters:
        row = summary(letter)
        cells = (
            letter.id[:SHORT_ID],
            f"{letter.run}/{letter.job}" if letter.run else "",
            row["code"],
            row["reason"],
            row["failed_at"][:19],
            "" if row["deliveries"] is None else str(row["deliveries"]),
        )
        table.add_row(*(Text(_CONTROL.sub(" ", cell)) for cell in cells))
    return table


def _message(body: bytes) -> Any:
    """JSON as it is, other text as text, and other bytes in base64."""
    try:
        return _tree_without_secrets(json.loads(body))
    except (ValueError, RecursionError):
        pass
    try:
        return _without_secrets(body.decode())
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}


def _tree_without_secrets(value: Any) -> Any:
    match value:
        case dict():
            return {
                name: _HIDDEN if name.lower() in _SECRET_FIELDS else _tree_without_secrets(part)
                for name, part in value.items()
            }
        case list():
            return [_tree_without_secrets(part) for part in value]
        case str():
            return _without_secrets(value)
        case _:
            return value


def _without_secrets(text: str) -> str:
    return _SECRET.sub(rf"\1{_HIDDEN}", text)
