"""Model files: what loads, with what consent, and what is refused in one line."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
import skops.io
import structlog.testing
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.linear_model import (
    ElasticNet,
    Lasso,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    Perceptron,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    RidgeClassifierCV,
    SGDClassifier,
    SGDRegressor,
    TweedieRegressor,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR, NuSVC

from shared import model as model_module
from shared.errors import ModelError
from shared.linear import LinearModel
from shared.model import load_model, sha256_of
from shared.predictions import label_texts

DATA = Path(__file__).parents[3] / ".." / "shared" / "data"

RNG = np.random.default_rng(7)
ROWS = RNG.normal(3.0, 2.0, (90, 6))
CLASSES = np.array(["ant", "bee", "cat"])[(ROWS[:, :3]).argmax(axis=1)]
BINARY = ROWS[:, 0] > ROWS[:, 1]
TARGET = ROWS @ np.arange(6.0) + RNG.normal(size=90)


def save(estimator: Any, folder: Path) -> Path:
    path = folder / "model.skops"
    skops.io.dump(estimator, path)
    return path


def load(estimator: Any, folder: Path) -> LinearModel:
    return load_model(save(estimator, folder))


def refused(path: Path, **options: str) -> str:
    with pytest.raises(ModelError) as refusal:
        load_model(path, **options)
    told = str(refusal.value)
    assert path.name in told
    assert "\n" not in told
    return told


CLASSIFIERS = [
    LogisticRegression(),
    LogisticRegression(fit_intercept=False),
    LogisticRegressionCV(Cs=2, l1_ratios=(0,), scoring="accuracy", use_legacy_attributes=False),
    LinearSVC(),
    LinearSVC(multi_class="crammer_singer"),
    SGDClassifier(),
    RidgeClassifier(),
    RidgeClassifierCV(),
    Perceptron(),
    LinearDiscriminantAnalysis(),
    make_pipeline(StandardScaler(), LogisticRegression()),
    make_pipeline(VarianceThreshold(), SelectKBest(k=3), PCA(2), LinearSVC()),
]
REGRESSORS = [
    LinearRegression(),
    LinearRegression(fit_intercept=False),
    Ridge(),
    Lasso(),
    ElasticNet(),
    SGDRegressor(penalty=None, max_iter=5, tol=None),
    LinearSVR(),
    SVR(kernel="linear"),
    TweedieRegressor(power=0, link="identity"),
    make_pipeline(MinMaxScaler(), make_pipeline(RobustScaler(), "passthrough"), Ridge()),
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
class TestEstimators:
    @pytest.mark.parametrize("estimator", CLASSIFIERS, ids=repr)
    def test_multi_class(self, estimator: Any, tmp_path: Path) -> None:
        model = load(estimator.fit(ROWS, CLASSES), tmp_path)
        assert (model.link, model.labels) == ("argmax", ("ant", "bee", "cat"))
        assert np.allclose(model.scores(ROWS), estimator.decision_function(ROWS), rtol=1e-9)
        assert model.predict(ROWS).tolist() == estimator.predict(ROWS).tolist()

    @pytest.mark.parametrize(
        "estimator", [*CLASSIFIERS, SVC(kernel="linear"), NuSVC(kernel="linear")], ids=repr
    )
    def test_binary(self, estimator: Any, tmp_path: Path) -> None:
        model = load(estimator.fit(ROWS, BINARY), tmp_path)
        assert (model.link, model.labels) == ("sign", ("False", "True"))
        assert (model.classes, model.features) == (1, 6)
        assert np.allclose(model.scores(ROWS)[:, 0], estimator.decision_function(ROWS), rtol=1e-9)
        assert model.predict(ROWS).tolist() == [str(label) for label in estimator.predict(ROWS)]

    @pytest.mark.parametrize("estimator", REGRESSORS, ids=repr)
    def test_regression(self, estimator: Any, tmp_path: Path) -> None:
        model = load(estimator.fit(ROWS, TARGET), tmp_path)
        assert (model.link, model.labels, model.classes) == ("identity", (), 1)
        assert np.allclose(model.predict(ROWS), estimator.predict(ROWS), rtol=1e-9)

    def test_regression_of_several_values(self, tmp_path: Path) -> None:
        estimator = LinearRegression().fit(ROWS, np.column_stack([TARGET, -TARGET]))
        model = load(estimator, tmp_path)
        assert (model.link, model.classes) == ("identity", 2)
        assert np.allclose(model.predict(ROWS), estimator.predict(ROWS), rtol=1e-9)

    def test_labels_that_are_whole_numbers(self, tmp_path: Path) -> None:
        estimator = LogisticRegression().fit(ROWS, BINARY.astype(np.float64) * 4)
        assert load(estimator, tmp_path).labels == ("0", "4")

    def test_columns_with_names(self, tmp_path: Path) -> None:
        """What was fitted to a data frame warns about rows without names; that stays inside."""
        estimator = Ridge().fit(ROWS, TARGET)
        estimator.feature_names_in_ = np.array([f"column {i}" for i in range(6)], dtype=object)
        path = tmp_path / "model.pkl"
        joblib.dump(estimator, path)
        with warnings.catch_warnings(record=True) as escaped:
            warnings.simplefilter("always")
            assert load_model(path, trust_pickle=sha256_of(path)).features == 6
        assert not escaped

    def test_sparse_weights(self, tmp_path: Path) -> None:
        estimator = SGDClassifier().fit(ROWS, CLASSES).sparsify()
        path = tmp_path / "model.joblib"
        joblib.dump(estimator, path)
        model = load_model(path, trust_pickle=sha256_of(path))
        assert np.allclose(model.scores(ROWS), estimator.decision_function(ROWS))

    @pytest.mark.parametrize(
        "step",
        [
            StandardScaler(with_mean=False),
            StandardScaler(with_std=False),
            MinMaxScaler((-2, 5)),
            MaxAbsScaler(),
            RobustScaler(with_centering=False),
            RobustScaler(with_scaling=False),
            PCA(3, whiten=True),
            IncrementalPCA(3),
            TruncatedSVD(3),
            SelectKBest(k=2),
            FunctionTransformer(),
            "passthrough",
            None,
        ],
        ids=repr,
    )
    def test_affine_steps(self, step: Any, tmp_path: Path) -> None:
        estimator = make_pipeline(step, LogisticRegression()).fit(ROWS, CLASSES)
        scores = load(estimator, tmp_path).scores(ROWS)
        assert np.allclose(scores, estimator.decision_function(ROWS), rtol=1e-9)


class TestNotLinear:
    @pytest.mark.parametrize(
        ("estimator", "told"),
        [
            (RandomForestClassifier(2), "RandomForestClassifier is not a linear model"),
            (KNeighborsClassifier(), "KNeighborsClassifier is not a linear model"),
            (QuadraticDiscriminantAnalysis(), "QuadraticDiscriminantAnalysis has no coef_"),
            (SVC(), "SVC decides between pairs of its 3 classes (LinearSVC"),
            (SVC(kernel="linear"), "SVC decides between pairs of its 3 classes (LinearSVC"),
            (StandardScaler(), "StandardScaler is not a linear model"),
            (
                make_pipeline(MinMaxScaler(clip=True), LinearSVC()),
                "step 'minmaxscaler' (MinMaxScaler) clips its values",
            ),
            (
                make_pipeline(PolynomialFeatures(), LinearSVC()),
                "step 'polynomialfeatures' (PolynomialFeatures) is not affine (accepted: ",
            ),
            (
                make_pipeline(StandardScaler(), make_pipeline(Normalizer()), LinearSVC()),
                "step 'normalizer' (Normalizer) is not affine",
            ),
            (
                make_pipeline(FunctionTransformer(np.cbrt), LinearSVC()),
                "step 'functiontransformer' (FunctionTransformer) applies a function",
            ),
            (
                make_pipeline(StandardScaler(), RandomForestClassifier(2)),
                "step 'randomforestclassifier' (RandomForestClassifier) is not a linear model",
            ),
        ],
        ids=lambda value: "" if isinstance(value, str) else repr(value),
    )
    def test_is_named(self, estimator: Any, told: str, tmp_path: Path) -> None:
        path = tmp_path / "model.joblib"
        joblib.dump(estimator.fit(ROWS, CLASSES), path)
        assert told in refused(path, trust_pickle=sha256_of(path))

    def test_a_link_function(self, tmp_path: Path) -> None:
        path = save(PoissonRegressor().fit(ROWS, np.abs(TARGET)), tmp_path)
        assert "does not answer with a linear function" in refused(path)

    def test_a_kernel_for_two_classes(self, tmp_path: Path) -> None:
        path = save(SVC().fit(ROWS, BINARY), tmp_path)
        assert "SVC has no coef_ and intercept_" in refused(path)

    def test_several_labels_a_row(self, tmp_path: Path) -> None:
        several = np.column_stack([BINARY, ~BINARY, BINARY]).astype(int)
        path = save(RidgeClassifier().fit(ROWS, several), tmp_path)
        assert "RidgeClassifier" in refused(path)

    def test_not_fitted(self, tmp_path: Path) -> None:
        assert "not fitted" in refused(save(LogisticRegression(), tmp_path))

    def test_a_step_not_fitted(self, tmp_path: Path) -> None:
        fitted = LogisticRegression().fit(ROWS, CLASSES)
        assert "Pipeline can't be evaluated" in refused(
            save(make_pipeline(StandardScaler(), fitted), tmp_path)
        )

    def test_weights_that_are_not_finite(self, tmp_path: Path) -> None:
        estimator = LogisticRegression().fit(ROWS, CLASSES)
        estimator.coef_[0, 0] = np.nan
        assert "not finite" in refused(save(estimator, tmp_path))

    @pytest.mark.parametrize("anything", [{"coef_": 1}, [1, 2], "text", None])
    def test_no_estimator_at_all(self, anything: object, tmp_path: Path) -> None:
        path = tmp_path / "model.pkl"
        joblib.dump(anything, path)
        assert f"{type(anything).__name__} is not a linear model" in refused(
            path, trust_pickle=sha256_of(path)
        )


class Sly(LogisticRegression):  # type: ignore[misc]
    """Looks linear, and answers otherwise for large rows."""

    def decision_function(self, X: Any) -> Any:  # noqa: N803 - scikit-learn's name
        return np.clip(super().decision_function(X), -100.0, 100.0)


class Contrary(LogisticRegression):  # type: ignore[misc]
    """Has the right scores and sometimes predicts another class."""

    def predict(self, X: Any) -> Any:  # noqa: N803 - scikit-learn's name
        scores = self.decision_function(X)
        best = np.where(X[:, 0] > 0, scores.argmax(axis=1), scores.argmin(axis=1))
        return self.classes_[best]


@pytest.mark.parametrize(
    ("kind", "told"), [(Sly, "does not answer with a linear"), (Contrary, "does not predict")]
)
def test_what_folds_and_yet_answers_otherwise(
    kind: type[BaseEstimator], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.pkl"
    joblib.dump(kind().fit(ROWS, CLASSES), path)
    assert told in refused(path, trust_pickle=sha256_of(path))


class TestPickles:
    @pytest.fixture
    def trap(self, tmp_path: Path) -> Path:
        """Loading it makes a file `sprung` beside it."""
        path = tmp_path / "model.pkl"
        path.write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
        return path

    def test_no_consent_tells_how_to_give_it(self, trap: Path) -> None:
        assert f"pass --trust-pickle {sha256_of(trap)})" in refused(trap)
        assert not (trap.parent / "sprung").exists()

    def test_consent_to_another_file(self, trap: Path) -> None:
        told = refused(trap, trust_pickle="0" * 64)
        assert f"has SHA-256 {sha256_of(trap)}, not the trusted 0000" in told
        assert not (trap.parent / "sprung").exists()

    def test_consent_runs_it(self, trap: Path) -> None:
        refused(trap, trust_pickle=sha256_of(trap))
        assert (trap.parent / "sprung").exists()

    @pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".joblib", ".PKL"])
    @pytest.mark.parametrize("compress", [0, 3])
    def test_of_joblib(self, suffix: str, compress: int, tmp_path: Path) -> None:
        path = tmp_path / f"model{suffix}"
        joblib.dump(Ridge().fit(ROWS, TARGET), path, compress=compress)
        assert load_model(path, trust_pickle=sha256_of(path).upper()).link == "identity"

    def test_of_plain_pickle(self, tmp_path: Path) -> None:
        path = tmp_path / "model.pkl"
        path.write_bytes(pickle.dumps(Ridge().fit(ROWS, TARGET)))
        assert load_model(path, trust_pickle=sha256_of(path)).features == 6

    @pytest.mark.parametrize(
        "content",
        [b"", b"<html>", b"\x80\x04", b"cno_such_module\nThing\n.", gzip.compress(b"", mtime=0)],
    )
    def test_that_cant_be_loaded(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "model.pkl"
        path.write_bytes(content)
        assert "it can't be loaded" in refused(path, trust_pickle=sha256_of(path))

    def test_saved_by_another_version_is_one_warning(self, tmp_path: Path) -> None:
        estimator = make_pipeline(StandardScaler(), Ridge()).fit(ROWS, TARGET)
        data = pickle.dumps(estimator, protocol=0)
        path = tmp_path / "model.pkl"
        running = sklearn.__version__
        path.write_bytes(data.replace(f"V{running}\n".encode(), b"V0.99.0\n"))
        with structlog.testing.capture_logs() as logs, warnings.catch_warnings():
            warnings.simplefilter("error")
            model = load_model(path, trust_pickle=sha256_of(path))
        assert model.notes == (f"saved by scikit-learn 0.99.0, loaded by {running}",)
        assert [(log["log_level"], log["saved_by"], log["running"]) for log in logs] == [
            ("warning", "0.99.0", running)
        ]

    def test_the_published_model(self) -> None:
        path = DATA / "sklearn_mnist_model.pkl"
        if not path.exists():
            pytest.skip("needs the published model in ../shared/data")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = load_model(path, trust_pickle=sha256_of(path))
        assert model.notes[0].startswith("saved by scikit-learn 0.22.1, loaded by ")
        images = gzip.decompress((DATA / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
        rows = np.frombuffer(images, dtype=np.uint8, offset=16).reshape(-1, 784) / 255
        with np.load(DATA / "mnist_expected.npz") as expected:
            assert np.abs(model.scores(rows) - expected["scores"]).max() < 1e-9
            assert (model.predict(rows) == label_texts(expected["predictions"])).all()


class _Trap:
    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.sprung,)


class TestSkops:
    def test_types_that_are_not_trusted(self, tmp_path: Path) -> None:
        path = save(make_pipeline(FunctionTransformer(sly_function), Ridge()), tmp_path)
        told = refused(path)
        assert "types that are not trusted: " in told
        assert "sly_function" in told

    @pytest.mark.parametrize("content", [b"", b"<html>", bytes(100)])
    def test_another_format(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "model.skops"
        path.write_bytes(content)
        assert "damaged, or of another format" in refused(path)

    def test_a_schema_that_makes_no_sense(self, tmp_path: Path) -> None:
        path = tmp_path / "model.skops"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("schema.json", json.dumps({"protocol": 1}))
        assert "it can't be loaded" in refused(path)


def sly_function(rows: Any) -> Any:
    return rows


class TestWeights:
    def write(self, folder: Path, **arrays: Any) -> Path:
        path = folder / "model.npz"
        np.savez(path, **arrays)
        return path

    def test_multi_class(self, tmp_path: Path) -> None:
        coef, intercept = RNG.normal(size=(3, 4)), RNG.normal(size=3)
        path = self.write(tmp_path, coef=coef, intercept=intercept, labels=["a", "b", "c"])
        model = load_model(path)
        assert (model.link, model.labels) == ("argmax", ("a", "b", "c"))
        assert np.array_equal(model.weights, coef)
        assert np.array_equal(model.intercept, intercept)

    def test_binary_in_one_dimension(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, coef=[1.0, 2.0], intercept=0.5, classes=[0, 1])
        model = load_model(path)
        assert (model.link, model.labels, model.features) == ("sign", ("0", "1"), 2)

    def test_regression_is_what_has_no_labels(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, coef=np.ones((2, 3)), intercept=np.zeros(2))
        assert load_model(path).link == "identity"

    def test_a_link_given(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, coef=np.ones((2, 3)), intercept=np.zeros(2), link="argmax")
        assert load_model(path).labels == ("0", "1")

    @pytest.mark.parametrize(
        ("arrays", "told"),
        [
            ({"coef": np.ones((2, 3))}, "no array intercept"),
            ({}, "no array coef and intercept"),
            ({"coef": np.ones((2, 3)), "intercept": np.ones(3)}, "3 intercepts for 2 rows"),
            ({"coef": np.ones((2, 3, 1)), "intercept": np.ones(2)}, "weights have shape (2, 3, 1)"),
            ({"coef": np.ones((0, 3)), "intercept": np.ones(0)}, "weights have shape (0, 3)"),
            ({"coef": np.array(["a"]), "intercept": 0.0}, "its weights can't be read"),
            ({"coef": np.array([None]), "intercept": 0.0}, "its weights can't be read"),
            ({"coef": [np.inf], "intercept": 0.0}, "not finite"),
            ({"coef": [1.0], "intercept": 0.0, "link": "softmax"}, "unknown link 'softmax'"),
            ({"coef": [1.0], "intercept": 0.0, "labels": ["a"]}, "1 labels with link 'sign'"),
        ],
    )
    def test_what_does_not_fit(self, arrays: dict[str, Any], told: str, tmp_path: Path) -> None:
        assert told in refused(self.write(tmp_path, **arrays))

    @pytest.mark.parametrize("content", [b"", b"<html>", bytes(100)])
    def test_another_format(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "model.npz"
        path.write_bytes(content)
        assert "damaged, or of another format" in refused(path)

    def test_flipped_bits(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, coef=[1.0, 2.0], intercept=0.5)
        data = bytearray(path.read_bytes())
        data[data.index(np.float64(2.0).tobytes())] ^= 0xFF
        path.write_bytes(data)
        assert "it is damaged" in refused(path)

    def test_a_header_that_announces_too_much(self, tmp_path: Path) -> None:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**9)}
        )
        path = tmp_path / "model.npz"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("coef.npy", header.getvalue())
            archive.writestr("intercept.npy", header.getvalue())
        assert "its weights can't be read" in refused(path)


class TestFiles:
    @pytest.mark.parametrize("name", ["model.onnx", "model", "model.h5"])
    def test_another_kind(self, name: str, tmp_path: Path) -> None:
        assert "is not a model file (one of .pkl" in refused(tmp_path / name)

    @pytest.mark.parametrize("suffix", [".pkl", ".skops", ".npz"])
    def test_missing(self, suffix: str, tmp_path: Path) -> None:
        assert "No such file" in refused(tmp_path / f"model{suffix}")
        with pytest.raises(ModelError, match="No such file"):
            sha256_of(tmp_path / f"model{suffix}")

    def test_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "model.npz").mkdir()
        assert "can't read model file" in refused(tmp_path / "model.npz")

    @pytest.mark.parametrize("suffix", [".pkl", ".skops", ".npz"])
    def test_too_large(self, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(model_module, "MAX_MODEL_BYTES", 1 << 20)
        path = tmp_path / f"model{suffix}"
        path.write_bytes(bytes((1 << 20) + 1))
        assert "is over 1 MiB" in refused(path)

    @pytest.mark.parametrize("suffix", [".skops", ".npz"])
    def test_too_large_when_decompressed(
        self, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(model_module, "MAX_MODEL_BYTES", 1 << 20)
        path = tmp_path / f"model{suffix}"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("coef.npy", bytes(1 << 21))
        assert "it decompresses to 2,097,152 bytes, over 1 MiB" in refused(path)
