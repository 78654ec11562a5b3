"""The helpers of the experiments compute what they say, and the stored results are in form."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist, jensenshannon
from scipy.stats import spearmanr
from sklearn.linear_model import HuberRegressor, Ridge
from sklearn.metrics import f1_score

from book.experiments import (
    adam,
    fenchel_young,
    fenchel_young_claims,
    linear,
    nonsmooth_learning,
    nonsmooth_learning_claims,
    perturbed,
    perturbed_claims,
    perturbed_paths,
    perturbed_variance,
    runner,
    soft_dtw,
    soft_dtw_claims,
    sorting,
    structured,
    structured_claims,
)
from book.experiments.lbfgs import minimize_batch
from diffopt import oracles
from diffopt.classifier import FenchelYoungClassifier
from diffopt.hypergradient import HeldOut
from diffopt.sparse_linear import ElasticNet
from diffopt.structured import Birkhoff, Cube, OrderSimplex, Permutahedron

CHAPTERS = sorted(
    path.stem
    for path in runner.RESULTS.glob("*.json")
    if (runner.RESULTS.parent / "experiments" / path.name).with_suffix(".py").is_file()
)


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


def test_linear_fits_are_those_of_the_classifier():
    rng = np.random.default_rng(7)
    features, y = rng.normal(size=(2, 50, 3)), rng.dirichlet(np.ones(4), (2, 50))
    lams = [0.1, 0.01]
    loss = fenchel_young.loss_of(fenchel_young.Tsallis(1.5))
    tables = linear.fit(loss, features, y, lams, max_iter=500)
    for x, target, lam, table in zip(features, y, lams, tables, strict=True):
        model = FenchelYoungClassifier("tsallis15", lam=lam, tol=1e-10).fit(x, target)
        value = linear.objective(loss)(table[None], x[None], target[None], np.array([lam]))[0]
        assert value[0] == pytest.approx(model.objective_, abs=1e-5)
        np.testing.assert_allclose(table[:-1], model.coef_.T, atol=0.02)


def test_cross_validation_tests_every_row_once_and_scales_by_training_rows():
    rng = np.random.default_rng(8)
    features, targets = rng.normal(size=(60, 2)) * [1, 100] + 5, rng.normal(size=(60, 1))
    seen = []

    def fitted(scaled, wanted, lam, start):
        seen.append((scaled, lam))
        return np.zeros((len(scaled), 3, 1)) if start is None else start

    def measures(theta, y):
        return {"square": jnp.sum((y - theta) ** 2, axis=-1)}

    found = linear.cross_validate(
        fitted, measures, "square", features, targets, targets, [1.0, 0.1], 4, 3, 0
    )
    assert np.mean(found["square"]) == pytest.approx(np.mean(targets**2))  # folds of equal size
    assert [np.ndim(lam) for _, lam in seen] == [0, 0, 1] and seen[0][1] > seen[1][1]
    for scaled, _ in seen:
        np.testing.assert_allclose(scaled.mean(axis=1), 0, atol=1e-9)
        np.testing.assert_allclose(scaled.std(axis=1), 1, atol=1e-9)


def test_divergence_is_scipys():
    rng = np.random.default_rng(9)
    p, q = rng.dirichlet(np.ones(5), (2, 7))
    p[:, 0] = 0
    p /= p.sum(axis=1, keepdims=True)
    expected = jensenshannon(p, q, axis=1) ** 2
    np.testing.assert_allclose(fenchel_young.jensen_shannon(p, q), expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["uniform", "random"])
def test_documents_follow_their_proportions(kind):
    frequencies, shares = fenchel_young.documents(kind, 100_000, 300, 12, 4, seed=0)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_allclose(frequencies.sum(axis=1), 1)
    number = (shares > 0).sum(axis=1)
    assert number.min() == 1 and number.max() == 4 and 1.5 < number.mean() < 2.5
    same = np.where(shares > 0, shares, np.nan)
    equal = np.nanmax(same, axis=1) - np.nanmin(same, axis=1) < 1e-12
    assert equal.all() if kind == "uniform" else equal.sum() == (number == 1).sum()
    topics = np.linalg.lstsq(shares, frequencies, rcond=None)[0]
    np.testing.assert_allclose(shares @ topics, frequencies, atol=0.01)


@pytest.mark.parametrize("name", ["yeast", "digits", "fashion"])
def test_proportions_are_distributions(name):
    features, shares = fenchel_young.load_proportions(name, num_items=200)
    assert len(features) == len(shares) and np.isfinite(features).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-12)
    assert shares.min() == 0 and (shares > 0).sum(axis=1).max() >= 3


def test_measures_of_rankings():
    rng = np.random.default_rng(10)
    ranks, truth = (rng.permuted(np.tile(np.arange(1.0, 6), (9, 1)), axis=1) for _ in range(2))
    found = structured.compare_ranks(jnp.asarray(ranks), jnp.asarray(truth))
    rho = [spearmanr(a, b).statistic for a, b in zip(ranks, truth, strict=True)]
    np.testing.assert_allclose(found["spearman"], 1 - np.array(rho), atol=1e-12)
    np.testing.assert_allclose(found["hamming"], (ranks != truth).mean(axis=1))
    # the best scores leave no loss, whatever the encoding
    matrix = Birkhoff().encode(truth)
    for measured in (
        structured.rank_measures(truth, jnp.asarray(truth), jnp.asarray(truth), Permutahedron()),
        structured.matrix_measures(matrix, matrix, matrix, Birkhoff()),
    ):
        assert all(np.max(values) == 0 for values in measured.values())


def test_measures_of_levels_and_labels():
    rng = np.random.default_rng(11)
    levels, predicted = rng.integers(0, 5, (2, 30))
    y, mu = OrderSimplex().encode(levels, 4), OrderSimplex().encode(predicted, 4)
    found = structured.ordinal_measures(mu - 0.5, mu, y, OrderSimplex())
    np.testing.assert_allclose(found["mae_calibrated"], np.abs(levels - predicted))
    np.testing.assert_allclose(found["mae_map"], np.abs(levels - predicted))
    labels, guess = (rng.random((2, 30, 6)) < 0.5).astype(float)
    found = structured.multilabel_measures(
        jnp.asarray(guess - 0.5), jnp.asarray(guess), jnp.asarray(labels), Cube()
    )
    np.testing.assert_allclose(found["hamming_map"], (labels != guess).mean(axis=1))
    f1 = f1_score(labels, guess, average="samples", zero_division=1)
    assert 1 - np.mean(found["f1_calibrated"]) == pytest.approx(f1)


def test_a_projection_helps_where_labels_are_separable():
    settings = {"lams": [1e-2, 1e-3], "num_outer": 2, "num_inner": 4, "seed": 0}
    settings |= {"max_items": 90, "max_iter": 40}
    none, rows = (
        structured.run_task("matrices", f"iris/{method}", settings)
        for method in ("none", "rows_kl")
    )
    assert np.mean(rows["hamming_calibrated"]) < np.mean(none["hamming_calibrated"])
    assert set(rows["lam"]) <= {1e-2, 1e-3} and len(rows["validation"]) == 2


def test_adam_finds_least_squares_with_noisy_targets():
    rng = np.random.default_rng(12)
    features = jnp.asarray(rng.normal(size=(64, 3)))
    targets = features @ jnp.array([1.0, -2.0, 0.5])

    def objective(point, rows, key):
        noise = 0.1 * jax.random.normal(key, rows.shape)
        return jnp.mean((features[rows] @ point - targets[rows] - noise) ** 2)

    options = {"num_epochs": 100, "batch_size": 16}
    start = lambda key: jnp.zeros(3)
    with jax.numpy_dtype_promotion("standard"):  # optax needs it
        found = adam.train(jax.random.key(0), start, objective, 64, 0.1, **options)
    np.testing.assert_allclose(found, [1.0, -2.0, 0.5], atol=0.02)


def test_perturbed_ranks_in_closed_form():
    rng = np.random.default_rng(13)
    theta, sigma = rng.normal(size=6), 0.7
    points = theta + sigma * rng.normal(size=(200_000, 6))
    ranks = np.asarray(oracles.ranking(jnp.asarray(points)))
    error = 4 * ranks.std(axis=0).max() / 200_000**0.5
    np.testing.assert_allclose(perturbed.exact_ranks(theta, sigma), ranks.mean(0), atol=error)
    truth = rng.permutation(6) + 1.0
    regret = np.sum((ranks - truth) * points, axis=1)
    loss = perturbed.exact_rank_loss(jnp.asarray(theta), truth, sigma)
    assert loss == pytest.approx(regret.mean(), abs=4 * regret.std() / 200_000**0.5)
    slope = jax.grad(perturbed.exact_rank_loss)(jnp.asarray(theta), truth, sigma)
    np.testing.assert_allclose(slope, perturbed.exact_ranks(theta, sigma) - truth, atol=1e-5)


def test_tiles_of_training_and_test_share_no_ground():
    strips = sorted(perturbed_paths.BORDERS.values())
    for (_, end, _), (start, _, _) in zip(strips[:-1], strips[1:], strict=True):
        assert end <= start
    features, costs, paths = perturbed_paths.tiles("validation")
    assert len(features) == len(costs) == len(paths) > 100
    # the slope that makes a cost is that of the heights which a network sees, by differences
    rise = perturbed_paths.HEIGHT * np.asarray(features)
    _, (south, east) = perturbed_paths.data.load_elevation()
    slope = np.hypot((rise[..., 6] - rise[..., 1]) / south, (rise[..., 4] - rise[..., 3]) / east)
    expected = 1 + (slope / 2 / perturbed_paths.STEEP) ** 2
    np.testing.assert_allclose(costs, expected, rtol=1e-4)


def test_no_random_path_is_cheaper_than_the_best():
    _, costs, paths = (np.asarray(part[:20]) for part in perturbed_paths.tiles("test"))
    rng, size = np.random.default_rng(14), perturbed_paths.SIZE
    assert (paths[:, 0, 0] == 1).all() and (paths[:, -1, -1] == 1).all()
    best = np.sum(costs * paths, axis=(1, 2))
    for _ in range(200):  # monotone walks
        steps = rng.permutation(np.repeat([0, 1], size - 1))
        rows, columns = (np.concatenate([[0], np.cumsum(steps == side)]) for side in (0, 1))
        assert (costs[:, rows, columns].sum(1) >= best * (1 - 1e-6)).all()


def test_a_network_without_numbers_is_never_the_best():
    _, costs, paths = perturbed_paths.tiles("test")
    features = jnp.full((*costs.shape, 8), jnp.nan, jnp.float32)
    network = perturbed_paths.mlp_init(jax.random.key(0), (8, 4, 1))
    network = jax.tree.map(lambda p: p.astype(jnp.float32), network)
    with jax.numpy_rank_promotion("allow"):
        ratios = perturbed_paths.cost_ratios(network, (features, costs, paths))
    assert np.isinf(ratios).all()


def test_interpolation_pushes_costs_towards_the_path():
    _, costs, paths = (part[:5] for part in perturbed_paths.tiles("test"))
    slope = jax.grad(lambda c: perturbed_paths.blackbox_loss(c, paths, 5.0).sum())
    assert not slope(costs).any()  # the path is right
    wrong = slope(jnp.ones_like(costs))
    assert np.sum(wrong * paths) > 0 > np.sum(wrong * (1 - paths))  # descending makes it cheaper


@pytest.mark.parametrize("estimator", perturbed_variance.ESTIMATORS)
def test_estimators_of_a_derivative_are_unbiased(estimator):
    rng = np.random.default_rng(15)
    theta, coefficients, sigma = rng.normal(size=4), rng.normal(size=4), 0.8
    expected = jax.jacobian(perturbed.exact_ranks)(jnp.asarray(theta), sigma) @ coefficients
    noise = np.stack([perturbed_variance.draw(estimator, rng, 8, (4,)) for _ in range(4000)])
    answers = np.asarray(oracles.ranking(jnp.asarray(theta + sigma * noise)))
    values, hard = answers @ coefficients, (theta.argsort().argsort() + 1) @ coefficients
    found = np.stack(
        [
            perturbed_variance.derivative(estimator, v, hard, z, sigma)
            for v, z in zip(values, noise, strict=True)
        ]
    )
    error = found.std(0) / len(found) ** 0.5
    assert (np.abs(found.mean(0) - expected) < 4.5 * error).all()


def test_tables_hold_all_pairs_and_their_divergence():
    rng = np.random.default_rng(12)
    xs, ys = rng.normal(size=(4, 5, 1)), rng.normal(size=(3, 5, 1))
    expected = cdist(xs[..., 0], ys[..., 0], "sqeuclidean")
    np.testing.assert_allclose(soft_dtw.tables("euclidean", 1.0, xs, ys)[0], expected)
    table, divergence = soft_dtw.tables("soft", 0.7, xs)
    np.testing.assert_allclose(table, table.T)
    between = soft_dtw.tables("soft", 0.7, xs, xs)
    np.testing.assert_allclose(between, (table, divergence), atol=1e-12)
    loss = soft_dtw.distance("divergence", 0.7)
    assert loss(xs[0], xs[1]) == pytest.approx(divergence[0, 1])
    np.testing.assert_allclose(np.diag(divergence), 0, atol=1e-12)


def test_leaving_one_out_does_not_find_the_series_itself():
    points = np.array([0.0, 0.1, 1.0, 1.1, 5.0])
    table = (points[:, None] - points) ** 2
    assert soft_dtw.leave_one_out(table, np.array([0, 0, 1, 1, 1])) == 1
    assert soft_dtw.leave_one_out(table, np.array([0, 0, 1, 1, 2])) == 0.8


def test_every_class_is_fitted_and_validated():
    labels = np.repeat([0, 1, 2], [10, 3, 1])
    fit, held = soft_dtw.split(labels, seed=0)
    assert np.bincount(labels[fit]).tolist() == [7, 2, 1] and not np.any(fit & held)
    assert np.bincount(labels[held]).tolist() == [3, 1]


def test_centroids_of_the_mean_classify_what_is_apart():
    rng = np.random.default_rng(13)
    labels = np.repeat([0, 1], 6)
    series = rng.normal(size=(12, 4, 1)) + 10 * labels[:, None, None]
    part = (series, labels)
    assert soft_dtw.centroid_accuracy("euclidean", 1.0, part, part, 5) == 1


def test_pass_matrix_is_the_derivative_of_a_pass():
    rng = np.random.default_rng(15)
    X, lam = rng.normal(size=(20, 3)), np.array([0.05, 0.2])
    y = X @ [1.0, -2.0, 3.0] + rng.normal(size=20)
    criterion = HeldOut(X, y, X, y)
    M = nonsmooth_learning.pass_matrix(criterion, ElasticNet(), lam, np.array([1.0, -2.0, 3.0]))

    def one_pass(beta):
        for j in range(3):
            step = 20 / (X[:, j] @ X[:, j])
            u = beta[j] - step * X[:, j] @ (X @ beta - y) / 20
            beta = beta.copy()
            beta[j] = np.sign(u) * max(abs(u) - step * lam[0], 0) / (1 + step * lam[1])
        return beta

    start = np.array([1.0, -2.0, 3.0])
    moved = [(one_pass(start + e) - one_pass(start - e)) / 2e-4 for e in 1e-4 * np.eye(3)]
    np.testing.assert_allclose(M, np.transpose(moved), atol=1e-8)


def test_measured_rate_is_that_of_a_geometric_sequence():
    passes = np.arange(1, 60)
    found = {"passes": passes, "identified": 10, "solution": 3 * 0.8**passes}
    assert nonsmooth_learning_claims.measured_rate(found, "solution") == pytest.approx(0.8)


def folded(values, **others):
    """A result with nearly the same value in ten folds."""
    noise = 1e-4 * np.arange(10)
    return {key: (value + noise).tolist() for key, value in (values | others).items()}


def judged(module, name, settings, results):
    units = {unit: {"result": result} for unit, result in results.items()}
    record = {"settings": settings, "units": units, "complete": True}
    return [claim["verdict"] for claim in module.claims({name: record})]


def test_verdicts_follow_the_numbers():
    def ordinal(order):
        measures = {"mae_calibrated": 0.4, "mae_map": 0.9}
        return {f"a/{m}": folded(measures) for m in ("none", "cube_l2", "cube_kl")} | {
            f"a/order_{kind}": folded(measures | {"mae_calibrated": order}) for kind in ("l2", "kl")
        }

    settings = {"datasets": ["a"]}
    for order, expected in ((0.3, "reproduced"), (0.5, "not reproduced")):
        found = judged(structured_claims, "ordinal", settings, ordinal(order))
        assert found == [expected, "reproduced"]

    def proportions(middle):
        scores = {1.0: 0.3, 1.5: middle, 2.0: 0.3}
        return {f"a/{k}": folded({"js": v}, validation=v) for k, v in scores.items()}

    settings = {"datasets": ["a"], "alphas": [1.0, 1.5, 2.0]}
    judge = fenchel_young_claims
    assert judged(judge, "proportions", settings, proportions(0.2)) == ["reproduced"]
    assert judged(judge, "proportions", settings, proportions(0.3)) == ["not reproduced"]


def test_verdicts_on_perturbed_optimizers_follow_the_numbers():
    def path(validation, ratio, exact):
        return {"validation": [validation], "ratio": [ratio, ratio], "exact": [exact, exact]}

    others = {"squared/fixed/1.0/10": path(1.05, 1.05, 0.2), "costs/free/0.0/0": path(1.0, 1.0, 1)}
    for ratio, exact, expected in (
        (1.001, 0.97, ["reproduced", "reproduced"]),
        (1.001, 0.7, ["partly", "reproduced"]),
        (1.2, 0.1, ["not reproduced", "not reproduced"]),
    ):
        results = others | {
            "fenchel_young/fixed/0.1/3": path(ratio, ratio, exact),
            "fenchel_young/fixed/9.0/3": path(1.5, 1.0, 1.0),  # good on test tiles alone
            "blackbox/fixed/1.0/1": path(1.02, 1.02, 0.3),
        }
        assert judged(perturbed_claims, "paths", {"num_seeds": 2}, results) == expected

    def classes(low, high):
        return {"validation": [low, high], "test": [high, high + 0.002]}

    settings = {"num_seeds": 2}
    for best, expected in ((0.86, "reproduced"), (0.7, "not reproduced")):
        results = {"cross_entropy/0/0": classes(0.8, 0.85)}
        for draws in (1, 100):
            scales = {"0.1": 0.6, "1.0": best, "10.0": 0.6}
            results |= {f"fenchel_young/{s}/{draws}": classes(0, v) for s, v in scales.items()}
        assert judged(perturbed_claims, "classification", settings, results)[0] == expected


def test_verdicts_on_accuracy_need_a_significant_gain():
    names = [f"set{i}" for i in range(15)]
    settings = {"datasets": names}

    def results(gain):
        rng = np.random.default_rng(14)
        found = {}
        for name in names:
            base = rng.uniform(0.5, 0.9)
            for method in ("euclidean", "dtw", "soft_dtw"):
                found[f"{name}/{method}"] = {"accuracy": base}
            found[f"{name}/divergence"] = {"accuracy": base + gain(rng)}
        return found

    for gain, expected in (
        (lambda rng: rng.uniform(0.01, 0.1), "reproduced"),
        (lambda rng: rng.choice([0.05, -0.045, 0.04]), "partly"),
        (lambda rng: -0.01, "not reproduced"),
    ):
        assert judged(soft_dtw_claims, "centroid", settings, results(gain)) == [expected]


def test_verdicts_on_search_count_evaluations_and_seconds():
    settings = {"problems": {"cv/correlated": [], "cv/diabetes": []}}

    def results(quick):
        found = {}
        for name in settings["problems"]:
            for method, count in (("grad", quick), ("grid", 6), ("random0", 8), ("random1", 10)):
                values = np.r_[np.full(count - 1, 2.0), np.ones(12 - count)]
                found[f"{name}/{method}"] = {
                    "values": values.tolist(),
                    "value": 1.0,
                    "seconds": np.arange(11.0).tolist(),
                }
        return found

    judge = nonsmooth_learning_claims.judge_two
    for quick, expected in ((3, "reproduced"), (7, "not reproduced")):
        found = judge(results(quick), {"settings": settings})
        assert found["verdict"] == expected
        assert f"gradients {quick} in" in found["our_number"]
        assert "random 9 in 8.00 s (2 of 2 runs)" in found["our_number"]


def test_unfinished_experiments_make_no_claim():
    record = {"settings": {}, "units": {}, "complete": False}
    records = {"matrices": record, "solvers": record, "paths": record}
    for module in (structured_claims, fenchel_young_claims, perturbed_claims):
        assert module.claims({}) == module.claims(records) == []
    modules = (structured_claims, fenchel_young_claims, soft_dtw_claims, nonsmooth_learning_claims)
    for module in modules:
        assert module.claims({}) == module.claims({"matrices": record, "solvers": record}) == []


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


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_stored_results_say_where_they_come_from(chapter):
    record = json.loads((runner.RESULTS / f"{chapter}.json").read_text())
    assert record["profile"] == "paper" and record["chapter"] == chapter
    assert {"device", "date", "versions", "wall_time_s"} <= set(record)
    for experiment in record["experiments"].values():
        assert "seed" in experiment["settings"] and experiment.get("complete", True)
        for unit in experiment["units"].values():
            assert {"result", "wall_time_s", "date", "device"} <= set(unit)
    for claim in record["claims"]:
        assert set(claim) == {"paper", "claim", "where", "our_number", "verdict", "link"}
        assert claim["verdict"] in {"reproduced", "partly", "not reproduced"}
