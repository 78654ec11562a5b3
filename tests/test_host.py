"""Solvers on the host: one call for a batch, threads, progress, errors that name an instance."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffopt.host import host_argmax
from diffopt.perturbed import perturbed_argmax


def one_hot(theta):
    return np.eye(theta.size, dtype=theta.dtype)[theta.argmax()]


@pytest.mark.parametrize("workers", [1, 3])
def test_one_call_for_a_batch_and_progress(workers):
    seen = []
    solve = host_argmax(one_hot, workers=workers, progress=lambda *state: seen.append(state))
    theta = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)))
    found = jax.block_until_ready(jax.jit(jax.vmap(jax.vmap(solve)))(theta))
    assert_array_equal(found.argmax(-1), theta.argmax(-1))
    assert seen == [(i + 1, 6) for i in range(6)]


def test_gradient_through_a_host_solver():
    f = perturbed_argmax(host_argmax(one_hot), num_samples=8)
    slope = jax.grad(lambda t: f(jax.random.key(0), t)[0])(jnp.zeros(3))
    assert jnp.isfinite(slope).all() and (slope != 0).any()


def test_from_many_threads():
    solve = jax.jit(jax.vmap(host_argmax(one_hot)))
    theta = np.random.default_rng(0).normal(size=(20, 5, 4))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda t: np.asarray(solve(t)), theta))
    assert_array_equal(np.argmax(found, -1), theta.argmax(-1))


def test_another_shape_of_the_answer():
    shape = lambda theta: {"best": jax.ShapeDtypeStruct((), jnp.dtype("int32"))}
    solve = host_argmax(lambda theta: {"best": np.int32(theta.argmax())}, shape=shape)
    assert solve(jnp.array([0.0, 2.0]))["best"] == 1


def test_errors_name_the_instance():
    def fail(theta):
        if theta[0] < 0:
            raise ValueError("infeasible")
        return theta

    theta = jnp.array([[1.0], [2.0], [-1.0]])
    with pytest.raises(Exception, match=r"instance \(2,\) of a batch \(3,\).*infeasible"):
        jax.block_until_ready(jax.vmap(host_argmax(fail))(theta))
    with pytest.raises(Exception, match="returned shape"):
        jax.block_until_ready(host_argmax(lambda theta: theta[:1])(jnp.ones(3)))
    with pytest.raises(TypeError, match="fn must be a function"):
        host_argmax(3)
    with pytest.raises(TypeError, match="workers"):
        host_argmax(one_hot, workers=0)
