"""Estimators: baselines leave out their own group, weights have the derivatives of densities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffopt.estimators import Law, centered, log_weight, safe_dot
from diffopt.noise import NOISES


def test_baseline_is_the_mean_of_the_other_groups():
    y = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)))
    found = centered(y, y.mean(0), 3, 2)
    assert_allclose(found[2], y[2] - y[jnp.array([0, 1, 4, 5])].mean(0), rtol=1e-12)


@pytest.mark.parametrize("multiplicative", [False, True])
def test_weight_has_the_derivatives_of_the_density(multiplicative):
    z = jnp.array([[0.3], [-1.2]])
    theta, sigma = jnp.array([[0.5]]), 0.7
    law = Law(NOISES["normal"], multiplicative)
    slope = jax.jacobian(lambda t, s: log_weight(law, t[0], s, z), (0, 1))(theta, sigma)
    p = theta * jnp.exp(sigma * z - sigma**2 / 2) if multiplicative else theta + sigma * z

    def density(theta, sigma):
        if multiplicative:
            noise = (jnp.log(p / theta) + sigma**2 / 2) / sigma
        else:
            noise = (p - theta) / sigma
        return (-jnp.square(noise) / 2 - jnp.log(sigma))[:, 0]

    for a, b in zip(slope, jax.jacobian(density, (0, 1))(theta, sigma), strict=True):
        assert_allclose(a, b, rtol=1e-9)


def test_zero_times_infinity_is_zero():
    assert safe_dot(jnp.array([0.0, 2.0]), jnp.array([-jnp.inf, 3.0])) == 6
