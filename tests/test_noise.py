"""Distributions and ways of drawing: marginals by Kolmogorov-Smirnov, nets by counting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from diffopt import noise as module
from diffopt.noise import NOISES, Noise, as_noise, check_sampling, draw

LAWS = {
    "gumbel": stats.gumbel_r,
    "laplace": stats.laplace,
    "logistic": stats.logistic,
    "normal": stats.norm,
}


@pytest.mark.parametrize("name", list(NOISES))
def test_distribution(name):
    noise, law = NOISES[name], LAWS[name]
    u = np.array([0.01, 0.3, 0.5, 0.99])
    assert_allclose(noise.quantile(u), law.ppf(u), rtol=1e-9, atol=1e-12)
    assert_allclose(noise.mean, law.mean(), atol=1e-12)
    z = np.array([-1.3, 0.2, 2.0])
    ratio = noise.log_density(z) - law.logpdf(z)
    assert_allclose(ratio, ratio[0], rtol=1e-9)


@pytest.mark.parametrize("sampling", module.SAMPLING)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_each_draw_alone_has_the_distribution(sampling, dtype):
    size = 1 if sampling == "independent" else 2
    run = lambda key: draw(NOISES["normal"], sampling, key, 1, size, 2, jnp.dtype(dtype))
    z = jax.vmap(run)(jax.random.split(jax.random.key(0), 2000))
    assert z.shape == (2000, size, 2) and jnp.isfinite(z).all()
    for i in range(size):
        assert stats.kstest(np.asarray(z[:, i, 1], float), "norm").pvalue > 1e-3


def test_sobol_points_are_a_net():
    u = np.asarray(module._scrambled_sobol(jax.random.key(1), 64, 5)) / 2.0**32
    for column in u.T:
        assert len(np.unique((column * 64).astype(int))) == 64
    cells = (u[:, :2] * 8).astype(int)
    assert len(np.unique(cells, axis=0)) == 64  # 8 x 8 boxes, one point in each


def test_pairs_mirror_each_other():
    z = draw(NOISES["normal"], "antithetic", jax.random.key(0), 3, 2, 4, jnp.dtype("float64"))
    assert_allclose(z[::2], -z[1::2], rtol=1e-9)


def test_errors():
    with pytest.raises(TypeError, match="noise must be"):
        as_noise(3)
    pair = Noise(jax.random.normal, lambda z: -z * z / 2)
    with pytest.raises(ValueError, match="needs the quantile"):
        check_sampling("sobol", pair, 4)
    with pytest.raises(ValueError, match="takes up to"):
        module._directions(30_000, 2)
