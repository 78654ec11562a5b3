r"""Noise for perturbed optimizers: distributions, and ways of drawing from them.

A distribution is a :class:`Noise`, or a pair ``(sample, log_density)`` of functions. Draws come in
groups: draws of one group may depend on each other, groups are independent. Single draws,
antithetic pairs and scrambled Sobol nets are three ways to make a group, and each draw alone has
the same distribution in all of them, so that every mean over draws stays unbiased. Chapter:
:ref:`perturbed`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffopt.checks import check_choice

__all__ = ["Noise", "as_noise", "check_sampling", "draw", "group_size"]

SAMPLING = ("independent", "antithetic", "sobol")
_REPLICATES = 4  # independent Sobol nets, where the number of samples allows it
_BITS = 32


class Noise(NamedTuple):
    """A distribution of noise, with independent entries or any other.

    Chapter: :ref:`perturbed`.
    """

    sample: Callable
    """``sample(key, shape, dtype)``, for a shape ``(num_samples, n)``."""
    log_density: Callable
    """Of an array ``(num_samples, n)``: for each entry, or for each row ``(num_samples,)``. It must
    be differentiable almost everywhere; constants do not matter."""
    quantile: Callable | None = None
    """The inverse of the distribution function of an entry, for paired and Sobol draws."""
    mean: float | None = None
    """The mean of an entry, where it is known: it makes gradients in `sigma` less noisy."""


def _logistic_log_density(z):
    return -jnp.abs(z) - 2 * jnp.log1p(jnp.exp(-jnp.abs(z)))


def _gumbel_quantile(u):
    return -jnp.log(-jnp.log(u))


def _laplace_quantile(u):
    return jnp.where(u < 0.5, jnp.log(2 * u), -jnp.log(2 - 2 * u))


NOISES = {
    "gumbel": Noise(
        jax.random.gumbel,
        lambda z: -z - jnp.exp(-z),
        _gumbel_quantile,
        float(np.euler_gamma),
    ),
    "laplace": Noise(jax.random.laplace, lambda z: -jnp.abs(z), _laplace_quantile, 0.0),
    "logistic": Noise(
        jax.random.logistic, _logistic_log_density, lambda u: jnp.log(u) - jnp.log1p(-u), 0.0
    ),
    "normal": Noise(jax.random.normal, lambda z: -jnp.square(z) / 2, jax.scipy.special.ndtri, 0.0),
}


def as_noise(noise):
    """Return a :class:`Noise` for a name, a pair of functions, or itself."""
    if isinstance(noise, str):
        check_choice(noise, tuple(NOISES), "noise")
        return NOISES[noise]
    if isinstance(noise, tuple) and len(noise) in (2, 4) and all(map(callable, noise[:2])):
        return Noise(*noise)
    raise TypeError(
        f"noise must be one of {', '.join(map(repr, NOISES))} or a pair of functions "
        f"(sample, log_density), got {noise!r}"
    )


def check_sampling(sampling, noise, num_samples):
    """Raise unless `noise` can be drawn in this way, that many times."""
    check_choice(sampling, SAMPLING, "sampling")
    if sampling != "independent" and noise.quantile is None:
        raise ValueError(
            f"sampling {sampling!r} needs the quantile function of the noise: pass a Noise with "
            "one, or take sampling='independent'"
        )
    if sampling == "antithetic" and num_samples % 2:
        raise ValueError(f"num_samples must be even for antithetic pairs, got {num_samples}")


def group_size(sampling, num_samples):
    """Return how many draws depend on each other."""
    if sampling == "independent":
        return 1
    if sampling == "antithetic":
        return 2
    counts = (c for c in (_REPLICATES, 2, 1) if num_samples % c == 0)
    return num_samples // next(counts)


def draw(noise, sampling, key, groups, size, n, dtype):
    """Draw ``groups * size`` vectors of n entries, groups one after the other."""
    if sampling == "independent":
        return noise.sample(key, (groups, n), dtype)
    if sampling == "antithetic":
        u = _inside(jax.random.bits(key, (groups, n), jnp.uint32), dtype)
        return jnp.stack([noise.quantile(u), noise.quantile(1 - u)], 1).reshape(2 * groups, n)
    keys = jax.random.split(key, groups)
    points = jax.vmap(lambda key: _scrambled_sobol(key, size, n))(keys)
    return noise.quantile(_inside(points, dtype)).reshape(groups * size, n)


def _inside(bits, dtype):
    """Turn random bits into numbers strictly between 0 and 1, on a grid symmetric about a half."""
    digits = 23 if dtype == jnp.float32 else 32
    coarse = (bits >> np.uint32(32 - digits)).astype(dtype)
    return (coarse + jnp.asarray(0.5, dtype)) * jnp.asarray(2.0**-digits, dtype)


def _scrambled_sobol(key, size, n):
    """Bits of the first `size` points of a Sobol sequence, scrambled; shape ``(size, n)``.

    The direction numbers of each dimension are multiplied by a random lower triangular matrix of
    bits, and all points are shifted by the same random digits (Matousek's scrambling), so that each
    point alone is uniform and the points together remain a net.
    """
    directions = _directions(n, max(size - 1, 1).bit_length())
    scramble, shift = jax.random.split(key)
    depth = len(directions)
    random = jax.random.bits(scramble, (depth, n), jnp.uint32)
    places = np.arange(_BITS - 1, _BITS - 1 - depth, -1, dtype=np.uint32)
    unit = (np.uint32(1) << places)[:, None]
    columns = jnp.asarray(unit) | (random & jnp.asarray(unit - np.uint32(1)))
    mixed = jnp.zeros((depth, n), jnp.uint32)
    for b in range(depth):
        set_there = (directions >> places[b]) & np.uint32(1)  # known when traced
        mixed = mixed ^ jnp.where(jnp.asarray(set_there == 1), columns[b], jnp.uint32(0))
    index = np.arange(size, dtype=np.uint32)
    points = jnp.broadcast_to(jax.random.bits(shift, (n,), jnp.uint32), (size, n))
    for j in range(depth):
        used = jnp.asarray((index >> np.uint32(j)) & np.uint32(1) == 1)[:, None]
        points = points ^ jnp.where(used, mixed[j], jnp.uint32(0))
    return points


@functools.lru_cache(maxsize=64)
def _directions(n, depth):
    """Direction numbers of the Sobol sequence of Joe and Kuo, shape ``(depth, n)``, from scipy."""
    from scipy.stats import qmc  # type: ignore[import-untyped]

    if n > qmc.Sobol.MAXDIM:
        raise ValueError(
            f"sampling 'sobol' takes up to {qmc.Sobol.MAXDIM} scores, got {n}; "
            "take sampling='antithetic'"
        )
    points = qmc.Sobol(n, scramble=False, bits=_BITS).random_base2(depth)
    bits = np.round(points * 2.0**_BITS).astype(np.uint32)
    # Points come in the order of a Gray code: number 2**j differs from the direction j by j - 1.
    steps = bits[2 ** np.arange(depth)]
    for j in range(1, depth):
        steps[j] ^= steps[j - 1]
    return steps
