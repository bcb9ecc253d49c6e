"""`blindscore serve` as a process, for tests."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.local.azurite import Azurite
from shared.linear import LinearModel
from shared.settings import CONNECTION_STRING_VARIABLE
from tests.commands import CLEAN_ENVIRONMENT

WITHIN_S = 60.0
MODEL = LinearModel(np.array([[0.5, -1.0, 2.0, 0.25]]), np.array([0.125]))


def saved(folder: Path) -> Path:
    """`MODEL` as a file."""
    path = folder / "model.npz"
    np.savez(path, coef=MODEL.weights, intercept=MODEL.intercept)
    return path


@dataclass
class Running:
    """A `serve` process that is ready."""

    process: subprocess.Popen[str]
    url: str

    def post(
        self, body: bytes, content_type: str = "application/json", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        request = urllib.request.Request(
            f"{self.url}/score", data=body, headers={"Content-Type": content_type} | headers
        )
        try:
            with urllib.request.urlopen(request, timeout=WITHIN_S) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()

    def get(self, path: str, **headers: str) -> bytes:
        request = urllib.request.Request(self.url + path, headers=headers)
        with urllib.request.urlopen(request, timeout=WITHIN_S) as answer:
            return bytes(answer.read())


@contextmanager
def serving(
    folder: Path,
    azurite: Azurite,
    container: str,
    *options: str,
    model: Path | None = None,
    before: tuple[str, ...] = (),
    **variables: str,
) -> Iterator[Running]:
    """`blindscore serve` on a free port; stopped at the end if it still runs.

    `before` comes before the command, `variables` are set for it.
    """
    model = model or saved(folder)
    environment = CLEAN_ENVIRONMENT | {
        CONNECTION_STRING_VARIABLE: azurite.connection_string,
        "BLINDSCORE_CONTAINER": container,
        **variables,
    }
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [
                *(*before, sys.executable, "-m", "blindscore", "serve", "--model", str(model)),
                *("--port", "0", "--processes", "2", *options),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "://127.0.0.1:" in line, (folder / "serve.log").read_text()
        yield Running(process, line.split(" on ")[1].strip())
    finally:
        process.terminate()
        try:
            process.wait(WITHIN_S)
        finally:
            process.kill()
        assert process.stdout is not None
        process.stdout.close()
