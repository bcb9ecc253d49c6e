"""The options of `blindscore serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from score.settings import EI_EVALUATORS, SCHEMES
from score.tokens import TOKENS_VARIABLE
from shared.cli import option


def _in(panel: str, flag: str, help_: str, **options: Any) -> Any:
    return option(flag, help_, rich_help_panel=panel, **options)


MODEL, HTTP, KEYS, LIMITS = "Model", "HTTP", "Evaluation keys", "Limits"

Model = Annotated[Path, _in(MODEL, "--model", "Model file: .skops, .npz, .pkl or .joblib.")]
TrustPickle = Annotated[
    str,
    _in(
        MODEL,
        "--trust-pickle",
        "SHA-256 of a pickled --model that you consent to load: it runs code from the file.",
    ),
]
Offer = Annotated[
    list[str] | None,
    _in(
        MODEL,
        "--offer",
        f"Offer only this scheme ({', '.join(SCHEMES)}); repeatable. "
        "Default: all that the model allows.",
    ),
]
EiEvaluator = Annotated[
    str,
    _in(
        MODEL,
        "--ei-evaluator",
        f"Who evaluates `ei`: {', '.join(EI_EVALUATORS)}. All give the same answers within "
        "--ei-input-bound; `sdk` is Microsoft's own, as the reference.",
    ),
]
EiInputBound = Annotated[
    float,
    _in(
        MODEL,
        "--ei-input-bound",
        "Largest feature, by magnitude, that clients of `ei` send. Scores of larger ones may "
        "come out wrong without a word; a larger bound may double the size of results.",
    ),
]
AnnounceZeroFeatures = Annotated[
    bool,
    _in(
        MODEL,
        "--announce-zero-features/--no-announce-zero-features",
        "Publish which features the model uses, so that the others need not be encrypted "
        "(`packed`).",
    ),
]

Host = Annotated[str, _in(HTTP, "--host", "Address to listen on.")]
Port = Annotated[int, _in(HTTP, "--port", "Port; 0 takes a free one.", min=0, max=65535)]
TokenFile = Annotated[
    Path | None,
    _in(
        HTTP,
        "--token-file",
        f"File of accepted bearer tokens, one a line; also {TOKENS_VARIABLE}, comma separated. "
        "None of both: whoever reaches the port may score. SIGHUP has the file read again.",
    ),
]
TlsCert = Annotated[
    Path | None,
    _in(
        HTTP,
        "--tls-cert",
        "Certificate, with its chain, in PEM: answer https only. SIGHUP has it read again.",
    ),
]
TlsKey = Annotated[
    Path | None,
    _in(HTTP, "--tls-key", "The certificate's private key, in PEM, without a passphrase."),
]
HealthPort = Annotated[
    int,
    _in(
        HTTP,
        "--health-port",
        "Answer GET /, /ready and /metrics here too, over http and without a token; --port then "
        "answers /metrics no more. 0: don't.",
        min=0,
        max=65535,
    ),
]
HealthHost = Annotated[
    str,
    _in(HTTP, "--health-host", "Address to do so on; 0.0.0.0 for probes from outside."),
]
GraceS = Annotated[
    float,
    _in(
        HTTP,
        "--grace-s",
        "After SIGTERM or Ctrl-C: time for requests in flight to finish. "
        "A second signal ends the endpoint at once.",
        min=0,
    ),
]

KeyCacheMb = Annotated[
    int,
    _in(
        KEYS,
        "--key-cache-mb",
        "Key blobs kept by the main process, MiB. In all, keys take this plus "
        "--processes times --loaded-keys-mb.",
        min=0,
    ),
]
LoadedKeysMb = Annotated[
    int,
    _in(KEYS, "--loaded-keys-mb", "Keys that each evaluator process keeps loaded, MiB.", min=0),
]
KeyTtlS = Annotated[
    float,
    _in(
        KEYS,
        "--key-ttl-s",
        "A key is looked up again when its last look is older: a deleted or replaced key "
        "stops working within this time.",
        min=0,
    ),
]
AllowKeyHost = Annotated[
    list[str] | None,
    _in(
        KEYS,
        "--allow-key-host",
        "Blob endpoint that the conn_str of a request may name, besides this endpoint's own "
        "account; repeatable. Example: https://theirs.blob.core.windows.net",
    ),
]

Processes = Annotated[int, _in(LIMITS, "--processes", "Evaluator processes; 0: one a core.", min=0)]
MaxWaiting = Annotated[
    int,
    _in(
        LIMITS,
        "--max-waiting",
        "Requests in line beyond those being evaluated; one more is answered 503.",
        min=0,
    ),
]
ExecS = Annotated[
    float,
    _in(
        LIMITS,
        "--exec-s",
        "Longest one request may compute; its evaluator is then replaced.",
        min=0.1,
    ),
]
UploadS = Annotated[
    float,
    _in(LIMITS, "--upload-s", "Longest a caller may take for each MiB of a body.", min=0.1),
]
BodyS = Annotated[
    float,
    _in(
        LIMITS,
        "--body-s",
        "Longest a caller may take for a whole body: it holds an evaluator meanwhile.",
        min=0.1,
    ),
]
RatePerS = Annotated[
    float,
    _in(
        LIMITS,
        "--rate-per-s",
        "Requests to score a second from one caller (its token; without tokens, its address), in "
        "the long run; more are answered 429. 0: any number.",
        min=0,
    ),
]
Burst = Annotated[
    int, _in(LIMITS, "--burst", "How many of these may come at once.", min=1, max=1_000_000)
]
MaxPerCaller = Annotated[
    int,
    _in(
        LIMITS,
        "--max-per-caller",
        "Requests to score in progress from one caller; one more is answered 429. 0: any number.",
        min=0,
    ),
]
MaxRows = Annotated[int, _in(LIMITS, "--max-rows", "Rows in one container.", min=1)]
MaxBatch = Annotated[int, _in(LIMITS, "--max-batch", "Rows in one JSON request.", min=1)]
MaxBodyMb = Annotated[int, _in(LIMITS, "--max-body-mb", "Largest body, MiB.", min=1)]
MaxJsonMb = Annotated[
    int,
    _in(
        LIMITS,
        "--max-json-mb",
        "Largest JSON body, MiB; an evaluator holds it in memory.",
        min=1,
    ),
]
