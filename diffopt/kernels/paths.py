"""Shortest paths in XLA: all nodes ask their neighbours at once until nothing changes any more.

A node takes a new parent only where that brings it strictly nearer, so that parents never form a
circle, free edges included. The counterpart of :mod:`diffopt.kernels.graphs`.
"""

import jax
import jax.numpy as jnp

__all__ = ["graph_path", "grid_path"]


def grid_path(costs, flags):
    """Cheapest path between opposite corners of a grid given as one row."""
    height, width, neighbours = flags
    nan = jnp.isnan(costs).any()
    costs = jnp.where(nan, jnp.inf, jnp.maximum(costs, 0))
    shifts = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    if neighbours == 4:
        shifts = [(i, j) for i, j in shifts if i == 0 or j == 0]
    here = jnp.arange(height * width, dtype=jnp.int32)

    def around(dist):
        wide = jnp.pad(dist.reshape(height, width), 1, constant_values=jnp.inf)
        moved = [wide[1 + i : 1 + i + height, 1 + j : 1 + j + width] for i, j in shifts]
        return jnp.stack(moved).reshape(len(shifts), -1)

    offsets = jnp.array([i * width + j for i, j in shifts], jnp.int32)

    def relax(dist):
        all_around = around(dist)
        return all_around.min(0) + costs, here + offsets[all_around.argmin(0)]

    start = jnp.where(here == 0, costs, jnp.inf)
    dist, parent = _settle(relax, start, here)
    path = jnp.zeros_like(costs).at[0].set(1)
    return _walk(dist, path, height * width - 1, 0, nan, lambda node: (node, parent[node]))


def graph_path(costs, tails, heads, first, flags):
    """Cheapest path from a source to a target along directed edges."""
    n, source, target = flags
    nan = jnp.isnan(costs).any()
    costs = jnp.where(nan, jnp.inf, jnp.maximum(costs, 0))
    edge = jnp.arange(costs.size, dtype=jnp.int32)

    def relax(dist):
        through = dist[tails] + costs
        best = jnp.full(n, jnp.inf, costs.dtype).at[heads].min(through)
        wins = (through == best[heads]) & (through < jnp.inf)
        parent = jnp.zeros(n, jnp.int32).at[heads].max(jnp.where(wins, edge, 0))
        return best, parent

    start = jnp.where(jnp.arange(n) == source, jnp.zeros(n, costs.dtype), jnp.inf)
    dist, parent = _settle(relax, start, jnp.zeros(n, jnp.int32))
    follow = lambda node: (parent[node], tails[parent[node]])
    return _walk(dist, jnp.zeros_like(costs), target, source, nan, follow)


def _settle(relax, dist, parent):
    """Relax until no distance falls any more."""

    def step(state):
        dist, parent, _ = state
        found, through = relax(dist)
        nearer = found < dist
        return jnp.where(nearer, found, dist), jnp.where(nearer, through, parent), nearer.any()

    state = jax.lax.while_loop(lambda s: s[2], step, (dist, parent, jnp.ones((), bool)))
    return state[:2]


def _walk(dist, path, target, source, nan, follow):
    """Mark the way back from the target, or nothing where there is none."""
    reached = dist[target] < jnp.inf
    node = jnp.where(reached, target, source).astype(jnp.int32)

    def step(state):
        node, path = state
        mark, node = follow(node)
        return node, path.at[mark].set(1)

    path = jnp.where(reached, path, 0)
    _, path = jax.lax.while_loop(lambda s: s[0] != source, step, (node, path))
    return jnp.where(nan, jnp.nan, path)
