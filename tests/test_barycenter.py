"""Barycenters of time series against closed forms and the objective itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffopt import soft_dtw, soft_dtw_barycenter, soft_dtw_divergence

rng = np.random.default_rng(0)
X = rng.normal(size=(6, 2))


def test_barycenters():
    members = jnp.asarray(rng.normal(size=(4, 5, 1)))
    weights = jnp.array([0.4, 0.3, 0.2, 0.1])
    found = soft_dtw_barycenter(members, weights, loss="mean_cost_divergence", tol=1e-10)
    assert_allclose(found.value, jnp.tensordot(weights, members, 1), atol=1e-6)
    assert found.converged
    for loss in ("divergence", "soft_dtw"):
        start = members.mean(0)
        found = soft_dtw_barycenter(members, loss=loss, init=start)
        function = {"divergence": soft_dtw_divergence, "soft_dtw": soft_dtw}[loss]
        total = lambda x, f=function: sum(f(x, y) for y in members) / 4
        assert_allclose(found.objective, total(found.value), rtol=1e-9)
        assert found.objective < total(start)
        assert abs(jax.grad(total)(found.value)).max() < 1e-3
    ragged = [members[0], members[1, :3], members[2, :4]]
    found = soft_dtw_barycenter(ragged, init=members[3])
    total = sum(soft_dtw_divergence(found.value, y) for y in ragged) / 3
    assert_allclose(found.objective, total, rtol=1e-9)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: soft_dtw_barycenter([]), "at least one"),
        (lambda: soft_dtw_barycenter([X[:, 0]]), "series must be arrays"),
        (lambda: soft_dtw_barycenter([X], loss="l2"), "loss must be one of"),
        (lambda: soft_dtw_barycenter([X], init=X[:, :1]), "init must have"),
        (lambda: soft_dtw_barycenter([X], np.array([-1.0])), "weights must be"),
    ],
)
def test_wrong_use_names_the_argument(call, words):
    with pytest.raises(ValueError, match=words):
        call()
