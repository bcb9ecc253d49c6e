"""From scores to predictions, as scikit-learn's own `predict` decides."""

from __future__ import annotations

import numpy as np
import pytest

from shared.errors import ModelError
from shared.linear import LinearModel
from shared.predictions import label_text, label_texts, predict


def test_the_best_score_gives_the_label() -> None:
    scores = np.array([[0.1, 0.3, 0.2], [-3.0, -2.0, -1.0], [5.0, 5.0, 5.0]])
    assert predict(scores, "argmax", ("a", "b", "c")).tolist() == ["b", "c", "a"]


def test_a_positive_score_gives_the_second_label() -> None:
    scores = np.array([[0.1], [-0.1], [0.0]])
    assert predict(scores, "sign", ("no", "yes")).tolist() == ["yes", "no", "no"]


def test_a_regression_gives_its_scores() -> None:
    one, two = np.array([[1.5], [2.5]]), np.array([[1.0, 2.0]])
    assert predict(one, "identity", ()).tolist() == [1.5, 2.5]
    assert predict(two, "identity", ()).tolist() == [[1.0, 2.0]]


def test_no_rows_have_no_predictions() -> None:
    assert predict(np.zeros((0, 2)), "argmax", ("a", "b")).tolist() == []


@pytest.mark.parametrize(
    ("link", "labels", "classes", "told"),
    [
        ("softmax", (), 2, "unknown link 'softmax'"),
        ("argmax", ("a", "b"), 3, "2 labels with link 'argmax' and 3 scores a row"),
        ("sign", ("a",), 1, "1 labels with link 'sign'"),
        ("sign", ("a", "b"), 2, "one score a row, not 2"),
        ("identity", ("a",), 1, "1 labels with link 'identity'"),
        ("argmax", ("a", "a"), 2, "the labels a, a are not distinct"),
    ],
)
def test_a_link_that_does_not_fit(
    link: str, labels: tuple[str, ...], classes: int, told: str
) -> None:
    with pytest.raises(ModelError, match=told):
        predict(np.zeros((1, classes)), link, labels)
    with pytest.raises(ModelError, match=told):
        LinearModel(np.zeros((classes, 2)), np.zeros(classes), labels=labels, link=link)


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (3, "3"),
        (3.0, "3"),
        (np.float32(3), "3"),
        (np.uint8(3), "3"),
        ("3.0", "3"),
        ("3.", "3"),
        (b"3.00", "3"),
        (-1.0, "-1"),
        (3.5, "3.5"),
        ("007", "007"),
        ("1.0.0", "1.0.0"),
        ("cat", "cat"),
        (True, "True"),
        (b"\xff", "\\xff"),
    ],
)
def test_labels_of_data_sets_and_models_meet_as_text(label: object, text: str) -> None:
    assert label_text(label) == text
    assert label_texts([label]).tolist() == [text]
    assert label_texts(np.array([label])).tolist() == [text]


@pytest.mark.parametrize(
    ("link", "classes", "labels"),
    [("argmax", 3, ("0", "1", "2")), ("sign", 1, ("0", "1")), ("identity", 2, ())],
)
def test_a_classifier_without_labels_counts(
    link: str, classes: int, labels: tuple[str, ...]
) -> None:
    assert LinearModel(np.zeros((classes, 2)), np.zeros(classes), link=link).labels == labels


def test_a_linear_model_predicts() -> None:
    model = LinearModel(np.eye(2), np.array([0.0, 1.0]), labels=("a", "b"), link="argmax")
    assert model.predict(np.array([[3.0, 1.0], [1.0, 1.0]])).tolist() == ["a", "b"]
