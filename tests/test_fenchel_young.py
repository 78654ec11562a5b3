"""Fenchel-Young losses against their definition, and the margins against their definition."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp

from diffopt import kernels, project_permutahedron
from diffopt.fenchel_young import fenchel_young_loss, separation_margin
from diffopt.regularizers import (
    CostAugmented,
    FermiDirac,
    Fused,
    Gini,
    Norm,
    Renyi,
    Shannon,
    SquaredNorm,
    SquaredNormOn,
    Tsallis,
    Zero,
)

N = 5
LAWS = settings(max_examples=20, deadline=None, derandomize=True)
quarters = st.integers(-20, 20).map(lambda k: k / 4)
rng = np.random.default_rng(0)
THETA = rng.normal(size=(8, N)) * np.array([1, 1, 1, 1, 3, 3, 0.1, 0.1])[:, None]
TARGETS = {
    "proportions": rng.dirichlet(np.ones(N), 8),
    "labels": np.eye(N)[rng.integers(0, N, 8)],
    "sparse": np.where(np.arange(N) < 2, rng.dirichlet(np.ones(2), 8) @ np.eye(2, N), 0),
}
REGULARIZERS = {
    "shannon": Shannon(),
    "tsallis-1.2": Tsallis(np.full((), 1.2)),
    "tsallis-1.5": Tsallis(1.5),
    "gini": Gini(),
    "norm": Norm(3.0),
    "squared": SquaredNorm(1.5),
    "renyi": Renyi(0.5),
    "fused": Fused(0.2),
    "zero": Zero(),
    "cost": CostAugmented(jnp.arange(N) / 4),
    "coins": FermiDirac(),
    "permutahedron": SquaredNormOn(lambda t: project_permutahedron(t, jnp.arange(N) / 10)),
}
SIMPLEX = [name for name in REGULARIZERS if name not in ("coins", "permutahedron")]
SMOOTH = [name for name in SIMPLEX if name not in ("zero", "cost", "fused")]
every = pytest.mark.parametrize("name", list(REGULARIZERS))
simplex = pytest.mark.parametrize("name", SIMPLEX)
loss = jax.jit(fenchel_young_loss, static_argnames="axis")


def targets(name):
    """Targets in the domain of the regularizer."""
    for y in TARGETS.values():
        yield y if name != "permutahedron" else np.asarray(REGULARIZERS[name].argmax(y))


def by_definition(theta, y, regularizer):
    """The conjugate at the prediction, term by term: cancels, but knows no special form."""
    p = np.asarray(regularizer.argmax(theta))
    gain = (theta * (p - y)).sum(-1)
    return gain - np.asarray(regularizer.value(p)) + np.asarray(regularizer.value(y))


# --------------------------------------------------------------------------------------- values


@every
def test_the_loss_is_its_definition(name):
    for y in targets(name):
        got = loss(THETA, y, REGULARIZERS[name])
        assert_allclose(got, by_definition(THETA, y, REGULARIZERS[name]), atol=2e-13)
        assert np.min(got) >= 0
        conjugate = REGULARIZERS[name].max(THETA) + REGULARIZERS[name].value(y)
        assert_allclose(got, conjugate - (THETA * y).sum(-1), atol=2e-13)


@every
def test_it_is_exactly_zero_at_the_prediction(name, x64):
    for dtype in (np.float64,) if x64 else (np.float32, jnp.bfloat16):
        theta = jnp.asarray(THETA, dtype)
        p = REGULARIZERS[name].argmax(theta)
        got = loss(theta, p, REGULARIZERS[name])
        assert got.dtype == theta.dtype
        if theta.dtype.itemsize >= 4:
            assert_array_equal(got, 0)
        elif name != "renyi":  # the prediction was rounded before it came back as a target
            assert np.asarray(got, np.float32).max() < 3 * float(jnp.finfo(dtype).eps)
    other = loss(jnp.asarray(THETA), jnp.roll(REGULARIZERS[name].argmax(THETA), 1, -1),
                 REGULARIZERS[name])  # fmt: skip
    assert np.max(other) > 1e-3


def test_the_family_has_its_known_members():
    labels = TARGETS["labels"]
    truth = (THETA * labels).sum(-1)
    assert_allclose(loss(THETA, labels, Shannon()), logsumexp(THETA, -1) - truth, atol=1e-14)
    assert_allclose(loss(THETA, labels, Zero()), THETA.max(-1) - truth, atol=1e-15)
    hinge = (THETA + 1 - labels).max(-1) - truth
    assert_allclose(loss(THETA, labels, CostAugmented(1 - labels)), hinge, atol=1e-15)
    binary = np.logaddexp(0, np.where(labels > 0, -THETA, THETA)).sum(-1)
    assert_allclose(loss(THETA, labels, FermiDirac()), binary, atol=1e-14)
    everything = SquaredNormOn(lambda theta: theta)
    assert_allclose(loss(THETA, labels, everything), ((THETA - labels) ** 2).sum(-1) / 2)
    # The sparsemax loss of Martins and Astudillo (2016), equation (25).
    p = np.asarray(Gini().argmax(THETA))
    tau = ((THETA - p) * (p > 0)).sum(-1) / (p > 0).sum(-1)
    known = -truth + ((THETA**2 - tau[:, None] ** 2) * (p > 0)).sum(-1) / 2 + 0.5
    assert_allclose(loss(THETA, labels, Gini()), known, atol=1e-14)


@pytest.mark.parametrize("name", ["shannon", "tsallis-1.2", "tsallis-1.5", "gini"])
def test_small_losses_keep_their_digits_in_single_precision(name):
    """Subtracting the terms of the definition leaves nothing below one part in a million."""
    random = np.random.default_rng(3)
    theta = (random.normal(size=(200, N)) + 100).astype(np.float32)
    p = np.asarray(REGULARIZERS[name].argmax(theta))
    y = np.maximum(p + (random.normal(size=p.shape) * 1e-4).astype(np.float32), 0)
    y[p == 0] = 0
    y /= y.sum(-1, keepdims=True)
    exact = np.asarray(loss(theta.astype(float), y.astype(float), REGULARIZERS[name]))
    got = np.asarray(loss(theta, y, REGULARIZERS[name]))
    assert got.min() >= 0
    error = np.abs(got - exact)
    naive = np.abs(by_definition(theta, y, REGULARIZERS[name]) - exact)
    assert error.max() < 2e-7 and np.median(error) < 0.02 * np.median(naive)


@pytest.mark.parametrize("backend", ["native", "xla"])
def test_the_logistic_loss_of_long_rows_of_labels(backend):
    """Against SciPy, in both precisions: dropped items, infinities, large scores, other targets."""
    random = np.random.default_rng(4)
    for n in (1, 100, 1024, 5000):
        theta = random.normal(size=(6, n))
        theta[1] *= 1e3
        theta[2] += 1e9
        theta[3, 1::2] = -np.inf
        y = np.eye(n)[random.integers(0, n, 6) // 2 * 2 % n]
        y[3] = np.eye(n)[0]
        copies = -(-(2**14 + 1) // theta.size)  # the native kernel is for more than that
        theta, y = np.tile(theta, (copies, 1)), np.tile(y, (copies, 1))
        theta = theta.astype(np.float32).astype(float)
        truth = np.where(y > 0, theta, 0).sum(-1)
        expected = logsumexp(theta, -1) - truth
        with kernels.use_backend(backend):
            assert_allclose(loss(theta, y, Shannon()), expected, rtol=1e-6, atol=2e-6)
            got = loss(theta.astype(np.float32), y.astype(np.float32), Shannon())
            assert_allclose(got, expected, rtol=1e-5, atol=2e-6)
            mixed = 0.5 * (y + np.roll(y, 1, 0))
            mixed[3::6] = y[3]
            p = np.asarray(Shannon().argmax(theta))
            safe = np.where(mixed > 0, mixed, 1)
            slope = np.where(mixed > 0, np.log(safe) - theta, 0)
            wanted = (mixed * slope).sum(-1) + logsumexp(theta, -1)
            assert_allclose(loss(theta, mixed, Shannon()), wanted, rtol=1e-6, atol=2e-6)
            assert_allclose(p.sum(-1), 1, rtol=1e-12)
    inf = np.inf
    theta = np.array([[inf, 0, -inf], [inf, 0, inf], [0, -inf, 1], [-inf] * 3, [np.nan, 0, 0]])
    with kernels.use_backend(backend):
        for copies in (1, 2000):
            labels = np.tile(np.eye(3)[[0, 0, 1, 2, 0]], (copies, 1))
            got = loss(np.tile(theta, (copies, 1)), labels, Shannon())
            assert_allclose(got, np.tile([0, np.log(2), inf, inf, np.nan], copies))


def test_a_confident_logistic_loss_keeps_its_digits():
    theta = np.array([[40.0, 0.0], [60.0, 0.0], [0.0, 60.0], [0.0, 700.0]], np.float32)
    y = np.array([[1.0, 0.0]] * 4, np.float32)
    expected = [np.exp(-40.0), np.exp(-60.0), 60.0, 700.0]
    assert_allclose(loss(theta, y, Shannon()), expected, rtol=1e-6)
    near = Tsallis(np.full((), 1.0, np.float32))
    assert_allclose(loss(theta, y, near), expected, rtol=1e-6)


@simplex
@LAWS
@given(arrays(np.float64, (4, N), elements=quarters), st.floats(0, 1))
def test_laws(name, rows, mix):
    theta, other, raw = rows[0], rows[1], np.abs(rows[2:]) + np.eye(2, N)
    y, z = raw / raw.sum(-1, keepdims=True)
    call = lambda t, y: float(loss(t, y, REGULARIZERS[name]))
    here = call(theta, y)
    assert here >= 0
    scale = 1e-12 * (1 + np.abs(rows).max())
    assert abs(call(theta + 4, y) - here) < scale  # shifts change nothing
    between = call((1 - mix) * theta + mix * other, y)
    assert between <= (1 - mix) * here + mix * call(other, y) + scale  # convex in theta
    if name != "renyi":  # and, as the regularizer is, in y
        between = call(theta, (1 - mix) * y + mix * z)
        assert between <= (1 - mix) * here + mix * call(theta, z) + scale
    p = np.asarray(REGULARIZERS[name].argmax(theta))
    if name in ("gini", "tsallis-1.2", "shannon"):  # at least as curved as a square
        assert here >= ((y - p) ** 2).sum() / 2 - scale


# ---------------------------------------------------------------------------------- derivatives


@every
def test_the_gradient_is_the_prediction_minus_the_target(name):
    call = jax.jit(jax.vmap(jax.grad(partial(fenchel_young_loss, regularizer=REGULARIZERS[name]))))
    for y in TARGETS.values():
        expected = REGULARIZERS[name].argmax(THETA) - y
        assert_allclose(call(THETA, y), expected, atol=1e-15)
    if name in SMOOTH + ["coins"]:
        step, u = 1e-6, np.random.default_rng(1).normal(size=THETA.shape)
        y = TARGETS["proportions"]
        ahead, behind = (loss(THETA + s * step * u, y, REGULARIZERS[name]) for s in (1, -1))
        slope = (u * call(THETA, y)).sum(-1)
        assert_allclose(slope, (ahead - behind) / (2 * step), atol=1e-8)


def test_the_solver_is_not_differentiated():
    def solver(theta):  # a callback has no derivative
        shape = jax.ShapeDtypeStruct(theta.shape, theta.dtype)
        return jax.pure_callback(
            lambda t: np.clip(t, 0, 1), shape, theta, vmap_method="expand_dims"
        )

    cube, y = SquaredNormOn(solver), TARGETS["labels"]
    slope = jax.grad(lambda t: loss(t, y, cube).sum())(jnp.asarray(THETA))
    assert_array_equal(slope, np.clip(THETA, 0, 1) - y)


@pytest.mark.parametrize("name", [*SMOOTH, "coins"])
def test_second_derivatives_and_targets(name):
    """The Hessian is the derivative of the prediction; targets move along the simplex."""
    regularizer = REGULARIZERS[name]
    value = partial(fenchel_young_loss, regularizer=regularizer)
    theta, y = jnp.asarray(THETA[:4]), jnp.asarray(TARGETS["proportions"][:4])
    hessian = jax.jit(jax.vmap(jax.hessian(value)))(theta, y)
    expected = jax.jit(jax.vmap(jax.jacfwd(regularizer.argmax)))(theta)
    assert_allclose(hessian, expected, atol=1e-12)
    along = np.random.default_rng(2).normal(size=(4, N))
    along -= along.mean(-1, keepdims=True)
    step = 1e-6
    slope = jax.jit(jax.vmap(jax.grad(value, 1)))
    moved = loss(theta, y + step * along, regularizer) - loss(theta, y - step * along, regularizer)
    assert_allclose((slope(theta, y) * along).sum(-1), moved / (2 * step), atol=1e-7)
    mixed = jax.jit(jax.vmap(jax.jacfwd(jax.grad(value, 1), 0)))(theta, y)
    assert_allclose(np.einsum("bij,bi->bj", mixed, along), -along, atol=1e-12)
    curve = jax.jit(jax.vmap(jax.hessian(value, 1)))(theta, y)
    change = (slope(theta, y + step * along) - slope(theta, y - step * along)) / (2 * step)
    assert_allclose(np.einsum("bij,bj->bi", curve, along), change, rtol=1e-4, atol=1e-5)


def test_the_derivative_in_arrays_of_the_regularizer():
    theta, y = jnp.asarray(THETA), jnp.asarray(TARGETS["proportions"])
    for make, at in (
        (Tsallis, jnp.full((), 1.3)),
        (Tsallis, jnp.full((8, 1), 1.7)),
        (Fused, jnp.full((), 0.2)),
        (CostAugmented, jnp.arange(5.0) / 4.1),
    ):
        value = jax.jit(lambda a, make=make: (fenchel_young_loss(theta, y, make(a)) ** 2).sum())
        direction = np.random.default_rng(0).normal(size=at.shape)
        got = np.vdot(jax.grad(value)(at), direction)
        step = 1e-6
        differences = (value(at + step * direction) - value(at - step * direction)) / (2 * step)
        assert_allclose(got, differences, rtol=1e-6, atol=1e-7)


# ------------------------------------------------------------------------- masks, axes, specials


@simplex
def test_masks_and_dropped_items(name):
    regularizer = REGULARIZERS[name] if name != "cost" else CostAugmented(np.full(N, 0.5))
    mask = np.array([True, False, True, True, False])
    y = TARGETS["proportions"] * mask
    y = y / y.sum(-1, keepdims=True)
    short = REGULARIZERS[name] if name != "cost" else CostAugmented(np.full(3, 0.5))
    expected = loss(THETA[:, mask], y[:, mask], short)
    assert_allclose(loss(THETA, y, regularizer, where=mask), expected, atol=1e-14)
    dropped = np.where(mask, THETA, -np.inf)
    assert_allclose(loss(dropped, y, regularizer), expected, atol=1e-14)
    assert_array_equal(loss(dropped, TARGETS["proportions"], regularizer), np.inf)
    noisy = np.where(mask, THETA, np.nan)
    slopes = jax.jit(jax.grad(lambda t, y: loss(t, y, regularizer, where=mask).sum(), (0, 1)))
    for slope in slopes(noisy, np.where(mask, y, np.nan)):
        assert np.isfinite(slope).all()
        assert_array_equal(slope[:, ~mask], 0)
    slope = jax.grad(lambda t: loss(t, y, regularizer).sum())(dropped)
    assert np.isfinite(slope).all()
    nobody = np.zeros(N, bool)
    assert_array_equal(loss(THETA, y, regularizer, where=nobody), 0)
    assert_array_equal(loss(np.full((2, N), -np.inf), np.zeros((2, N)), regularizer), 0)


@every
def test_axes_types_and_special_values(name, x64):
    regularizer, y = REGULARIZERS[name], TARGETS["labels"]
    expected = loss(THETA, y, regularizer)
    if name != "permutahedron":  # arrays of a regularizer are aligned with the scores
        across = regularizer if name != "cost" else CostAugmented(jnp.arange(5.0)[:, None] / 4)
        assert_allclose(loss(THETA.T, y.T, across, axis=0), expected, rtol=1e-6)
    mapped = jax.vmap(lambda t, y: loss(t, y, regularizer))(THETA, y)
    assert_allclose(mapped, expected, rtol=1e-6, atol=1e-7)
    assert loss(np.zeros((0, N)), np.zeros((0, N)), regularizer).shape == (0,)
    nan = loss(np.array([[np.nan, 0, 0, 0, 0], [1.0, 0, 0, 0, 0]]), y[:2], regularizer)
    assert np.isnan(nan[0]) and np.isfinite(nan[1])
    for dtype in (jnp.float16, jnp.bfloat16):
        half = loss(jnp.asarray(THETA, dtype), jnp.asarray(y, dtype), regularizer)
        assert half.dtype == dtype
        assert_allclose(np.asarray(half, float), expected, rtol=0.05, atol=0.05)
    large = loss(np.float32([[3e9, 0, 0, 0, 0]]), np.float32(np.eye(N)[:1]), regularizer)
    assert np.isfinite(large).all()
    if name in SIMPLEX and name not in ("cost", "renyi"):
        assert_allclose(large, 0, atol=1e-6)
    del x64


# -------------------------------------------------------------------------------------- margins

MARGINS = {
    "gini": (Gini(), 1),
    "tsallis-1.5": (Tsallis(1.5), 2),
    "tsallis-1.2": (Tsallis(1.2), 5),
    "tsallis-3": (Tsallis(3.0), 0.5),
    "norm-1.5": (Norm(1.5), 1),
    "norm-2": (Norm(2.0), 1),
    "norm-inf": (Norm(float("inf")), 1),
    "squared-1.5": (SquaredNorm(1.5), 1),
    "squared-3": (SquaredNorm(3.0), 1),
    "cost": (CostAugmented(jnp.array([0.0, 0.5, 2.0, 1.0, 1.0])), 2),
    "zero": (Zero(), 0),
}


@pytest.mark.parametrize("name", list(MARGINS))
def test_margins(name):
    """At the margin the loss of every label is zero; a little below, that of some label is not."""
    regularizer, margin = MARGINS[name]
    assert_allclose(separation_margin(regularizer), margin, rtol=1e-14)
    random = np.random.default_rng(0)
    rest = np.minimum(random.normal(size=(200, N)) ** 3, 0)
    rest[0] = 0
    label = np.eye(N)[np.arange(200) % N]
    rest = np.where(label > 0, -np.inf, rest)
    rest = rest - rest.max(-1, keepdims=True)
    reach = lambda gap: np.asarray(loss(np.where(label > 0, gap, rest), label, regularizer))
    assert reach(margin + 1e-9).max() < 1e-13
    assert reach(2 * margin + 1).max() < 1e-13
    assert reach(margin - 0.1 * max(margin, 1)).max() > 1e-8


def test_no_margin():
    for regularizer in (Shannon(), Tsallis(1.0), Renyi(0.5), FermiDirac()):
        assert separation_margin(regularizer) == np.inf
        apart = np.array([30.0, 0, 0, 0, 0])
        assert loss(apart, np.eye(N)[0], regularizer) > 1e-14
    margins = separation_margin(Tsallis(jnp.array([[1.5], [1.0]])))
    assert_array_equal(margins, [[2.0], [np.inf]])
    for regularizer in (Fused(1.0), SquaredNormOn(jnp.abs), "gini"):
        with pytest.raises(TypeError, match="regularizer"):
            separation_margin(regularizer)


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: fenchel_young_loss(1.0, 1.0, Gini()), "theta"),
        (lambda: fenchel_young_loss(THETA * 1j, THETA, Gini()), "theta"),
        (lambda: fenchel_young_loss(THETA, THETA[:, :3], Gini()), "y"),
        (lambda: fenchel_young_loss(THETA, "labels", Gini()), "y"),
        (lambda: fenchel_young_loss(THETA, THETA, "gini"), "regularizer"),
        (lambda: fenchel_young_loss(THETA, THETA, Gini), "regularizer"),
        (lambda: fenchel_young_loss(THETA, THETA, Gini(), axis=2), "axis"),
        (lambda: fenchel_young_loss(THETA, THETA, Gini(), where=THETA), "where"),
    ],
)
def test_wrong_use_names_the_argument(call, name):
    with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b"):
        call()
