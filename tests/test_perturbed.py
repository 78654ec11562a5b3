"""Perturbed optimizers against closed forms (softmax), quadrature, and z-tests at fixed seeds."""

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from diffopt import oracles
from diffopt.perturbed import perturbed_argmax, perturbed_fenchel_young_loss, perturbed_max

KEY = jax.random.key(0)
THETA = jnp.array([0.4, -0.3, 0.1])
WEIGHTS = jnp.array([1.0, -2.0, 0.5])
SIGMA = 0.7
SAMPLINGS = ("independent", "antithetic", "sobol")
sampling = pytest.mark.parametrize("sampling", SAMPLINGS)


def answer(theta, sigma, key=KEY, **options):
    options = {"num_samples": 64} | options
    mean = perturbed_argmax(oracles.argmax, sigma=sigma, **options)(key, theta)
    return jnp.vdot(WEIGHTS, mean)


def softmax(theta, sigma):
    return jnp.vdot(WEIGHTS, jax.nn.softmax(theta / sigma))


def z_test(estimates, exact):
    """Hold that the mean of independent estimates is within 4.5 standard errors."""
    estimates = np.asarray(estimates)
    error = estimates.std(0) / len(estimates) ** 0.5
    assert (abs(estimates.mean(0) - exact) < 4.5 * error + 1e-12).all()


@sampling
def test_gumbel_is_softmax_in_value_and_derivatives(sampling):
    def estimate(key):
        f = lambda theta, sigma: answer(theta, sigma, key, sampling=sampling)
        gradients = jax.value_and_grad(f, (0, 1))(THETA, SIGMA)
        hessian = jax.hessian(f)(THETA, SIGMA)
        return gradients, hessian

    found = jax.jit(jax.vmap(estimate))(jax.random.split(KEY, 400))
    exact = jax.value_and_grad(softmax, (0, 1))(THETA, SIGMA), jax.hessian(softmax)(THETA, SIGMA)
    for estimates, value in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        z_test(estimates, value)


def test_maximum_and_loss_with_gumbel_noise():
    y = jnp.array([0.0, 1.0, 0.0])

    def estimate(key):
        def both(theta, sigma):
            options = {"sigma": sigma, "num_samples": 32}
            top = perturbed_max(oracles.argmax, **options)(key, theta)
            loss = perturbed_fenchel_young_loss(oracles.argmax, **options)(key, theta, y)
            return top + 2 * loss

        return jax.value_and_grad(both, (0, 1))(THETA, SIGMA), jax.hessian(both)(THETA, SIGMA)

    def exact(theta, sigma):
        top = sigma * jax.nn.logsumexp(theta / sigma) + sigma * jnp.euler_gamma
        return top + 2 * (top - theta[1] - sigma * jnp.euler_gamma)

    found = jax.jit(jax.vmap(estimate))(jax.random.split(KEY, 400))
    wanted = jax.value_and_grad(exact, (0, 1))(THETA, SIGMA), jax.hessian(exact)(THETA, SIGMA)
    for estimates, value in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        z_test(estimates, value)


def test_forward_and_reverse_mode_agree():
    f = lambda theta: answer(theta, SIGMA, num_samples=8)
    assert_allclose(jax.jit(jax.jacfwd(f))(THETA), jax.jit(jax.jacrev(f))(THETA), rtol=1e-12)
    forward, reverse = jax.jit(jax.jacfwd(jax.jacfwd(f))), jax.jit(jax.jacrev(jax.jacrev(f)))
    assert_allclose(reverse(THETA), forward(THETA), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("multiplicative", [False, True])
def test_normal_noise_of_a_threshold(multiplicative):
    threshold = 0.8
    solver = lambda theta: (theta > threshold).astype(theta.dtype)
    options = {"noise": "normal", "multiplicative": multiplicative, "num_samples": 32}

    def exact(theta, sigma):
        if multiplicative:
            return jax.scipy.stats.norm.cdf((jnp.log(theta / threshold) - sigma**2 / 2) / sigma)
        return jax.scipy.stats.norm.cdf((theta - threshold) / sigma)

    def estimate(key):
        f = lambda t, s: perturbed_argmax(solver, sigma=s, **options)(key, t[None])[0]
        return jax.value_and_grad(f, (0, 1))(jnp.array(1.0), SIGMA)

    found = jax.jit(jax.vmap(estimate))(jax.random.split(KEY, 1000))
    wanted = jax.value_and_grad(exact, (0, 1))(jnp.array(1.0), SIGMA)
    for estimates, value in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        z_test(estimates, value)


def test_a_pair_of_functions_is_noise():
    pair = (jax.random.normal, lambda z: -jnp.square(z).sum(-1) / 2)
    named = jax.value_and_grad(answer)(THETA, SIGMA, noise="normal")
    custom = jax.value_and_grad(answer)(THETA, SIGMA, noise=pair)
    for a, b in zip(named, custom, strict=True):
        assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("sampling", ["independent", "antithetic"])
def test_chunks_are_unbiased_too(sampling):
    def estimate(key):
        f = lambda t: answer(t, SIGMA, key, num_samples=32, sampling=sampling, chunk_size=8)
        return jax.value_and_grad(f)(THETA)

    found = jax.jit(jax.vmap(estimate))(jax.random.split(KEY, 400))
    z_test(found[0], softmax(THETA, SIGMA))
    z_test(found[1], jax.grad(softmax)(THETA, SIGMA))


def test_variance_is_reduced():
    theta = jnp.asarray(np.random.default_rng(0).normal(size=8))
    direction = jnp.asarray(np.random.default_rng(1).normal(size=8)) + 3

    def variance(**options):
        def slope(key):
            f = perturbed_argmax(oracles.argmax, noise="normal", num_samples=64, **options)
            return jax.grad(lambda t: jnp.vdot(direction, f(key, t)))(theta)

        return jax.jit(jax.vmap(slope))(jax.random.split(KEY, 200)).var(0).sum()

    plain = variance(baseline=False)
    assert plain > 4 * variance()
    assert plain > 4 * variance(sampling="antithetic")
    assert plain > 8 * variance(sampling="sobol")
    assert plain > 12 * variance(sampling="sobol", baseline="linear")


@sampling
def test_standard_error_is_that_of_repeated_runs(sampling):
    options = {"num_samples": 64, "sampling": sampling, "return_info": True}
    f = perturbed_argmax(oracles.argmax, **options)
    mean, info = jax.vmap(f, (0, None))(jax.random.split(KEY, 2000), THETA)
    squares = jnp.square(info.standard_error).mean(0)
    assert_allclose(squares, mean.var(0), rtol=0.25)


@pytest.mark.parametrize("baseline", [True, "linear"])
@sampling
def test_standard_error_of_a_jacobian(sampling, baseline):
    options = {"sampling": sampling, "baseline": baseline, "return_info": "derivative"}
    f = perturbed_argmax(oracles.argmax, num_samples=256, noise="normal", **options)
    run = jax.jit(jax.vmap(jax.jacrev(f, 1, has_aux=True), (0, None)))
    jacobian, info = run(jax.random.split(KEY, 1000), THETA)
    assert info.derivative_error.shape == jacobian.shape
    ratio = jnp.square(info.derivative_error).mean(0) / jacobian.var(0)
    few = sampling == "sobol" and baseline == "linear"  # a fit to three nets: on the safe side
    assert (ratio > 0.7).all() and (ratio < (2 if few else 1.3)).all()


@pytest.mark.parametrize("make", ["maximum", "loss"])
def test_standard_error_of_a_gradient(make):
    options = {"num_samples": 64, "chunk_size": 16, "return_info": "derivative"}
    if make == "maximum":
        f = perturbed_max(oracles.argmax, **options)
    else:
        loss = perturbed_fenchel_young_loss(oracles.argmax, **options)
        f = lambda key, theta: loss(key, theta, oracles.argmax(THETA))
    run = jax.jit(jax.vmap(jax.grad(f, 1, has_aux=True), (0, None)))
    gradient, info = run(jax.random.split(KEY, 1000), THETA)
    assert_allclose(jnp.square(info.derivative_error).mean(0), gradient.var(0), rtol=0.25)


def test_errors_of_a_jacobian_have_its_structure():
    solver = lambda theta: {"y": oracles.k_subset(theta["b"], 2), "z": oracles.argmax(theta["a"])}
    theta = {"a": THETA, "b": jnp.array([[1.0, 0.0, -1.0]])}
    f = perturbed_argmax(solver, return_info="derivative", num_samples=8)
    jacobian, info = jax.jit(jax.jacrev(f, 1, has_aux=True))(KEY, theta)
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    assert shapes(info.derivative_error) == shapes(jacobian)


@sampling
def test_linear_baseline_is_unbiased_for_few_samples(sampling):
    def estimate(key):
        options = {"sampling": sampling, "num_samples": 8, "baseline": "linear"}
        f = lambda theta: answer(theta, SIGMA, key, **options)
        return jax.grad(f)(THETA), jax.hessian(f)(THETA)

    slope, hessian = jax.jit(jax.vmap(estimate))(jax.random.split(KEY, 4000))
    z_test(slope, jax.grad(softmax)(THETA, SIGMA))
    z_test(hessian, jax.hessian(softmax)(THETA, SIGMA))


def test_estimates_vanish_where_all_answers_agree():
    f = lambda theta: answer(theta, 1e-6, noise="normal")
    assert_array_equal(jax.grad(f)(THETA), jnp.zeros(3))
    assert_array_equal(jax.hessian(f)(THETA), jnp.zeros((3, 3)))


def test_one_sample_is_enough():
    estimate = lambda key: jax.grad(answer)(THETA, SIGMA, key, num_samples=1)
    z_test(
        jax.jit(jax.vmap(estimate))(jax.random.split(KEY, 4000)), jax.grad(softmax)(THETA, SIGMA)
    )


def test_masked_scores_take_no_part():
    theta = jnp.array([0.4, 9.0, -0.3, 0.1])
    where = jnp.array([True, False, True, True])
    f = perturbed_argmax(oracles.argmax, sigma=SIGMA, num_samples=4096, sampling="sobol")
    found = jax.jit(f)(KEY, theta, where=where)
    assert found[1] == 0
    exact = jax.nn.softmax(theta[jnp.array([0, 2, 3])] / SIGMA)
    assert_allclose(found[jnp.array([0, 2, 3])], exact, atol=5e-3)
    loss = perturbed_fenchel_young_loss(oracles.argmax, sigma=SIGMA)
    y = jnp.array([1.0, 0.0, 0.0, 0.0])
    value, slope = jax.jit(jax.value_and_grad(lambda t: loss(KEY, t, y, where=where)))(theta)
    assert jnp.isfinite(value) and jnp.isfinite(slope).all() and slope[1] == 0


def test_batches_have_noise_of_their_own():
    theta = jnp.tile(THETA, (2, 3, 1))
    f = perturbed_argmax(oracles.argmax, batch_ndim=2, num_samples=16)
    found = f(KEY, theta)
    assert found.shape == theta.shape and len(np.unique(found[..., 0])) > 1
    keys = jax.random.split(KEY, (2, 3))
    alone = perturbed_argmax(oracles.argmax, num_samples=16)(keys[1, 2], THETA)
    assert_array_equal(found[1, 2], alone)


def test_trees_of_scores_and_answers():
    def solver(theta):
        return {"a": oracles.argmax(theta["a"]), "b": oracles.k_subset(theta["b"], 2)}

    theta = {"a": THETA, "b": jnp.array([[1.0, 0.0, -1.0]])}
    y = solver(theta)
    found = perturbed_argmax(solver)(KEY, theta)
    assert found["b"].shape == (1, 3)
    assert_allclose(found["b"].sum(), 2.0)
    loss = perturbed_fenchel_young_loss(solver)
    slope = jax.grad(loss, 1)(KEY, theta, y)
    for name in theta:
        assert_allclose(slope[name], found[name] - y[name], atol=1e-12)


def test_loss_is_never_negative_and_zero_when_sure():
    y = oracles.argmax(THETA)
    loss = perturbed_fenchel_young_loss(oracles.argmax, num_samples=1)
    keys = jax.random.split(KEY, 200)
    assert (jax.vmap(loss, (0, None, None))(keys, THETA, y) >= 0).all()
    assert loss(KEY, 1e9 * THETA, y) == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_types_come_back(dtype):
    theta = THETA.astype(dtype)
    f = perturbed_argmax(oracles.argmax, num_samples=8)
    assert f(KEY, theta).dtype == dtype
    assert jax.grad(lambda t: f(KEY, t)[0])(theta).dtype == dtype


def gauss_hermite(function, n, degree=40):
    """Mean of a smooth function of n independent standard normal numbers."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(degree)
    z = jnp.stack(jnp.meshgrid(*[jnp.asarray(nodes)] * n, indexing="ij"), -1).reshape(-1, n)
    w = jnp.prod(jnp.stack(jnp.meshgrid(*[jnp.asarray(weights)] * n), -1).reshape(-1, n), -1)
    return jnp.tensordot(w / w.sum(), jax.vmap(function)(z), 1)


def smooth_answer(theta):
    """An answer that depends on all scores at once; quadrature of it is exact to ten digits."""
    return jnp.tanh(theta) * jnp.cos(theta.sum())


@pytest.mark.parametrize(("n", "baseline"), [(1, True), (2, True), (2, "linear")])
def test_normal_noise_against_quadrature(n, baseline):
    theta = jnp.array([0.4, -0.2])[:n]

    def exact(theta):
        return gauss_hermite(lambda z: smooth_answer(theta + SIGMA * z), n)

    def estimate(key):
        options = {"sigma": SIGMA, "noise": "normal", "num_samples": 32, "baseline": baseline}
        f = lambda t: perturbed_argmax(smooth_answer, **options)(key, t)
        return f(theta), jax.jacobian(f)(theta)

    found = jax.jit(jax.vmap(estimate))(jax.random.split(KEY, 1000))
    z_test(found[0], exact(theta))
    z_test(found[1], jax.jacobian(exact)(theta))


def test_normal_argmax_against_quadrature():
    """Given its own noise, a score wins with a product of probabilities."""

    def exact(theta):
        def wins(z):
            below = jax.scipy.stats.norm.cdf((theta[:, None] - theta[None]) / SIGMA + z[0])
            return jnp.where(jnp.eye(3, dtype=bool), 1.0, below).prod(1)

        return gauss_hermite(wins, 1)

    options = {"sigma": SIGMA, "noise": "normal", "num_samples": 32}
    estimate = lambda key: jax.value_and_grad(lambda t: answer(t, key=key, **options))(THETA)
    found = jax.jit(jax.vmap(estimate))(jax.random.split(KEY, 1000))
    wanted = jax.value_and_grad(lambda t: jnp.vdot(WEIGHTS, exact(t)))(THETA)
    for estimates, value in zip(found, wanted, strict=True):
        z_test(estimates, value)


finite = st.floats(-10, 10, width=32)
triples = st.lists(finite, min_size=3, max_size=3).map(lambda x: jnp.asarray(x, float))


@settings(max_examples=50, deadline=None)
@given(a=triples, b=triples, share=st.floats(0, 1), shift=finite, seed=st.integers(0, 2**31 - 1))
def test_maximum_is_convex_and_moves_with_its_scores(a, b, share, shift, seed):
    key = jax.random.key(seed)
    top, mean = maximum_and_answer(key, a)
    other, _ = maximum_and_answer(key, b)
    between, _ = maximum_and_answer(key, share * a + (1 - share) * b)
    assert between <= share * top + (1 - share) * other + 1e-9
    assert other >= top + jnp.vdot(mean, b - a) - 1e-9  # the mean answer is a subgradient
    moved = maximum_and_answer(key, a + shift)[0]
    assert_allclose(moved, top + shift, atol=1e-9)
    assert_allclose(mean.sum(), 1, rtol=1e-12)


@jax.jit
def maximum_and_answer(key, theta):
    options = {"sigma": SIGMA, "num_samples": 16, "noise": "normal"}
    return jax.value_and_grad(perturbed_max(oracles.argmax, **options), 1)(key, theta)


def test_single_precision_is_the_default_without_x64(x64):
    theta, y = jnp.array([0.4, -0.3, 0.1]), jnp.array([0.0, 1.0, 0.0])
    assert theta.dtype == (jnp.float64 if x64 else jnp.float32)
    options = {"sigma": SIGMA, "num_samples": 4096, "sampling": "sobol"}
    f = perturbed_argmax(oracles.argmax, **options, return_info=True)
    loss = perturbed_fenchel_young_loss(oracles.argmax, **options)

    @jax.jit
    def everything(theta):
        gradients = jax.value_and_grad(loss, 1)(KEY, theta, y)
        jacobian, info = jax.jacfwd(f, 1, has_aux=True)(KEY, theta)
        return *f(KEY, theta)[:1], info.standard_error, *gradients, jacobian

    mean, error, value, slope, jacobian = found = everything(theta)
    assert all(leaf.dtype == theta.dtype for leaf in found)
    exact = jax.nn.softmax(theta / SIGMA)
    assert (abs(mean - exact) < 6 * error + 1e-4).all()
    assert_allclose(value, -SIGMA * jnp.log(exact[1]), atol=1e-2)
    assert_allclose(slope, mean - y, atol=1e-6)
    assert_allclose(jacobian, (jnp.diag(exact) - jnp.outer(exact, exact)) / SIGMA, atol=0.05)


def test_memory_of_chunks_does_not_grow_with_samples():
    def memory(num_samples, chunk_size):
        options = {"num_samples": num_samples, "chunk_size": chunk_size, "noise": "normal"}
        slope = lambda t: jax.grad(lambda t: perturbed_max(oracles.argmax, **options)(KEY, t))(t)
        product = lambda t: jax.jvp(slope, (t,), (t,))[1]
        compiled = jax.jit(product).lower(jnp.zeros(200)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many, whole = memory(256, 64), memory(4096, 64), memory(4096, None)
    keys = 4096 // 64 * 16  # two words of random bits a chunk, twice
    assert many <= few + 2 * keys
    assert whole > 10 * many


SHARDED = """
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    from diffopt import oracles, perturbed_argmax
    assert len(jax.devices()) == 4
    split = NamedSharding(Mesh(np.array(jax.devices()), ("rows",)), PartitionSpec("rows"))
    theta = np.random.default_rng(0).normal(size=(8, 3, 4))
    path = lambda theta: oracles.grid_shortest_path(-theta)

    def compare(theta, **options):
        def gradient(theta, **more):
            f = perturbed_argmax(path, num_samples=64, noise="normal", **options, **more)
            return jax.grad(lambda t: jnp.cos(f(jax.random.key(0), t)).sum())(theta)

        batch = "batch_ndim" in options
        x = jax.device_put(theta, split) if batch else jnp.asarray(theta)
        function = gradient if batch else lambda t: gradient(t, sharding=split)
        program = jax.jit(function).lower(x).compile()
        text = program.as_text()
        for collective in ("all-gather", "all-to-all", "collective-permute"):
            assert collective not in text, (options, collective)
        # Each device works on its quarter of the solver's calls.
        assert "[16,12]" in text if not batch else "[2,64,12]" in text, options
        got = program(x)
        assert not batch or got.sharding.is_equivalent_to(split, 3), got.sharding
        np.testing.assert_allclose(got, jax.jit(gradient)(theta), atol=1e-12)

    compare(theta[0])
    compare(theta, batch_ndim=1)
    print("sharded")
"""


def test_samples_and_batches_shard_over_devices_without_a_gather():
    flags = "--xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SHARDED)],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1", "XLA_FLAGS": flags},
        timeout=300,
    )
    assert done.stdout.strip() == "sharded", done.stderr


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"num_samples": 0}, "num_samples must be at least 1"),
        ({"noise": "uniform"}, "noise must be one of"),
        ({"sampling": "halton"}, "sampling must be one of"),
        ({"sampling": "antithetic", "num_samples": 3}, "must be even"),
        ({"num_samples": 10, "chunk_size": 3}, "chunk_size must divide"),
        ({"multiplicative": True}, "must be 'normal'"),
        ({"baseline": "median"}, "baseline must be one of"),
        ({"return_info": "variance"}, "return_info must be one of"),
        ({"baseline": "linear", "num_samples": 1}, "two independent groups"),
        ({"baseline": "linear", "noise": (jax.random.normal, jnp.square)}, "known mean"),
    ],
)
def test_wrong_options(options, match):
    with pytest.raises(ValueError, match=match):
        perturbed_argmax(oracles.argmax, **options)


def test_wrong_arguments():
    with pytest.raises(TypeError, match="argmax_fn must be"):
        perturbed_argmax(3)
    with pytest.raises(ValueError, match="batch_ndim"):
        perturbed_argmax(oracles.argmax, batch_ndim=2)(KEY, THETA)
    with pytest.raises(ValueError, match="y must have the shape"):
        perturbed_fenchel_young_loss(oracles.argmax)(KEY, THETA, jnp.ones(2))
