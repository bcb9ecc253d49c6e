"""What evaluators inherit of the environment: no credential."""

from __future__ import annotations

import os

OURS = "BLINDSCORE_"
"""In the name of every variable of ours; App Service repeats each under a longer name."""
IDENTITY_SECRETS = (
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    "AZURE_PASSWORD",
    "IDENTITY_HEADER",
    "MSI_SECRET",
)
"""Of `azure.identity`, which reads them when an identity is made, and not again."""


def forget_credentials() -> None:
    """Take credentials out of this process's environment, and so out of its children's.

    To be called when options are read and the identity is made, and before the first child. All
    variables of ours go, passphrases and tokens of other programs too, which `.env` may hold.
    """
    for name in list(os.environ):
        if OURS in name or name.endswith(IDENTITY_SECRETS):
            del os.environ[name]
