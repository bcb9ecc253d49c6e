"""Entry script for Azure Machine Learning's inference server: `init()` once, `run()` per request.

It answers the JSON of `encrypted-inference` 0.9 by the same engine as `blindscore serve`, in the
server's own process, and keeps keys between calls. Options are `BLINDSCORE_*` variables, by the
names that `blindscore serve --help` gives; the model is the one that the deployment mounts.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import threading
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from score.answers import Done, NeedBlob, NeedKeys
from score.engine import JSON_TYPE, Build, Engine
from score.evaluators import build
from score.keycache import KeyCache
from score.keystore import KeyStore
from score.problems import Problem, problem_of
from score.settings import EI_EVALUATORS, EI_INPUT_BOUND, MB, EngineOptions, KeyOptions
from shared import cli, telemetry
from shared.errors import BlindscoreError, ModelError, UsageError
from shared.linear import LinearModel
from shared.model import PICKLES, load_model, sha256_of
from shared.settings import DEFAULT_CONTAINER, StorageSettings, storage_settings
from shared.storage import open_store

MODEL_FILE = "sklearn_mnist_model.pkl"
MODEL_SUFFIXES = (".skops", ".npz", *PICKLES)

T = TypeVar("T")


class Service:
    """An engine in this process, and a thread whose event loop fetches keys for it."""

    def __init__(
        self,
        model: LinearModel,
        engine: EngineOptions,
        keys: KeyOptions,
        storage: StorageSettings,
        build: Build = build,
    ) -> None:
        """Raises `ModelError`, `UsageError`."""
        self._engine = Engine(model, engine, build)
        self._one_at_a_time = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._exits = AsyncExitStack()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        atexit.register(self.close)
        self._store, self._keys = self._wait(self._open(storage, keys))

    def score(self, body: bytes) -> bytes:
        """Evaluate a request body. Raises as `POST /score` answers."""
        with self._one_at_a_time:
            evaluation = self._engine.begin(JSON_TYPE)
            answer = evaluation.feed(body, last=True)
            if isinstance(answer, NeedKeys):
                key = self._wait(self._keys.get(self._store.source(answer)))
                answer = evaluation.use_keys(key.version, None)
                if isinstance(answer, NeedBlob):
                    answer = evaluation.use_keys(key.version, key.data)
        if not isinstance(answer, Done):
            raise BlindscoreError("the engine answered out of turn")
        return answer.body

    def close(self) -> None:
        """Close connections and end the thread."""
        atexit.unregister(self.close)
        if self._loop.is_closed():
            return
        self._wait(self._exits.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(
        self, storage: StorageSettings, options: KeyOptions
    ) -> tuple[KeyStore, KeyCache]:
        own = await self._exits.enter_async_context(open_store(storage))
        store = KeyStore(own, storage, options, open_store)
        cache = KeyCache(store, options)
        self._exits.push_async_callback(cache.aclose)
        return store, cache

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


_service: Service | None = None


def init() -> None:
    """Load the model, and make ready to fetch keys.

    Raises `ModelError`, `UsageError`: the server then says so and does not start.
    """
    global _service  # noqa: PLW0603 - the server calls two functions, and nothing else joins them
    telemetry.configure(_option("--log-level", "info"))
    model = _load(_model_file())
    engine = EngineOptions(
        schemes=("ei",),
        ei_evaluator=_option("--ei-evaluator", EI_EVALUATORS[0]),
        ei_input_bound=_number("--ei-input-bound", EI_INPUT_BOUND),
        max_batch=int(_number("--max-batch", 64)),
        max_json_bytes=int(_number("--max-json-mb", 64) * MB),
        loaded_keys_bytes=int(_number("--loaded-keys-mb", 256) * MB),
    )
    keys = KeyOptions(
        cache_bytes=int(_number("--key-cache-mb", 256) * MB),
        ttl_s=_number("--key-ttl-s", 30.0),
        allowed_hosts=tuple(_option("--allow-key-host", "").split()),
    )
    storage = storage_settings(
        account=_option("--account", ""), container=_option("--container", DEFAULT_CONTAINER)
    )
    if _service is not None:
        _service.close()
    _service = Service(model, engine, keys, storage)


def run(raw_data: str) -> Any:
    """Score one request: the list that the SDK's client decrypts, or a problem document."""
    if _service is None:
        raise BlindscoreError("init() has not been called")
    try:
        return json.loads(_service.score(raw_data.encode()))
    except BlindscoreError as error:
        return _respond(problem_of(error))


def _respond(problem: Problem) -> Any:
    """The problem as a response with its status; as a document where there is no server."""
    try:
        from azureml_inference_server_http.api.aml_response import AMLResponse  # noqa: PLC0415
    except ImportError:
        return problem.document()
    return AMLResponse(problem.encode(), problem.status, problem.headers())


def _load(path: Path) -> LinearModel:
    consent = _option("--trust-pickle", "")
    if path.suffix in PICKLES and not consent:
        raise ModelError(
            f"{path} is a pickle, and loading it runs code from it",
            remedy="if you know where it comes from, set "
            f"{cli.variable('--trust-pickle')}={sha256_of(path)}",
        )
    return load_model(path, trust_pickle=consent or None)


def _model_file() -> Path:
    """`BLINDSCORE_MODEL`; else the seeds' file, or the only model file, that is mounted."""
    if chosen := _option("--model", ""):
        return Path(chosen)
    folder = Path(os.environ.get("AZUREML_MODEL_DIR", ""))
    if not os.environ.get("AZUREML_MODEL_DIR") or not folder.is_dir():
        raise ModelError("no model is mounted", remedy="set AZUREML_MODEL_DIR or BLINDSCORE_MODEL")
    if (folder / MODEL_FILE).is_file():
        return folder / MODEL_FILE
    found = sorted(
        path for path in folder.rglob("*") if path.suffix in MODEL_SUFFIXES and path.is_file()
    )
    if len(found) != 1:
        raise ModelError(
            f"{folder} holds {len(found)} model files", remedy="name one by BLINDSCORE_MODEL"
        )
    return found[0]


def _option(flag: str, default: str) -> str:
    return os.environ.get(cli.variable(flag), "") or default


def _number(flag: str, default: float) -> float:
    text = _option(flag, str(default))
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise UsageError(f"{cli.variable(flag)} is not a number: {text!r}")
    return number
