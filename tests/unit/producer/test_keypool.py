"""Encryption and decryption in processes of their own, which come and go with their parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import psutil
import pytest

from producer import keypool
from producer.keypool import KeyPool
from producer.schemes import Encoding, Scores
from score.schemes.direct import DirectEvaluator
from shared.errors import BlindscoreError, CiphertextError, DatasetError, MalformedRequest
from tests.direct_products import respond
from tests.unit.producer.pipeline import ERROR, FEATURES, KEY, MODEL, data_set

ENCODING = Encoding("blindscore", FEATURES, 1.0)
ROWS = data_set(4)
WITHIN_S = 30


@pytest.fixture(params=[0, 2])
async def pool(request: pytest.FixtureRequest) -> AsyncIterator[KeyPool]:
    async with KeyPool("direct", KEY.secret_bytes(), processes=request.param) as pool:
        yield pool


async def result(pool: KeyPool) -> bytes:
    return respond(DirectEvaluator(MODEL), await pool.encrypt(ROWS, ENCODING))


async def test_what_is_encrypted_and_scored_is_decrypted(pool: KeyPool) -> None:
    body = await result(pool)
    scores = await asyncio.gather(*(pool.decrypt(body, rows=len(ROWS)) for _ in range(3)))
    assert all(np.abs(s - MODEL.scores(ROWS)).max() < ERROR for s in scores)


async def test_errors_come_back_as_they_are(pool: KeyPool) -> None:
    with pytest.raises(DatasetError, match="beyond the declared bound"):
        await pool.encrypt(2 * ROWS, ENCODING)
    with pytest.raises(MalformedRequest):
        await pool.decrypt(b"garbage", rows=1)


def deadly(body: bytes, rows: int) -> Scores:
    """Stands in, in the pool's processes, for bytes that SEAL doesn't survive."""
    if body == b"deadly":
        os._exit(1)
    return keypool._decrypt_with(keypool._own_key(), body, rows)


async def test_bytes_that_end_their_process_harm_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keypool, "_decrypt", deadly)
    async with KeyPool("direct", KEY.secret_bytes(), processes=2) as pool:
        good = await result(pool)
        bodies = [good, b"deadly", good, good, b"deadly", good]
        outcomes = await asyncio.gather(
            *(pool.decrypt(body, rows=len(ROWS)) for body in bodies), return_exceptions=True
        )
    for body, outcome in zip(bodies, outcomes, strict=True):
        if body == good:
            assert isinstance(outcome, np.ndarray)
            assert np.abs(outcome - MODEL.scores(ROWS)).max() < ERROR
        else:
            assert isinstance(outcome, CiphertextError)
            assert "died" in str(outcome)


async def test_a_process_that_dies_while_encrypting_is_told() -> None:
    async with KeyPool("direct", KEY.secret_bytes(), processes=1) as pool:
        with pytest.raises(BrokenProcessPool):
            await pool._run(os._exit, 1)
        dying = asyncio.gather(pool._run(os._exit, 1), pool.encrypt(ROWS, ENCODING))
        with pytest.raises((BrokenProcessPool, BlindscoreError)):
            await dying
        await pool.encrypt(ROWS, ENCODING)


def test_the_secret_does_not_show() -> None:
    assert repr(KeyPool("direct", KEY.secret_bytes(), processes=0)) == "KeyPool(processes=0)"


PARENT = """
import asyncio, multiprocessing, sys
from producer.keypool import KeyPool
from tests.unit.producer.test_keypool import ENCODING, KEY, ROWS

async def main():
    pool = KeyPool("direct", KEY.secret_bytes(), processes=2)
    await asyncio.gather(*(pool.encrypt(ROWS, ENCODING) for _ in range(4)))
    print("ready", flush=True)
    await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_killed_parent_leaves_no_process_with_the_secret() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        assert parent.stdout.readline() == "ready\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert children
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    _, alive = psutil.wait_procs(children, timeout=WITHIN_S)
    assert alive == []
