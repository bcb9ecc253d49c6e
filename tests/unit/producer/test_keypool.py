"""Encryption and decryption in processes of their own, which come and go with their parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import aclosing
from pathlib import Path

import numpy as np
import psutil
import pytest

from producer import keypool, keyprocess
from producer.keypool import PARTS_AHEAD, KeyPool
from producer.rows import Rows, StoredRows
from producer.schemes import Encoding, Scores, client_scheme
from score.schemes.direct import DirectEvaluator
from shared import container, forkserver
from shared.errors import (
    BlindscoreError,
    CiphertextError,
    DatasetError,
    MalformedRequest,
    SecretKeyError,
)
from shared.packed import SECTION_FEATURES
from tests.scoring import respond
from tests.unit.producer.pipeline import ERROR, FEATURES, KEY, MODEL, data_set

ENCODING = Encoding("blindscore", FEATURES, 1.0)
ROWS = data_set(4)
WITHIN_S = 30


@pytest.fixture(params=[0, 2])
async def pool(request: pytest.FixtureRequest) -> AsyncIterator[KeyPool]:
    async with KeyPool("direct", KEY.secret_bytes(), processes=request.param) as pool:
        yield pool


async def encrypted(pool: KeyPool, rows: Rows, encoding: Encoding = ENCODING) -> bytes:
    async with aclosing(pool.encrypt(StoredRows(rows), encoding)) as pieces:
        return b"".join([piece async for piece in pieces])


async def result(pool: KeyPool) -> bytes:
    return respond(DirectEvaluator(MODEL), await encrypted(pool, ROWS))


async def test_what_is_encrypted_and_scored_is_decrypted(pool: KeyPool) -> None:
    body = await result(pool)
    scores = await asyncio.gather(*(pool.decrypt(body, rows=len(ROWS)) for _ in range(3)))
    assert all(np.abs(s - MODEL.scores(ROWS)).max() < ERROR for s in scores)


async def test_rows_are_scaled_where_they_are_encrypted(pool: KeyPool) -> None:
    pixels = np.random.default_rng(8).integers(0, 256, size=(4, FEATURES), dtype=np.uint8)
    async with aclosing(pool.encrypt(StoredRows(pixels, 255.0), ENCODING)) as pieces:
        body = respond(DirectEvaluator(MODEL), b"".join([piece async for piece in pieces]))
    scores = await pool.decrypt(body, rows=4)
    assert np.abs(scores - MODEL.scores(pixels / 255.0)).max() < ERROR


async def test_blocks_that_are_encrypted_at_once_do_not_mix(pool: KeyPool) -> None:
    blocks = [data_set(4, seed=seed) for seed in range(12)]
    bodies = await asyncio.gather(*(encrypted(pool, rows) for rows in blocks))
    evaluator = DirectEvaluator(MODEL)
    results = [respond(evaluator, body) for body in bodies]
    found = await asyncio.gather(*(pool.decrypt(body, rows=4) for body in results))
    for scores, rows in zip(found, blocks, strict=True):
        assert np.abs(scores - MODEL.scores(rows)).max() < ERROR


@pytest.mark.parametrize("processes", [0, 2])
async def test_a_block_is_encrypted_in_parts(processes: int) -> None:
    """So that its first bytes are on their way while the last are made."""
    key = client_scheme("packed").generate("n2048")
    features = 2 * SECTION_FEATURES + 1
    rows = np.zeros((2, features))
    async with KeyPool("packed", key.export_secret(), processes=processes) as pool:
        pieces = pool.encrypt(StoredRows(rows), Encoding("blindscore", features, 1.0))
        parts = [piece async for piece in pieces]
    assert len(parts) == 3
    header, payloads = container.read(b"".join(parts), max_frame_bytes=1 << 20)
    assert (header.rows, header.features) == (2, features)
    assert header.frames == len(payloads)


async def test_parts_wait_in_memory_only_as_many_as_keep_the_processes_at_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However slowly they are taken."""
    begun = 0
    encrypt = KeyPool._encrypt

    async def counted(pool: KeyPool, rows: StoredRows, part: Encoding) -> bytes:
        nonlocal begun
        begun += 1
        return await encrypt(pool, rows, part)

    monkeypatch.setattr(KeyPool, "_encrypt", counted)
    key = client_scheme("packed").generate("n2048")
    features = 10 * SECTION_FEATURES
    rows = StoredRows(np.zeros((1, features)))
    async with KeyPool("packed", key.export_secret(), processes=0) as pool:
        taken = 0
        async for _ in pool.encrypt(rows, Encoding("blindscore", features, 1.0)):
            taken += 1
            assert begun - taken <= PARTS_AHEAD
    assert taken == begun == 10


async def test_every_process_has_a_part_to_work_on(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = 3
    at_work = asyncio.Barrier(processes)

    async def encrypt(*_: object) -> bytes:
        await at_work.wait()
        return b""

    monkeypatch.setattr(KeyPool, "_encrypt", encrypt)
    key = client_scheme("packed").generate("n2048")
    features = 2 * processes * SECTION_FEATURES
    rows = StoredRows(np.zeros((1, features)))
    async with (
        asyncio.timeout(WITHIN_S),
        KeyPool("packed", key.export_secret(), processes=processes) as pool,
    ):
        pieces = pool.encrypt(rows, Encoding("blindscore", features, 1.0))
        assert len([piece async for piece in pieces]) == 2 * processes


async def test_of_blocks_at_once_the_first_is_whole_first() -> None:
    """So that it is scored while the others are still encrypted."""
    key = client_scheme("packed").generate("n2048")
    features = 8 * SECTION_FEATURES
    rows = StoredRows(np.zeros((1025, features)))  # a ciphertext for each feature
    taken: list[int] = []
    async with KeyPool("packed", key.export_secret(), processes=2) as pool:

        async def take(block: int) -> None:
            async for _ in pool.encrypt(rows, Encoding("blindscore", features, 1.0)):
                taken.append(block)  # noqa: PERF401 - as they come

        await asyncio.gather(*(take(block) for block in range(3)))
    whole_at = [max(i for i, block in enumerate(taken) if block == b) for b in range(3)]
    assert whole_at[0] < 18  # in turns it would be the 22nd part
    assert whole_at == sorted(whole_at)


async def test_a_block_that_nobody_wants_any_more_is_given_up(pool: KeyPool) -> None:
    async with aclosing(pool.encrypt(StoredRows(ROWS), ENCODING)):
        pass
    async with aclosing(pool.encrypt(StoredRows(ROWS), ENCODING)) as pieces:
        await anext(pieces)
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
    assert len(await encrypted(pool, ROWS))


async def test_errors_come_back_as_they_are(pool: KeyPool) -> None:
    with pytest.raises(DatasetError, match="beyond the declared bound"):
        await encrypted(pool, 2 * ROWS)
    with pytest.raises(MalformedRequest):
        await pool.decrypt(b"garbage", rows=1)


def deadly(body: bytes, rows: int) -> Scores:
    """Stands in, in the pool's processes, for bytes that SEAL doesn't survive."""
    if body == b"deadly":
        os._exit(1)
    return keyprocess.decrypt_with(keyprocess._own_key(), body, rows)


async def test_bytes_that_end_their_process_harm_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keyprocess, "decrypt", deadly)
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


def pid_of_process(_body: bytes, _rows: int) -> Scores:
    """Stands in for decrypting in one of the pool's processes, and tells in which."""
    return np.array([[os.getpid()]])


async def test_processes_decrypt_once_a_thread_has_taken_as_long_as_they_take_to_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keyprocess, "decrypt", pid_of_process)
    async with KeyPool("direct", KEY.secret_bytes(), processes=1, when_worth_it=True) as pool:
        body = respond(DirectEvaluator(MODEL), b"".join(KEY.key().encrypt(ROWS, ENCODING)))
        for _ in range(2):
            scores = await pool.decrypt(body, rows=len(ROWS))
            assert np.abs(scores - MODEL.scores(ROWS)).max() < ERROR
        monkeypatch.setattr(keypool, "START_S", 1e-6)
        assert await pool.decrypt(body, rows=len(ROWS)) != os.getpid()


async def test_what_may_end_its_process_is_decrypted_in_another_from_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keyprocess, "decrypt", pid_of_process)
    secret = client_scheme("ei").generate().export_secret()
    async with KeyPool("ei", secret, processes=1, when_worth_it=True) as pool:
        assert await pool.decrypt(b"", rows=1) != os.getpid()


async def test_a_process_that_dies_while_encrypting_is_told() -> None:
    async with KeyPool("direct", KEY.secret_bytes(), processes=1) as pool:
        with pytest.raises(BrokenProcessPool):
            await pool._run(os._exit, 1)
        dying = asyncio.gather(pool._run(os._exit, 1), encrypted(pool, ROWS))
        with pytest.raises((BrokenProcessPool, BlindscoreError)):
            await dying
        await encrypted(pool, ROWS)


async def test_a_damaged_secret_is_told_as_such() -> None:
    """And not as a process that died."""
    async with KeyPool("direct", KEY.secret_bytes()[:-9], processes=1) as pool:
        with pytest.raises(SecretKeyError, match="damaged"):
            await encrypted(pool, ROWS)


AHEAD = """
from multiprocessing import forkserver as interpreter
from producer import keypool

LOOK = "import sys; print('producer.schemes.packed' in sys.modules, flush=True)"

if __name__ == "__main__":
    keypool.start_ahead("packed")
    pid = interpreter._forkserver._forkserver_pid
    process = keypool._context("packed").Process(target=exec, args=(LOOK,))
    process.start()
    process.join()
    print(pid is not None, pid == interpreter._forkserver._forkserver_pid)
"""


def test_what_processes_are_forked_from_imports_their_code_ahead(tmp_path: Path) -> None:
    """And nothing of the working directory."""
    script, strange = tmp_path / "ahead.py", tmp_path / "strange"
    script.write_text(AHEAD)
    strange.mkdir()
    (strange / "shared.py").write_text("from pathlib import Path; Path('ran').touch()\n")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=strange,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=True,
    )
    assert (done.stdout.split(), done.stderr) == (["True"] * 3, "")
    assert not (strange / "ran").exists()


async def test_a_process_that_cannot_be_started_is_told_when_it_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(forkserver, "ensure_running", refuse)
    keypool.start_ahead("direct")
    async with KeyPool("direct", KEY.secret_bytes(), processes=1) as pool:
        with pytest.raises(BlindscoreError, match="no process can be started"):
            await encrypted(pool, ROWS)


def test_the_secret_does_not_show() -> None:
    assert repr(KeyPool("direct", KEY.secret_bytes(), processes=0)) == "KeyPool(processes=0)"


PARENT = """
import asyncio, multiprocessing, sys
from producer.keypool import KeyPool
from tests.unit.producer.test_keypool import KEY, ROWS, encrypted

async def main():
    pool = KeyPool("direct", KEY.secret_bytes(), processes=2)
    await asyncio.gather(*(encrypted(pool, ROWS) for _ in range(4)))
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
