r"""Unbiased derivatives, of any order, of means over perturbed solutions.

A mean over :math:`p = \theta + \sigma z` of an answer that has no derivative is an integral
against the density of p, and that density has derivatives in :math:`\theta` and :math:`\sigma`.
Every sample carries the logarithm of its density, differentiated with p held fixed; a sum weighted
by the ratio of densities, which is one, then has the right value and derivatives. Chapter:
:ref:`perturbed`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffopt.noise import Noise

__all__ = [
    "Law",
    "centered",
    "jacobian_moments",
    "linear_control",
    "linear_fit",
    "log_weight",
    "mean_max",
    "perturb",
    "safe_dot",
    "scores",
    "weighted_mean",
]


class Law(NamedTuple):
    """How scores are perturbed: the noise, and whether it multiplies them."""

    noise: Noise
    multiplicative: bool


def perturb(law, theta, sigma, z):
    """Return the perturbed scores, shape ``(num_samples, n)``."""
    if law.multiplicative:
        return theta[None] * jnp.exp(sigma * z - sigma**2 / 2)
    return theta[None] + sigma * z


def _moving(law, theta):
    """Tell which entries the noise moves."""
    finite = jnp.isfinite(theta)
    return finite & (theta != 0) if law.multiplicative else finite


def _recover(law, theta, sigma, z):
    """Return z, with derivatives as the noise that leads to the same perturbed scores."""
    moving = _moving(law, theta)
    here = jnp.where(moving, theta, 1)
    there, scale = jax.lax.stop_gradient((here, sigma))
    if law.multiplicative:
        gap = jnp.log(jnp.abs(there)) - jnp.log(jnp.abs(here))
        moved = (gap[None] + scale * z + (sigma**2 - scale**2) / 2) / sigma
    else:
        moved = z * (scale / sigma) + ((there - here) / sigma)[None]
    return jnp.where(moving[None], moved, z)


def log_weight(law, theta, sigma, z):
    """Logarithm of the density of each sample, as far as it depends on `theta` and `sigma`."""
    log_density = law.noise.log_density(_recover(law, theta, sigma, z))
    if log_density.ndim == 1:
        return log_density - z.shape[-1] * jnp.log(sigma)
    each = jnp.where(_moving(law, theta)[None], log_density - jnp.log(sigma), 0)
    return each.sum(-1)


@jax.custom_jvp
def _ratio(log_weight):
    """Ratio of densities: one, whose derivatives are those of an exponential."""
    return jnp.ones_like(log_weight)


@_ratio.defjvp
def _ratio_jvp(primals, tangents):
    ratio = _ratio(*primals)
    return ratio, ratio * tangents[0]


@jax.custom_jvp
def weighted_mean(log_weight, y, y_centered):
    """Mean over samples of constants y; in derivatives, of the ratios times y less its baseline."""
    return y.mean(0)


@weighted_mean.defjvp
def _weighted_mean_jvp(primals, tangents):
    log_weight, y, y_centered = primals
    moved = _ratio(log_weight) * tangents[0]  # a linear map, which keeps its own derivative
    return y.mean(0), (y_centered * moved[:, None]).mean(0)


def centered(y, mean, num_groups, size):
    """Subtract from each sample the mean over all other groups, which does not depend on it."""
    if num_groups == 1:
        return y - mean[None]
    group = y.reshape(-1, size, y.shape[-1]).mean(1)
    others = (num_groups * mean[None] - group) / (num_groups - 1)
    return y - jnp.repeat(others, size, 0)


def scores(law, theta, sigma, z):
    """Gradient in `theta` of the logarithm of the density of each sample, ``(num_samples, n)``."""
    one = lambda theta, z: log_weight(law, theta, sigma, z[None])[0]
    return jax.lax.stop_gradient(jax.vmap(jax.grad(one), (None, 0))(theta, z))


def linear_fit(noise, sigma, z, score, y_centered, size):
    """Part of each answer that is linear in its noise, by the slope that other groups show.

    The slope is the Jacobian that the other groups estimate, shrunk where they are few: the factor
    is best where a quarter of the variance of an answer is linear in the noise.
    """
    num_samples, n = z.shape
    shrink = num_samples / (num_samples + 4 * n)
    z = z - noise.mean
    split = lambda x: x.reshape(-1, size, x.shape[-1])
    gram = jnp.einsum("gin,gjn->gij", split(z), split(score))
    own = jnp.einsum("gij,gjm->gim", gram, split(y_centered)).reshape(y_centered.shape)
    fit = (z @ (score.T @ y_centered) - own) * (sigma / (num_samples - size))
    return jax.lax.stop_gradient(shrink * fit), shrink


def linear_control(theta, score, y_centered, fit, shrink):
    r"""A term of value zero, whose derivative in `theta` has mean zero and cancels noise.

    The slope times the noise, weighted by the score, has the slope itself as its mean, as
    :math:`\mathbb{E}\,\nabla\nu(Z)\,Z^\top` is the identity.
    """
    step = score @ jnp.where(jnp.isfinite(theta), theta - jax.lax.stop_gradient(theta), 0)
    control = jax.lax.stop_gradient(shrink * y_centered - fit)
    return (control * step[:, None]).mean(0)


def jacobian_moments(score, y, size):
    """Sum over groups of samples of their estimates of the Jacobian, and of the squares."""

    def step(total, group):
        y, score = group
        estimate = y.T @ score / size
        return (total[0] + estimate, total[1] + jnp.square(estimate)), None

    zero = jnp.zeros((y.shape[-1], score.shape[-1]), y.dtype)
    groups = (y.reshape(-1, size, y.shape[-1]), score.reshape(-1, size, score.shape[-1]))
    return jax.lax.scan(step, (zero, zero), groups)[0]


def safe_dot(y, p):
    """Inner product over the last axis, where 0 times infinity is 0."""
    return jnp.where(y == 0, 0, y * jnp.where(y == 0, 0, p)).sum(-1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def mean_max(law, theta, sigma, z, y, y_centered):
    """Mean of the perturbed maxima; y are the maximisers."""
    return safe_dot(y, perturb(law, theta, sigma, z)).mean()


@mean_max.defjvp
def _mean_max_jvp(law, primals, tangents):
    theta, sigma, z, y, y_centered = primals
    finite = jnp.isfinite(theta)
    theta, dtheta = (jnp.where(finite, x, 0) for x in (theta, tangents[0]))
    dsigma = tangents[1]
    again = _recover(law, theta, sigma, z)
    # What a step does to the perturbed scores; the part of the baseline is known in the mean.
    if law.multiplicative:
        step = lambda theta, sigma: perturb(law, theta, sigma, again)
        _, moved = jax.jvp(step, (theta, sigma), (dtheta, dsigma))
        changing = (y_centered * moved).sum(-1)
        fixed = ((y - y_centered) * dtheta[None]).sum(-1)
    else:
        mean = law.noise.mean
        along = y if mean is None else y_centered
        changing = (y_centered * dtheta[None]).sum(-1) + dsigma * (along * again).sum(-1)
        known = dtheta if mean is None else dtheta + dsigma * mean
        fixed = ((y - y_centered) * known[None]).sum(-1)
    weight = log_weight(law, jnp.where(finite, theta, jnp.inf), sigma, z)
    tangent = (_ratio(weight) * changing).mean() + fixed.mean()
    return mean_max(law, *primals), tangent
