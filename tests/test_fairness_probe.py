"""The probe finds what is there, and nothing where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from bench.api import Context
from bench.datasets.blocks import Blocks
from bench.probe import _auc, _Folds, attribute_labels, probe

CTX = Context(0)


def planted(n: int = 300, shift: float = 1.5, classes: int = 2, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    x = rng.standard_normal((n, 6))
    x[np.arange(n), y] += shift
    return x, np.array([f"c{c}" for c in y], object)


@pytest.mark.parametrize("kind", ["logistic", "mlp"])
def test_it_finds_what_is_planted(kind):
    x, labels = planted()
    found = probe(x, labels, CTX, kind=kind, permutations=5, draws=200)
    assert found.auc > 0.9
    assert found.auc_low < found.auc < found.auc_high
    assert found.balanced_accuracy > 0.8
    assert found.p_value == pytest.approx(1 / 6)
    assert found.floor_auc == pytest.approx(0.5, abs=0.08)


def test_without_signal_it_is_at_its_floor():
    x, labels = planted(n=400, shift=0.0)
    found = probe(x, labels, CTX, permutations=20, draws=200)
    assert abs(found.auc - 0.5) < 0.09
    assert found.floor_auc == pytest.approx(0.5, abs=0.03)
    assert found.balanced_accuracy == pytest.approx(0.5, abs=0.08)
    assert found.p_value > 0.05


def test_an_unbalanced_attribute_is_judged_against_its_majority():
    rng = np.random.default_rng(0)
    labels = np.array(["M"] * 240 + ["F"] * 60, object)
    found = probe(rng.standard_normal((300, 4)), labels, CTX, permutations=5, draws=0)
    assert found.majority == 0.8
    assert found.accuracy <= 0.81  # no better than saying M
    assert found.balanced_accuracy == pytest.approx(0.5, abs=0.1)


def test_it_never_judges_a_user_it_was_trained_on():
    """With as many features as users a classifier knows its own users by heart."""
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b"] * 50, object)
    found = probe(np.eye(100) + 1e-3 * rng.standard_normal((100, 100)), labels, CTX,
                  permutations=0, draws=0)
    assert found.auc < 0.7
    assert np.isnan(found.floor_auc)


def test_auc_is_that_of_scikit_learn_in_each_fold():
    from sklearn.metrics import roc_auc_score

    for classes in (2, 3):
        x, labels = planted(n=240, shift=0.8, classes=classes)
        y = np.unique(labels, return_inverse=True)[1]
        folds = _Folds(x, y, "logistic", 0)
        theirs = [roc_auc_score(y[folds.fold == k], folds.p[folds.fold == k, 1] if classes == 2
                                else folds.p[folds.fold == k], multi_class="ovr")
                  for k in range(5)]
        assert _auc(folds)[0] == pytest.approx(np.mean(theirs))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """P(N(1.5, 1) beats N(0, 1) in the direction that counts) is known for one fixed score."""
    from math import erf

    true, inside = 0.5 * (1 + erf(1.0 / 2)), 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        folds = object.__new__(_Folds)
        folds.y, folds.fold = np.arange(200) % 2, np.arange(200) // 2 % 5
        score = rng.standard_normal(200) + folds.y
        folds.p = np.stack([-score, score], axis=1)
        low, high = np.quantile(_auc(folds, rng, 400)[1], [0.025, 0.975])
        inside += low <= true <= high
    assert inside >= 51  # 95 % of 60 is 57; 51 is beyond three standard errors


def test_small_classes_are_left_out_and_named():
    x, labels = planted(n=100)
    labels[:6] = "rare"
    found = probe(x, labels, CTX, permutations=0, draws=0)
    assert found.left_out == {"rare": 6}
    assert set(found.users) == {"c0", "c1"}
    nobody = probe(x, np.full(100, "same", object), CTX)
    assert np.isnan(nobody.auc)
    assert nobody.users == {"same": 100}


def test_sparse_features_and_seeds():
    x, labels = planted(n=120)
    x = np.maximum(x, 0)
    once, again, other = (probe(csr_matrix(x), labels, Context(s), permutations=2, draws=50)
                          for s in (0, 0, 1))
    assert once == again
    assert once != other
    assert once.auc > 0.75


def test_labels_are_of_users_with_one_value():
    data = Blocks().load()
    users, labels = attribute_labels(data, "gender")
    assert len(users) == 60
    assert labels[:2].tolist() == ["M", "F"]
    column = data.user_attributes["gender"].copy()
    column[3] = ""
    users, labels = attribute_labels(data.replace(user_attributes={"gender": column}), "gender")
    assert 3 not in users
    assert len(labels) == 59
