"""No secret shows where it must not: in a log, a request, a message, a blob or a process list.

Everything runs as its users run it, at the most talkative log level and in all schemes, through
proxies that write all of it down. What must not be found is then looked for, in the forms in which
carelessness would leave it. Compressed or encrypted, a secret would not be found.
"""

from __future__ import annotations

import asyncio
import csv
import re
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
import numpy as np
import psutil
import pytest
import zstandard

from deploy.local.azurite import ACCOUNT_KEY, Azurite
from deploy.local.ports import HOST, free_port
from deploy.local.process import stop_process
from producer.keyphrase import Passphrases
from producer.keys import CANARIES, ROWS, SIGNING, KeyFile, KeyRing
from shared.seal import HEADER
from shared.settings import CONNECTION_STRING_VARIABLE, StorageSettings
from shared.storage import ensure_storage, open_store
from tests.commands import CLEAN_ENVIRONMENT, blindscore
from tests.needles import Needle, leaks, of_bytes, of_text
from tests.recorder import Recorder

SCHEMES = ("ei", "direct", "packed")
FEATURES, CLASSES, MOST_ROWS = 24, 3, 3
IN_TIME_S = 120.0
IN_TIME = ("--deadline-s", str(IN_TIME_S))
SHORT = 7
"""Texts of so few characters are in many places by chance."""
HEAD_BYTES = 128
"""Of a SEAL object: the same in all that have its parameters."""

EXPECTED = {
    "endpoint token": re.compile("request to endpoint: header Authorization"),
    "labels": re.compile("standard output of collect .*"),
}
"""Where a secret belongs. (The account key signs requests to storage, and is in none of them. What
`collect` prints is the key owner's own report, whose confusion matrix names labels.)"""


@dataclass
class System:
    """Storage, endpoint and worker, each behind a proxy, and a key owner."""

    folder: Path
    recorder: Recorder
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    client_secret: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    """Of a service principal."""
    passphrase: str = field(default_factory=lambda: f"Zwölf {secrets.token_hex(8)} Boxkämpfer")
    labels: list[str] = field(default_factory=list)
    needles: list[Needle] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Commands that did not succeed, and what they said."""
    environment: dict[str, str] = field(default_factory=dict)
    """The key owner's."""

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def run(self, *arguments: str, **more: str) -> str:
        """A command of the key owner, at its most talkative; all that it says is kept."""
        environment = self.environment | more | {"COLUMNS": "250"}  # tables don't break words then
        done = blindscore(*arguments, environment=environment, timeout_s=2 * IN_TIME_S)
        name = " ".join(arguments[:2])
        self.recorder.saw(f"standard output of {name}", done.stdout.encode())
        self.recorder.saw(f"standard error of {name}", done.stderr.encode())
        if done.returncode:
            self.failed.append((arguments[0], done.stderr))
        return done.stdout.strip()

    def must_not_show(self, *needles: Iterator[Needle]) -> None:
        self.needles += [needle for group in needles for needle in group]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Everything has run, and what it left is written down."""
    folder = tmp_path_factory.mktemp("leaks")
    with ExitStack() as exits:
        azurite = exits.enter_context(Azurite())
        recorder = exits.enter_context(Recorder())
        system = System(folder, recorder)
        _write_data(system)
        with ExitStack() as running:
            serving = _start(system, azurite, running)
            with ThreadPoolExecutor(2) as together:
                list(together.map(lambda scheme: _score(system, scheme), SCHEMES))
            _fail(system)
            system.run("status")
            system.run("key", "list")
            system.run("sas", "--party", "worker")
            evaluators = psutil.Process(serving.pid).children(recursive=True)
            for process in evaluators:
                recorder.environment("environment of an evaluator", process)
        for name in ("serve", "work"):
            recorder.saw(f"log of {name}", (folder / f"{name}.log").read_bytes())
        asyncio.run(_read_storage(recorder, azurite))
        yield system


def _write_data(system: System) -> None:
    """Eight-bit rows with labels that are not the model's, and a model."""
    random = np.random.default_rng(7)
    pixels = random.integers(0, 256, (2 * MOST_ROWS - 1, FEATURES), dtype=np.uint8)
    system.labels = [f"label-{secrets.token_hex(6)}" for _ in pixels]
    np.save(system.folder / "rows.npy", pixels)
    np.save(system.folder / "wide.npy", np.zeros((1, FEATURES + 1)))
    (system.folder / "passphrase").write_text(system.passphrase)
    (system.folder / "labels.csv").write_text("\n".join(["label", *system.labels]) + "\n")
    weights = random.normal(size=(CLASSES, FEATURES))
    np.savez(
        system.folder / "model.npz",
        coef=weights,
        intercept=random.normal(size=CLASSES),
        labels=np.array(["red", "green", "blue"]),
    )
    scaled = pixels / 255
    row = scaled[0]
    system.must_not_show(
        of_bytes("rows", pixels[0].tobytes()),
        *(of_bytes("rows", scaled[0].astype(kind).tobytes()) for kind in ("<f8", "<f4")),
        of_bytes("rows", pixels[0].astype("<f8").tobytes()),
        *(of_text("rows", f"{value:.8g}") for value in row[(row > 0) & (row < 1)][:4]),
        of_text("rows", ",".join(map(str, pixels[0, :8]))),
        *(of_text("labels", label) for label in system.labels),
        *(of_bytes("weights", weights.astype(kind).tobytes()) for kind in ("<f8", "<f4")),
        *(of_text("weights", f"{value:.8g}") for value in weights[0, :4]),
        of_text("endpoint token", system.token),
        of_text("client secret", system.client_secret),
        of_text("account key", ACCOUNT_KEY),
        of_bytes("account key", ACCOUNT_KEY.encode()),
        of_text("passphrase", system.passphrase),
    )


def _start(system: System, azurite: Azurite, running: ExitStack) -> subprocess.Popen[bytes]:
    """Storage, endpoint and worker; returns the endpoint's process."""
    recorder = system.recorder
    storage = azurite.connection_string
    for name, port in (("blobs", azurite.blob_port), ("queues", azurite.queue_port)):
        storage = storage.replace(str(port), str(recorder.stand_before(name, port)))
    settings = StorageSettings(connection_string=storage)
    asyncio.run(ensure_storage(settings))
    port = free_port()
    ours = {CONNECTION_STRING_VARIABLE: storage, "BLINDSCORE_LOG_LEVEL": "debug"}
    serving = _program(
        system,
        running,
        ("serve", "--model", str(system.folder / "model.npz"), "--port", str(port)),
        # few rows, so that there are several jobs without asking for it
        ("--processes", "1", "--max-rows", str(MOST_ROWS), "--max-batch", str(MOST_ROWS)),
        ours
        | {
            "BLINDSCORE_TOKENS": system.token,
            # not its own to have; but who keeps all in one `.env` gives it all of these
            "BLINDSCORE_ENDPOINT_TOKEN": system.token,
            "BLINDSCORE_PASSPHRASE": system.passphrase,
            "AZURE_CLIENT_SECRET": system.client_secret,
        },
    )
    _wait_until_ready(port, serving)
    endpoint = f"http://{HOST}:{recorder.stand_before('endpoint', port)}"
    theirs = {"BLINDSCORE_ENDPOINT": endpoint, "BLINDSCORE_ENDPOINT_TOKEN": system.token}
    _program(system, running, ("work",), ("--lease-s", "15"), ours | theirs)
    system.environment = ours | theirs | {"BLINDSCORE_HOME": str(system.home)}
    return serving


def _program(
    system: System,
    running: ExitStack,
    command: tuple[str, ...],
    options: tuple[str, ...],
    environment: dict[str, str],
) -> subprocess.Popen[bytes]:
    log = running.enter_context((system.folder / f"{command[0]}.log").open("wb"))
    process = subprocess.Popen(
        [sys.executable, "-m", "blindscore", *command, *options],
        env=CLEAN_ENVIRONMENT | environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    running.callback(stop_process, process, within_s=IN_TIME_S)
    return process


def _wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + IN_TIME_S
    while time.monotonic() < give_up_at and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    pytest.fail("the endpoint did not start")


def _score(system: System, scheme: str) -> None:
    """One run: key, jobs, report. The secrets that it makes are to be looked for."""
    folder, out = system.folder, system.folder / scheme
    protected = {"BLINDSCORE_PASSPHRASE": system.passphrase} if scheme == "direct" else {}
    system.run("keygen", "--scheme", scheme, **protected)
    run = system.run(
        *("produce", "--scheme", scheme, "--dataset", str(folder / "rows.npy"), "--scale", "255"),
        *("--labels", str(folder / "labels.csv"), "--canaries", "1" if scheme == "packed" else "0"),
        **protected,
        BLINDSCORE_PROCESSES="0" if scheme == "ei" else "1",
    )
    system.run(
        *("collect", run, "--out", str(out), "--model", str(folder / "model.npz"), *IN_TIME),
        **protected,
        BLINDSCORE_PROCESSES="0" if scheme == "ei" else "1",
    )
    key_file = KeyRing(system.home, Passphrases(folder / "passphrase")).newest(scheme)
    assert (key_file.record.lock is not None) == bool(protected)
    system.must_not_show(*_of_key(key_file), *_of_scores(out))


def _of_key(key_file: KeyFile) -> Iterator[Iterator[Needle]]:
    name = f"secret key of {key_file.scheme}"
    secret = key_file.secret_bytes()
    if key_file.scheme == "ei":
        yield of_bytes(name, secret)
    else:  # SEAL's secret key lies beside the key blob, which is public
        saved = msgpack.unpackb(secret)[3]
        polynomial = zstandard.ZstdDecompressor().decompressobj().decompress(saved[HEADER.size :])
        yield of_bytes(name, saved[HEAD_BYTES:])
        yield of_bytes(name, polynomial[HEAD_BYTES:])
    for purpose in (SIGNING, CANARIES, ROWS):
        yield of_bytes(f"key for {purpose} of {key_file.scheme}", key_file.derive(purpose))


def _of_scores(out: Path) -> Iterator[Iterator[Needle]]:
    with (out / "predictions.csv").open() as file:
        lines = list(csv.DictReader(file))
    for line in lines[:2]:
        scores = [line[f"score_{k}"] for k in range(CLASSES)]
        yield from (of_text("scores", score) for score in scores if len(score) > SHORT)
    for part in out.rglob("*.scores"):
        yield of_bytes("scores", part.read_bytes())


def _fail(system: System) -> None:
    """A job that the endpoint refuses, since nobody asked it before; and its dead letter."""
    wide = str(system.folder / "wide.npy")
    run = system.run(
        *("produce", "--scheme", "packed", "--dataset", wide, "--input-bound", "1"),
        BLINDSCORE_ENDPOINT="",
        BLINDSCORE_PROCESSES="0",
    )
    system.run(
        *("collect", run, "--out", str(system.folder / "failed"), *IN_TIME),
        BLINDSCORE_PROCESSES="0",
    )
    system.run("dlq", "list")
    system.run("dlq", "show", f"{run}/000000")


async def _read_storage(recorder: Recorder, azurite: Azurite) -> None:
    """Every blob, with its metadata. Messages were seen on their way."""
    async with open_store(StorageSettings(connection_string=azurite.connection_string)) as store:
        async for blob in store.list(""):
            recorder.saw(f"blob {blob.name}", await store.read(blob.name, limit=1 << 30))
            recorder.saw(f"metadata of {blob.name}", repr(blob.metadata).encode())


def is_expected(secret: str, place: str) -> bool:
    where = EXPECTED.get(secret)
    return where is not None and where.fullmatch(place) is not None


def test_nothing_shows_where_it_must_not(system: System) -> None:
    assert leaks(system.recorder.evidence, system.needles, is_expected) == []


def test_all_of_it_was_looked_at(system: System) -> None:
    """The evidence is complete, and its secrets are found where they belong."""
    places = system.recorder.places()
    commands = (
        "keygen --scheme",
        "produce --scheme",
        "dlq list",
        "dlq show",
        "status",
        "key list",
        "sas --party",
    )
    wanted = [f"standard {stream} of {name}" for name in commands for stream in ("output", "error")]
    wanted += [
        *(
            f"request to {name}: {part}"
            for name in ("blobs", "queues")
            for part in ("line", "body")
        ),
        *("request to endpoint: line", "request to endpoint: body", "answer of endpoint: body"),
        *("request to blobs: header Authorization", "request to blobs: header X-Ms-Meta-Worker"),
        *("message in request to queues: body", "message in answer of queues: body"),
        *("a command line", "environment of an evaluator", "log of serve", "log of work"),
    ]
    assert [place for place in wanted if place not in places] == []
    for pattern in (
        "keys/",
        "runs/.*/manifest.json",
        "runs/.*/in/",
        "runs/.*/out/",
        "runs/.*/failed/",
    ):
        for what in ("blob", "metadata of"):
            assert any(re.match(f"{what} {pattern}", place) for place in places), (what, pattern)
    # jobs as small as the endpoint said, without being asked for
    second_jobs = [place for place in places if re.fullmatch("blob runs/[^/]+/in/000001", place)]
    assert len(second_jobs) == len(SCHEMES)
    lines = [data for data, where in system.recorder.evidence.items() if "a command line" in where]
    for program in (
        b"serve",
        b"work",
        b"produce",
        b"collect",
        b"score.lane_main",
        b"multiprocessing",
    ):
        assert any(program in line for line in lines), program
    found = leaks(system.recorder.evidence, system.needles, lambda *_: False)
    assert {line.split(" (")[0] for line in found} == set(EXPECTED)
    secrets_looked_for = {needle.secret for needle in system.needles}
    for scheme in SCHEMES:
        keys = {f"key for {purpose} of {scheme}" for purpose in (SIGNING, CANARIES, ROWS)}
        assert {f"secret key of {scheme}", *keys} <= secrets_looked_for


def test_commands_did_what_they_were_asked(system: System) -> None:
    (refused,) = system.failed  # the collect whose only job failed
    assert refused[0] == "collect"
    assert "1 of 1 rows have no score (feature_count: 1 jobs)" in refused[1]


def test_a_planted_leak_of_any_form_is_found(system: System) -> None:
    """In a copy of one log; each by itself, and none is excused by another one's exception."""
    log = (system.folder / "work.log").read_bytes()
    for needle in system.needles:
        planted = log[: len(log) // 2] + b'"' + needle.data + b'"' + log[len(log) // 2 :]
        found = leaks({planted: {"log of work"}}, [needle], is_expected)
        assert found == [f"{needle.secret} ({needle.form}) in log of work"]
