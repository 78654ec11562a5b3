"""Sets, losses and decoding of structured prediction, against enumeration of all vertices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp, xlogy

from diffopt.projections import project_simplex
from diffopt.structured import (
    Absolute,
    Birkhoff,
    CostSensitive,
    Cube,
    Hamming,
    Knapsack,
    L1Ball,
    OrderSimplex,
    Permutahedron,
    Precision,
    Product,
    Simplex,
    Space,
    Spearman,
    ZeroOne,
    projection_loss,
)

N = 3
BOTH = (-2, -1)
SETS = {
    "simplex": (Simplex(), -1, 3),
    "cube": (Cube(), -1, 8),
    "knapsack": (Knapsack(1, 2), -1, 6),
    "order": (OrderSimplex(), -1, 4),
    "permutahedron": (Permutahedron(), -1, 6),
    "tied": (Permutahedron((1.0, 1.0, 3.0)), -1, 3),
    "l1": (L1Ball(2.0), -1, 6),
    "birkhoff": (Birkhoff(), BOTH, 6),
    "rows": (Product(Simplex()), BOTH, 27),
}
names = pytest.mark.parametrize("name", list(SETS))
regularizations = pytest.mark.parametrize("regularization", ["l2", "kl"])
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def the_same_numbers():
    """Start the generator anew, so that no test depends on those before it."""
    rng.bit_generator.state = np.random.default_rng(0).bit_generator.state


def scores(axis, batch=40):
    theta = rng.normal(size=(batch, N, N) if axis == BOTH else (batch, N))
    theta[: batch // 2] = np.round(theta[: batch // 2] * 2) / 2
    return theta


def inner(a, b, axis):
    return np.sum(a * b, axis=axis)


def value(mu, regularization, axis):
    """The term Psi that makes the loss strongly convex."""
    terms = mu * mu / 2 if regularization == "l2" else xlogy(mu, mu) - mu
    return terms.sum(axis)


# ------------------------------------------------------------------------------ linear oracles


@names
def test_the_linear_oracle_finds_a_best_vertex(name):
    polytope, axis, count = SETS[name]
    vertices = polytope.vertices(N)
    assert len(vertices) == count
    assert len(np.unique(vertices.reshape(count, -1), axis=0)) == count
    theta = scores(axis)
    best = np.asarray(jax.jit(partial(polytope.maximize, axis=axis))(theta))
    sums = np.tensordot(theta, vertices, (range(1, theta.ndim), range(1, theta.ndim)))
    assert_allclose(inner(best, theta, axis), sums.max(1), atol=1e-14)
    flat = {tuple(v.ravel()) for v in vertices}
    assert {tuple(b.ravel()) for b in best} <= flat | {tuple(np.zeros(N))}
    mapped = jax.vmap(partial(polytope.maximize, axis=axis))(theta)
    assert_array_equal(mapped, best)


@names
def test_projections_stay_at_vertices(name):
    polytope, axis, _ = SETS[name]
    vertices = polytope.vertices(N)
    assert_allclose(polytope.project(vertices, axis=axis), vertices, atol=1e-12)


def test_axes_of_matrices_and_vectors():
    theta = rng.normal(size=(N, 5, N))
    moved = np.moveaxis(theta, 0, 1)
    for polytope in (Birkhoff(), Product(Simplex())):
        for method in (polytope.project, polytope.maximize):
            got = method(theta, axis=(0, 2))
            assert_allclose(np.moveaxis(got, 0, 1), method(moved), atol=1e-12)
    for polytope in (Knapsack(1, 2), OrderSimplex(), Permutahedron()):
        got = polytope.maximize(theta, axis=0)
        assert_array_equal(np.moveaxis(got, 0, -1), polytope.maximize(np.moveaxis(theta, 0, -1)))


def test_encodings():
    labels = jnp.array([0, 1, 3])
    codes = OrderSimplex().encode(labels, 3)
    assert_array_equal(codes, [[0, 0, 0], [1, 0, 0], [1, 1, 1]])
    assert_array_equal(OrderSimplex().decode(codes), labels)
    ranks = jnp.array([[2, 1, 3], [3, 1, 2]])
    matrices = Birkhoff().encode(ranks)
    assert_array_equal(matrices[0], [[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    assert_array_equal(Birkhoff().decode(matrices), ranks)


# ------------------------------------------------------------------------------------- losses


@names
@regularizations
def test_the_loss_is_its_definition(name, regularization):
    polytope, axis, _ = SETS[name]
    theta, vertices = scores(axis), polytope.vertices(N)
    if name == "l1":
        vertices = vertices[:N]
    y = vertices[rng.integers(len(vertices), size=len(theta))]
    y[:5] = rng.dirichlet(np.ones(len(vertices)), size=5) @ vertices.reshape(len(vertices), -1) \
        if axis == -1 else y[:5]  # fmt: skip
    loss = lambda t, y: projection_loss(
        t, y, polytope.project, regularization=regularization, axis=axis
    )
    mu = np.asarray(polytope.project(theta, regularization=regularization, axis=axis))
    got = np.asarray(loss(theta, y))
    conjugate = inner(theta, mu, axis) - value(mu, regularization, axis)
    expected = conjugate + value(y, regularization, axis) - inner(theta, y, axis)
    assert_allclose(got, expected, atol=1e-12)
    assert (got >= 0).all()
    # The conjugate is at least its value at any point of the set: of many, none is better.
    others = rng.dirichlet(np.ones(len(vertices)), size=200) @ vertices.reshape(len(vertices), -1)
    others = others.reshape(200, *theta.shape[1:])[:, None]
    lower = inner(theta, others, axis) - value(others, regularization, axis)
    assert (conjugate >= lower - 1e-12).all()
    # gradient and the lower bound by the distance of the projection
    gradient = jax.grad(lambda t: jnp.vdot(jnp.arange(1.0, len(theta) + 1), loss(t, y)))(theta)
    weight = np.arange(1.0, len(theta) + 1).reshape(-1, *[1] * (theta.ndim - 1))
    assert_allclose(gradient, weight * (mu - y), atol=1e-9)
    if regularization == "l2":
        assert (got >= ((mu - y) ** 2).sum(axis) / 2 - 1e-12).all()
    # zero exactly at the projection
    assert_allclose(loss(theta, mu), 0, atol=1e-11)
    assert (got[np.abs(mu - y).reshape(len(mu), -1).max(1) > 1e-3] > 1e-8).all()


CHAINS = [  # from small to large
    (-1, [Knapsack(1, 1), Knapsack(1, 2), Knapsack(0, 2), Cube(), Space()]),
    (-1, [Simplex(), Cube(), Space()]),
    (-1, [OrderSimplex(), Cube(), Space()]),
    (BOTH, [Birkhoff(), Product(Simplex()), Product(Cube()), Space()]),
]


@regularizations
@pytest.mark.parametrize("chain", CHAINS, ids=lambda c: type(c[1][0]).__name__)
def test_projecting_onto_a_smaller_set_makes_the_loss_smaller(chain, regularization):
    axis, sets = chain
    theta = 2 * scores(axis) - 1
    y = sets[0].vertices(N)[rng.integers(len(sets[0].vertices(N)), size=len(theta))]
    losses = [
        projection_loss(theta, y, s.project, regularization=regularization, axis=axis) for s in sets
    ]
    steps = np.diff(np.array(losses), axis=0)
    assert (steps >= -1e-12).all()
    assert steps.max(1).min() > 0.01  # strictly, somewhere


def test_known_losses():
    theta = scores(-1)
    y = np.eye(N)[rng.integers(N, size=len(theta))]
    squared = projection_loss(theta, y, Space().project)
    assert_allclose(squared, ((theta - y) ** 2).sum(-1) / 2, atol=1e-13)
    logistic = projection_loss(theta, y, project_simplex, regularization="kl")
    assert_allclose(logistic, logsumexp(theta, axis=-1) - (theta * y).sum(-1), atol=1e-13)


@names
@regularizations
def test_second_derivatives_are_the_jacobian_of_the_projection(name, regularization):
    polytope, axis, _ = SETS[name]
    theta = jnp.asarray(rng.normal(size=(N, N) if axis == BOTH else N))
    y = jnp.asarray(np.abs(polytope.vertices(N)[0]))
    loss = lambda t: projection_loss(
        t, y, polytope.project, regularization=regularization, axis=axis
    )
    jacobian = jax.jacfwd(partial(polytope.project, regularization=regularization, axis=axis))
    assert_allclose(jax.hessian(loss)(theta), jacobian(theta), atol=1e-10)


@regularizations
def test_gradient_in_soft_targets(regularization):
    theta, y = rng.normal(size=(2, N))
    y = np.exp(y) / np.exp(y).sum()
    loss = lambda y: projection_loss(theta, y, project_simplex, regularization=regularization)
    step = 1e-6 * np.eye(N)
    slope = [(loss(y + e) - loss(y - e)) / 2e-6 for e in step]
    assert_allclose(jax.grad(loss)(jnp.asarray(y)), slope, atol=1e-8)


@regularizations
def test_losses_keep_their_digits_at_large_scores(regularization):
    y = jnp.array([0.0, 1.0, 0.0])
    theta = jnp.array([1e9, 1e9 + 3, 1e9 - 5])
    near = projection_loss(theta - 1e9, y, project_simplex, regularization=regularization)
    far = projection_loss(theta, y, project_simplex, regularization=regularization)
    assert_allclose(far, near, atol=1e-6)
    right = projection_loss(1e9 * y, y, project_simplex, regularization=regularization)
    wrong = projection_loss(-1e9 * y, y, project_simplex, regularization=regularization)
    assert right == 0
    assert_allclose(wrong, 1e9, rtol=1e-8)
    dropped = projection_loss(
        jnp.array([-jnp.inf, 2.0, 1.0]), y, project_simplex, regularization=regularization
    )
    two = projection_loss(jnp.array([2.0, 1.0]), y[1:], project_simplex,
                          regularization=regularization)  # fmt: skip
    assert_allclose(dropped, two, atol=1e-12)


def test_types_and_wrong_use(x64):
    theta, y = jnp.zeros((2, N)), jnp.array([1, 0, 0])
    loss = projection_loss(theta, y, Simplex().project)
    assert loss.dtype == theta.dtype
    assert loss.shape == (2,)
    half = projection_loss(theta.astype(jnp.bfloat16), y, Simplex().project)
    assert half.dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"y must broadcast.*theta"):
        projection_loss(theta, jnp.zeros(2), Simplex().project)
    with pytest.raises(ValueError, match="regularization"):
        projection_loss(theta, y, Simplex().project, regularization="tv")
    with pytest.raises(ValueError, match="axis"):
        projection_loss(theta, y, Simplex().project, axis=4)


# ----------------------------------------------------------------------------------- decoding

COST = ((0.0, 1.0, 4.0), (2.0, 0.0, 1.0), (3.0, 0.5, 0.0))
LABELS = [np.flatnonzero(v)[0] for v in np.eye(N)]
TARGETS = {
    "zero-one": (ZeroOne(), Simplex(), -1, lambda a, b: float((a != b).any())),
    "cost": (CostSensitive(COST), Simplex(), -1, lambda a, b: COST[a.argmax()][b.argmax()]),
    "hamming": (Hamming(), Cube(), -1, lambda a, b: (a != b).mean()),
    "few": (Hamming(), Knapsack(1, 2), -1, lambda a, b: (a != b).mean()),
    "absolute": (Absolute(), OrderSimplex(), -1, lambda a, b: abs(a.sum() - b.sum())),
    "spearman": (Spearman(), Permutahedron(), -1, lambda a, b: ((a - b) ** 2).sum()),
    "precision": (Precision(2), Knapsack(2, 2), -1, lambda a, b: 1 - (a * b).sum() / 2),
    "places": (ZeroOne(), Birkhoff(), BOTH, lambda a, b: (a.argmax(1) != b.argmax(1)).mean()),
    "ranks": (
        Spearman(),
        Birkhoff(),
        BOTH,
        lambda a, b: ((a.argmax(1) - b.argmax(1)) ** 2).sum(),
    ),
}
targets = pytest.mark.parametrize("name", list(TARGETS))


@targets
def test_target_losses_are_affine_in_the_encodings(name):
    target, polytope, axis, plain = TARGETS[name]
    vertices = polytope.vertices(N)
    expected = [[plain(a, b) for b in vertices] for a in vertices]
    got = target(*np.broadcast_arrays(vertices[:, None], vertices[None]), axis=axis)
    assert_allclose(got, expected, atol=1e-13)


@targets
def test_calibrated_decoding_minimises_the_expected_loss(name):
    target, polytope, axis, plain = TARGETS[name]
    vertices = polytope.vertices(N)
    table = np.array([[plain(a, b) for b in vertices] for a in vertices])
    shares = rng.dirichlet(np.full(len(vertices), 0.7), size=50)
    mean = np.tensordot(shares, vertices, 1)
    chosen = np.asarray(target.decode(mean, polytope, axis=axis))
    expected = shares @ table.T  # of each vertex
    index = [np.flatnonzero((vertices == c).reshape(len(vertices), -1).all(1))[0] for c in chosen]
    assert_allclose(expected[np.arange(50), index], expected.min(1), atol=1e-12)
    assert len(set(index)) > 1


def test_calibrated_decoding_is_consistent_where_the_best_vertex_is_not():
    """With three labels of cost, the most probable label is not the one to predict."""
    shares = np.array([0.4, 0.35, 0.25])
    choice = CostSensitive(COST).decode(shares, Simplex())
    assert_array_equal(choice, Simplex().vertices(N)[np.argmin(np.array(COST) @ shares)])
    assert int(np.argmax(choice)) != int(np.argmax(shares))
