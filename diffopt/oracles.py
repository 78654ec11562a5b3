r"""Solvers of discrete problems, to be perturbed or used as they are.

Except for paths, which minimise costs, and neighbours, each maximises :math:`\langle y,
\theta\rangle` over the answers y, and minus infinity forbids. Answers are in the floating type of
the scores, have no derivative, and the leading axes are batches. Chapter: :ref:`perturbed`.
"""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np

from diffopt.checks import as_float, check_axis, check_choice
from diffopt.host import host_argmax
from diffopt.kernels import Kernel, paths

__all__ = [
    "argmax",
    "assignment",
    "graph_shortest_path",
    "grid_shortest_path",
    "k_subset",
    "nearest_neighbours",
    "ranking",
    "spanning_tree",
    "top_k",
]

_INT = jnp.dtype("int32")
_FLOATS = (jnp.dtype("float32"), jnp.dtype("float64"))
_grid_kernel = Kernel("grid_path", paths.grid_path, lambda costs: (costs,))
_graph_kernel = Kernel("graph_path", paths.graph_path, lambda costs, *graph: (costs,))


def argmax(theta, *, axis=-1):
    """Return the one-hot vector of the largest score, the first of equals.

    Parameters
    ----------
    theta : array of shape [..., n, ...]
        Scores.
    axis : int, default -1
        The axis of the items.

    Returns
    -------
    array like `theta`

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import oracles
    >>> print(oracles.argmax(jnp.array([0.1, 2.0, 1.0])))
    [0. 1. 0.]
    """
    theta = as_float(theta, "theta")
    axis = check_axis(theta, axis, "theta")
    best = jnp.argmax(theta, axis)
    return jax.nn.one_hot(best, theta.shape[axis], dtype=theta.dtype, axis=axis)


def top_k(theta, k):
    """Return the k largest scores in decreasing order, each as a one-hot vector.

    Parameters
    ----------
    theta : array of shape [..., n]
        Scores.
    k : int
        How many, at most n.

    Returns
    -------
    array of shape [..., k, n]
        Its sum over the second last axis is :func:`k_subset`.

    Raises
    ------
    ValueError
        If `k` is not between 1 and n.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import oracles
    >>> print(oracles.top_k(jnp.array([0.1, 2.0, 1.0]), 2))
    [[0. 1. 0.]
     [0. 0. 1.]]
    """
    theta = as_float(theta, "theta")
    n = theta.shape[check_axis(theta, -1, "theta")]
    _check_between(k, 1, n, "k")
    _, index = jax.lax.top_k(theta, operator.index(k))
    return jax.nn.one_hot(index, n, dtype=theta.dtype)


def k_subset(theta, k):
    """Return the indicator vector of the k largest scores.

    Parameters
    ----------
    theta : array of shape [..., n]
        Scores.
    k : int
        How many, at most n.

    Returns
    -------
    array like `theta`

    Raises
    ------
    ValueError
        If `k` is not between 1 and n.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import oracles
    >>> print(oracles.k_subset(jnp.array([0.1, 2.0, 1.0]), 2))
    [0. 1. 1.]
    """
    return top_k(theta, k).sum(-2)


def ranking(theta):
    """Return the ranks 1, ..., n of scores, n for the largest: the best order.

    Parameters
    ----------
    theta : array of shape [..., n]
        Scores; of equal ones, the first has the smaller rank.

    Returns
    -------
    array like `theta`

    Notes
    -----
    :math:`O(n \\log n)`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import oracles
    >>> print(oracles.ranking(jnp.array([0.1, 2.0, 1.0])))
    [1. 3. 2.]
    """
    theta = as_float(theta, "theta")
    n = theta.shape[check_axis(theta, -1, "theta")]
    if n <= 64:  # counting beats sorting
        left, right = theta[..., :, None], theta[..., None, :]
        earlier = jnp.tri(n, k=-1, dtype=bool)[(None,) * (theta.ndim - 1)]
        below = (right < left) | ((right == left) & earlier)
        return 1 + below.sum(-1).astype(theta.dtype)
    return 1 + jnp.argsort(jnp.argsort(theta, -1), -1).astype(theta.dtype)


def nearest_neighbours(queries, points, k):
    """Return which k points are nearest to each query, by Euclidean distance.

    Parameters
    ----------
    queries : array of shape [..., q, d]
        Where to look from.
    points : array of shape [..., n, d]
        The candidates.
    k : int
        How many, at most n.

    Returns
    -------
    array of shape [..., q, n]
        Rows with k ones.

    Raises
    ------
    ValueError
        If `k` is not between 1 and n, or the dimensions differ.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import oracles
    >>> points = jnp.array([[0.0], [1.0], [5.0]])
    >>> print(oracles.nearest_neighbours(jnp.array([[4.0], [0.2]]), points, 1))
    [[0. 0. 1.]
     [1. 0. 0.]]
    """
    queries, points = as_float(queries, "queries"), as_float(points, "points")
    if queries.ndim < 2 or queries.ndim != points.ndim or queries.shape[-1] != points.shape[-1]:
        raise ValueError(
            "queries and points must be of shapes [..., q, d] and [..., n, d], got "
            f"{queries.shape} and {points.shape}"
        )
    gaps = queries[..., :, None, :] - points[..., None, :, :]
    return k_subset(-jnp.square(gaps).sum(-1), k)


def assignment(theta):
    """Return the permutation matrix of the best assignment of rows to columns, by scipy.

    Parameters
    ----------
    theta : array of shape [..., n, m]
        Scores of pairs. A rectangle leaves rows or columns without a partner.

    Returns
    -------
    array like `theta`

    Notes
    -----
    Solved on the host, one call for a batch; :math:`O(n^3)` an instance.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import oracles
    >>> print(oracles.assignment(jnp.array([[3.0, 2.0], [3.0, 0.0]])))
    [[0. 1.]
     [1. 0.]]
    """
    theta = as_float(theta, "theta")
    if theta.ndim < 2:
        raise ValueError(f"theta must be of shape [..., n, m], got {theta.shape}")
    solve = _assign
    for _ in range(theta.ndim - 2):
        solve = jax.vmap(solve)
    return solve(theta)


def _assign_on_host(theta):
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    matrix = np.zeros(theta.shape, theta.dtype)
    matrix[linear_sum_assignment(theta, maximize=True)] = 1
    return matrix


_assign = host_argmax(_assign_on_host)


def grid_shortest_path(costs, *, neighbours=8):
    """Return the cheapest path from the first to the last cell of a grid, as ones on its cells.

    Parameters
    ----------
    costs : array of shape [..., height, width]
        Cost of entering a cell; both ends count. Negative costs, as noise makes them, count as
        zero; infinite ones are barriers.
    neighbours : {8, 4}
        Whether a path may move diagonally.

    Returns
    -------
    array like `costs`
        All zeros where there is no path.

    Raises
    ------
    ValueError
        If `costs` has less than two dimensions, or `neighbours` is neither 4 nor 8.

    Notes
    -----
    With n cells, :math:`O(n \\log n)` on a CPU by Dijkstra's algorithm; elsewhere as many parallel
    steps as the path has cells. To perturb it, take ``lambda theta: grid_shortest_path(-theta)``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import oracles
    >>> print(oracles.grid_shortest_path(jnp.array([[1.0, 9.0, 9.0], [9.0, 1.0, 1.0]])))
    [[1. 0. 0.]
     [0. 1. 1.]]
    """
    costs = as_float(costs, "costs")
    if costs.ndim < 2 or 0 in costs.shape[-2:]:
        raise ValueError(f"costs must be of shape [..., height, width], got {costs.shape}")
    check_choice(neighbours, (4, 8), "neighbours")
    flags = (*costs.shape[-2:], neighbours)
    rows = costs.reshape(*costs.shape[:-2], -1)
    return _run(_grid_kernel, rows, (), flags).reshape(costs.shape)


def graph_shortest_path(costs, edges, num_nodes, source, target):
    """Return the cheapest path from one node of a sparse graph to another, as ones on its edges.

    Parameters
    ----------
    costs : array of shape [..., num_edges]
        Cost of each edge. Negative costs count as zero; infinite ones are barriers.
    edges : integer array of shape [num_edges, 2]
        Tail and head of each directed edge; known when traced.
    num_nodes : int
        Nodes are 0, ..., num_nodes - 1.
    source, target : int
        Ends of the path.

    Returns
    -------
    array like `costs`
        All zeros where there is no path.

    Raises
    ------
    ValueError
        If `edges` does not fit `costs`, or a node does not exist.

    Notes
    -----
    With m edges, :math:`O(m \\log n)` on a CPU by Dijkstra's algorithm; elsewhere as many parallel
    steps as the path has edges.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import oracles
    >>> edges = [(0, 1), (1, 2), (0, 2)]
    >>> print(oracles.graph_shortest_path(jnp.array([1.0, 1.0, 3.0]), edges, 3, 0, 2))
    [1. 1. 0.]
    """
    costs = as_float(costs, "costs")
    check_axis(costs, -1, "costs")
    edges = _check_edges(edges, costs, num_nodes, "costs")
    for node, name in ((source, "source"), (target, "target")):
        _check_between(node, 0, num_nodes - 1, name)
    order = np.argsort(edges[:, 0], kind="stable")
    tails, heads = edges[order].T
    first = np.searchsorted(tails, np.arange(num_nodes + 1))
    graph = tuple(jnp.asarray(x, jnp.int32) for x in (tails, heads, first))
    flags = tuple(map(operator.index, (num_nodes, source, target)))
    found = _run(_graph_kernel, costs[..., order], graph, flags)
    return found[..., np.argsort(order)]


def spanning_tree(theta, edges, num_nodes):
    """Return the spanning tree of largest total score, as ones on its edges.

    Parameters
    ----------
    theta : array of shape [..., num_edges]
        Scores of edges; minus infinity forbids one.
    edges : integer array of shape [num_edges, 2]
        The two ends of each edge; known when traced.
    num_nodes : int
        Nodes are 0, ..., num_nodes - 1.

    Returns
    -------
    array like `theta`
        A tree for each part of the graph that is connected.

    Raises
    ------
    ValueError
        If `edges` does not fit `theta`, or a node does not exist.

    Notes
    -----
    Kruskal's algorithm in XLA, one step for each edge, of :math:`O(n)`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import oracles
    >>> print(oracles.spanning_tree(jnp.array([1.0, 2.0, 3.0]), [(0, 1), (1, 2), (0, 2)], 3))
    [0. 1. 1.]
    """
    theta = as_float(theta, "theta")
    check_axis(theta, -1, "theta")
    edges = jnp.asarray(_check_edges(edges, theta, num_nodes, "theta"), jnp.int32)
    solve = functools.partial(_kruskal, edges=edges, num_nodes=num_nodes)
    for _ in range(theta.ndim - 1):
        solve = jax.vmap(solve)
    return solve(jax.lax.stop_gradient(theta))


def _kruskal(theta, *, edges, num_nodes):
    def step(state, edge):
        label, tree = state
        a, b = label[edges[edge, 0]], label[edges[edge, 1]]
        joins = (a != b) & (theta[edge] > -jnp.inf)
        label = jnp.where(joins & (label == b), a, label)
        return (label, tree.at[edge].set(joins.astype(tree.dtype))), None

    start = jnp.arange(num_nodes, dtype=jnp.int32), jnp.zeros_like(theta)
    (_, tree), _ = jax.lax.scan(step, start, jnp.argsort(-theta))
    return jnp.where(jnp.isnan(theta).any(), jnp.nan, tree)


def _run(kernel, costs, graph, flags):
    """Call a kernel, which takes single and double precision."""
    rows = jax.lax.stop_gradient(costs)
    if rows.dtype not in _FLOATS:
        rows = rows.astype(jnp.float32)
    return kernel(rows, *graph, flags=flags).astype(costs.dtype)


def _check_edges(edges, scores, num_nodes, name):
    edges = np.asarray(edges)
    if edges.shape != (scores.shape[-1], 2) or edges.dtype.kind not in "iu":
        raise ValueError(
            f"edges must be integers of shape [{scores.shape[-1]}, 2], as {name} has that many "
            f"entries, got {edges.dtype} of shape {edges.shape}"
        )
    if edges.size and not (0 <= edges.min() and edges.max() < num_nodes):
        raise ValueError(f"edges must join nodes 0 to {num_nodes - 1}, got {edges.max()}")
    return edges


def _check_between(value, low, high, name):
    if not low <= operator.index(value) <= high:
        raise ValueError(f"{name} must lie between {low} and {high}, got {value}")
