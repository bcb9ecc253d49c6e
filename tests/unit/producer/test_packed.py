"""Keys of `packed`, what its requests hold, and which responses it refuses."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import numpy as np
import pytest
from tenseal import sealapi
from tenseal.sealapi import util

from producer.schemes import ClientKey, ClientScheme, Encoding, client_scheme
from producer.schemes.packed import SCHEME, PackedKey, add_modulo, modulo
from producer.schemes.packed_seal import plain_coefficients
from score.schemes.packed import PackedEvaluator
from shared import bfv, blobnames, container, packed
from shared.container import Header
from shared.errors import (
    BlindscoreError,
    CiphertextError,
    DatasetError,
    EvaluationKeysError,
    MalformedRequest,
    SecretKeyError,
    UsageError,
)
from shared.linear import LinearModel
from shared.params import (
    PACKED_DEFAULT,
    PACKED_PRESETS,
    PackedPreset,
    check_security,
    interchangeable,
)
from tests.memory import traced_peak
from tests.scoring import respond

PRESET = PACKED_PRESETS["n2048"]
FEATURES = 20
ENCODING = Encoding("container", FEATURES, 1.0)
LIMIT = packed.max_frame_bytes(PRESET)
PART = packed.SECTION_FEATURES
WIDE = 2 * PART + 44
PRODUCT_BITS = packed.scale_bits(PRESET, 1.0) + 3


@pytest.fixture(scope="module")
def key() -> PackedKey:
    return SCHEME.generate(PRESET.name)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, (5, FEATURES))


def read_request(
    key: PackedKey, rows: np.ndarray, encoding: Encoding
) -> tuple[Header, list[bytes]]:
    return container.read(b"".join(key.encrypt(rows, encoding)), max_frame_bytes=LIMIT)


def decrypt_features(key: PackedKey, header: Header, payloads: list[bytes]) -> np.ndarray:
    """What a request decrypts to, in units of its scale, shape (features sent, rows)."""
    return np.concatenate([decrypt_frame(key, frame) for frame in payloads[1:]]).reshape(
        -1, header.rows
    )


def decrypt_frame(key: PackedKey, payload: bytes) -> np.ndarray:
    """What a frame of features decrypts to, in units of its scale."""
    count = (len(payload) - packed.SEED_BYTES) // key.preset.input_bytes
    seed, words = packed.read_features(key.preset, payload, count)
    generator = sealapi.Blake2xbPRNG([int(word) for word in np.frombuffer(seed, dtype="<u8")])
    parameters = key._ring.context.key_context_data().parms()
    polynomials = np.zeros((2, key.preset.ring.degree), dtype=np.uint64)
    polynomials[0, :count] = words
    polynomials[1] = util.sample_poly_uniform(generator, parameters)
    plain = sealapi.Plaintext()
    key._decryptor.decrypt(bfv.ciphertext(key._ring, polynomials), plain)
    return 2.0 * plain_coefficients(key._ring, plain)[:count]


def test_is_a_client_scheme(key: PackedKey) -> None:
    scheme: ClientScheme = client_scheme("packed")
    client_key: ClientKey = key
    assert scheme.rows_per_job() == PACKED_PRESETS[PACKED_DEFAULT].ring.degree
    assert scheme.rows_per_job("n2048") == 2048
    assert client_key.scheme == scheme.name == "packed"


@pytest.mark.parametrize("name", PACKED_PRESETS)
def test_presets_are_secure_and_have_seals_primes(name: str) -> None:
    preset = PACKED_PRESETS[name]
    check_security(preset.ring, strict=True)
    assert bfv.ring(preset).result.primes == (preset.prime,)
    assert preset.plain_bits == preset.prime.bit_length() - 1
    bits = preset.prime.bit_length()
    assert preset.dropped_bits + 8 * preset.result_bytes == bits
    assert preset.input_dropped_bits + 8 * preset.input_bytes == bits <= 8 * preset.zero_bytes


def test_the_key_id_is_the_hash_of_the_blob(key: PackedKey) -> None:
    blob = key.evaluation_keys()
    assert key.key_id == hashlib.sha256(blob).hexdigest()
    assert blobnames.is_key_id(key.key_id)
    assert packed.read_key_blob(blob) == PRESET
    assert json.loads(blob)["primes"] == [PRESET.prime]


def test_each_key_is_new() -> None:
    assert SCHEME.generate().key_id != SCHEME.generate().key_id


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"{}",
        b"[" * 4000,
        b'{"preset": "n2048"}',
        b'{"preset": ["n2048"], "tag": ""}',
        packed.key_blob(PRESET, b"tag") + b" ",
        packed.key_blob(PRESET, b"tag").replace(b"2048,", b"4096,"),
        packed.key_blob(PRESET, b"tag").replace(b'"packed"', b'"direct"'),
        packed.key_blob(PRESET, b"tag").replace(b"4017", b"4018"),
    ],
)
def test_a_key_blob_of_other_parameters_is_refused(blob: bytes) -> None:
    with pytest.raises(EvaluationKeysError):
        packed.read_key_blob(blob)


def test_unknown_preset_is_refused() -> None:
    with pytest.raises(UsageError, match="n4096"):
        SCHEME.generate("n1024")


def test_a_secret_survives_export_and_load(key: PackedKey, rows: np.ndarray) -> None:
    loaded = SCHEME.load(key.export_secret())
    assert loaded.key_id == key.key_id
    header, payloads = read_request(key, rows, ENCODING)
    opened = decrypt_features(loaded, header, payloads) / 2.0**24
    assert np.abs(opened - rows.T).max() < 1e-5


@pytest.mark.parametrize(
    "damage",
    [
        lambda secret: b"",
        lambda secret: b"\xc1",
        lambda secret: secret[:-1],
        lambda secret: secret + b"\x00",
        lambda secret: secret[:-1] + bytes([secret[-1] ^ 1]),
        lambda secret: secret.replace(b"packed-secret", b"direct-secret"),
        lambda secret: msgpack.packb([*msgpack.unpackb(secret)[:3], b"no key"]),
    ],
)
def test_a_damaged_secret_is_refused(key: PackedKey, damage: Callable[[bytes], bytes]) -> None:
    damaged = damage(key.export_secret())
    with pytest.raises(SecretKeyError):
        SCHEME.load(damaged)


def test_a_secret_key_neither_pickles_nor_prints(key: PackedKey) -> None:
    with pytest.raises(TypeError, match="does not pickle"):
        pickle.dumps(key)
    assert "redacted" in repr(key)


@pytest.mark.parametrize(
    ("count", "together"),
    [(1, 20), (102, 20), (103, 19), (512, 4), (513, 3), (1024, 2), (1025, 1), (2048, 1)],
)
def test_a_request_is_as_small_as_its_rows(key: PackedKey, count: int, together: int) -> None:
    """The fewer they are, the more features share a ciphertext, and no coefficient is empty."""
    rows = np.zeros((count, FEATURES))
    header, payloads = read_request(key, rows, ENCODING)
    assert (header.rows, header.features) == (count, FEATURES)
    assert header.frames == len(payloads) == 1 + math.ceil(FEATURES / together)
    assert header.key_id == key.key_id
    assert len(payloads[0]) == 64 + 7 * 2048
    assert sum(len(payload) - 64 for payload in payloads[1:]) == 6 * count * FEATURES
    assert {len(payload) for payload in payloads[1:-1]} <= {64 + 6 * count * together}


@pytest.mark.parametrize("count", [3, 300, 600, 1025])
def test_features_follow_one_another(key: PackedKey, count: int) -> None:
    rows = np.random.default_rng(6).uniform(-1, 1, (count, 37))
    header, payloads = read_request(key, rows, Encoding("container", 37, 1.0))
    opened = decrypt_features(key, header, payloads) / 2.0**24
    assert np.abs(opened - rows.T).max() < 1e-5


@pytest.mark.parametrize("preset", PACKED_PRESETS.values(), ids=lambda preset: preset.name)
def test_as_many_features_share_a_ciphertext_as_fit(preset: PackedPreset) -> None:
    degree = preset.ring.degree

    def shared(rows: int, features: Sequence[int]) -> list[list[int]]:
        return [list(group) for group in packed.ciphertexts(preset, rows=rows, features=features)]

    assert shared(degree, range(3)) == shared(degree // 2 + 1, range(3)) == [[0], [1], [2]]
    assert shared(degree // 2, range(3)) == [[0, 1], [2]]
    assert shared(degree // 3, range(7)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert shared(1, (2, 7, PART - 1, PART, 3 * PART)) == [[2, 7, PART - 1], [PART], [3 * PART]]
    assert shared(1, ()) == []


def test_ciphertexts_are_made_one_by_one(key: PackedKey) -> None:
    made = []

    class Counting:
        def encrypt_zero_symmetric(self, parms_id: Any) -> Any:
            made.append(1)
            return key._encryptor.encrypt_zero_symmetric(parms_id)

    own = SCHEME.load(key.export_secret())
    own._encryptor = Counting()
    pieces = own.encrypt(np.zeros((2048, FEATURES)), ENCODING)
    next(pieces)
    assert not made
    for count in range(1, 4):
        next(pieces)
        assert len(made) == count


@pytest.mark.parametrize("count", [3, 200, 1025])
@pytest.mark.parametrize(
    "active",
    [
        None,
        range(1, WIDE, 2),
        range(PART + 1),
        (0, PART - 1, PART, 2 * PART - 1),
        (PART + 2, WIDE - 1),
        (5,),
        (),
    ],
)
def test_parts_make_up_the_whole(key: PackedKey, active: Sequence[int] | None, count: int) -> None:
    """However many features share a ciphertext, and wherever those that are sent are."""
    wide = np.random.default_rng(4).uniform(-1, 1, (count, WIDE))
    announced = None if active is None else tuple(reversed(active)) + tuple(active[:1])
    parts = SCHEME.split(Encoding("container", WIDE, 1.0, active=announced))
    spans = [part.columns or range(0) for part in parts]
    assert [(span.start, span.stop) for span in spans] == [
        (0, PART),
        (PART, 2 * PART),
        (2 * PART, WIDE),
    ]
    bodies = [
        b"".join(key.encrypt(wide[:, span.start : span.stop], part))
        for part, span in zip(parts, spans, strict=True)
    ]
    header, payloads = container.read(b"".join(bodies), max_frame_bytes=LIMIT)
    assert (header.rows, header.features) == (count, WIDE)
    features = list(range(WIDE) if active is None else active)
    assert list(packed.read_active(header)) == features
    if features:
        opened = decrypt_features(key, header, payloads) / 2.0 ** packed.scale_bits(PRESET, 1.0)
        assert np.abs(opened - wide.T[features]).max() < 1e-5


def test_a_part_names_the_feature_that_cannot_be_encoded(key: PackedKey) -> None:
    wide = np.zeros((3, WIDE))
    wide[2, PART + 3] = 1.5
    part = SCHEME.split(Encoding("container", WIDE, 1.0))[1]
    with pytest.raises(DatasetError, match=rf"row 2 .* 1\.5 as feature {PART + 3}"):
        key.encrypt(wide[:, PART : 2 * PART], part)
    with pytest.raises(DatasetError, match=f"have {WIDE} features, the run has {PART}"):
        key.encrypt(wide, part)


def test_a_ciphertext_holds_its_feature_and_noise(key: PackedKey) -> None:
    """Noise is there, new in each ciphertext, and within the bound that precision rests on.

    It is SEAL's own, and that of the bits that are not sent.
    """
    rows = np.random.default_rng(2).uniform(-3, 3, (2048, 2))
    header, payloads = read_request(key, rows, Encoding("container", 2, 3.0))
    scale = 2.0 ** packed.scale_bits(PRESET, 3.0)
    first, second = decrypt_features(key, header, payloads) - np.rint(rows.T * scale)
    for noise in (first, second):
        assert np.abs(noise).max() <= packed.input_noise(PRESET) + 1
        assert 8 < noise.std() < 12  # √(10.5 + 32²/12)
    assert not np.array_equal(first, second)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2


def test_values_are_added_modulo_the_prime() -> None:
    prime = PRESET.prime
    words = [0, 1, 5, prime // 2, prime - 5, prime - 1]
    values = [-prime + 1, -6, -1, 0, 1, 6, prime - 1]
    left = np.repeat(np.array(words, dtype=np.uint64), len(values))
    right = modulo(np.tile(np.array(values, dtype=np.int64), len(words)), prime)
    expected = [(word + value) % prime for word in words for value in values]
    assert add_modulo(left, right, prime).tolist() == expected


@pytest.mark.parametrize("count", [5, 2048])
def test_the_same_rows_are_never_encrypted_alike(key: PackedKey, count: int) -> None:
    rows = np.zeros((count, FEATURES))
    _, once = read_request(key, rows, ENCODING)
    _, again = read_request(key, rows, ENCODING)
    assert len({payload[:64] for payload in once + again}) == 2 * len(once)
    assert not set(once) & set(again)


def test_inactive_features_are_left_out(key: PackedKey, rows: np.ndarray) -> None:
    encoding = Encoding("container", FEATURES, 1.0, active=(17, 3))
    header, payloads = read_request(key, rows, encoding)
    assert list(packed.read_active(header)) == [3, 17]
    opened = decrypt_features(key, header, payloads) / 2.0**24
    assert np.abs(opened - rows.T[[3, 17]]).max() < 1e-5


def test_a_key_serves_all_presets_of_its_ring() -> None:
    """What is sent is as if the key were of the other preset, and so is what comes back."""
    rows = np.random.default_rng(4).uniform(-1, 1, (7, FEATURES))
    model = LinearModel(np.random.default_rng(5).normal(size=(3, FEATURES)), np.ones(3))
    evaluator = PackedEvaluator(model)
    for own in ("n4096", "compact"):
        key = SCHEME.generate(own)
        for coding, size in (("n4096", 7), ("compact", 5), ("", 7 if own == "n4096" else 5)):
            request = b"".join(key.encrypt(rows, Encoding("c", FEATURES, 1.0, preset=coding)))
            header, payloads = container.read(request, max_frame_bytes=1 << 16)
            assert header.parameters["preset"] == (coding or own)
            assert len(payloads[1]) == 64 + size * 7 * FEATURES
            scores = key.decrypt(respond(evaluator, request), rows=7)
            bound = evaluator.describe()["presets"][coding or own]["error_bound"]
            assert np.abs(scores - model.scores(rows)).max() <= bound


@pytest.mark.parametrize("coding", ["n8192", "n2048", "n", "precision"])
def test_a_key_serves_no_preset_of_another_ring(coding: str) -> None:
    with pytest.raises(UsageError, match="preset n4096 doesn't serve"):
        SCHEME.generate("n4096").encrypt(np.zeros((1, 2)), Encoding("c", 2, 1.0, preset=coding))


def test_presets_that_share_keys_share_all_that_keys_depend_on() -> None:
    """A result is read by a key, whatever the request was."""
    sets = {preset.name: interchangeable(preset) for preset in PACKED_PRESETS.values()}
    assert [preset.name for preset in sets["compact"]] == ["n4096", "compact"]
    assert [preset.name for preset in sets["n8192"]] == ["n8192"]
    assert [preset.name for preset in sets["n2048"]] == ["n2048"]
    first, second = sets["n4096"]
    assert (first.dropped_bits, first.plain_bits) == (second.dropped_bits, second.plain_bits)
    assert bfv.ring(first).fresh == bfv.ring(second).fresh


def test_all_features_active_is_the_same_as_not_saying(key: PackedKey, rows: np.ndarray) -> None:
    encoding = Encoding("container", FEATURES, 1.0, active=tuple(range(FEATURES)))
    header, _ = read_request(key, rows, encoding)
    assert "active" not in header.parameters


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows[:, :3], "have 3 features, the run has 20"),
        (lambda rows: rows[:0], "shape"),
        (lambda rows: rows[0], "shape"),
        (lambda rows: np.resize(rows, (2049, FEATURES)), "at most 2048 rows"),
        (lambda rows: put(rows, 1.5), "row 2 .* 1.5 as feature 4"),
        (lambda rows: put(rows, -1.5), "row 2 .* -1.5 as feature 4"),
        (lambda rows: put(rows, np.nan), "row 2 .* nan as feature 4"),
        (lambda rows: put(rows, np.inf), "row 2 .* inf as feature 4"),
    ],
)
def test_rows_that_cannot_be_encoded_are_refused_at_once(
    key: PackedKey, rows: np.ndarray, change: Callable[[np.ndarray], np.ndarray], reason: str
) -> None:
    with pytest.raises(DatasetError, match=reason):
        key.encrypt(change(rows), ENCODING)


def put(rows: np.ndarray, value: float) -> np.ndarray:
    changed = rows.copy()
    changed[2, 4] = value
    return changed


@pytest.mark.parametrize("bound", [0.0, -1.0, np.nan, np.inf, 1e-50, 1e50])
def test_an_input_bound_that_cannot_be_scaled_is_refused(
    key: PackedKey, rows: np.ndarray, bound: float
) -> None:
    with pytest.raises(DatasetError):
        key.encrypt(rows * 0, Encoding("container", FEATURES, bound))


@pytest.mark.parametrize("active", [(20,), (-1, 3)])
def test_announced_features_that_do_not_exist_are_refused(
    key: PackedKey, rows: np.ndarray, active: tuple[int, ...]
) -> None:
    with pytest.raises(DatasetError, match="announces"):
        key.encrypt(rows, Encoding("container", FEATURES, 1.0, active=active))


def response(key: PackedKey, **changes: Any) -> bytes:
    """A well-formed response to two rows and one class, but for `changes`."""
    parameters = {
        **packed.header_parameters(PRESET, input_bound=1.0),
        "weight_bits": 3,
        "digits": 1,
        "digit_bits": 0,
    }
    fields: dict[str, Any] = {
        "scheme": "packed",
        "parameters": {**parameters, **changes.pop("parameters", {})},
        "rows": 2,
        "features": FEATURES,
        "key_id": key.key_id,
        "frames": 1,
    }
    payloads: list[bytes] = changes.pop("payloads", [bytes(RESULT_BYTES)])
    header = Header.model_validate({**fields, **changes, "frames": len(payloads)})
    return b"".join(container.write(header, payloads))


def test_a_well_formed_response_is_decrypted(key: PackedKey) -> None:
    scores = key.decrypt(response(key), rows=2)
    assert scores.shape == (2, 1)
    assert np.abs(scores).max() < 2**52 / 2**PRODUCT_BITS


def test_digits_are_added_up(key: PackedKey) -> None:
    """Two classes in three digits each: of 64 and 8 and 1 times what each alone would be."""
    count = 2 + PRESET.ring.degree
    words = np.random.default_rng(2).integers(0, PRESET.prime, (6, count), dtype=np.uint64)
    payloads = [bfv.pack(PRESET, row) for row in words]
    alone = key.decrypt(response(key, payloads=payloads), rows=2)
    digits = {"digits": 3, "digit_bits": 3}
    together = key.decrypt(response(key, payloads=payloads, parameters=digits), rows=2)
    assert together.shape == (2, 2)
    places = alone.reshape(2, 2, 3) * [1.0, 8.0, 64.0]
    assert np.allclose(together, places.sum(axis=2), rtol=1e-12)


RESULT_BYTES = (2 + PRESET.ring.degree) * PRESET.result_bytes
BAD_RESPONSES: list[dict[str, Any]] = [
    {"payloads": [bytes(RESULT_BYTES - 1)]},
    {"payloads": [bytes(RESULT_BYTES), bytes(RESULT_BYTES // 2)]},
    {"payloads": [b"\xff" * RESULT_BYTES]},
    {"payloads": []},
    {"parameters": {"weight_bits": "3"}},
    {"parameters": {"weight_bits": 10**6}},
    {"parameters": {"weight_bits": 0.5}},
    *({"parameters": {"digits": digits}} for digits in (2, 0, -1, 1.0, "1", 9)),
    {"parameters": {"digits": 9}, "payloads": [bytes(RESULT_BYTES)] * 9},
    {"parameters": {"digits": 2}, "payloads": [bytes(RESULT_BYTES)] * 3},
    *({"parameters": {"digit_bits": bits}} for bits in (-1, 1.0, "1")),
    *(
        {"parameters": {"digits": 2, "digit_bits": bits}, "payloads": [bytes(RESULT_BYTES)] * 2}
        for bits in (-1, 65, 10**6)
    ),
    {
        "parameters": {"weight_bits": -700, "digits": 8, "digit_bits": 40},
        "payloads": [bytes(RESULT_BYTES)] * 8,
    },
    {"parameters": {"surprise": 1}},
    {"parameters": {"primes": [PRESET.prime - 2]}},
    {"parameters": {"scale_bits": 4}},
    {"parameters": {"input_bound": "1"}},
    {"parameters": packed.header_parameters(PACKED_PRESETS["n4096"], input_bound=1.0)},
    {"scheme": "direct"},
    {"key_id": "0" * 64},
    {"rows": 3},
    {"rows": 2049},
]


@pytest.mark.parametrize("changes", BAD_RESPONSES, ids=range(len(BAD_RESPONSES)))
def test_a_response_that_is_not_ours_is_refused(key: PackedKey, changes: dict[str, Any]) -> None:
    with pytest.raises((CiphertextError, MalformedRequest)):
        key.decrypt(response(key, **changes), rows=2)


@pytest.mark.parametrize("bound", [packed.MIN_INPUT_BOUND, packed.MAX_INPUT_BOUND])
@pytest.mark.parametrize("bits", [-packed.MAX_WEIGHT_BITS, packed.MAX_WEIGHT_BITS])
def test_no_response_has_scores_beyond_all_numbers(key: PackedKey, bound: float, bits: int) -> None:
    """Whatever the scale that it claims is."""
    scale = packed.header_parameters(PRESET, input_bound=bound)
    digits = {"weight_bits": bits, "digits": 2, "digit_bits": packed.MAX_DIGITS_BITS}
    words = np.full(2 + PRESET.ring.degree, PRESET.prime // 2, dtype=np.uint64)
    payloads = [bfv.pack(PRESET, words)] * 2
    scores = key.decrypt(response(key, payloads=payloads, parameters=scale | digits), rows=2)
    assert np.isfinite(scores).all()


def test_an_oversized_response_is_refused(key: PackedKey) -> None:
    with pytest.raises(BlindscoreError) as refused:
        key.decrypt(response(key, payloads=[bytes(RESULT_BYTES + 5)]), rows=2)
    assert refused.value.http_status in {400, 413, 422}


def test_a_response_takes_no_more_memory_than_its_bytes_account_for(key: PackedKey) -> None:
    """Not a column of scores for each of its frames, however little is in them."""
    body = response(key, payloads=[bytes(RESULT_BYTES), *[b""] * 100_000], rows=2048)
    with traced_peak() as peak, pytest.raises(CiphertextError):
        key.decrypt(body, rows=2048)
    assert peak.bytes < 100 * len(body)


def test_no_number_of_rows_is_too_large_to_be_refused(key: PackedKey) -> None:
    for rows in (2049, 2**40, 10**30):
        with pytest.raises(CiphertextError):
            key.decrypt(response(key, rows=2), rows=rows)
