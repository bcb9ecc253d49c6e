"""The `ei` scheme: the wire format of `encrypted-inference` 0.9, one row a ciphertext list.

CKKS with the SDK's parameters (N = 8192, primes of 60, 40, 40 and 60 bits, scale 2^40). `SCHEME`
calls the SDK's native library directly; `REFERENCE` goes through the SDK's own client class, ten
to a hundred times slower, to check the other against.
"""

from __future__ import annotations

import base64
import binascii
import ctypes
import json
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import SecretBytes

from producer.rows import Rows
from producer.schemes import Encoding, Scores
from shared import ei
from shared.einative import Bytes, Doubles, NativeError, call, library, pointer_to
from shared.errors import (
    CiphertextError,
    DatasetError,
    MalformedRequest,
    SecretKeyError,
    UsageError,
)

SECRET_BYTES = 64
MAX_MAGNITUDE = 2.0**40
"""Beyond about 2^99 the native encoder ends the process; far below it nothing useful is left."""

_MAX_RESULT_CHARS = 4 * (-(-ei.MAX_RESULT_BYTES // 3))

Row = npt.NDArray[np.float64]


class Client(Protocol):
    """The three operations that need the secret key. One instance serves one thread."""

    def encrypt(self, row: Row) -> list[str]:
        """The row's ciphertexts, base64; `ceil(features / 4096)` of them."""
        ...

    def decrypt(self, result: bytes) -> float:
        """The score in a result that `shared.ei` has checked."""
        ...

    def public_keys(self) -> bytes: ...


class NativeClient:
    """The SDK's native client. It builds its parts lazily and unlocked, so: one a thread."""

    def __init__(self, secret: bytes | None) -> None:
        self._handle = ctypes.c_void_p()
        seed = (ctypes.c_uint64 * 8).from_buffer_copy(secret) if secret is not None else None
        call("CreateSEALClientInstance", ctypes.byref(self._handle), seed)
        destroy = weakref.finalize(self, library.DestroySEALClientInstance, self._handle)
        destroy.atexit = False  # a daemon thread may still be computing; the process ends anyway

    def secret(self) -> bytes:
        words = (ctypes.c_uint64 * 8)()
        call("GetSecretKey", self._handle, words)
        return bytes(words)

    def key_id(self) -> str:
        """The SDK's name for the key: 32 characters of a hash of the seed."""
        words = (ctypes.c_uint64 * 4)()
        call("GetSecretKeyHash", self._handle, words)
        return base64.b32encode(bytes(words)).decode().lower()[:32]

    def encrypt(self, row: Row) -> list[str]:
        values = np.ascontiguousarray(row, dtype=np.float64)
        out = ctypes.create_string_buffer(ei.MAX_INPUT_BYTES)
        ciphertexts = []
        for index in range(-(-len(values) // ei.SLOTS)):
            size = ctypes.c_uint64(len(out))
            call(
                "EncryptList",
                self._handle,
                len(values),
                values.ctypes.data_as(Doubles),
                index,
                ctypes.byref(size),
                ctypes.cast(out, Bytes),
            )
            ciphertexts.append(base64.b64encode(memoryview(out)[: size.value]).decode())
        return ciphertexts

    def decrypt(self, result: bytes) -> float:
        score = ctypes.c_double()
        call("DecryptResult", self._handle, len(result), pointer_to(result), ctypes.byref(score))
        return score.value

    def public_keys(self) -> bytes:
        size = ctypes.c_uint64()
        call("GetPublicKeys", self._handle, ctypes.byref(size), None)  # an upper bound
        out = ctypes.create_string_buffer(size.value)
        call("GetPublicKeys", self._handle, ctypes.byref(size), ctypes.cast(out, Bytes))
        return bytes(memoryview(out)[: size.value])


class SdkClient:
    """The SDK's own client class, as its users know it."""

    def __init__(self, secret: bytes) -> None:
        from encrypted.inference.eiclient import EILinearRegressionClient  # noqa: PLC0415

        self._client: Any = EILinearRegressionClient(base64.b64encode(secret).decode())

    def encrypt(self, row: Row) -> list[str]:
        ciphertexts: list[str] = self._client.encrypt(row)
        return ciphertexts

    def decrypt(self, result: bytes) -> float:
        return float(self._client.decrypt([base64.b64encode(result).decode()])[0])

    def public_keys(self) -> bytes:
        blob: bytes = self._client.get_public_keys()[1]
        return blob


class EiKey:
    """A secret key of the SDK's. Usable from several threads at once."""

    scheme = "ei"
    preset_name = ""

    def __init__(self, secret: bytes, *, client: Callable[[bytes], Client] = NativeClient) -> None:
        if len(secret) != SECRET_BYTES:
            raise SecretKeyError(f"an ei secret has {SECRET_BYTES} bytes, this one {len(secret)}")
        self._secret = SecretBytes(secret)
        self._new_client = client
        self._of_thread = threading.local()
        self.key_id = NativeClient(secret).key_id()

    def __repr__(self) -> str:
        return f"EiKey(key_id={self.key_id!r}, secret=<redacted>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key does not pickle: use export_secret and load")

    def export_secret(self) -> bytes:
        """The 64-byte seed that the SDK takes as `secret_key` (there in base64)."""
        return self._secret.get_secret_value()

    def evaluation_keys(self) -> bytes:
        """A key blob of about 9 MB. Each call makes another one; any of them serves."""
        return self._new_client(self.export_secret()).public_keys()

    def encrypt(self, rows: Rows, encoding: Encoding) -> Iterator[bytes]:
        """`{"batch": [[base64, …], …], "key_id": …, "container": …}`, a row at a time.

        `rows` has shape (rows, `encoding.features`). Raises `DatasetError`, before the first piece.
        """
        check_rows(rows, encoding)
        return self._body(rows, encoding)

    def _body(self, rows: Rows, encoding: Encoding) -> Iterator[bytes]:
        separator = b'{"batch":['
        for index, row in enumerate(rows):
            try:
                ciphertexts = self._client().encrypt(row)
            except (NativeError, OSError) as error:
                raise DatasetError(
                    f"row {index} of the block can't be encrypted: {error}"
                ) from error
            yield separator + json.dumps(ciphertexts).encode()
            separator = b","
        names = json.dumps({"key_id": self.key_id, "container": encoding.container})
        yield b"]," + names[1:].encode()

    def decrypt(self, body: bytes, *, rows: int) -> Scores:
        """Scores of `rows` rows, shape (rows, classes), from a batch's or a single row's answer.

        Raises `MalformedRequest` for anything but a JSON list of them, `CiphertextError`.
        """
        answer = parse_answer(body, rows=rows)
        scores = np.empty((rows, len(answer[0])))
        for row, results in enumerate(answer):
            for column, text in enumerate(results):
                what = f"result {column} of row {row}"
                result = ei.check_result(_decode(text, what=what), what=what)
                try:
                    scores[row, column] = self._client().decrypt(result.data)
                except (NativeError, OSError) as error:
                    raise CiphertextError(f"{what} can't be decrypted: {error}") from error
        return scores

    def _client(self) -> Client:
        client: Client | None = getattr(self._of_thread, "client", None)
        if client is None:
            client = self._of_thread.client = self._new_client(self.export_secret())
        return client


class EiScheme:
    """Keys of the `ei` scheme, over one of the two clients."""

    name = "ei"
    content_type = "application/json"
    reads_foreign_objects = True

    def __init__(self, client: Callable[[bytes], Client] = NativeClient) -> None:
        self._client = client

    def rows_per_job(self, _preset: str = "", /) -> int:
        """3.5 MB of ciphertexts up, up to 50 MB of results down."""
        return 16

    def split(self, encoding: Encoding) -> Sequence[Encoding]:
        """One part: the ciphertexts are of rows."""
        return [encoding]

    def generate(self, preset: str = "") -> EiKey:
        """A new key, its seed drawn by the SDK's native library. Raises `UsageError`."""
        if preset:
            raise UsageError(f"unknown preset {preset!r} of ei", remedy="it has none")
        return self.load(NativeClient(None).secret())

    def load(self, secret: bytes) -> EiKey:
        """The key of an exported secret. Raises `SecretKeyError`."""
        return EiKey(secret, client=self._client)


SCHEME = EiScheme()
REFERENCE = EiScheme(SdkClient)


def check_rows(rows: Rows, encoding: Encoding) -> None:
    """Refuse what can't be encrypted as declared. Raises `DatasetError`, naming the row."""
    if rows.ndim != 2 or 0 in rows.shape:
        raise DatasetError(f"a block has shape {rows.shape}; (rows, features) is needed")
    if rows.shape[1] != encoding.features:
        raise DatasetError(f"rows have {rows.shape[1]} features, the run has {encoding.features}")
    bound = min(encoding.input_bound, MAX_MAGNITUDE)
    bad = ~(np.abs(rows) <= bound)  # so that NaN is bad too
    if bad.any():
        row, feature = np.argwhere(bad)[0]
        raise DatasetError(
            f"row {row} of the block has {rows[row, feature]:g} as feature {feature}, "
            f"beyond the declared bound of {bound:g}"
        )


def parse_answer(body: bytes, *, rows: int) -> list[list[str]]:
    """A response's base64 texts, one list a row, all equally long. Raises `MalformedRequest`."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest("the answer is not JSON") from error
    if rows == 1 and _is_texts(answer):
        return [answer]
    if not isinstance(answer, list) or not all(_is_texts(row) for row in answer):
        raise MalformedRequest("the answer is not a list of lists of base64 texts")
    if len(answer) != rows:
        raise MalformedRequest(f"the answer has {len(answer)} rows, {rows} were asked for")
    if len({len(row) for row in answer}) != 1:
        raise MalformedRequest("the answer's rows have different numbers of results")
    return answer


def _is_texts(item: object) -> bool:
    return isinstance(item, list) and bool(item) and all(isinstance(text, str) for text in item)


def _decode(text: str, *, what: str) -> bytes:
    if len(text) > _MAX_RESULT_CHARS:
        raise CiphertextError(f"{what} is over {ei.MAX_RESULT_BYTES} bytes")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedRequest(f"{what} is not base64") from error
