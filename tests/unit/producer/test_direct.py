"""The `direct` scheme's client side: keys, what it encrypts, and the answers it refuses."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from hashlib import sha256

import msgpack
import numpy as np
import pytest
from tenseal import sealapi

from producer.schemes import Encoding, client_scheme
from producer.schemes.direct import SCHEME, DirectKey, quantise_rows
from score.schemes.direct import DirectEvaluator
from shared import bfv, blobnames, container, direct_scale, seal
from shared.container import CONTENT_TYPE, Header
from shared.direct import Layout
from shared.errors import (
    BlindscoreError,
    BodyTooLarge,
    CiphertextError,
    DatasetError,
    MalformedRequest,
    SecretKeyError,
    UsageError,
)
from shared.linear import LinearModel
from shared.params import DIRECT_PRESETS, check_security
from tests.direct_products import frames, request
from tests.memory import traced_peak
from tests.scoring import respond

FEATURES = 6
MODEL = LinearModel(np.random.default_rng(1).normal(size=(3, FEATURES)), np.array([0.5, -2.0, 1.0]))
ROWS = np.random.default_rng(2).uniform(-1, 1, size=(5, FEATURES))
ERROR = 1e-4


@pytest.fixture(scope="module", params=sorted(DIRECT_PRESETS))
def key(request: pytest.FixtureRequest) -> DirectKey:
    return SCHEME.generate(request.param)


@pytest.fixture(scope="module")
def response(key: DirectKey) -> bytes:
    return respond(DirectEvaluator(MODEL), request(key, ROWS))


def changed(body: bytes, **fields: object) -> bytes:
    """A body with another header."""
    header, payloads = frames(body)
    return b"".join(container.write(header.model_copy(update=fields), payloads))


def with_parameters(body: bytes, **parameters: object) -> bytes:
    header, _ = frames(body)
    return changed(body, parameters={**header.parameters, **parameters})


def with_payload(body: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A body whose first frame is another, checksummed as it should be."""
    header, payloads = frames(body)
    return b"".join(container.write(header, [change(payloads[0]), *payloads[1:]]))


def test_scheme_is_registered() -> None:
    scheme = client_scheme("direct")
    assert scheme.name == "direct"
    assert scheme.content_type == CONTENT_TYPE
    assert 1 <= scheme.rows_per_job() <= 64


def test_presets_are_secure_by_both_tables() -> None:
    for preset in DIRECT_PRESETS.values():
        check_security(preset.ring)
        check_security(preset.ring, strict=False)
        result_bits = preset.ring.prime_bits[0] - preset.dropped_bits
        assert result_bits == 8 * preset.result_bytes


def test_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="precision"):
        SCHEME.generate("fast")


def test_key_blob_holds_parameters_and_a_tag_of_its_own(key: DirectKey) -> None:
    blob = key.evaluation_keys()
    record = json.loads(blob)
    assert len(blob) < 200
    assert record.pop("tag") != json.loads(SCHEME.generate().evaluation_keys())["tag"]
    assert record == {
        "scheme": "direct",
        "version": 1,
        "preset": key.preset.name,
        "degree": 4096,
        "prime_bits": list(key.preset.ring.prime_bits),
        "plain_bits": key.preset.plain_bits,
    }
    assert key.key_id == sha256(blob).hexdigest()
    assert blobnames.is_key_id(key.key_id)


def test_exported_secret_decrypts_what_the_key_asked_for(key: DirectKey, response: bytes) -> None:
    again = SCHEME.load(key.export_secret())
    assert (again.key_id, again.preset) == (key.key_id, key.preset)
    assert np.array_equal(again.decrypt(response, rows=5), key.decrypt(response, rows=5))


def test_key_neither_pickles_nor_shows(key: DirectKey) -> None:
    for copier in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="pickle"):
            copier(key)
    assert "redacted" in repr(key)
    assert len(repr(key)) < 200


def test_damaged_secrets_are_refused(key: DirectKey) -> None:
    magic, version, blob, secret = msgpack.unpackb(key.export_secret())
    other = SCHEME.generate("speed" if key.preset.name == "precision" else "precision")
    bad = [
        b"",
        b"\x00" * 64,
        key.export_secret()[:-1],
        msgpack.packb([magic, 2, blob, secret]),
        msgpack.packb(["another", version, blob, secret]),
        msgpack.packb([magic, version, b"{}", secret]),
        msgpack.packb([magic, version, blob.replace(b"4096", b"8192"), secret]),
        msgpack.packb([magic, version, blob, secret[:-1]]),
        msgpack.packb([magic, version, other.evaluation_keys(), secret]),
    ]
    for data in bad:
        with pytest.raises(SecretKeyError):
            SCHEME.load(data)


def test_scores_come_back_in_the_shape_of_rows_and_classes(key: DirectKey, response: bytes) -> None:
    scores = key.decrypt(response, rows=5)
    assert scores.shape == (5, 3)
    assert np.abs(scores - MODEL.scores(ROWS)).max() < ERROR


def test_requests_are_fresh_but_for_the_encryption_of_zero(key: DirectKey) -> None:
    header, first = frames(request(key, ROWS))
    again, second = frames(request(key, ROWS))
    assert header == again
    assert first[0] == second[0]
    assert first[1] != second[1]


def test_the_encryption_of_zero_decrypts_to_zero(key: DirectKey) -> None:
    _, (zero, *_) = frames(request(key, ROWS))
    ring = bfv.ring(key.preset)
    plain = sealapi.Plaintext()
    key._decryptor.decrypt(bfv.seeded(ring, ring.result, zero, what="zero"), plain)
    assert plain.is_zero()


def test_header_tells_nothing_of_the_rows(key: DirectKey) -> None:
    levels = direct_scale.levels(key.preset, FEATURES)
    blank, coarse, any_ = np.zeros((5, FEATURES)), np.ones((5, FEATURES)) / levels, ROWS
    headers = {frames(request(key, rows))[0].model_dump_json() for rows in (blank, coarse, any_)}
    assert len(headers) == 1


def test_short_rows_share_a_ciphertext_and_long_ones_are_split(key: DirectKey) -> None:
    levels = direct_scale.levels(key.preset, 5000)
    long = np.random.default_rng(0).integers(-levels, levels + 1, size=(2, 5000)) / levels
    assert frames(request(key, np.zeros((64, 64))))[0].frames == 1 + 1
    assert frames(request(key, np.zeros((65, 64))))[0].frames == 1 + 2
    assert frames(request(key, np.zeros((6, 784))))[0].frames == 1 + 2
    assert frames(request(key, long))[0].frames == 1 + 4
    assert frames(request(key, np.zeros((1, 4096))))[0].frames == 1 + 1


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.zeros((2, FEATURES + 1)), "7 features"),
        (np.zeros(FEATURES), "shape"),
        (np.zeros((0, FEATURES)), "shape"),
        (np.full((2, FEATURES), 1.001), "row 0 .* feature 0.*bound"),
        (np.array([[0, 0, 0, 0, 0, 0], [0, 0, np.nan, 0, 0, 0]]), "row 1 .* feature 2"),
        (np.array([[0, 0, 0, 0, 0, -np.inf]]), "row 0 .* feature 5"),
    ],
)
def test_unsound_rows_are_refused_before_the_first_piece(
    key: DirectKey, rows: np.ndarray, words: str
) -> None:
    encoding = Encoding(container="runs", features=FEATURES, input_bound=1.0)
    with pytest.raises(DatasetError, match=words):
        key.encrypt(rows, encoding)


@pytest.mark.parametrize("bound", [0.0, -1.0, np.inf, np.nan, 1e300, 1e-300])
def test_unsound_bounds_are_refused(key: DirectKey, bound: float) -> None:
    encoding = Encoding(container="runs", features=FEATURES, input_bound=bound)
    with pytest.raises(DatasetError):
        key.encrypt(np.zeros((1, FEATURES)), encoding)


def test_coarse_grid_takes_pixels_and_refuses_what_it_would_round() -> None:
    speed = DIRECT_PRESETS["speed"]
    encoding = Encoding(container="runs", features=784, input_bound=1.0)
    pixels = np.random.default_rng(0).integers(0, 256, size=(3, 784))
    for rows in (pixels / 255, (pixels / 255).astype(np.float32).astype(np.float64)):
        assert np.array_equal(quantise_rows(rows, encoding, speed), pixels)
    with pytest.raises(DatasetError, match="precision preset"):
        quantise_rows(pixels / 256, encoding, speed)
    precise = quantise_rows(pixels / 256, encoding, DIRECT_PRESETS["precision"])
    assert np.abs(precise / (255 * 256) - pixels / 256).max() <= 0.5 / (255 * 256)


def test_largest_input_is_the_largest_integer(key: DirectKey) -> None:
    for bound in (1.0, 0.1, 3.7, 255.0):
        encoding = Encoding(container="runs", features=2, input_bound=bound)
        integers = quantise_rows(np.array([[bound, -bound]]), encoding, key.preset)
        levels = direct_scale.levels(key.preset, 2)
        assert integers.tolist() == [[levels, -levels]]


def test_answers_that_are_no_containers_are_refused(key: DirectKey, response: bytes) -> None:
    for body in (b"", b"{}", response[:-1], response + b"\x00", response[: len(response) // 2]):
        with pytest.raises(MalformedRequest):
            key.decrypt(body, rows=5)
    with pytest.raises((MalformedRequest, BodyTooLarge)):
        key.decrypt(with_payload(response, lambda data: data * 3), rows=5)


def test_no_number_of_rows_is_too_large_to_be_refused(key: DirectKey, response: bytes) -> None:
    for rows in (2**40, 10**18):
        with pytest.raises(MalformedRequest, match="too few"):
            key.decrypt(changed(response, rows=rows), rows=rows)
    with pytest.raises(MalformedRequest):
        key.decrypt(response, rows=10**30)


def test_a_response_takes_no_more_memory_than_its_bytes_account_for(
    key: DirectKey, response: bytes
) -> None:
    header, payloads = frames(response)
    count = 100_000
    classes = count * Layout(key.preset.ring.degree, header.features).classes_per_product(1)
    empty = Header.model_validate(
        {
            **header.model_dump(),
            "frames": count,
            "rows": 1,
            "parameters": {**header.parameters, "classes": classes},
        }
    )
    body = b"".join(container.write(empty, [payloads[0], *[b""] * (count - 1)]))
    with traced_peak() as peak, pytest.raises(BlindscoreError):
        key.decrypt(body, rows=1)
    assert peak.bytes < 100 * len(body)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda body: changed(body, rows=4), MalformedRequest),
        (lambda body: changed(body, scheme="packed"), CiphertextError),
        (lambda body: changed(body, key_id="0" * 64), CiphertextError),
        (lambda body: changed(body, features=4096), MalformedRequest),
        (lambda body: with_parameters(body, classes=4096), MalformedRequest),
        (lambda body: with_parameters(body, classes=2), CiphertextError),
        (lambda body: with_parameters(body, classes=0), CiphertextError),
        (lambda body: with_parameters(body, classes=2**62), CiphertextError),
        (lambda body: with_parameters(body, classes="3"), CiphertextError),
        (lambda body: with_parameters(body, weight_bits=100_000), CiphertextError),
        (lambda body: with_parameters(body, weight_bits=1.5), CiphertextError),
        (lambda body: with_parameters(body, plain_bits=20), CiphertextError),
        (lambda body: with_parameters(body, degree=8192), CiphertextError),
        (lambda body: with_parameters(body, input_bound=1e300), CiphertextError),
        (lambda body: with_parameters(body, input_bound=np.inf), MalformedRequest),
        (lambda body: with_parameters(body, input_bound=-1.0), CiphertextError),
        (lambda body: with_parameters(body, preset="other"), CiphertextError),
        (lambda body: with_parameters(body, surplus=1), CiphertextError),
        (lambda body: with_payload(body, lambda data: data[:-1]), CiphertextError),
        (lambda body: with_payload(body, lambda data: b""), CiphertextError),
        (lambda body: with_payload(body, lambda data: b"\xff" * len(data)), CiphertextError),
    ],
)
def test_damaged_answers_are_refused(
    key: DirectKey, response: bytes, damage: Callable[[bytes], bytes], error: type[BlindscoreError]
) -> None:
    with pytest.raises(error):
        key.decrypt(damage(response), rows=5)


def test_answers_to_another_key_are_refused(key: DirectKey, response: bytes) -> None:
    with pytest.raises(CiphertextError, match="not for"):
        SCHEME.generate(key.preset.name).decrypt(response, rows=5)


def test_coefficients_survive_packing_to_half_a_dropped_bit(key: DirectKey) -> None:
    ring = bfv.ring(key.preset)
    rng = np.random.default_rng(0)
    words = rng.integers(0, ring.result_prime, size=1000, dtype=np.uint64)
    words[:2] = 0, ring.result_prime - 1
    again = bfv.unpack(ring, bfv.pack(key.preset, words), what="test")
    off = again.astype(np.int64) - words.astype(np.int64)
    assert np.abs(off).max() <= 2 ** (key.preset.dropped_bits - 1)
    assert again.max() < ring.result_prime


def test_plaintexts_are_seals_own(key: DirectKey) -> None:
    ring = bfv.ring(key.preset)
    plain = bfv.plaintext(ring, np.array([5, 0, -1, 255]))
    modulus = 1 << key.preset.plain_bits
    assert plain.to_string() == f"FFx^3 + {modulus - 1:X}x^2 + 5"
    assert seal.save(plain)
