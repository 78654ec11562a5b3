"""Soft sorting and ranking against their definitions, exact values, limits and SciPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal, assert_array_max_ulp
from scipy.stats import rankdata, spearmanr

import diffopt
from diffopt import (
    hard_rank_epsilon,
    soft_least_trimmed_squares,
    soft_median,
    soft_quantile,
    soft_rank,
    soft_sort,
    soft_top_k,
    soft_top_k_loss,
    spearman_loss,
)

N = 7
rng = np.random.default_rng(0)
# Generic rows, then ties, everything tied, sorted, reversed, and one outlier.
X = np.stack(
    [
        *rng.normal(size=(3, N)) * 2,
        np.array([1.0, 1.0, 0.0, 2.0, 0.0, 2.0, 2.0]),
        np.full(N, 0.3),
        np.arange(N) / 2,
        -np.arange(N) * 3.0,
        np.where(np.arange(N) == 2, 40.0, np.cos(np.arange(N))),
    ]
)
KEEP = rng.random(X.shape) < 0.6
KEEP[0] = True
KEEP[1] = False
KEEP[2] = np.arange(N) == 3
EPSILONS = [0.03, 0.4, 1.0, 5.0]

regularizations = pytest.mark.parametrize("regularization", ["l2", "kl"])
directions = pytest.mark.parametrize("descending", [False, True])
sort = jax.jit(soft_sort, static_argnames=("regularization", "axis", "descending"))
rank = jax.jit(soft_rank, static_argnames=("regularization", "axis", "descending"))
top = jax.jit(soft_top_k, static_argnames=("k", "regularization", "axis"))
quantile = jax.jit(soft_quantile, static_argnames=("regularization", "axis"))
PER_ITEM = {"sort": sort, "rank": rank, "top_k": partial(top, k=2)}
REFERENCE = {
    "sort": oracles.soft_sort,
    "rank": oracles.soft_rank,
    "top_k": partial(oracles.soft_top_k, k=2),
}
per_item = pytest.mark.parametrize("name", list(PER_ITEM))


# -------------------------------------------------------------------------------- exact values


def test_published_values():
    x = jnp.array([5.0, 1.0, 2.0])
    assert_allclose(soft_sort(x, epsilon=1.0), [5 / 3, 8 / 3, 11 / 3], rtol=1e-15)
    assert_allclose(soft_sort(x, epsilon=0.1), [1.0, 2.0, 5.0], rtol=1e-15)
    assert_allclose(soft_sort(x, epsilon=0.1, descending=True), [5.0, 2.0, 1.0], rtol=1e-15)
    assert_allclose(soft_rank(x, epsilon=2.0), [3.0, 1.25, 1.75], rtol=1e-15)
    assert_allclose(soft_rank(x, epsilon=1.0), [3.0, 1.0, 2.0], rtol=1e-15)
    assert_allclose(soft_rank(x, epsilon=1.0, descending=True), [1.0, 3.0, 2.0], rtol=1e-15)
    entropic = soft_sort(x, epsilon=1.0, regularization="kl")
    assert_allclose(entropic, [1.08104332, 2.08104332, 3.08104332], atol=5e-9)
    x = jnp.array([1.0, -2.0, 2.0, 3.0, 0.5, -1.0])
    assert_allclose(soft_rank(x), [3.875, 1.0, 4.875, 5.875, 3.375, 2.0], rtol=1e-15)


@regularizations
@directions
@pytest.mark.parametrize("epsilon", EPSILONS)
def test_sort_and_rank_are_their_definitions(regularization, descending, epsilon):
    options = {"regularization": regularization, "descending": descending}
    for function, reference in [(sort, oracles.soft_sort), (rank, oracles.soft_rank)]:
        got = np.asarray(function(X, epsilon=epsilon, **options))
        assert got.shape == X.shape
        for row, x in zip(got, X, strict=True):
            assert_allclose(row, reference(x, epsilon, **options), rtol=1e-10, atol=1e-11)


@regularizations
@pytest.mark.parametrize("k", [1, 3, N - 1, N])
def test_top_k_is_the_capped_simplex(regularization, k):
    for epsilon in EPSILONS:
        got = np.asarray(top(X, k=k, epsilon=epsilon, regularization=regularization))
        for row, x in zip(got, X, strict=True):
            expected = oracles.soft_top_k(x, k, epsilon, regularization)
            assert_allclose(row, expected, atol=1e-12)


def test_top_1_is_the_softmax_and_the_sparsemax():
    soft = soft_top_k(X, 1, epsilon=0.7, regularization="kl")
    assert_allclose(soft, jax.nn.softmax(X / 0.7, axis=-1), rtol=1e-13)
    sparse = soft_top_k(np.array([-2.0, 0.0, 0.5]), 1)
    assert_allclose(sparse, [0.0, 0.25, 0.75], atol=1e-15)


@regularizations
def test_small_epsilon_is_the_hard_operator(regularization):
    """Exactly: no digit is lost, ties share the mean rank."""
    options = {"epsilon": 1e-3, "regularization": regularization}
    assert_array_equal(sort(X, **options), np.sort(X))
    assert_array_equal(sort(X, descending=True, **options), np.sort(X)[:, ::-1])
    assert_allclose(rank(X, **options), rankdata(X, axis=-1), rtol=1e-14)
    assert_allclose(rank(X, **options), [oracles.hard_rank(x) for x in X], rtol=1e-14)
    strict = np.delete(X, [3, 4], 0)  # the rows without ties
    hard = rankdata(-strict, axis=-1) <= 3
    assert_allclose(top(strict, k=3, **options), hard, atol=1e-100)  # entropic ones stay positive
    for q in (0.0, 0.3, 0.5, 1.0):
        got = quantile(X, q, **options)
        assert_allclose(got, np.quantile(X, q, axis=-1), rtol=1e-14, atol=1e-14)
    assert_allclose(soft_median(X, **options), np.median(X, axis=-1), rtol=1e-14)


@regularizations
def test_large_epsilon_is_the_mean(regularization):
    got = rank(X, epsilon=1e7, regularization=regularization)
    assert_allclose(got, np.full_like(X, (N + 1) / 2), atol=1e-4)
    got = sort(X, epsilon=1e7, regularization=regularization)
    # KL: the log-domain mean, of exp(-x) since ascending is minus descending of minus.
    expected = X.mean(-1) if regularization == "l2" else -np.log(np.mean(np.exp(-X), -1))
    assert_allclose(got, np.broadcast_to(expected[:, None], X.shape), atol=1e-4)
    got = top(X, k=3, epsilon=1e7, regularization=regularization)
    assert_allclose(got, np.full_like(X, 3 / N), atol=1e-4)


@regularizations
def test_epsilon_1e_4_in_float32(regularization):
    """Where peers print 6.0014 for rank 6."""
    x = np.float32([0.5, -1.0, 2.0, 3.0, 2.0, -0.25, 1.5])
    expected = np.float32([3, 1, 5.5, 7, 5.5, 2, 4])
    for epsilon in (1e-4, 1e-3, 1e-2):
        options = {"epsilon": epsilon, "regularization": regularization}
        got = np.asarray(soft_rank(x, **options))
        assert got.dtype == np.float32
        assert np.max(np.abs(got - expected) / np.spacing(expected)) <= 3
        assert_array_equal(soft_sort(x, **options), np.sort(x))
    big = np.float32(np.random.default_rng(1).permutation(5000))
    got = soft_rank(big, epsilon=1e-4, regularization=regularization)
    assert_allclose(got, big + 1, rtol=4e-7)


@regularizations
def test_scale_1e9(regularization):
    for dtype in (np.float32, np.float64):
        x = (np.array([3, -1, 4, 2, -5, 9, 6]) * 1e9).astype(dtype)
        hard, ulps = rankdata(x).astype(dtype), 0 if regularization == "l2" else 2
        for epsilon in (1.0, 1e-4):
            got = rank(x, epsilon=epsilon, regularization=regularization)
            assert_array_max_ulp(got, hard, ulps)
        scaled = rank(x / dtype(1e9), epsilon=0.7, regularization=regularization)
        got = rank(x, epsilon=0.7e9, regularization=regularization)
        assert_allclose(got, scaled, rtol=20 * np.finfo(dtype).eps)
        assert_array_equal(sort(x, epsilon=1e-12, regularization=regularization), np.sort(x))
        gradient = jax.grad(lambda x: rank(x, regularization=regularization)[0])(x)
        assert_array_equal(gradient, np.zeros(N))


# ------------------------------------------------------------------------ quantiles and losses


@regularizations
@pytest.mark.parametrize("q", [0.0, 0.2, 0.5, 0.77, 1.0])
def test_quantile_interpolates_the_soft_sort(regularization, q):
    got = quantile(X, q, epsilon=0.4, regularization=regularization)
    expected = [oracles.soft_quantile(x, q, 0.4, regularization) for x in X]
    assert_allclose(got, expected, rtol=1e-10, atol=1e-11)


def test_quantile_is_differentiable_in_q_and_median_is_its_middle():
    x = X[0]
    in_q = jax.grad(lambda q: quantile(x, q, epsilon=0.4))(0.3)
    low = int(0.3 * (N - 1))
    step = np.diff(oracles.soft_sort(x, 0.4))[low] * (N - 1)
    assert_allclose(in_q, step, rtol=1e-9)
    assert_allclose(soft_median(X, epsilon=0.4), quantile(X, 0.5, epsilon=0.4), rtol=1e-14)
    even = X[:, :6]
    expected = [oracles.soft_quantile(x, 0.5, 0.4) for x in even]
    assert_allclose(soft_median(even, epsilon=0.4), expected, rtol=1e-10)


@regularizations
def test_hard_rank_epsilon_is_the_threshold(regularization):
    strict = np.delete(X, [3, 4], 0)
    got = np.asarray(hard_rank_epsilon(strict, regularization=regularization))
    expected = [oracles.hard_rank_epsilon(x, regularization) for x in strict]
    assert_allclose(got, expected, rtol=1e-14)
    for x, threshold in zip(strict, got, strict=True):
        at = lambda factor, x=x, t=threshold: np.asarray(
            rank(x, epsilon=t * factor, regularization=regularization)
        )
        assert_array_max_ulp(at(1 - 1e-9), rankdata(x), 0 if regularization == "l2" else 2)
        assert_allclose(at(1.0), rankdata(x), rtol=1e-12)
        assert np.abs(at(1.001) - rankdata(x)).max() > 1e-5
    ties = hard_rank_epsilon(X[3:5], regularization=regularization)
    assert_array_equal(ties, [0.0, 0.0])


def test_hard_rank_epsilon_of_one_item_a_mask_and_its_gradient():
    assert hard_rank_epsilon(np.array([3.0])) == np.inf
    x = np.array([0.0, 5.0, 5.5, 8.0, 9.0])
    keep = np.array([True, True, False, True, True])
    assert_allclose(hard_rank_epsilon(x), 0.5)
    assert_allclose(hard_rank_epsilon(x, where=keep), 1.0)
    assert hard_rank_epsilon(x, where=np.zeros(5, bool)) == np.inf
    gradient = jax.grad(lambda x: hard_rank_epsilon(x, where=keep))(x)
    assert_allclose(gradient, [0, 0, 0, -1, 1])
    assert_allclose(hard_rank_epsilon(np.stack([x, 2 * x]).T, axis=0), [0.5, 1.0])


def test_spearman_loss_is_one_minus_scipys_coefficient():
    strict = np.delete(X, [3, 4], 0)
    target = np.stack([np.random.default_rng(k).permutation(N) + 1.0 for k in range(len(strict))])
    got = spearman_loss(strict, target, epsilon=1e-6)
    expected = [1 - spearmanr(x, t).statistic for x, t in zip(strict, target, strict=True)]
    assert_allclose(got, expected, atol=1e-14)
    for epsilon in (0.5, 3.0):
        soft = np.stack([oracles.soft_rank(x, epsilon) for x in strict])
        expected = 6 * np.sum((soft - target) ** 2, -1) / (N * (N**2 - 1))
        assert_allclose(spearman_loss(strict, target, epsilon=epsilon), expected, atol=1e-12)
    perfect = spearman_loss(strict, rankdata(strict, axis=-1), epsilon=1e-6)
    assert_allclose(perfect, np.zeros(len(strict)), atol=1e-15)
    worst = spearman_loss(strict, rankdata(-strict, axis=-1), epsilon=1e-6)
    assert_allclose(worst, np.full(len(strict), 2.0), atol=1e-14)


def test_spearman_with_ties():
    """Ranks of ties share their mean, so Pearson's formula gives SciPy's coefficient."""
    x, y = np.arange(1.0, 6.0), np.array([5.0, 6.0, 7.0, 8.0, 7.0])
    ranks = soft_rank(y, epsilon=1e-6)
    assert_allclose(ranks, [1, 2, 3.5, 5, 3.5], rtol=1e-15)
    assert_allclose(np.corrcoef(x, ranks)[0, 1], spearmanr(x, y).statistic, rtol=1e-14)
    assert_allclose(np.corrcoef(x, ranks)[0, 1], 0.8208, atol=5e-5)
    assert_allclose(spearman_loss(y, x, epsilon=1e-6), 6 * 3.5 / 120, rtol=1e-14)


@regularizations
@pytest.mark.parametrize("num_trimmed", [0, 2, N - 1])
def test_least_trimmed_squares(regularization, num_trimmed):
    options = {"regularization": regularization}
    got = soft_least_trimmed_squares(X, num_trimmed, epsilon=0.4, **options)
    losses = 0.5 * X**2
    soft = [oracles.soft_sort(row, 0.4, regularization)[: N - num_trimmed] for row in losses]
    assert_allclose(got, np.mean(soft, -1), rtol=1e-10)
    hard = soft_least_trimmed_squares(X, num_trimmed, epsilon=1e-6, **options)
    assert_allclose(hard, np.sort(losses)[:, : N - num_trimmed].mean(-1), rtol=1e-12)
    if num_trimmed == 0 and regularization == "l2":  # the sum is kept at any epsilon
        assert_allclose(got, losses.mean(-1), rtol=1e-12)


@regularizations
@pytest.mark.parametrize("k", [1, 3])
def test_top_k_loss(regularization, k):
    labels = np.array([0, 3, 6, 1, 1, 6, 0, 2])
    options = {"epsilon": 0.8, "regularization": regularization}
    got = np.asarray(soft_top_k_loss(X, labels, k, **options))
    assert got.shape == (len(X),)
    for row, x, label in zip(got, X, labels, strict=True):
        place = oracles.soft_rank(x, 0.8, regularization, descending=True)[label]
        assert_allclose(row, max(0.0, place - k), atol=1e-11)
    hard = soft_top_k_loss(X[:3], np.argmax(X[:3], -1), k, epsilon=1e-6)
    assert_array_equal(hard, np.zeros(3))
    gradient = jax.grad(lambda x: soft_top_k_loss(x, np.argmax(X[:3], -1), k, epsilon=1e-6).sum())
    assert_array_equal(gradient(X[:3]), np.zeros((3, N)))


# -------------------------------------------------------------------------------- derivatives


@regularizations
@per_item
def test_jacobians_are_those_of_the_definitions(name, regularization):
    function = lambda x, e: PER_ITEM[name](x, epsilon=e, regularization=regularization)
    in_x, in_epsilon = jax.jit(jax.vmap(jax.jacrev(function, argnums=(0, 1)), (0, None)))(X, 0.8)
    reference = lambda x, e: REFERENCE[name](x, epsilon=e, regularization=regularization)
    for k in range(3):
        expected = oracles.jacobian(lambda x: reference(x, 0.8), X[k])
        assert_allclose(in_x[k], expected, atol=5e-8)
        expected = oracles.jacobian(lambda e, k=k: reference(X[k], e), 0.8)
        assert_allclose(in_epsilon[k], expected, atol=5e-8)


@regularizations
@pytest.mark.parametrize("name", ["sort", "rank"])
def test_second_order_in_both_modes(name, regularization):
    function = lambda x, e: PER_ITEM[name](x, epsilon=e, regularization=regularization)
    args = (X[:2], jnp.asarray(0.8))
    check_grads(function, args, order=2, modes=("fwd", "rev"), atol=2e-4, rtol=2e-4)


@regularizations
@per_item
def test_both_modes_agree_also_at_ties(name, regularization):
    function = lambda x: PER_ITEM[name](x, epsilon=0.8, regularization=regularization)
    forward = jax.jit(jax.vmap(jax.jacfwd(function)))(X)
    reverse = jax.jit(jax.vmap(jax.jacrev(function)))(X)
    assert np.isfinite(forward).all()
    assert_allclose(forward, reverse, atol=1e-12)
    if name == "sort":  # sort(x + c) = sort(x) + c
        assert_allclose(forward.sum(-1), np.ones_like(X), atol=1e-12)
    else:  # unchanged by a shift, and the sum is fixed
        assert_allclose(forward.sum(-1), np.zeros_like(X), atol=1e-11)
        assert_allclose(forward.sum(-2), np.zeros_like(X), atol=1e-11)


@regularizations
def test_ranks_are_smooth_at_ties(regularization):
    function = lambda x: rank(x, epsilon=0.8, regularization=regularization)
    got = jax.jit(jax.vmap(jax.jacrev(function)))(X[3:5])
    for k in range(2):
        reference = lambda x: oracles.soft_rank(x, 0.8, regularization)
        assert_allclose(got[k], oracles.jacobian(reference, X[3 + k]), atol=5e-8)


@regularizations
@pytest.mark.parametrize("name", ["sort", "rank"])
def test_hessian_of_a_weighted_sum(name, regularization):
    u = np.cos(np.arange(N))
    call = lambda x: jnp.dot(u, PER_ITEM[name](x, epsilon=0.8, regularization=regularization))
    hessian = np.asarray(jax.jit(jax.hessian(call))(X[0]))
    expected = oracles.jacobian(jax.jit(jax.grad(call)), X[0])
    assert_allclose(hessian, expected, atol=1e-7)
    assert_allclose(hessian, hessian.T, atol=1e-12)
    assert (np.abs(hessian).max() > 1e-3) == (regularization == "kl")


@regularizations
def test_losses_have_right_gradients(regularization):
    options = {"regularization": regularization}
    target = np.stack([rankdata(X[1]), rankdata(X[0])])
    labels = np.array([1, 4])
    losses = [
        lambda x, e: spearman_loss(x, target, epsilon=e, **options),
        lambda x, e: soft_least_trimmed_squares(x, 2, epsilon=e, **options),
        lambda x, e: soft_top_k_loss(x, labels, 1, epsilon=e, **options),
        lambda x, e: soft_quantile(x, 0.3, epsilon=e, **options),
    ]
    together = jax.jit(lambda x, e: jnp.stack([loss(x, e) for loss in losses]))
    args = (X[:2], jnp.asarray(0.8))
    check_grads(together, args, order=2, modes=("fwd", "rev"), atol=5e-4, rtol=5e-4)


def test_spearman_loss_is_differentiable_in_the_target():
    target = np.linspace(1.0, N, N)
    got = jax.grad(lambda t: spearman_loss(X[0], t))(target)
    expected = -12 * (oracles.soft_rank(X[0]) - target) / (N * (N**2 - 1))
    assert_allclose(got, expected, atol=1e-13)


# --------------------------------------------------------------------------------------- masks


@regularizations
@directions
def test_masked_ranks_and_sorts_equal_those_of_the_compressed_array(regularization, descending):
    options = {"epsilon": 0.8, "regularization": regularization, "descending": descending}
    junk = np.where(KEEP, X, np.resize([np.nan, np.inf, -np.inf, 1e30], X.shape))
    for values in (X, junk):
        ranks = np.asarray(rank(values, where=KEEP, **options))
        sorts = np.asarray(sort(values, where=KEEP, **options))
        for k, keep in enumerate(KEEP):
            kept = X[k][keep]
            expected = np.zeros(N)
            if keep.any():
                expected[keep] = oracles.soft_rank(kept, 0.8, regularization, descending)
            assert_allclose(ranks[k], expected, atol=1e-11)
            expected = np.zeros(N)
            if keep.any():
                expected[: len(kept)] = oracles.soft_sort(kept, 0.8, regularization, descending)
            assert_allclose(sorts[k], expected, atol=1e-10)


@regularizations
def test_masked_reductions_equal_those_of_the_compressed_array(regularization):
    options = {"epsilon": 0.8, "regularization": regularization}
    two = [k for k in range(len(X)) if KEEP[k].sum() >= 2]
    x, keep = X[two], KEEP[two]
    junk = np.where(keep, x, np.nan)
    target = np.stack([rankdata(row) for row in -x])
    got = {
        "top_k": soft_top_k(junk, 2, where=keep, **options),
        "quantile": soft_quantile(junk, 0.3, where=keep, **options),
        "median": soft_median(junk, where=keep, **options),
        "trimmed": soft_least_trimmed_squares(junk, 1, where=keep, **options),
        "spearman": spearman_loss(junk, target, where=keep, **options),
        "threshold": hard_rank_epsilon(junk, where=keep, regularization=regularization),
    }
    for k in range(len(two)):
        kept, n = x[k][keep[k]], keep[k].sum()
        soft = oracles.soft_sort(0.5 * kept**2, 0.8, regularization)
        mask = np.zeros(N)
        mask[keep[k]] = oracles.soft_top_k(kept, 2, 0.8, regularization)
        distance = oracles.soft_rank(kept, 0.8, regularization) - target[k][keep[k]]
        expected = {
            "top_k": mask,
            "quantile": oracles.soft_quantile(kept, 0.3, 0.8, regularization),
            "median": oracles.soft_quantile(kept, 0.5, 0.8, regularization),
            "trimmed": soft[: n - 1].mean(),
            "spearman": 6 * np.sum(distance**2) / (n * (n**2 - 1)),
            "threshold": oracles.hard_rank_epsilon(kept, regularization),
        }
        for name, value in expected.items():
            assert_allclose(got[name][k], value, rtol=1e-10, atol=1e-11, err_msg=name)


@regularizations
@per_item
def test_masked_items_get_no_gradient_and_give_none(name, regularization):
    """Jacobian of the masked call = that of the compressed array, padded with exact zeros."""
    keep = np.array([True, False, True, True, False, True, False])
    rows_out = np.flatnonzero(keep) if name != "sort" else np.arange(keep.sum())
    options = {"epsilon": 0.8, "regularization": regularization}
    compressed = jax.jacrev(lambda x: PER_ITEM[name](x, **options))(X[0][keep])
    expected = np.zeros((N, N))
    expected[np.ix_(rows_out, np.flatnonzero(keep))] = compressed
    for jacobian in (jax.jacfwd, jax.jacrev):
        masked = jax.jit(jacobian(lambda x: PER_ITEM[name](x, where=keep, **options)))
        for junk in (X[0], np.where(keep, X[0], np.nan), np.where(keep, X[0], np.inf)):
            got = np.asarray(masked(junk))
            assert_allclose(got, expected, atol=1e-12)
            assert_array_equal(got[:, ~keep], np.zeros((N, 3)))


def test_all_masked():
    nothing = np.zeros(X.shape, bool)
    for name in ("rank", "sort"):
        assert_array_equal(PER_ITEM[name](X, where=nothing), np.zeros_like(X))
        gradient = jax.grad(lambda x, f=PER_ITEM[name]: (f(x, where=nothing) ** 2).sum())(X)
        assert_array_equal(gradient, np.zeros_like(X))


def test_fewer_items_than_asked_for():
    nothing, one = np.zeros(N, bool), np.arange(N) == 3
    assert_array_equal(soft_top_k(X[0], 2, where=one), one)
    assert_array_equal(soft_top_k(X[0], 2, where=nothing), np.zeros(N))
    assert_allclose(soft_least_trimmed_squares(X[0], 2, where=one), 0.5 * X[0, 3] ** 2)
    assert spearman_loss(X[0], X[1], where=one) == 0.0
    for reduce in (
        soft_median,
        partial(soft_quantile, q=0.3),
        partial(soft_least_trimmed_squares, num_trimmed=2),
        partial(spearman_loss, target_ranks=X[1]),
    ):
        assert reduce(X[0], where=nothing) == 0.0
        gradient = jax.grad(lambda x, f=reduce: f(x, where=nothing))(X[0])
        assert_array_equal(gradient, np.zeros(N))


def test_a_mask_may_be_traced_mapped_and_lie_on_any_axis():
    expected = rank(X, epsilon=0.8, where=KEEP)
    call = lambda x, keep: soft_rank(x, epsilon=0.8, where=keep)
    assert_allclose(jax.vmap(call)(X, KEEP), expected, atol=1e-14)
    assert_allclose(jax.vmap(call, (0, 1))(X, KEEP.T), expected, atol=1e-14)
    one_mask = jax.vmap(call, (0, None))(X, KEEP[3])
    assert_allclose(one_mask, rank(X, epsilon=0.8, where=np.tile(KEEP[3], (8, 1))), atol=1e-14)
    one_row = jax.vmap(call, (None, 0))(X[0], KEEP)
    assert_allclose(one_row, rank(np.tile(X[0], (8, 1)), epsilon=0.8, where=KEEP), atol=1e-14)
    assert_allclose(soft_rank(X.T, epsilon=0.8, where=KEEP.T, axis=0).T, expected, atol=1e-14)


# --------------------------------------------------------------------------- shapes and types

KEEPS_SHAPE = {
    "sort": soft_sort,
    "rank": soft_rank,
    "top_k": lambda x, axis=-1: soft_top_k(x, 2, axis=axis),
}
REDUCES = {
    "quantile": lambda x, axis=-1: soft_quantile(x, 0.3, axis=axis),
    "median": soft_median,
    "threshold": hard_rank_epsilon,
    "trimmed": lambda x, axis=-1: soft_least_trimmed_squares(x, 1, axis=axis),
    "spearman": lambda x, axis=-1: spearman_loss(x, x, axis=axis),
    "top_k_loss": lambda x, axis=-1: soft_top_k_loss(
        x, np.ones(np.delete(x.shape, axis), int), axis=axis
    ),
}


@pytest.mark.parametrize("name", [*KEEPS_SHAPE, *REDUCES])
def test_any_axis(name):
    function = (KEEPS_SHAPE | REDUCES)[name]
    x = rng.normal(size=(2, 4, 3))
    got = function(x, axis=1)
    expected = function(np.moveaxis(x, 1, -1))
    if name in KEEPS_SHAPE:
        assert got.shape == x.shape
        got = np.moveaxis(got, 1, -1)
    assert_allclose(got, expected, atol=1e-14)
    assert_array_equal(function(x, axis=-2), function(x, axis=1))


@pytest.mark.parametrize("name", [*KEEPS_SHAPE, *REDUCES])
def test_empty_batch(name):
    function = (KEEPS_SHAPE | REDUCES)[name]
    got = function(np.zeros((0, 4)))
    assert got.shape == ((0, 4) if name in KEEPS_SHAPE else (0,))
    gradient = jax.grad(lambda x: function(x).sum())(np.zeros((0, 4)))
    assert gradient.shape == (0, 4)


@regularizations
def test_one_item(regularization):
    options = {"regularization": regularization}
    x = np.array([[2.5], [-1.0]])
    assert_allclose(soft_sort(x, **options), x, rtol=1e-15)
    assert_allclose(soft_rank(x, **options), np.ones((2, 1)), rtol=1e-15)
    assert_allclose(soft_top_k(x, 1, **options), np.ones((2, 1)), rtol=1e-15)
    assert_allclose(soft_median(x, **options), x[:, 0], rtol=1e-15)
    assert_allclose(soft_quantile(x, 0.3, **options), x[:, 0], rtol=1e-15)
    assert_allclose(soft_least_trimmed_squares(x, 0, **options), 0.5 * x[:, 0] ** 2, rtol=1e-15)
    assert_array_equal(jax.jacrev(lambda x: soft_rank(x, **options))(x[0]), [[0.0]])
    assert_allclose(jax.jacrev(lambda x: soft_sort(x, **options))(x[0]), [[1.0]], rtol=1e-15)
    assert soft_sort(np.zeros((3, 0)), **options).shape == (3, 0)
    assert soft_rank(np.zeros((3, 0)), **options).shape == (3, 0)


def test_arguments_broadcast():
    epsilons = np.linspace(0.1, 2.0, len(X))
    for function, reference in [(soft_rank, oracles.soft_rank), (soft_sort, oracles.soft_sort)]:
        expected = [reference(x, e) for x, e in zip(X, epsilons, strict=True)]
        got = function(X, epsilon=epsilons[:, None])
        assert_allclose(got, expected, rtol=1e-10, atol=1e-11)
        assert_allclose(function(X.T, epsilon=epsilons[None], axis=0).T, got, atol=1e-14)
    keep = KEEP[3]
    everywhere = np.tile(keep, (len(X), 1))
    assert_array_equal(soft_rank(X, where=keep), soft_rank(X, where=everywhere))
    target = rankdata(X[0])
    got = spearman_loss(X, target)
    assert_array_equal(got, spearman_loss(X, np.tile(target, (len(X), 1))))
    q = np.array([[0.1, 0.5], [0.25, 1.0]])
    got = soft_quantile(X, q, epsilon=1e-3)
    assert got.shape == (2, 2, len(X))
    assert_allclose(got, np.quantile(X, q, axis=-1), atol=1e-12)


@pytest.mark.parametrize("make", [jnp.asarray, np.asarray, np.float32, float])
def test_epsilon_and_q_may_be_constants_of_any_kind_under_jit(make):
    """An array made outside of jit, as a configuration or a closure holds it."""
    epsilon, q = make(0.75), make(0.5)
    expected = soft_rank(X[0], epsilon=0.75)
    for call in (lambda x: soft_rank(x, epsilon=epsilon), partial(soft_rank, epsilon=epsilon)):
        assert_allclose(jax.jit(call)(X[0]), expected, atol=1e-14)
    got = jax.jit(lambda x: soft_quantile(x, q, epsilon=epsilon))(X[0])
    assert_allclose(got, soft_median(X[0], epsilon=0.75), atol=1e-14)


def test_vmap_over_values_and_epsilon():
    call = lambda x, e: soft_rank(x, epsilon=e, regularization="kl")
    epsilons = jnp.array([0.3, 1.0, 4.0])
    rows = X[:3]
    each = np.stack([[call(x, e) for e in epsilons] for x in rows])
    assert_allclose(jax.vmap(call, (0, None))(rows, epsilons[1]), each[:, 1], atol=1e-14)
    assert_allclose(jax.vmap(call, (None, 0))(rows[0], epsilons), each[0], atol=1e-14)
    assert_allclose(jax.vmap(call)(rows, epsilons), each[range(3), range(3)], atol=1e-14)
    assert_allclose(jax.vmap(call, (1, 0))(rows.T, epsilons), each[range(3), range(3)], atol=1e-14)
    nested = jax.vmap(jax.vmap(call, (None, 0)), (0, None))(rows, epsilons)
    assert_allclose(nested, each, atol=1e-14)
    both = jax.vmap(jax.grad(lambda x, e: jnp.dot(np.cos(np.arange(N)), call(x, e)), argnums=1))
    assert both(rows, epsilons).shape == (3,)
    assert np.isfinite(both(rows, epsilons)).all()


@pytest.mark.parametrize(
    ("regularization", "dtype"),
    [("l2", "float32"), ("kl", "float32"), ("l2", "bfloat16"), ("kl", "float16")],
)
def test_the_type_that_comes_in_goes_out(regularization, dtype):
    dtype = jnp.dtype(dtype)
    x = jnp.asarray(X[:2], dtype)
    exact = np.asarray(x, np.float64)
    precision = float(jnp.finfo(dtype).eps)
    options = {"epsilon": 0.8, "regularization": regularization}
    u = jnp.asarray(np.cos(np.arange(N)), dtype)
    for name, function in PER_ITEM.items():
        got = function(x, **options)
        assert got.dtype == dtype
        expected = [REFERENCE[name](row, **options) for row in exact]
        # epsilon itself is rounded to the type: an error of precision * |x / epsilon|
        assert_allclose(np.float64(got), expected, rtol=10 * precision, atol=10 * precision)
        gradient = jax.grad(lambda x, f=function: jnp.vdot(u, f(x, **options)[0]))(x)
        assert gradient.dtype == dtype
        assert np.isfinite(np.float64(gradient)).all()
    for result in (
        soft_quantile(x, 0.3, **options),
        soft_median(x, **options),
        soft_least_trimmed_squares(x, 2, **options),
        spearman_loss(x, x, **options),
        soft_top_k_loss(x, np.array([0, 1]), **options),
        hard_rank_epsilon(x, regularization=regularization),
    ):
        assert result.dtype == dtype


def test_half_precision_does_not_overflow_on_the_way():
    residuals = jnp.asarray([300.0, 1.0, 350.0], jnp.float16)  # 300^2 is not a float16, half is
    got = soft_least_trimmed_squares(residuals, 1, epsilon=1e-5)
    assert_allclose(np.float64(got), 0.5 * (0.5 + 45_000.0), rtol=1e-3)
    n = 600  # 6 / (n (n^2 - 1)) underflows and n^3 overflows, the loss is 2
    ranks = jnp.arange(1, n + 1, dtype=jnp.float16)
    assert_allclose(np.float64(spearman_loss(-ranks, ranks)), 2.0, rtol=1e-3)


def test_integers_are_promoted():
    x = jnp.array([5, 1, 2])
    for got, expected in [
        (soft_sort(x), [5 / 3, 8 / 3, 11 / 3]),
        (soft_rank(x, epsilon=2), [3.0, 1.25, 1.75]),
        (soft_top_k(x, 1), [1.0, 0.0, 0.0]),
        (soft_median(x, epsilon=0.1), 2.0),
        (spearman_loss(x, jnp.array([3, 1, 2])), 0.0),
        (soft_least_trimmed_squares(x, 2, epsilon=0.01), 0.5),
    ]:
        assert got.dtype == jnp.float64
        assert_allclose(got, expected, atol=1e-14)


# --------------------------------------------------------------------------------- edge cases


@regularizations
@directions
def test_ranks_of_infinite_values_are_limits(regularization, descending):
    inf = np.inf
    x = np.array(
        [
            [0.5, inf, -0.2, 1.0, 0.3],
            [0.5, inf, -0.2, -inf, 0.3],
            [inf, inf, -0.2, -inf, -inf],
            [inf, inf, inf, inf, inf],
            [-inf, 0.5, -inf, 0.2, 0.1],
        ]
    )
    options = {"epsilon": 0.8, "regularization": regularization, "descending": descending}
    far = np.clip(x, -300, 300)  # far enough for the limit to have been reached in float64
    expected = [oracles.soft_rank(row, **options) for row in far]
    assert_allclose(soft_rank(x, **options), expected, atol=1e-9)
    jacobian = jax.vmap(jax.jacrev(lambda x: soft_rank(x, **options)))(x)
    assert np.isfinite(jacobian).all()
    infinite = np.isinf(x)
    assert_array_equal(np.asarray(jacobian).swapaxes(1, 2)[infinite], np.zeros((infinite.sum(), 5)))
    forward = jax.vmap(jax.jacfwd(lambda x: soft_rank(x, **options)))(x)
    assert_allclose(forward, jacobian, atol=1e-12)


@regularizations
def test_top_k_takes_minus_infinity_as_never(regularization):
    x = np.array([-np.inf, 1.0, 2.0, -np.inf, 0.2])
    finite = np.isfinite(x)
    for k in (1, 2):
        got = np.asarray(soft_top_k(x, k, epsilon=0.8, regularization=regularization))
        assert_array_equal(got[~finite], [0.0, 0.0])
        expected = oracles.soft_top_k(x[finite], k, 0.8, regularization)
        assert_allclose(got[finite], expected, atol=1e-12)
    got = soft_top_k(x, 4, epsilon=0.8, regularization=regularization)
    assert_allclose(got, [0.5, 1.0, 1.0, 0.5, 1.0], atol=1e-14)


@per_item
def test_nan_spoils_its_own_row_and_no_other(name):
    x = X.copy()
    x[1, 3] = np.nan
    for regularization in ("l2", "kl"):
        got = np.asarray(PER_ITEM[name](x, regularization=regularization))
        clean = np.asarray(PER_ITEM[name](X, regularization=regularization))
        assert np.isnan(got[1]).all()
        assert_array_equal(np.delete(got, 1, 0), np.delete(clean, 1, 0))


def test_a_long_row_is_hard_below_its_threshold():
    for dtype in (np.float32, np.float64):
        x = np.random.default_rng(7).permutation(100_000).astype(dtype)
        assert_array_equal(soft_rank(x, epsilon=0.5), x + 1)
        assert_array_equal(soft_sort(x, epsilon=0.5), np.sort(x))
        entropic = np.asarray(soft_rank(x, epsilon=1e-4, regularization="kl"))
        assert_array_max_ulp(entropic, x + 1, 2)


@regularizations
def test_sorting_an_infinite_value_is_a_limit_with_finite_derivatives(regularization):
    for x, far in [([1.0, 2.0, np.inf], 1e6), ([1.0, -np.inf, 2.0], -1e6)]:
        x = np.array(x)
        for descending in (False, True):
            options = {"epsilon": 0.8, "regularization": regularization, "descending": descending}
            limit = oracles.soft_sort(np.where(np.isinf(x), far, x), **options)
            expected = np.where(np.abs(limit) > 1e3, np.sign(limit) * np.inf, limit)
            assert_allclose(sort(x, **options), expected, rtol=1e-12)
            jacobian = jax.jacrev(lambda x, o=options: sort(x, **o))(x)
            assert np.isfinite(jacobian).all()


# ------------------------------------------------------------------------------------- errors

x = X[0]
LABELS = np.zeros(len(X), int)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: soft_sort(3.0), "values"),
        (lambda: soft_rank(X * 1j), "values"),
        (lambda: soft_rank("abc"), "values"),
        (lambda: soft_rank(None), "values"),
        (lambda: soft_rank(X, epsilon=0.0), "epsilon"),
        (lambda: soft_sort(X, epsilon=-1.0), "epsilon"),
        (lambda: soft_sort(X, epsilon=float("nan")), "epsilon"),
        (lambda: soft_rank(X, epsilon=np.ones(3)), "epsilon"),
        (lambda: soft_rank(X, epsilon="1"), "epsilon"),
        (lambda: soft_rank(X, epsilon=None), "epsilon"),
        (lambda: soft_rank(X, regularization="l1"), "regularization"),
        (lambda: soft_sort(X, regularization="KL"), "regularization"),
        (lambda: soft_rank(X, axis=2), "axis"),
        (lambda: soft_rank(X, axis=float("nan")), "axis"),
        (lambda: soft_sort(X, axis=(0, 1)), "axis"),
        (lambda: soft_rank(X, where=KEEP[:, :-1]), "where"),
        (lambda: soft_rank(X, where=KEEP.astype(float)), "where"),
        (lambda: soft_top_k(X, N + 1), "k"),
        (lambda: soft_top_k(X, -1), "k"),
        (lambda: soft_top_k(X, 1.5), "k"),
        (lambda: soft_quantile(X, 1.5), "q"),
        (lambda: soft_quantile(X, -0.1), "q"),
        (lambda: spearman_loss(X, X[:, :-1]), "target_ranks"),
        (lambda: spearman_loss(X, X * 1j), "target_ranks"),
        (lambda: soft_least_trimmed_squares(X, N), "num_trimmed"),
        (lambda: soft_least_trimmed_squares(X, -1), "num_trimmed"),
        (lambda: soft_least_trimmed_squares(X, 0.1), "num_trimmed"),
        (lambda: soft_top_k_loss(X, LABELS * 1.0), "labels"),
        (lambda: soft_top_k_loss(X, LABELS[:-1]), "labels"),
        (lambda: soft_top_k_loss(X, LABELS, 0), "k"),
        (lambda: soft_top_k_loss(X, LABELS, N + 1), "k"),
        (lambda: hard_rank_epsilon(X, regularization="l3"), "regularization"),
    ],
)
def test_wrong_use_names_the_argument(call, name):
    with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b"):
        call()
    with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b"):
        jax.jit(call)()  # at trace time too


def test_options_are_keyword_only():
    with pytest.raises(TypeError):
        soft_rank(X, 1.0)
    with pytest.raises(TypeError):
        soft_sort(X, 1.0)


def test_everything_public_is_exported_and_documented():
    for name in diffopt.__all__:
        member = getattr(diffopt, name)
        assert member.__doc__, name
