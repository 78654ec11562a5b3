"""Oracles against brute force and scipy, and both forms of the kernels against each other."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse.csgraph import dijkstra

from diffopt import kernels, oracles

BACKENDS = pytest.mark.parametrize("backend", ["auto", "xla"])


def best(theta, answers):
    """The answer of largest score, by looking at all of them."""
    answers = np.asarray(answers, float)
    return answers[np.argmax((answers * theta).reshape(len(answers), -1).sum(1))]


def random(*shape):
    return np.random.default_rng(0).normal(size=shape)


def test_vectors_against_enumeration():
    permutations = [np.array(p) + 1 for p in itertools.permutations(range(4))]
    subsets = [s for s in itertools.product([0, 1], repeat=4) if sum(s) == 2]
    for theta in random(10, 4):
        assert_array_equal(oracles.argmax(theta), best(theta, np.eye(4)))
        assert_array_equal(oracles.ranking(theta), best(theta, permutations))
        assert_array_equal(oracles.k_subset(theta, 2), best(theta, subsets))
        assert_array_equal(oracles.top_k(theta, 3).argmax(-1), np.argsort(-theta)[:3])


def test_long_and_tied_rankings():
    theta = np.round(random(2, 100), 1)
    expected = np.argsort(np.argsort(theta, kind="stable"), kind="stable") + 1
    assert_array_equal(oracles.ranking(theta), expected)
    short = np.argsort(np.argsort(theta[:, :50], kind="stable"), kind="stable") + 1
    assert_array_equal(oracles.ranking(theta[:, :50]), short)


def test_assignment_against_enumeration():
    matrices = [np.eye(3)[list(p)] for p in itertools.permutations(range(3))]
    theta = random(2, 5, 3, 3)
    found = oracles.assignment(jnp.asarray(theta))
    for i, j in np.ndindex(2, 5):
        assert_array_equal(found[i, j], best(theta[i, j], matrices))


def test_nearest_neighbours():
    queries, points = random(6, 2), np.random.default_rng(1).normal(size=(9, 2))
    found = oracles.nearest_neighbours(queries, points, 3)
    distance = np.linalg.norm(queries[:, None] - points[None], axis=-1)
    expected = distance <= np.sort(distance, -1)[:, 2:3]
    assert_array_equal(found, expected)


def test_spanning_tree_against_enumeration():
    edges = np.array(list(itertools.combinations(range(4), 2)))
    trees = []
    for chosen in itertools.combinations(range(6), 3):
        reach = {0}
        for _ in range(3):
            reach |= {v for e in edges[list(chosen)] if reach & set(e) for v in e}
        if len(reach) == 4:
            trees.append(np.isin(np.arange(6), chosen))
    assert len(trees) == 16
    theta = random(8, 6)
    found = oracles.spanning_tree(jnp.asarray(theta), edges, 4)
    for row, tree in zip(theta, found, strict=True):
        assert_array_equal(tree, best(row, trees))


def grid_graph(costs, neighbours):
    height, width = costs.shape
    place = np.indices((height, width)).reshape(2, -1)
    gap = np.abs(place[:, :, None] - place[:, None])
    near = gap.max(0) == 1 if neighbours == 8 else gap.sum(0) == 1
    return np.where(near, costs.ravel()[None], 0)


@BACKENDS
@pytest.mark.parametrize("neighbours", [4, 8])
def test_paths_on_a_grid_cost_what_dijkstra_says(backend, neighbours):
    costs = np.random.default_rng(0).uniform(0.1, 2.0, (8, 5, 6))
    with kernels.use_backend(backend):
        found = jax.vmap(lambda c: oracles.grid_shortest_path(c, neighbours=neighbours))(costs)
    for cost, path in zip(costs, np.asarray(found), strict=True):
        expected = dijkstra(grid_graph(cost, neighbours), indices=0)[-1] + cost[0, 0]
        assert_allclose((cost * path).sum(), expected)
        assert path[0, 0] == path[-1, -1] == 1 and set(np.unique(path)) == {0, 1}


@BACKENDS
def test_special_costs_on_a_grid(backend):
    wall = np.array([[1.0, np.inf, 1.0], [1.0, np.inf, 1.0]])
    free, single = np.array([[-1.0, 0.0], [0.0, 0.0]]), np.array([[3.0]])
    with kernels.use_backend(backend):
        assert_array_equal(oracles.grid_shortest_path(wall), np.zeros((2, 3)))
        assert_array_equal(oracles.grid_shortest_path(single), [[1.0]])
        path = oracles.grid_shortest_path(free)
        assert path[0, 0] == path[1, 1] == 1
        assert jnp.isnan(oracles.grid_shortest_path(np.full((2, 2), np.nan))).all()
        assert oracles.grid_shortest_path(jnp.ones((2, 2), jnp.bfloat16)).dtype == jnp.bfloat16


@BACKENDS
def test_paths_on_a_graph_cost_what_dijkstra_says(backend):
    rng = np.random.default_rng(0)
    edges = np.array([(i, j) for i in range(9) for j in range(9) if i != j and rng.random() < 0.4])
    costs = rng.uniform(0.1, 1.0, (6, len(edges)))
    with kernels.use_backend(backend):
        found = np.asarray(oracles.graph_shortest_path(costs, edges, 9, 2, 7))
    for cost, path in zip(costs, found, strict=True):
        matrix = np.zeros((9, 9))
        matrix[tuple(edges.T)] = cost
        assert_allclose((cost * path).sum(), dijkstra(matrix, indices=2)[7])
        flow = np.bincount(edges[:, 0], path, 9) - np.bincount(edges[:, 1], path, 9)
        assert_array_equal(flow, np.eye(9)[2] - np.eye(9)[7])


def test_errors():
    with pytest.raises(ValueError, match="k must lie between 1 and 3"):
        oracles.k_subset(jnp.ones(3), 4)
    with pytest.raises(ValueError, match="costs must be of shape"):
        oracles.grid_shortest_path(jnp.ones(3))
    with pytest.raises(ValueError, match="edges must join"):
        oracles.spanning_tree(jnp.ones(1), [(0, 5)], 3)
    with pytest.raises(ValueError, match="edges must be integers"):
        oracles.graph_shortest_path(jnp.ones(2), [(0, 1)], 2, 0, 1)
