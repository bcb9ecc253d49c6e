"""What docs/keys.md tells users to type works as it is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from producer.keyphrase import Passphrases
from producer.keys import KeyRing
from shared.settings import CONNECTION_STRING_VARIABLE, StorageSettings
from shared.storage import Storage
from tests.acceptance.test_docs import ROOT, shell_blocks
from tests.commands import CLEAN_ENVIRONMENT


def test_step_by_step(storage: Storage, storage_settings: StorageSettings, tmp_path: Path) -> None:
    """Every block in one shell, in order: at the end there is only the key that was rotated to."""
    blocks = shell_blocks(ROOT / "docs" / "keys.md")
    assert len(blocks) == 4
    script = "\n".join(["set -euo pipefail", *blocks, 'echo "$KEY $NEW" > keys'])
    home = tmp_path / "home"
    tools = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=CLEAN_ENVIRONMENT
        | {
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "BLINDSCORE_HOME": str(home),
            "BLINDSCORE_CONTAINER": storage_settings.container,
            "BLINDSCORE_QUEUE": storage_settings.queue,
            CONNECTION_STRING_VARIABLE: storage_settings.connection_string.get_secret_value(),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    key, new = (tmp_path / "keys").read_text().split()
    ring = KeyRing(home, Passphrases(tmp_path / "new-passphrase"))
    assert ring.load(new).key().key_id == new
    left = {record.key_id: record.protection for record in ring.files.records()}
    assert left.pop(new) == "passphrase"
    assert key not in left
    assert list(left.values()) == ["none", "none"]
