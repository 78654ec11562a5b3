"""Bias of a perturbed answer and variance of its estimated derivative (chapter `perturbed`).

Three problems: the class of largest score, the order of scores, and a shortest path over a real
tile of the map. For each, the mean of a linear function of the answer is differentiated by the
formula of integration by parts, with normal noise, many times over, in ways that all are unbiased.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import norm, qmc

from book.experiments.perturbed_paths import best_path, tiles
from diffopt import oracles

ESTIMATORS = ("plain", "hard_baseline", "leave_one_out", "antithetic", "quasi_monte_carlo")


def problem(name):
    """Give a solver, scores, and the coefficients of the linear function.

    For a path the scores are minus the square roots of the true costs, scaled to mean 1 (a guess
    at the costs that is wrong but not absurd), and the coefficients are the true costs.
    """
    if name == "path":
        costs = np.asarray(tiles("test")[1][0], float)
        guess = np.sqrt(costs)
        return best_path, -guess / guess.mean(), costs
    rng = np.random.default_rng(0)
    solver = {"class": oracles.argmax, "order": oracles.ranking}[name]
    return solver, rng.normal(size=10), rng.normal(size=10)


def draw(estimator, rng, num_samples, shape):
    """Draw normal noise, ``(num_samples, *shape)``, as an estimator wants it."""
    if estimator == "quasi_monte_carlo":
        points = qmc.Sobol(int(np.prod(shape)), rng=rng).random(num_samples)
        return norm.ppf(np.clip(points, 1e-12, 1 - 1e-12)).reshape(num_samples, *shape)
    if estimator == "antithetic":
        half = rng.normal(size=(num_samples // 2, *shape))
        return np.concatenate([half, -half])
    return rng.normal(size=(num_samples, *shape))


def derivative(estimator, values, hard, noise, sigma):
    """Estimate the derivative of the mean of `values` in the scores.

    Parameters
    ----------
    estimator : str
        One of `ESTIMATORS`.
    values : numpy.ndarray
        The linear function at each perturbed answer, shape ``(num_samples,)``.
    hard : float
        Its value at the answer without noise.
    noise : numpy.ndarray
        Normal, shape ``(num_samples, ...)``.
    sigma : float
        Scale of the noise.
    """
    count = len(values)
    if estimator in ("hard_baseline", "quasi_monte_carlo"):
        values = values - hard
    elif estimator == "leave_one_out":  # wants independent draws
        values, count = values - values.mean(), count - 1
    return np.tensordot(values, noise, 1) / (count * sigma)


def measure(name, sigma, num_samples, num_repeats, seed):
    """Measure bias and variances of one problem at one scale of the noise.

    Returns
    -------
    dict
        ``bias``, the distance of the mean answer from the hard one; ``spread``, the root of the
        variance of an answer; ``norm`` of the derivative; and ``variance``, for each estimator the
        sum of the variances of the entries of the estimated derivative.
    """
    solver, theta, coefficients = problem(name)
    axes = tuple(range(1, theta.ndim + 1))
    solve = jax.jit(solver)
    hard = np.asarray(solve(jnp.asarray(theta)[None]))[0]
    variance, found, total = {}, [], []
    for index, estimator in enumerate(ESTIMATORS):
        rng = np.random.default_rng([seed, index])
        noise = [draw(estimator, rng, num_samples, theta.shape) for _ in range(num_repeats)]
        answers = np.asarray(solve(jnp.asarray(theta + sigma * np.concatenate(noise))))
        values = np.sum(answers * coefficients, axis=axes).reshape(num_repeats, num_samples)
        at_hard = float(np.sum(hard * coefficients))
        estimates = np.stack(
            [
                derivative(estimator, v, at_hard, z, sigma)
                for v, z in zip(values, noise, strict=True)
            ]
        )
        variance[estimator] = float(estimates.var(axis=0, ddof=1).sum())
        total.append(estimates.mean(0))
        found.append(answers)
    answers = np.concatenate(found)
    mean = answers.mean(0)
    return {
        "bias": float(np.linalg.norm(mean - hard)),
        "spread": float(np.sqrt(np.sum((answers - mean) ** 2, axis=axes).mean())),
        "norm": float(np.linalg.norm(np.mean(total[1:], axis=0))),
        "variance": variance,
    }
