"""What the endpoint's options mean, before anything is served."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from score import answers
from score.answers import Done, Failed, Ready
from score.evaluators import build
from score.problems import internal_problem, problem_of
from score.settings import EI_EVALUATORS, EngineOptions
from score.tokens import read_tokens
from shared import errors
from shared.errors import BlindscoreError, ModelError, Overloaded, UsageError
from shared.linear import LinearModel
from tests.commands import CLEAN_ENVIRONMENT, refuse
from tests.sdk_client import sdk_client

SMALL = LinearModel(np.ones((2, 4)), np.zeros(2))
HUGE = LinearModel(np.full((1, 4), 1e15), np.zeros(1))
GOOD = "a-token-of-at-least-16"
OTHER = "another-token-that-will-do"
WITHIN_S = 60.0
NOWHERE = {
    "BLINDSCORE_CONNECTION_STRING": "AccountName=none;AccountKey=a2V5;"
    "BlobEndpoint=http://127.0.0.1:9/none;QueueEndpoint=http://127.0.0.1:9/none"
}


# --- schemes ------------------------------------------------------------------------------------


def test_all_schemes_are_offered_by_default() -> None:
    evaluators = build(SMALL, EngineOptions())
    assert evaluators.ei is not None
    assert set(evaluators.blocks) == {"direct", "packed"}
    assert all(name == evaluator.name for name, evaluator in evaluators.blocks.items())
    assert evaluators.refused == {}


@pytest.mark.parametrize("name", EI_EVALUATORS)
def test_the_evaluator_of_ei_can_be_chosen(name: str) -> None:
    evaluators = build(SMALL, EngineOptions(schemes=("ei",), ei_evaluator=name))
    assert evaluators.ei is not None
    assert evaluators.ei.describe()["evaluator"] == name
    assert evaluators.blocks == {}


def test_large_features_of_ei_have_room_when_they_are_declared() -> None:
    """Else a score of a million wraps around to a small number, and looks like any other."""
    options = EngineOptions(schemes=("ei",), ei_input_bound=2e6)
    evaluator = build(LinearModel(np.ones((1, 2)), np.zeros(1)), options).ei
    assert evaluator is not None
    assert evaluator.describe()["input_bound"] == 2e6
    client = sdk_client()
    results = evaluator.evaluate(
        client.encrypt(np.array([[1e6, 5.0]])), evaluator.load_keys(client.keys)
    )
    assert client.decrypt(results)[0, 0] == pytest.approx(1e6 + 5, abs=0.01)


def test_a_scheme_that_can_not_score_the_model_is_left_out_with_its_reason() -> None:
    evaluators = build(HUGE, EngineOptions())
    assert evaluators.ei is None
    assert set(evaluators.blocks) == {"direct", "packed"}
    assert "scale the model's weights down" in evaluators.refused["ei"]


@pytest.mark.parametrize("schemes", [("ei",), ("packed", "ei")])
def test_a_scheme_that_is_asked_for_must_score_the_model(schemes: tuple[str, ...]) -> None:
    with pytest.raises(ModelError, match="scale the model's weights down"):
        build(HUGE, EngineOptions(schemes=schemes))


def test_zero_features_are_announced_only_on_request() -> None:
    model = LinearModel(np.array([[1.0, 0.0, 2.0]]), np.zeros(1))
    for announce in (False, True):
        options = EngineOptions(schemes=("packed",), announce_zero_features=announce)
        described = build(model, options).blocks["packed"].describe()
        assert ("active_features" in described) == announce


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"ei_evaluator": "fast"}, "seal, native, sdk"),
        ({"schemes": ("ckks",)}, "ei, direct"),
        ({"ei_input_bound": 0.0}, "bound"),
        ({"ei_input_bound": float("inf")}, "bound"),
    ],
)
def test_unknown_names_are_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        EngineOptions(**options)  # type: ignore[arg-type]


# --- tokens -------------------------------------------------------------------------------------


def test_tokens_of_both_places_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"{GOOD}\n\n{OTHER}\n")
    monkeypatch.setenv("BLINDSCORE_TOKENS", f"{GOOD[::-1]}, {OTHER[::-1]}")
    assert read_tokens(file) == (GOOD[::-1], OTHER[::-1], GOOD, OTHER)
    monkeypatch.delenv("BLINDSCORE_TOKENS")
    assert read_tokens(None) == ()


@pytest.mark.parametrize("content", [f"{GOOD}\nshort\n", f"{GOOD}\ntwo words in one line\n"])
def test_a_token_that_is_none_is_named_by_its_place(tmp_path: Path, content: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(content)
    with pytest.raises(UsageError, match="line 2") as caught:
        read_tokens(file)
    assert content.splitlines()[1] not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe", None])
def test_a_token_file_must_hold_tokens(tmp_path: Path, content: bytes | None) -> None:
    """An empty one would open the endpoint to everybody."""
    file = tmp_path / "tokens"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match="token"):
        read_tokens(file)


# --- answers and problems ------------------------------------------------------------------------


def all_errors() -> list[type[BlindscoreError]]:
    return [
        cls
        for cls in vars(errors).values()
        if isinstance(cls, type)
        and issubclass(cls, BlindscoreError)
        and cls is not errors.EndpointError
    ]


@pytest.mark.parametrize("cls", [cls for cls in all_errors() if cls is not errors.RateLimited])
def test_an_error_is_the_same_on_the_other_side_of_a_pipe(cls: type[BlindscoreError]) -> None:
    sent = cls("what went wrong", remedy="what helps")
    reply = answers.decode(answers.encode(answers.failed(sent)))
    assert isinstance(reply, Failed)
    got = reply.error()
    assert type(got) is cls
    assert str(got) == str(sent)


def test_codes_are_unique() -> None:
    codes = [cls.code for cls in all_errors()]
    assert len(codes) == len(set(codes))


def test_a_reply_is_the_same_on_the_other_side_of_a_pipe() -> None:
    done = Done(
        body=b"\x00\xff" * 1000,
        content_type="application/json",
        scheme="ei",
        rows=1,
        sha256=b"x" * 32,
        load_s=0.1,
        evaluate_s=0.2,
    )
    assert answers.decode(answers.encode(done)) == done
    ready = Ready(schemes={"ei": {"primes": [60, 40]}}, refused={"direct": "too precise"})
    assert answers.decode(answers.encode(ready)) == ready


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"\x93",
        b"\x81\xa4kind\xa4none",
        b"\x82\xa4kind\xa4more\xa1x\x01",
        b"\xc7\x01\x05\x00",
        answers.encode(Ready(schemes={}, refused={}))[:-1],
    ],
)
def test_a_reply_that_is_none_is_refused(data: bytes) -> None:
    """It comes from a process that has parsed hostile bytes."""
    with pytest.raises(BlindscoreError, match="out of protocol"):
        answers.decode(data)


def test_problems() -> None:
    problem = problem_of(Overloaded("busy", remedy="wait"))
    assert problem.document() == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "busy (wait)",
        "code": "overloaded",
    }
    assert problem.headers()["Retry-After"] == "1"
    assert internal_problem().document()["detail"] == "internal error"


# --- the command ---------------------------------------------------------------------------------


def saved(folder: Path) -> str:
    path = folder / "model.npz"
    np.savez(path, coef=SMALL.weights, intercept=SMALL.intercept)
    return str(path)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--host", "no.such.host.invalid"), "no.such.host.invalid"),
        (("--host", "192.0.2.1"), "can't listen on 192.0.2.1"),
        (("--allow-key-host", "theirs"), "'theirs' is not a blob endpoint"),
        (("--ei-evaluator", "fast"), "unknown evaluator 'fast'"),
        (("--token-file", "/nowhere"), "--token-file /nowhere is unreadable"),
    ],
)
def test_an_option_that_can_not_work_is_one_clear_line(
    tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    command = ("serve", "--model", saved(tmp_path), "--port", "0", *options)
    assert told in refuse(*command, environment=NOWHERE)


def test_storage_that_can_not_be_reached_is_one_clear_line(tmp_path: Path) -> None:
    told = refuse("serve", "--model", saved(tmp_path), "--port", "0", environment=NOWHERE)
    assert "can't be reached" in told


def test_a_hangup_while_it_starts_does_not_end_it(tmp_path: Path) -> None:
    """It comes while the endpoint reads its tokens; what ends it is that there is no storage."""
    os.mkfifo(tmp_path / "tokens")
    command = ("serve", "--model", saved(tmp_path), "--port", "0")
    process = subprocess.Popen(
        [sys.executable, "-m", "blindscore", *command, "--token-file", str(tmp_path / "tokens")],
        env=CLEAN_ENVIRONMENT | NOWHERE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with os.fdopen(_writing(tmp_path / "tokens", process), "w") as tokens:
            process.send_signal(signal.SIGHUP)
            tokens.write(GOOD)
        _, told = process.communicate(timeout=WITHIN_S)
    finally:
        process.kill()
        process.wait()
    assert "can't be reached" in told
    assert process.returncode == 1


def _writing(pipe: Path, process: subprocess.Popen[str]) -> int:
    """The writing end of a pipe, as soon as the process reads."""
    deadline_s = time.monotonic() + WITHIN_S
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
