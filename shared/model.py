"""Model files: scikit-learn estimators (`.skops`, `.pkl`, `.joblib`) and plain weights (`.npz`).

A pickle runs code from the file when it is loaded, so it takes an explicit consent, pinned to the
file's SHA-256. The other formats run none.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from shared.errors import ModelError
from shared.linear import LinearModel
from shared.predictions import label_texts

MAX_MODEL_BYTES = 256 << 20
"""Of a file, and of what it decompresses to."""
PICKLES = (".pkl", ".pickle", ".joblib")

TRUSTED_BESIDES_SKOPS = frozenset(
    f"sklearn.{name}"
    for name in (
        "_loss.loss.HalfTweedieLossIdentity",
        "feature_selection._univariate_selection.chi2",
        "feature_selection._univariate_selection.f_classif",
        "feature_selection._univariate_selection.f_regression",
        "feature_selection._univariate_selection.r_regression",
        "feature_selection._mutual_info.mutual_info_classif",
        "feature_selection._mutual_info.mutual_info_regression",
    )
)
"""Parts of accepted models that skops does not trust by itself; scikit-learn's own, all of them."""

log = structlog.get_logger()


def load_model(path: str | Path, *, trust_pickle: str | None = None) -> LinearModel:
    """The linear model in a file; `trust_pickle` is the SHA-256 of a pickle that may be loaded.

    `.npz` files hold `coef` (classes, features), `intercept` (classes,), and optionally `labels`
    (or `classes`) and `link`; without a link, labels make it a classifier. Raises `ModelError`.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".npz", ".skops", *PICKLES):
        raise ModelError(
            f"{path} is not a model file",
            remedy=f"one of {', '.join(PICKLES)} or .skops (scikit-learn), .npz (weights)",
        )
    data = _read(path)
    try:
        if suffix == ".npz":
            return _weights(data)
        load = _skops(data) if suffix == ".skops" else _pickle(data, trust_pickle)
        estimator, notes = _quietly(load, path)
        # scikit-learn takes a second to import, which weights in an .npz file do without
        from shared.affine import fold  # noqa: PLC0415

        return fold(estimator, notes=notes)
    except ModelError as error:
        raise ModelError(f"{path}: {error.message}", remedy=error.remedy) from error


def sha256_of(path: str | Path) -> str:
    """Hex SHA-256 of a model file, as `trust_pickle` takes it. Raises `ModelError`."""
    return hashlib.sha256(_read(Path(path))).hexdigest()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_MODEL_BYTES:
                raise ModelError(f"model file {path} is over {MAX_MODEL_BYTES >> 20} MiB")
            return file.read(MAX_MODEL_BYTES)
    except OSError as error:
        raise ModelError(f"can't read model file {path}: {error.strerror}") from error


def _pickle(data: bytes, trusted: str | None) -> Callable[[], Any]:
    digest = hashlib.sha256(data).hexdigest()
    if trusted is None:
        raise ModelError(
            "loading a pickle runs code from it",
            remedy=f"if you know where it comes from, pass --trust-pickle {digest}",
        )
    if trusted.strip().lower() != digest:
        raise ModelError(
            f"the pickle has SHA-256 {digest}, not the trusted {trusted}",
            remedy="it is another file, or has changed: check it before you trust it",
        )
    import joblib  # noqa: PLC0415 - only pickles need it

    return lambda: joblib.load(io.BytesIO(data))


def _skops(data: bytes) -> Callable[[], Any]:
    _check_archive(data)
    try:
        from skops import io as skops_io  # noqa: PLC0415 - only the scorer's extra brings it
    except ImportError as error:
        raise ModelError("skops is not installed", remedy="pip install skops") from error

    def load() -> Any:
        untrusted = skops_io.get_untrusted_types(data=data)
        foreign = [name for name in untrusted if name not in TRUSTED_BESIDES_SKOPS]
        if foreign:
            raise ModelError(
                f"it holds types that are not trusted: {', '.join(foreign[:3])}",
                remedy="only scikit-learn's own linear models and transformers are loaded",
            )
        return skops_io.loads(data, trusted=untrusted)

    return load


def _quietly(load: Callable[[], Any], path: Path) -> tuple[Any, tuple[str, ...]]:
    """What `load` gives; its warnings become one log line, and a note when versions differ."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator = load()
        except ModelError:
            raise
        except Exception as error:  # code from a file may raise anything
            first_line = str(error).partition("\n")[0]
            raise ModelError(
                f"it can't be loaded: {type(error).__name__}: {first_line}",
                remedy="save it again with the scikit-learn installed here, or as .npz weights",
            ) from error
    messages: list[Any] = [warning.message for warning in caught]
    versions = {
        (message.original_sklearn_version, message.current_sklearn_version)
        for message in messages
        if hasattr(message, "original_sklearn_version")
    }
    for saved_by, running in sorted(versions):
        log.warning(
            "model saved by another scikit-learn version",
            path=str(path),
            saved_by=saved_by,
            running=running,
        )
    return estimator, tuple(
        f"saved by scikit-learn {saved_by}, loaded by {running}"
        for saved_by, running in sorted(versions)
    )


def _weights(data: bytes) -> LinearModel:
    _check_archive(data)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            missing = {"coef", "intercept"} - set(arrays.files)
            if missing:
                raise ModelError(f"it has no array {' and '.join(sorted(missing))}")
            coef = np.atleast_2d(np.asarray(arrays["coef"], dtype=np.float64))
            intercept = np.atleast_1d(np.asarray(arrays["intercept"], dtype=np.float64))
            names = next((name for name in ("labels", "classes") if name in arrays.files), None)
            labels = tuple(map(str, label_texts(arrays[names].ravel()))) if names else ()
            link = str(arrays["link"]) if "link" in arrays.files else _link(labels, coef.shape[0])
    except (ValueError, TypeError, OSError, EOFError, RuntimeError, MemoryError) as error:
        raise ModelError(f"its weights can't be read: {error}") from error
    except (zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(f"it is damaged: {error}") from error
    return LinearModel(coef, intercept, labels=labels, link=link)


def _link(labels: tuple[str, ...], classes: int) -> str:
    if not labels:
        return "identity"
    return "sign" if classes == 1 else "argmax"


def _check_archive(data: bytes) -> None:
    """Refuse what is no zip archive, or would decompress to too much, before it is read."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            total = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile as error:
        raise ModelError(f"it is damaged, or of another format: {error}") from error
    if total > MAX_MODEL_BYTES:
        raise ModelError(f"it decompresses to {total:,} bytes, over {MAX_MODEL_BYTES >> 20} MiB")
