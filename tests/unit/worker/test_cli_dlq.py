"""What `blindscore dlq` takes for a clear instruction."""

from __future__ import annotations

import asyncio

import pytest

from shared.errors import UsageError
from tests.unit.worker.virtual import now_s, virtual_time
from worker.cli_dlq import _selection
from worker.dlq import AT_A_TIME, Selection, each


@pytest.mark.parametrize("names", [None, []])
def test_nothing_named_is_not_everything(names: list[str] | None) -> None:
    """As after a shell variable that nobody set: `--run "$RUN"`."""
    with pytest.raises(UsageError, match="which dead letters"):
        _selection(names, "", "", all_letters=False)


@pytest.mark.parametrize(
    ("names", "run", "code"), [(["abcd"], "", ""), (None, "run-1", ""), (None, "", "endpoint")]
)
def test_everything_is_not_narrowed(names: list[str] | None, run: str, code: str) -> None:
    assert _selection(names, run, code, all_letters=False) == Selection(
        tuple(names or ()), run, code
    )
    with pytest.raises(UsageError, match="which dead letters"):
        _selection(names, run, code, all_letters=True)


def test_everything_can_be_asked_for() -> None:
    assert _selection(None, "", "", all_letters=True) == Selection()


@virtual_time
async def test_letters_are_handled_several_at_a_time_and_each_once() -> None:
    seen: list[int] = []

    async def handle(item: int) -> None:
        seen.append(item)
        await asyncio.sleep(1)

    await each(range(3 * AT_A_TIME), handle)
    assert seen == list(range(3 * AT_A_TIME))
    assert now_s() == 3


@virtual_time
async def test_an_error_ends_it_and_is_told_as_it_is() -> None:
    seen: list[int] = []

    async def fail(item: int) -> None:
        seen.append(item)
        await asyncio.sleep(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await each(range(100), fail)
    assert len(seen) == AT_A_TIME
