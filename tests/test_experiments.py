"""The helpers of the experiments compute what they say, and the stored results are in form."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import HuberRegressor, Ridge

from book.experiments import runner, sorting
from book.experiments.lbfgs import minimize_batch


def quadratics(rng, batch, size):
    """Random strictly convex quadratics of very different scales, and their minimisers."""
    factors = rng.normal(size=(batch, size, size))
    hessians = factors @ factors.transpose(0, 2, 1) + 0.1 * np.eye(size)
    hessians *= np.logspace(-2, 2, batch)[:, None, None]
    linear = rng.normal(size=(batch, size))

    def objective(point, which=slice(None)):
        product = np.einsum("bij,bj->bi", hessians[which], point)
        value = np.sum((0.5 * product - linear[which]) * point, axis=1)
        return value, product - linear[which]

    return objective, np.linalg.solve(hessians, linear[..., None])[..., 0]


def test_minimize_batch_solves_every_problem():
    rng = np.random.default_rng(0)
    objective, expected = quadratics(rng, 12, 6)
    found = minimize_batch(objective, np.zeros((12, 6)), max_iter=1000, ftol=0, gtol=1e-9)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_problems_of_a_batch_do_not_touch_each_other():
    rng = np.random.default_rng(1)
    objective, _ = quadratics(rng, 5, 4)
    together = minimize_batch(objective, np.ones((5, 4)))
    for i in range(5):
        alone = minimize_batch(lambda p, i=i: objective(p, [i]), np.ones((1, 4)))
        np.testing.assert_allclose(alone[0], together[i], rtol=1e-10)


def test_nested_split_never_fits_to_what_it_tests():
    outer, inner = sorting.nested_split(103, 4, 3, seed=0, max_rows=40)
    tested = np.concatenate([test for _, test in outer])
    np.testing.assert_array_equal(np.sort(tested), np.arange(103))
    for (_, test), folds in zip(outer, inner, strict=True):
        for fit, held in folds:
            assert not set(fit) & set(held) and not (set(fit) | set(held)) & set(test)
            assert len(fit) == 40


def test_spearman_is_scipys():
    rng = np.random.default_rng(2)
    theta = rng.normal(size=(7, 6))
    ranks = rng.permuted(np.tile(np.arange(1, 7), (7, 1)), axis=1)
    expected = np.mean([spearmanr(t, r).statistic for t, r in zip(theta, ranks, strict=True)])
    assert sorting.spearman(theta, ranks) == pytest.approx(expected)


def test_ridge_is_scikit_learns():
    rng = np.random.default_rng(3)
    features, targets = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    table = sorting.fit_ridge(features, targets, 0.3)
    model = Ridge(alpha=0.3 * 40).fit(features, targets)
    np.testing.assert_allclose(table, np.vstack([model.coef_.T, model.intercept_]), rtol=1e-8)


def test_huber_agrees_with_scikit_learn_at_its_scale():
    rng = np.random.default_rng(4)
    features = rng.normal(size=(200, 3))
    targets = features @ [1.0, -2.0, 0.5] + rng.standard_t(2, size=200)
    model = HuberRegressor(epsilon=1.35, alpha=0.0, tol=1e-10, max_iter=10_000)
    model.fit(features, targets)
    point = sorting.fit_huber(
        features[None], targets[None], np.array([1.35 * model.scale_]), np.array([1e-12])
    )
    np.testing.assert_allclose(point[0], [*model.coef_, model.intercept_], atol=2e-3)


@pytest.mark.parametrize("strength", [{"epsilon": 0.1}, {"lam": 1e-6}], ids=["soft", "hard"])
def test_trimmed_fits_find_the_line_under_the_outliers(strength):
    rng = np.random.default_rng(5)
    features = rng.uniform(-1, 1, size=(100, 2))
    targets = features @ [2.0, -1.0] + 3 + 0.01 * rng.normal(size=100)
    targets[:30] += rng.uniform(20, 40, size=30)
    method = "soft_trimmed" if "epsilon" in strength else "trimmed"
    options = [{"trimmed": 0.4, **strength}]
    point = sorting.fit_regression(method, features[None], targets[None], options)[0, 0]
    np.testing.assert_allclose(point, [2.0, -1.0, 3.0], atol=0.05)


def test_a_soft_rank_layer_learns_an_order_that_is_linear():
    rng = np.random.default_rng(6)
    features = rng.normal(size=(1, 120, 3))
    theta = features @ rng.normal(size=(3, 4))
    ranks = theta.argsort(-1).argsort(-1) + 1
    for regularization in ("l2", "kl"):
        table = sorting.fit_soft_rank(features, ranks, 1e-4, regularization)[0]
        found = sorting.spearman(sorting.linear_scores(table, features[0]), ranks[0])
        assert found > 0.97


def counted(calls, number=1):
    """An experiment of three units that notes its calls."""

    def run(unit, settings):
        calls.append(unit)
        return {"number": settings["number"]}

    return runner.Experiment(lambda profile: {"number": number}, lambda s: ["a", "b", "c"], run)


def test_a_run_goes_on_where_it_was_stopped_and_forgets_other_settings():
    calls = []
    first = runner.run_experiment(counted(calls), "quick", {})
    assert calls == ["a", "b", "c"] and first["complete"]
    del first["units"]["b"]
    again = runner.run_experiment(counted(calls), "quick", first)
    assert calls == ["a", "b", "c", "b"] and list(again["units"]) == ["a", "b", "c"]
    runner.run_experiment(counted(calls, number=2), "quick", again)
    assert calls[4:] == ["a", "b", "c"]


def test_stored_results_of_a_stopped_run_are_not_lost():
    stored, written = runner.run_experiment(counted([]), "quick", {}), []
    del stored["units"]["a"]
    runner.run_experiment(counted([]), "quick", stored, lambda part: written.append(dict(part)))
    assert all({"b", "c"} <= set(part["units"]) for part in written)


def test_stored_results_say_where_they_come_from():
    record = json.loads((runner.RESULTS / "sorting.json").read_text())
    assert record["profile"] == "paper" and record["chapter"] == "sorting"
    assert {"device", "date", "versions", "wall_time_s"} <= set(record)
    for experiment in record["experiments"].values():
        assert "seed" in experiment["settings"]
        for unit in experiment["units"].values():
            assert {"result", "wall_time_s", "date", "device"} <= set(unit)
    for claim in record["claims"]:
        assert set(claim) == {"paper", "claim", "where", "our_number", "verdict", "link"}
        assert claim["verdict"] in {"reproduced", "partly", "not reproduced"}
