"""Every error blindscore raises. Foreign exceptions are translated into these at the adapters.

An error names the input that caused it and, where there is one, the remedy: the command line
prints both as one line and exits with `exit_code`; the endpoint answers `http_status` with `code`.
"""

from __future__ import annotations

from typing import ClassVar


class BlindscoreError(Exception):
    """Root of all errors.

    `code` is stable: it appears in problem documents, failure records and logs.
    """

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle with the remedy: errors cross process boundaries."""
        return _rebuild, (type(self), self.message, self.remedy)


def _rebuild(cls: type[BlindscoreError], message: str, remedy: str) -> BlindscoreError:
    return cls(message, remedy=remedy)


# --- what the user gave us -------------------------------------------------------------------


class UsageError(BlindscoreError):
    """An option, setting or argument that cannot work."""

    code = "usage"
    exit_code = 2


class DatasetError(BlindscoreError):
    """A data set that is missing, damaged or of the wrong shape."""

    code = "dataset"


class ModelError(BlindscoreError):
    """A model that is missing, not linear, or outside what a scheme can score."""

    code = "model"


class SecretKeyError(BlindscoreError):
    """A secret key that is missing, damaged or of another scheme."""

    code = "secret_key"


class RunError(BlindscoreError):
    """A run that is unknown, incomplete or inconsistent."""

    code = "run"


# --- storage ---------------------------------------------------------------------------------


class StorageError(BlindscoreError):
    """The storage account answered something we can't work with."""

    code = "storage"
    http_status = 503


class StorageUnavailable(StorageError):
    """The storage account can't be reached, or is throttling; worth trying again."""

    code = "storage_unavailable"


class AccessDenied(StorageError):
    """The storage account refused our credential."""

    code = "storage_denied"


class BlobNotFound(StorageError):
    """There is no blob (or no container) of that name."""

    code = "blob_not_found"
    http_status = 404


class BlobExists(StorageError):
    """A create-only write found a blob of that name already there."""

    code = "blob_exists"


class QueueNotFound(StorageError):
    """There is no queue of that name."""

    code = "queue_not_found"


class LeaseLost(StorageError):
    """The pop receipt is not (or no longer) valid: the message's ownership is unknown."""

    code = "lease_lost"


# --- the protocol ----------------------------------------------------------------------------


class MessageError(BlindscoreError):
    """A queue message that can never succeed (unknown version or shape)."""

    code = "bad_message"
    http_status = 400


class MalformedRequest(BlindscoreError):
    """A request body that breaks its own format (JSON, container framing, checksums)."""

    code = "malformed"
    http_status = 400


class CiphertextError(BlindscoreError):
    """Well-formed bytes that are not ciphertexts we can evaluate or decrypt."""

    code = "bad_ciphertext"
    http_status = 422


class FeatureCountError(CiphertextError):
    """The rows don't have the model's number of features."""

    code = "feature_count"


class EvaluationKeysError(BlindscoreError):
    """A key blob that is not the evaluation keys it claims to be."""

    code = "bad_keys"
    http_status = 422


class KeyUnknown(BlindscoreError):
    """No key blob is published under this key id."""

    code = "key_unknown"
    http_status = 404


class KeyExpired(BlindscoreError):
    """The evaluation keys under this key id are past the day their owner set."""

    code = "key_expired"
    http_status = 403


class KeyHostNotAllowed(BlindscoreError):
    """A request points the scorer at storage it must not connect to."""

    code = "key_host_not_allowed"
    http_status = 403


class Unauthorized(BlindscoreError):
    """No bearer token, or one that is not accepted."""

    code = "unauthorized"
    http_status = 401


class BodyTooLarge(BlindscoreError):
    """A body or blob over its size limit."""

    code = "too_large"
    http_status = 413


class UnsupportedMediaType(BlindscoreError):
    """A content type, or a scheme in a container, that this endpoint does not offer."""

    code = "unsupported_media_type"
    http_status = 415


class RequestTimeout(BlindscoreError):
    """A caller that sends its body too slowly."""

    code = "request_timeout"
    http_status = 408


class RateLimited(BlindscoreError):
    """A caller that asks more often, or more at once, than one caller may.

    `retry_after_s` is when it may ask again.
    """

    code = "rate_limited"
    http_status = 429

    def __init__(self, message: str, *, retry_after_s: float = 1.0, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.retry_after_s = retry_after_s


class EvaluationTimeout(BlindscoreError):
    """A request that held an evaluator for longer than one request may."""

    code = "evaluation_timeout"
    http_status = 503


class Overloaded(BlindscoreError):
    """All evaluators are busy and the queue in front of them is full."""

    code = "overloaded"
    http_status = 503


# --- the endpoint, seen from a worker ----------------------------------------------------------


class EndpointError(BlindscoreError):
    """The endpoint's answer to one request.

    `retryable` tells a passing fault (timeout, connection, 408, 429, 5xx) from a permanent one;
    `status` is the HTTP status (None when there was no answer); `retry_after_s` is what the
    endpoint asked for.
    """

    code = "endpoint"

    def __init__(
        self,
        message: str,
        *,
        retryable: bool,
        status: int | None = None,
        reason: str = "",
        retry_after_s: float | None = None,
        remedy: str = "",
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.retryable = retryable
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s


class CorruptInput(BlindscoreError):
    """An input blob whose bytes don't have the hash its message names."""

    code = "corrupt_input"
    http_status = 422
