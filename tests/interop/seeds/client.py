"""The published client, step by step as the tutorial has it.

Only what belongs to Azure ML's workspace is replaced: the datastore by a blob container, and
`service.run` by the HTTP request that it makes.
"""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import numpy as np
import numpy.typing as npt
from azure.storage.blob import BlobServiceClient
from encrypted.inference.eiclient import EILinearRegressionClient

API_VERSION = "2026-06-06"
ANSWER_S = 300.0


class SeedsClient:
    """One secret key of the SDK's own client, its public keys, and a scoring URI.

    `predict` does all of it; its steps are there to be taken singly too.
    """

    def __init__(self, connection_string: str, container: str, scoring_uri: str) -> None:
        self.conn_str = connection_string
        self.container_name = container
        self.scoring_uri = scoring_uri
        self.edp: Any = EILinearRegressionClient()
        self.public_keys_blob: str
        self._public_keys_data: bytes
        self.public_keys_blob, self._public_keys_data = self.edp.get_public_keys()

    def upload_keys(self, prefix: str = "") -> None:
        """Put the public keys under the key id, at the container's root as the tutorial does.

        Creates the container. A `prefix` (`keys/`) puts them where blindscore looks.
        """
        with BlobServiceClient.from_connection_string(
            self.conn_str, api_version=API_VERSION
        ) as service:
            container = service.get_container_client(self.container_name)
            if not container.exists():
                container.create_container()
            container.upload_blob(prefix + self.public_keys_blob, self._public_keys_data)

    def request(self, row: npt.ArrayLike) -> bytes:
        """The request body of one row."""
        raw_data = self.edp.encrypt(np.asarray(row))
        data = json.dumps(
            {
                "data": raw_data,
                "key_id": self.public_keys_blob,
                "conn_str": self.conn_str,
                "container": self.container_name,
            }
        )
        return bytes(data, encoding="ASCII")

    def run(self, body: bytes) -> list[str]:
        """POST a request body; the encrypted results. Raises `urllib.error.HTTPError`."""
        request = urllib.request.Request(
            self.scoring_uri, data=body, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=ANSWER_S) as response:
            results: list[str] = json.loads(response.read())
        return results

    def decrypt(self, results: list[str]) -> npt.NDArray[np.float64]:
        """The scores, shape (classes,)."""
        return np.asarray(self.edp.decrypt(results))

    def predict(self, row: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Encrypt a row, have it scored, decrypt its scores, shape (classes,)."""
        return self.decrypt(self.run(self.request(row)))
