"""Shortest paths for the CPU, compiled by numba: Dijkstra's algorithm with a binary heap.

As :mod:`diffopt.kernels.native`, imported by the bridge alone. Negative costs count as zero, an
infinite cost as a barrier, a NaN makes its instance NaN; without a path the answer is all zeros.
"""

import numba
import numpy as np

_jit = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


@_jit
def _rise(heap, place, dist, at):
    """Move the node at position `at` up to where it belongs."""
    node = heap[at]
    while at > 0 and dist[heap[(at - 1) >> 1]] > dist[node]:
        heap[at] = heap[(at - 1) >> 1]
        place[heap[at]] = at
        at = (at - 1) >> 1
    heap[at], place[node] = node, at


@_jit
def _pop(heap, place, dist, size):
    """Take the nearest node off a heap of `size` nodes."""
    first, node, at = heap[0], heap[size - 1], 0
    place[first] = -2  # settled
    size -= 1
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and dist[heap[child + 1]] < dist[heap[child]]:
            child += 1
        if dist[heap[child]] >= dist[node]:
            break
        heap[at] = heap[child]
        place[heap[at]] = at
        at = child
    if size > 0:
        heap[at], place[node] = node, at
    return first


@_jit
def _reach(heap, place, dist, node, value, size):
    """Lower the distance of a node that is not settled, and return the new size of the heap."""
    dist[node] = value
    if place[node] == -1:
        place[node] = size
        heap[size] = node
        size += 1
    _rise(heap, place, dist, place[node])
    return size


@_jit
def grid_path(costs, flags, paths):
    """Cheapest path between opposite corners; flags: height, width, 4 or 8 neighbours."""
    height, width, diagonal = flags[0, 0], flags[0, 1], flags[0, 2] == 8
    n = height * width
    heap, place, parent = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int32)
    dist = np.empty(n)
    for r in range(paths.shape[0]):
        nan = False
        for k in range(n):
            place[k], dist[k], paths[r, k] = -1, np.inf, 0
            nan |= costs[r, k] != costs[r, k]
        size, last = 0, n - 1
        if max(costs[r, 0], 0) < np.inf:
            size = _reach(heap, place, dist, 0, max(float(costs[r, 0]), 0.0), size)
        while size > 0:
            node = _pop(heap, place, dist, size)
            size -= 1
            if node == last:
                break
            row, column = node // width, node % width
            for i in range(max(row - 1, 0), min(row + 2, height)):
                for j in range(max(column - 1, 0), min(column + 2, width)):
                    to = i * width + j
                    if place[to] == -2 or not (diagonal or i == row or j == column):
                        continue
                    value = dist[node] + max(float(costs[r, to]), 0.0)
                    if value < dist[to]:
                        parent[to] = node
                        size = _reach(heap, place, dist, to, value, size)
        if dist[last] < np.inf:
            while last != 0:
                paths[r, last] = 1
                last = parent[last]
            paths[r, 0] = 1
        if nan:
            for k in range(n):
                paths[r, k] = np.nan


@_jit
def graph_path(costs, tails, heads, first, flags, paths):
    """Cheapest path from a source to a target along edges that are sorted by their tails."""
    n, source, target = flags[0, 0], flags[0, 1], flags[0, 2]
    heap, place, parent = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int32)
    dist = np.empty(n)
    for r in range(paths.shape[0]):
        nan = False
        for k in range(paths.shape[1]):
            paths[r, k] = 0
            nan |= costs[r, k] != costs[r, k]
        for k in range(n):
            place[k], dist[k] = -1, np.inf
        size = _reach(heap, place, dist, source, 0.0, 0)
        while size > 0:
            node = _pop(heap, place, dist, size)
            size -= 1
            if node == target:
                break
            for edge in range(first[0, node], first[0, node + 1]):
                to = heads[0, edge]
                value = dist[node] + max(float(costs[r, edge]), 0.0)
                if place[to] != -2 and value < dist[to]:
                    parent[to] = edge
                    size = _reach(heap, place, dist, to, value, size)
        if dist[target] < np.inf:
            node = target
            while node != source:
                paths[r, parent[node]] = 1
                node = tails[0, parent[node]]
        if nan:
            for k in range(paths.shape[1]):
                paths[r, k] = np.nan
