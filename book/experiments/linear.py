"""Linear models under any loss of scores: training in batches, and nested cross-validation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from book.experiments.lbfgs import minimize_batch
from book.experiments.sorting import linear_scores, nested_split


@functools.cache
def objective(loss):
    """Build values and gradients of the mean loss plus ``lam/2 |W|^2`` for a batch of tables."""

    def values(tables, features, targets, lam):
        theta = linear_scores(tables, features).reshape(targets.shape)
        penalty = 0.5 * lam * jnp.sum(tables[..., :-1, :] ** 2, axis=(-1, -2))
        value = loss(theta, targets).mean(axis=-1) + penalty
        return value.sum(), value

    @jax.jit
    def values_and_gradients(tables, *arguments):
        (_, value), gradient = jax.value_and_grad(values, has_aux=True)(tables, *arguments)
        return value, gradient

    return values_and_gradients


def fit(loss, features, targets, lam, start=None, max_iter=100):
    """Fit linear models by L-BFGS, one for each leading entry of a batch.

    Parameters
    ----------
    loss : callable
        ``loss(theta, targets)`` gives the losses of items, ``(batch, m)``.
    features : numpy.ndarray
        Shape ``(batch, m, p)``.
    targets : numpy.ndarray
        Shape ``(batch, m, n)``, or ``(batch, m, n, n)`` for matrices; scores have this shape too.
    lam : float or sequence of float
        Penalty of the coefficients, for each entry of the batch or for all.
    start : numpy.ndarray, optional
        Where to start, by default at zero.
    max_iter : int, optional
        How often the objective is computed at most.

    Returns
    -------
    numpy.ndarray
        Tables ``(batch, p + 1, size)``: the coefficients, then the intercepts.
    """
    size = int(np.prod(targets.shape[2:]))
    shape = (len(features), features.shape[2] + 1, size)
    lam = np.broadcast_to(np.asarray(lam, float), len(features))
    arguments = [jnp.asarray(a, float) for a in (features, targets, lam)]
    start = np.zeros(shape) if start is None else start

    def evaluate(point):
        value, gradient = objective(loss)(point.reshape(shape), *arguments)
        return value, np.asarray(gradient).reshape(point.shape)

    found = minimize_batch(evaluate, start.reshape(shape[0], -1), max_iter=max_iter)
    return found.reshape(shape)


@functools.cache
def evaluation(measures):
    """Build the measures of every item under a batch of tables."""

    @jax.jit
    def evaluate(tables, features, targets):
        targets = jnp.broadcast_to(targets, (len(tables), *targets.shape[1:]))
        return measures(linear_scores(tables, features).reshape(targets.shape), targets)

    return evaluate


def standardized(features, rows):
    """Scale features by the mean and the standard deviation of the rows of each fold.

    Returns one copy of the features for each row of `rows`.
    """
    mean = features[rows].mean(axis=1, keepdims=True)
    std = features[rows].std(axis=1, keepdims=True)
    return (features - mean) / np.where(std > 0, std, 1.0)


def cross_validate(
    fitted, measures, criterion, features, targets, wanted, lams, num_outer, num_inner, seed
):
    """Tune a penalty by a part of each training fold, then test it.

    Features are standardised by the rows of a fit. Everything is fitted for all outer folds
    together, from large penalties to small ones, each from the one before.

    Parameters
    ----------
    fitted : callable
        ``fitted(features, targets, lam, start)`` gives a batch of tables, as :func:`fit` does.
    measures : callable
        ``measures(theta, targets)`` gives a dict with a number for each item.
    criterion : str
        The measure that chooses the penalty by its smallest mean.
    features, targets, wanted : numpy.ndarray
        The data set; measured are the targets, trained on is what is wanted.
    lams : sequence of float
        Penalties to choose from.
    num_outer, num_inner, seed : int
        The number of outer folds; one part in `num_inner` of a training fold validates; the seed
        that shuffles.

    Returns
    -------
    dict
        ``lam``, ``validation`` (of the criterion) and each measure, as lists over the outer folds.
    """
    outer, inner = nested_split(len(features), num_outer, num_inner, seed)
    inner = [folds[0] for folds in inner]

    def fit_rows(scaled, rows, lam, start):
        chosen = np.take_along_axis(scaled, rows[..., None], axis=1)
        return fitted(chosen, wanted[rows], lam, start)

    def measure(tables, scaled, held):
        found = evaluation(measures)(tables, scaled, targets[None])
        return {
            key: [float(np.mean(row[rows])) for row, rows in zip(values, held, strict=True)]
            for key, values in found.items()
        }

    train = np.stack([rows for rows, _ in inner])
    scaled = standardized(features, train)
    tables, table_of, scores = None, {}, {}
    for lam in sorted(lams, reverse=True):
        tables = table_of[lam] = fit_rows(scaled, train, lam, tables)
        scores[lam] = measure(tables, scaled, [held for _, held in inner])[criterion]
    best = [min(scores, key=lambda lam, i=i: scores[lam][i]) for i in range(num_outer)]
    train = np.stack([rows[: min(len(fold) for fold, _ in outer)] for rows, _ in outer])
    scaled = standardized(features, train)
    start = np.stack([table_of[lam][i] for i, lam in enumerate(best)])
    final = fit_rows(scaled, train, best, start)
    validation = [scores[lam][i] for i, lam in enumerate(best)]
    tested = measure(final, scaled, [test for _, test in outer])
    return {"lam": best, "validation": validation, **tested}
