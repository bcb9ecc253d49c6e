"""The engine: bodies in pieces, keys when they are asked for, and everything that can be wrong."""

from __future__ import annotations

import base64
import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from score.answers import Done, More, NeedBlob, NeedKeys
from score.engine import JSON_TYPE, Engine, Evaluation
from score.evaluators import Evaluators
from score.lru import ByteLru
from score.settings import EngineOptions
from shared import container
from shared.errors import (
    BlindscoreError,
    BodyTooLarge,
    CiphertextError,
    EvaluationKeysError,
    FeatureCountError,
    MalformedRequest,
    ModelError,
    UnsupportedMediaType,
)
from tests.unit.score import toys

OPTIONS = EngineOptions(max_rows=100, max_batch=3, max_json_bytes=4096, loaded_keys_bytes=1000)


@pytest.fixture
def engine() -> Engine:
    return Engine(toys.MODEL, OPTIONS, toys.build)


def texts(*ciphertexts: bytes) -> list[str]:
    return [base64.b64encode(ciphertext).decode() for ciphertext in ciphertexts]


def json_body(**fields: Any) -> bytes:
    return orjson.dumps({"key_id": toys.KEY_ID, "container": "keys-here", **fields})


def decoded(body: bytes) -> Any:
    def decode(value: Any) -> Any:
        if isinstance(value, list):
            return [decode(item) for item in value]
        return base64.b64decode(value)

    return decode(orjson.loads(body))


def finish(evaluation: Evaluation, body: bytes, blob: bytes = toys.KEY_BLOB) -> Done:
    """Feed a whole body and give the keys it asks for."""
    answer = evaluation.feed(body, last=True)
    assert isinstance(answer, NeedKeys)
    answer = evaluation.use_keys("version", None)
    if isinstance(answer, NeedBlob):
        answer = evaluation.use_keys("version", blob)
    assert isinstance(answer, Done)
    return answer


# --- JSON -------------------------------------------------------------------------------------


def test_one_row_is_answered_with_its_results(engine: Engine) -> None:
    done = finish(engine.begin(JSON_TYPE), json_body(data=texts(b"row")))
    assert decoded(done.body) == [b"ROW by load 1"]
    assert (done.scheme, done.rows, done.content_type) == ("ei", 1, JSON_TYPE)


def test_a_batch_is_answered_row_by_row(engine: Engine) -> None:
    done = finish(engine.begin(JSON_TYPE), json_body(batch=[texts(b"a"), texts(b"b")]))
    assert decoded(done.body) == [[b"A by load 1"], [b"B by load 1"]]
    assert done.rows == 2


def test_a_batch_of_one_is_still_a_batch(engine: Engine) -> None:
    done = finish(engine.begin(JSON_TYPE), json_body(batch=[texts(b"a")]))
    assert decoded(done.body) == [[b"A by load 1"]]


def test_the_request_names_its_keys(engine: Engine) -> None:
    body = json_body(data=texts(b"row"), conn_str="AccountKey=secret")
    need = engine.begin(JSON_TYPE).feed(body, last=True)
    assert need == NeedKeys(
        scheme="ei", key_id=toys.KEY_ID, container="keys-here", conn_str="AccountKey=secret"
    )
    assert "secret" not in repr(need)


def test_keys_are_loaded_once_a_version(engine: Engine) -> None:
    body = json_body(data=texts(b"row"))
    finish(engine.begin(JSON_TYPE), body)
    again = engine.begin(JSON_TYPE)
    again.feed(body, last=True)
    done = again.use_keys("version", None)
    assert isinstance(done, Done)
    assert decoded(done.body) == [b"ROW by load 1"]
    newer = engine.begin(JSON_TYPE)
    newer.feed(body, last=True)
    assert isinstance(newer.use_keys("newer version", None), NeedBlob)


def test_loaded_keys_are_bounded_by_their_bytes(engine: Engine) -> None:
    body = json_body(data=texts(b"row"))
    for version in ("first", "second"):  # 600 bytes each, of 1,000
        evaluation = engine.begin(JSON_TYPE)
        evaluation.feed(body, last=True)
        evaluation.use_keys(version, b"k" * 600)
    evaluation = engine.begin(JSON_TYPE)
    evaluation.feed(body, last=True)
    assert isinstance(evaluation.use_keys("first", None), NeedBlob)


def test_keys_over_the_bound_are_used_but_not_kept(engine: Engine) -> None:
    body = json_body(data=texts(b"row"))
    for load in (b"1", b"2"):
        done = finish(engine.begin(JSON_TYPE), body, b"k" * 2000)
        assert decoded(done.body) == [b"ROW by load " + load]


@given(cuts=st.lists(st.integers(0, 200), max_size=5))
@settings(deadline=None)
def test_a_json_body_may_come_in_any_pieces(cuts: list[int]) -> None:
    body = json_body(data=texts(b"row"))
    evaluation = Engine(toys.MODEL, OPTIONS, toys.build).begin(JSON_TYPE)
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts)]
    for start, end in itertools.pairwise(edges):
        assert isinstance(evaluation.feed(body[start:end], last=False), More)
    assert isinstance(evaluation.feed(body[edges[-1] :], last=True), NeedKeys)


MALFORMED = {
    "not JSON": b"{",
    "not an object": b"[]",
    "not UTF-8": b'{"data": ["\xff"]}',
    "too deep": b"[" * 4000,
    "no data": json_body(),
    "both": json_body(data=texts(b"a"), batch=[texts(b"a")]),
    "unknown field": json_body(data=texts(b"a"), debug=True),
    "data is text": json_body(data="YQ=="),
    "data is empty": json_body(data=[]),
    "batch is empty": json_body(batch=[]),
    "an empty row": json_body(batch=[[]]),
    "a number": json_body(data=[1]),
    "a flat batch": json_body(batch=texts(b"a")),
    "not base64": json_body(data=["a!"]),
    "base64 and more": json_body(data=["YQ==YQ=="]),
    "not ASCII": json_body(data=["é"]),
    "no key id": orjson.dumps({"data": texts(b"a"), "container": "keys-here"}),
    "a path": json_body(data=texts(b"a"), key_id="../../secrets/of/others"),
    "key id is null": json_body(data=texts(b"a"), key_id=None),
    "a container path": json_body(data=texts(b"a"), container="../other"),
    "conn_str is a list": json_body(data=texts(b"a"), conn_str=["x"]),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_json_is_refused(engine: Engine, body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        engine.begin(JSON_TYPE).feed(body, last=True)


def test_malformed_json_is_not_echoed(engine: Engine) -> None:
    body = json_body(data=texts(b"a"), conn_string="AccountKey=secret")
    with pytest.raises(MalformedRequest) as caught:
        engine.begin(JSON_TYPE).feed(body, last=True)
    assert "secret" not in str(caught.value)
    assert "conn_string" not in str(caught.value)


def test_a_body_of_many_tiny_values_is_refused_before_it_is_parsed() -> None:
    engine = Engine(toys.MODEL, EngineOptions(), toys.build)
    with pytest.raises(MalformedRequest, match="over 65536 values"):
        engine.begin(JSON_TYPE).feed(b"[" + b"[]," * 100_000 + b"[]]", last=True)


def test_json_over_the_limit_is_refused_as_it_comes(engine: Engine) -> None:
    evaluation = engine.begin(JSON_TYPE)
    evaluation.feed(b" " * 4000, last=False)
    with pytest.raises(BodyTooLarge):
        evaluation.feed(b" " * 100, last=False)


def test_a_batch_over_the_limit_is_refused(engine: Engine) -> None:
    with pytest.raises(BodyTooLarge, match="at most 3"):
        engine.begin(JSON_TYPE).feed(json_body(batch=[texts(b"a")] * 4), last=True)


def test_an_empty_ciphertext_is_refused(engine: Engine) -> None:
    with pytest.raises(CiphertextError):
        engine.begin(JSON_TYPE).feed(json_body(data=[""]), last=True)


@pytest.mark.parametrize(
    ("ciphertexts", "error"),
    [((toys.BAD,), CiphertextError), ((b"a", b"b"), FeatureCountError)],
)
def test_what_the_evaluator_refuses_is_refused(
    engine: Engine, ciphertexts: tuple[bytes, ...], error: type[BlindscoreError]
) -> None:
    with pytest.raises(error):
        finish(engine.begin(JSON_TYPE), json_body(data=texts(*ciphertexts)))


def test_bad_keys_are_refused_and_not_kept(engine: Engine) -> None:
    for _ in range(2):
        with pytest.raises(EvaluationKeysError):
            finish(engine.begin(JSON_TYPE), json_body(data=texts(b"row")), toys.BAD_BLOB)


# --- our container -----------------------------------------------------------------------------


def opened(body: bytes) -> list[bytes]:
    return container.read(body, max_frame_bytes=4096)[1]


def test_a_container_is_evaluated(engine: Engine) -> None:
    body = toys.packed_body(b"a", b"b", b"c")
    done = finish(engine.begin(container.CONTENT_TYPE), body)
    assert opened(done.body) == [b"A+B+C"]
    assert (done.scheme, done.rows, done.content_type) == ("packed", 3, container.CONTENT_TYPE)


@given(cuts=st.lists(st.integers(0, 300), max_size=6), late=st.booleans())
@settings(deadline=None)
def test_a_container_may_come_in_any_pieces(cuts: list[int], late: bool) -> None:
    """Keys are asked for as soon as the header is in; frames count whenever they come."""
    engine = Engine(toys.MODEL, OPTIONS, toys.build)
    body = toys.packed_body(b"a", b"b", b"c")
    evaluation = engine.begin(container.CONTENT_TYPE)
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    asked = 0
    for start, end in itertools.pairwise(edges):
        answer = evaluation.feed(body[start:end], last=end == len(body) and not late)
        if isinstance(answer, NeedKeys):
            asked += 1
            answer = evaluation.use_keys("version", toys.KEY_BLOB)
        if isinstance(answer, Done):
            break
    if late:
        answer = evaluation.feed(b"", last=True)
    assert asked == 1
    assert isinstance(answer, Done)
    assert opened(answer.body) == [b"A+B+C"]


def test_the_keys_of_a_container_are_checked_once_a_version(engine: Engine) -> None:
    finish(engine.begin(container.CONTENT_TYPE), toys.packed_body(b"a"))
    again = engine.begin(container.CONTENT_TYPE)
    assert isinstance(again.feed(toys.packed_body(b"a"), last=True), NeedKeys)
    assert isinstance(again.use_keys("version", None), Done)


def test_keys_that_do_not_hash_to_their_id_are_refused(engine: Engine) -> None:
    with pytest.raises(EvaluationKeysError, match="hash"):
        finish(engine.begin(container.CONTENT_TYPE), toys.packed_body(b"a"), b"other keys")


def test_keys_of_another_scheme_are_refused(engine: Engine) -> None:
    body = toys.packed_body(b"a", key_id=toys.BAD_KEY_ID)
    with pytest.raises(EvaluationKeysError, match="not toy keys"):
        finish(engine.begin(container.CONTENT_TYPE), body, toys.BAD_BLOB)


BODY = toys.packed_body(b"a", b"b")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", MalformedRequest),
        (BODY[:-1], MalformedRequest),
        (BODY + b"\xc0", MalformedRequest),
        (BODY[:-1] + b"x", MalformedRequest),
        (b"\xc1" * 10, MalformedRequest),
        (toys.packed_body(b"a", rows=101), BodyTooLarge),
        (toys.packed_body(b"a", features=5), FeatureCountError),
        (toys.packed_body(b"a", scheme="direct"), UnsupportedMediaType),
        (toys.packed_body(toys.BAD), CiphertextError),
        (toys.packed_body(b"x" * 2_100_000), MalformedRequest),
    ],
    ids=["empty", "cut", "surplus", "damaged", "noise", "rows", "features", "scheme", "bad", "big"],
)
def test_bad_containers_are_refused(
    engine: Engine, body: bytes, error: type[BlindscoreError]
) -> None:
    with pytest.raises(error):
        engine.begin(container.CONTENT_TYPE).feed(body, last=True)


def test_each_scheme_has_its_own_limit_of_a_frame() -> None:
    narrow = toys.ToyPacked(4, name="direct", max_frame_bytes=10)
    wide = toys.ToyPacked(4, max_frame_bytes=1000)
    engine = Engine(
        toys.MODEL, OPTIONS, lambda *_: Evaluators(blocks={"direct": narrow, "packed": wide})
    )
    finish(engine.begin(container.CONTENT_TYPE), toys.packed_body(b"x" * 20))
    body = toys.packed_body(b"x" * 20, scheme="direct")
    with pytest.raises(BodyTooLarge, match="over 10 bytes"):
        engine.begin(container.CONTENT_TYPE).feed(body, last=True)


# --- the engine itself --------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", ["", "text/html", "application/octet-stream"])
def test_other_content_types_are_refused(engine: Engine, content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        engine.begin(content_type)


def test_schemes_are_described_with_their_limits(engine: Engine) -> None:
    assert engine.describe() == {
        "ei": {"evaluator": "toy", "batch": True, "max_batch": 3},
        "packed": {"degree": 4096, "prime_bits": [60], "max_rows": 100},
    }
    assert engine.refused == {"direct": "too precise"}


def test_a_model_that_no_scheme_can_score_is_refused() -> None:
    with pytest.raises(ModelError):
        Engine(toys.HOSTILE_MODEL, OPTIONS, toys.build)


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "get", "drop"]), st.integers(0, 5), st.integers(0, 12))
    )
)
@settings(deadline=None)
def test_the_cache_keeps_the_most_recently_used_within_its_bound(
    steps: list[tuple[str, int, int]],
) -> None:
    """Against a list in order of use."""
    cache: ByteLru[int, int] = ByteLru(10)
    expected: list[tuple[int, int]] = []
    for action, key, nbytes in steps:
        held = next((entry for entry in expected if entry[0] == key), None)
        if held is not None:
            expected.remove(held)
        if action == "get":
            assert cache.get(key) == (held[1] if held else None)
            expected += [held] if held else []
        elif action == "drop":
            cache.drop(key)
        else:
            cache.put(key, nbytes, nbytes)
            expected += [(key, nbytes)] if nbytes <= 10 else []
            while sum(size for _, size in expected) > 10:
                expected.pop(0)
        assert cache.nbytes == sum(size for _, size in expected)
        assert list(cache._entries) == [entry[0] for entry in expected]
