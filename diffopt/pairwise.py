r"""Tables of losses between all pairs of time series. Chapter: :ref:`soft_dtw`."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from diffopt.checks import as_float, check_choice, check_range
from diffopt.soft_dtw import (
    mean_cost,
    mean_cost_divergence,
    sharp_divergence,
    sharp_soft_dtw,
    soft_dtw,
    soft_dtw_divergence,
    squared_euclidean,
)

__all__ = ["soft_dtw_pairwise"]

LOSSES = {
    "soft_dtw": soft_dtw,
    "divergence": soft_dtw_divergence,
    "sharp": sharp_soft_dtw,
    "sharp_divergence": sharp_divergence,
    "mean_cost": mean_cost,
    "mean_cost_divergence": mean_cost_divergence,
}
# What a divergence corrects.
CORES = {"divergence": "soft_dtw"} | {f"{name}_divergence": name for name in ("sharp", "mean_cost")}
_CELLS = 2**21  # in the tables of costs that are held at a time


def soft_dtw_pairwise(
    xs,
    ys=None,
    *,
    loss="divergence",
    gamma=1.0,
    cost=squared_euclidean,
    band=None,
    progress=None,
):
    r"""Losses between all series of two sets, or of one set.

    .. math:: T_{st} = D(x^{(s)}, y^{(t)})

    Parameters
    ----------
    xs : array of shape [S, n, d], or sequence of S arrays of shapes [n_s, d]
        The series; they may have different lengths.
    ys : array of shape [T, m, d], or sequence of T arrays of shapes [m_t, d], optional
        Other series. By default `xs` themselves.
    loss : str, default "divergence"
        One of "soft_dtw", "divergence", "sharp", "sharp_divergence", "mean_cost",
        "mean_cost_divergence".
    gamma : float, default 1.0
        Temperature, a number; the mean costs have none.
    cost : function, default squared_euclidean
        Cost of two points; symmetric where `ys` is left out.
    band : boolean array of shape [n, m], optional
        Cells that alignments may use, for the longest series.
    progress : function, optional
        Called as ``progress(done, total)`` after each tile, with numbers of pairs.

    Returns
    -------
    array of shape [S, T]
        The losses.

    Raises
    ------
    TypeError
        If the series are not arrays of real numbers, or `gamma` is not a number.
    ValueError
        If there is no series, or a shape, `loss` or `gamma` does not fit.

    Notes
    -----
    One table of costs for each pair, half of them where `ys` is left out, and one for each series
    that a divergence corrects for; in tiles, of which one is held at a time. Blondel et al.
    :cite:p:`blondel2021differentiable`, section 5. Chapter: :ref:`soft_dtw`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import soft_dtw_pairwise
    >>> xs = [jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [1.0], [1.0]])]
    >>> print(soft_dtw_pairwise(xs, loss="soft_dtw", gamma=0.0))
    [[0. 0.]
     [0. 0.]]
    """
    check_choice(loss, LOSSES, "loss")
    left = pad_series(xs, "xs")
    right = left if ys is None else pad_series(ys, "ys")
    if left[0].shape[2] != right[0].shape[2]:
        found = left[0].shape[2], right[0].shape[2]
        raise ValueError("xs and ys must have as many features, got {} and {}".format(*found))
    core = LOSSES[CORES.get(loss, loss)]
    corrected = loss in CORES
    count = len(left[1]), len(right[1])
    pairs = np.triu_indices(count[0]) if ys is None else np.indices(count).reshape(2, -1)
    own = [left] if ys is None else [left, right]
    check_range(gamma, 0, math.inf, "gamma")
    done, total = 0, len(pairs[0]) + corrected * sum(len(lengths) for _, lengths in own)

    def tick(number):
        nonlocal done
        done += number
        if progress is not None:
            progress(done, total)

    run = functools.partial(_losses, core, gamma, cost, tick)
    found = run(left, right, pairs, band)
    if ys is None:
        table = jnp.zeros(count, found.dtype).at[pairs].set(found).at[pairs[::-1]].set(found)
    else:
        table = found.reshape(count)
    if corrected:
        each = [run(side, side, (np.arange(len(side[1])),) * 2, None) for side in own]
        table = table - (each[0][:, None] + each[-1][None]) / 2
    return table


def pad_series(series, name):
    """Stack series, padded to the longest, and give their lengths."""
    series = [as_float(y, name) for y in series]
    if not series:
        raise ValueError(f"{name} must hold at least one series, got none")
    shapes = {(y.ndim, y.shape[-1] if y.ndim else 0) for y in series}
    if len(shapes) > 1 or series[0].ndim != 2 or min(map(len, series)) == 0:
        found = [y.shape for y in series]
        raise ValueError(f"{name} must be arrays of shape [length, features], got {found}")
    lengths = np.array([len(y) for y in series])
    padded = [jnp.pad(y, ((0, lengths.max() - len(y)), (0, 0))) for y in series]
    return jnp.stack(padded), lengths


def _losses(core, gamma, cost, tick, left, right, pairs, band):
    """Losses of the pairs of indices, tile by tile; the last tile is filled up."""
    (xs, x_lengths), (ys, y_lengths) = left, right
    total, cells = len(pairs[0]), xs.shape[1] * ys.shape[1]
    size = max(1, min(total, _CELLS // cells))
    ragged = len({*x_lengths}) > 1, len({*y_lengths}) > 1
    limit = gamma if gamma in (0, math.inf) else None  # such a gamma is not traced
    found = []
    for start in range(0, total, size):
        s, t = (np.resize(index[start : start + size], size) for index in pairs)
        lengths = x_lengths[s], y_lengths[t]
        found.append(_tile(core, cost, limit, ragged, xs[s], ys[t], *lengths, gamma, band))
        jax.block_until_ready(found[-1])
        tick(min(size, total - start))
    return jnp.concatenate(found)[:total]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _tile(core, cost, limit, ragged, xs, ys, x_lengths, y_lengths, gamma, band):
    options = {"cost": cost, "band": band}
    if core is not mean_cost:
        options["gamma"] = gamma if limit is None else limit

    def one(x, y, x_length, y_length):
        lengths = {"x_length": x_length} if ragged[0] else {}
        lengths |= {"y_length": y_length} if ragged[1] else {}
        return core(x, y, **lengths, **options)

    return jax.vmap(one)(xs, ys, x_lengths, y_lengths)
