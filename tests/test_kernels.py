"""The two implementations of each kernel, and the bridge between numba and XLA."""

import ast
import os
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffopt
from diffopt import (
    fusedmax,
    isotonic_kl,
    isotonic_l2,
    kernels,
    project_knapsack,
    project_permutahedron,
    project_simplex,
    soft_rank,
    soft_sort,
)

BASE = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}


@pytest.fixture(autouse=True)
def keep_backend():
    with kernels.use_backend("auto"):
        yield


def run(code, **environment):
    """Run code in a fresh interpreter with its own environment variables; return what it prints."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=os.environ | BASE | environment,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# ------------------------------------------------------------------------------ same numbers

OPERATORS = {
    "isotonic_l2": lambda x, y: isotonic_l2(x, weights=jnp.exp(y / 4), increasing=False),
    "isotonic_kl": lambda x, y: isotonic_kl(x, y / 4),
    "project_l2": lambda x, y: project_permutahedron(x, y),
    "project_kl": lambda x, y: project_permutahedron(x, jnp.exp(y / 4), regularization="kl"),
    "fusedmax": lambda x, y: fusedmax(x, jnp.exp(y[..., :1] / 4) / 4),
    "simplex_l2": lambda x, y: project_simplex(x, jnp.exp(y[..., 0] / 4)),
    "simplex_kl": lambda x, y: project_simplex(x, jnp.exp(y[..., 0] / 4), regularization="kl"),
    "knapsack": lambda x, y: project_knapsack(x, 3 + y[..., 0] / 4, 5.5 + y[..., 0] / 4),
    "capped": lambda x, y: project_knapsack(x, 4 + y[..., 0] / 4, 4 + y[..., 0] / 4),
    "sort_kl": lambda x, y: soft_sort(x, epsilon=0.3, regularization="kl"),
    "sort_l2_masked": lambda x, y: soft_sort(x, epsilon=0.3, where=y > 0),
    "rank_kl_masked": lambda x, y: soft_rank(x, epsilon=0.3, regularization="kl", where=y > 0),
}


def awkward(n=37):
    """Rows that make one, few or all blocks; ties; infinities; NaN; large numbers."""
    random = np.random.default_rng(0)
    up = np.arange(n) / 3.0
    rows = [
        *random.normal(size=(3, n)),
        up,
        -up,
        np.zeros(n),
        np.resize([1.0, -1.0], n),
        random.integers(0, 5, n) * 1.0,
        random.normal(size=n) * 1e9,
        random.normal(size=n) * 1e-9,
        np.where(np.arange(n) == 5, np.inf, up),
        np.where(np.arange(n) % 9 == 5, -np.inf, up),
        np.where(np.arange(n) == 5, np.nan, up),
    ]
    return np.stack(rows), random.normal(size=(len(rows), n))


@pytest.mark.parametrize("name", list(OPERATORS))
def test_native_and_xla_give_the_same_value_and_derivatives(name):
    x, y = awkward()
    u = np.cos(np.arange(x.shape[1]))

    def everything(x, y):
        loss = lambda x, y: jnp.vdot(u, OPERATORS[name](x, y))
        gradient = jax.grad(loss, argnums=(0, 1))
        value, tangent = jax.jvp(OPERATORS[name], (x, y), (u, jnp.sin(u)))
        return value, tangent, gradient(x, y), jax.jvp(gradient, (x, y), (u, jnp.sin(u)))[1]

    got = {}
    for backend in ("native", "xla"):
        with kernels.use_backend(backend):
            got[backend] = jax.tree.leaves(jax.jit(jax.vmap(everything))(x, y))
    for number, (a, b) in enumerate(zip(*got.values(), strict=True)):
        for k in range(len(x)):
            if number > 0 and np.isnan(x[k]).any():
                continue  # derivatives of NaN are not defined
            if number > 0 and np.isinf(x[k]).any():
                assert np.isfinite(a[k]).all() and np.isfinite(b[k]).all(), f"row {k}"
                if name not in ("project_l2", "project_kl", "rank_kl_masked"):
                    continue  # only ranks promise more than a finite derivative there
            size = np.abs(np.where(np.isfinite(a[k]), a[k], 0.0)).max()
            assert_allclose(a[k], b[k], rtol=1e-12, atol=1e-12 * max(1.0, size), err_msg=f"row {k}")


@pytest.mark.parametrize("n", [1, 33, 1000])
def test_native_and_xla_agree_at_any_length(n):
    x = np.random.default_rng(n).normal(size=(2, n))
    got = []
    for backend in ("native", "xla"):
        with kernels.use_backend(backend):
            call = lambda x: (isotonic_l2(x), isotonic_kl(x * 30, x[::-1] * 30))
            got.append(jax.jit(call)(x))
    for a, b in zip(*got, strict=True):
        assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["native", "xla"])
def test_pooling_masses_that_differ_by_more_than_a_float_can_hold(backend):
    """LSE(100, 0) is 100 to the last bit, and the two items still belong to one block."""
    with kernels.use_backend(backend):
        got = isotonic_kl(np.array([100.0, 0.0, 9.0]), np.array([40.0, 0.0, -70.0]))
        assert_allclose(got, [60.0, 60.0, 79.0], rtol=1e-15)
        got = isotonic_kl(np.array([0.0, -900.0, 0.0]), np.array([-50.0, -910.0, 100.0]))
        assert_allclose(got, np.full(3, np.log(2.0) - 100.0), rtol=1e-15)
        got = isotonic_l2(np.array([0.0, 1.0, np.inf, 2.0, 3.0]))
        assert_array_equal(got, [0.0, 1.0, np.inf, np.inf, np.inf])


# -------------------------------------------------------------------------------- the switch


def lowered(backend):
    with kernels.use_backend(backend):
        return jax.jit(lambda x: soft_rank(x)).lower(np.zeros((3, 8))).as_text()


def test_the_switch_decides_what_is_compiled():
    assert kernels.get_backend() == "auto"
    native = lowered("native")
    assert "custom_call" in native
    assert lowered("auto") == native
    xla = lowered("xla")
    assert "custom_call" not in xla
    assert kernels.get_backend() == "auto"


def test_the_switch_also_reaches_functions_compiled_before():
    function = jax.jit(lambda x: soft_rank(x, epsilon=0.3))
    x = awkward()[0][:3]
    before = function(x)
    assert function.lower(x).as_text() != ""
    with kernels.use_backend("xla"):
        assert "custom_call" not in function.lower(x).as_text()
        assert_allclose(function(x), before, atol=1e-12)
    assert "custom_call" in function.lower(x).as_text()


def test_the_switch_restores_after_an_error_and_refuses_typos():
    with pytest.raises(RuntimeError, match="boom"), kernels.use_backend("xla"):
        raise RuntimeError("boom")
    assert kernels.get_backend() == "auto"
    with pytest.raises(ValueError, match=r"backend.*'cuda'"):
        kernels.set_backend("cuda")


def test_the_environment_sets_the_backend():
    code = "from diffopt import kernels; print(kernels.get_backend())"
    assert run(code, DIFFOPT_KERNELS="xla").strip() == "xla"
    with pytest.raises(AssertionError, match=r"DIFFOPT_KERNELS.*'fast'"):
        run(code, DIFFOPT_KERNELS="fast")


WITHOUT_NUMBA = """
    import sys
    sys.modules["numba"] = None  # any import of it fails
    import jax, numpy as np
    from diffopt import kernels, soft_rank, soft_sort
    x = np.array([5.0, 1.0, 2.0])
    np.testing.assert_allclose(soft_rank(x, epsilon=2.0), [3.0, 1.25, 1.75], rtol=1e-14)
    np.testing.assert_allclose(soft_sort(x), [5 / 3, 8 / 3, 11 / 3], rtol=1e-14)
    jacobian = jax.jacrev(lambda x: soft_rank(x, epsilon=2.0))(x)
    np.testing.assert_allclose(jacobian[1], [0, 0.25, -0.25], atol=1e-15)
    try:
        kernels.set_backend("native")
    except ImportError as error:
        print(error)
"""


def test_without_numba_the_xla_implementation_takes_over():
    assert "numba" in run(WITHOUT_NUMBA)


# ------------------------------------------------------------------------------------- bridge


def test_eight_threads_call_one_compiled_function():
    @jax.jit
    def step(x):
        ranks = soft_rank(x, epsilon=0.3)
        return ranks, soft_sort(x, epsilon=0.3, regularization="kl")

    inputs = np.random.default_rng(3).normal(size=(8, 4, 50))
    expected = [jax.tree.map(np.asarray, step(x)) for x in inputs]

    def work(k):
        return all(
            all(np.array_equal(a, b) for a, b in zip(step(inputs[k]), expected[k], strict=True))
            for _ in range(300)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_eight_threads_compile_at_once():
    """The first calls race to register and compile the kernels."""
    run(
        """
        from concurrent.futures import ThreadPoolExecutor
        import jax, numpy as np
        from diffopt import isotonic_l2, soft_rank
        def work(k):
            x = np.random.default_rng(k).normal(size=(2, 10 + k % 2)).astype(["f4", "f8"][k % 2])
            return jax.jit(soft_rank)(x).sum() + 0 * isotonic_l2(x).sum()
        with ThreadPoolExecutor(8) as pool:
            totals = list(pool.map(work, range(8)))
        assert [round(float(t)) for t in totals] == [110, 132] * 4
        """
    )


def test_inputs_are_left_alone_and_may_have_any_layout():
    x = np.random.default_rng(4).normal(size=(6, 5))
    y = jnp.asarray(x)
    kept = x.copy()
    column = jax.jit(partial(soft_rank, axis=0))(y)
    assert_array_equal(column, soft_rank(jnp.asarray(np.ascontiguousarray(x.T))).T)
    strided = soft_rank(np.asfortranarray(x))
    assert_array_equal(strided, soft_rank(y))
    assert_array_equal(y, kept)
    donated = jax.jit(soft_rank, donate_argnums=0)(jnp.array(x))
    assert_array_equal(donated, soft_rank(x))


def test_kernels_run_inside_loops_branches_and_scans():
    x = jnp.asarray(np.random.default_rng(5).normal(size=(4, 8)))

    def body(carry, row):
        ranks = jax.lax.cond(row[0] > 0, soft_rank, lambda r: soft_rank(-r), row)
        return carry + ranks, ranks

    total, rows = jax.jit(lambda x: jax.lax.scan(body, jnp.zeros(8), x))(x)
    expected = soft_rank(jnp.where(x[:, :1] > 0, x, -x))
    assert_allclose(rows, expected, atol=1e-13)
    assert_allclose(total, expected.sum(0), atol=1e-12)
    looped = jax.lax.fori_loop(0, 3, lambda _, v: soft_sort(v, epsilon=0.5), x[0])
    assert_allclose(looped[0], x[0].mean() + (looped[0] - looped.mean()), atol=1e-12)
    gradient = jax.jit(jax.grad(lambda x: jax.lax.scan(body, jnp.zeros(8), x)[0][3]))(x)
    assert np.isfinite(gradient).all()
    recomputed = jax.grad(lambda x: jax.checkpoint(soft_rank)(x)[0, 0])(x)
    assert_allclose(recomputed, jax.grad(lambda x: soft_rank(x)[0, 0])(x), atol=1e-14)


def test_x64_off():
    run(
        """
        import jax, numpy as np, jax.numpy as jnp
        from diffopt import *
        assert jnp.zeros(1).dtype == np.float32
        for x in (np.array([5, 1, 2]), np.array([5.0, 1.0, 2.0]), np.float32([5, 1, 2])):
            got = soft_rank(x, epsilon=2.0)
            assert got.dtype == np.float32, got.dtype
            np.testing.assert_allclose(got, [3, 1.25, 1.75], rtol=1e-6)
        x = jnp.array([5.0, 1.0, 2.0])
        for f in (soft_rank, soft_sort, isotonic_l2, lambda x: isotonic_kl(x, x),
                  lambda x: soft_top_k(x, 1), lambda x: project_permutahedron(x, x)):
            assert f(x).dtype == np.float32
            forward, reverse = jax.jacfwd(f)(x), jax.jacrev(f)(x)
            assert forward.dtype == reverse.dtype == np.float32
            np.testing.assert_allclose(forward, reverse, atol=1e-6)
        half = soft_sort(x.astype(jnp.bfloat16), epsilon=0.1)
        assert half.dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.float32(half), [1, 2, 5])
        """,
        JAX_ENABLE_X64="0",
    )


SHARDED = """
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
    from diffopt import isotonic_kl, isotonic_l2, kernels
    from diffopt import project_permutahedron, soft_rank, soft_sort
    assert len(jax.devices()) == 4
    kernels.set_backend({backend!r})
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    rows = NamedSharding(mesh, P("batch", None))
    x = np.random.default_rng(0).normal(size=(8, 6))
    sharded = jax.device_put(x, rows)
    loss = lambda x: jnp.vdot(jnp.cos(x), soft_rank(x, epsilon=0.3, regularization="kl"))
    functions = {{
        "isotonic_kl": lambda x: isotonic_kl(x, -x),
        "hessian product": lambda x: jax.jvp(jax.grad(loss), (x,), (x,))[1],
    }}
    if {backend!r} == "native":
        functions |= {{
            "rank": lambda x: soft_rank(x, epsilon=0.3),
            "sort": lambda x: soft_sort(x, epsilon=0.3),
            "isotonic_l2": isotonic_l2,
            "project": lambda x: project_permutahedron(x, jnp.arange(6.0), regularization="kl"),
            "masked": lambda x: soft_rank(x, where=x > 0),
            "vmapped": jax.vmap(soft_rank),
            "gradient": jax.grad(loss),
        }}
    for name, function in functions.items():
        program = jax.jit(function).lower(sharded).compile()
        text = program.as_text()
        for collective in ("all-gather", "all-to-all", "collective-permute"):
            assert collective not in text, (name, collective)
        got = program(sharded)
        assert got.sharding.is_equivalent_to(rows, 2), (name, got.sharding)
        np.testing.assert_allclose(got, jax.jit(function)(x), atol=1e-12, err_msg=name)
    if {backend!r} == "xla":
        print("sharded xla")
        raise SystemExit
    # A sharded row has to be gathered; the answer stays right.
    columns = NamedSharding(mesh, P(None, "batch"))
    wide = np.random.default_rng(1).normal(size=(3, 12))
    got = jax.jit(soft_rank)(jax.device_put(wide, columns))
    np.testing.assert_allclose(got, soft_rank(wide), atol=1e-12)
    print("sharded native")
"""


@pytest.mark.parametrize("backend", ["native", "xla"])
def test_a_sharded_batch_stays_sharded_without_a_gather(backend):
    flags = "--xla_force_host_platform_device_count=4"
    assert backend in run(SHARDED.format(backend=backend), XLA_FLAGS=flags)


# -------------------------------------------------------------------------------------- speed


@pytest.mark.parametrize("solve", ["isotonic_l2", "isotonic_kl"])
def test_the_xla_isotonic_solver_compiles_in_three_seconds_at_ten_thousand(solve):
    function = {"isotonic_l2": isotonic_l2, "isotonic_kl": lambda y: isotonic_kl(y, -y)}[solve]
    best = np.inf
    with kernels.use_backend("xla"):
        for attempt in range(3):  # the machine may be busy: the best of three counts
            row = jax.ShapeDtypeStruct((10_000 - attempt,), np.float64)
            wall, used = time.perf_counter(), time.process_time()
            jax.jit(lambda y: function(y)).lower(row).compile()
            best = min(best, time.perf_counter() - wall, time.process_time() - used)
            if best <= 3:
                break
    assert best <= 3


def test_kernels_without_reference_counts_call_only_their_like():
    allocating, leaves = set(), {}
    for name in ("vectors", "designs", "objectives", "coordinates", "jacobians", "blocks"):
        path = Path(diffopt.__file__).parent / "kernels" / f"{name}.py"
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.FunctionDef):
                continue
            kind = ast.unparse(node.decorator_list[0]) if node.decorator_list else ""
            calls = {c.func for c in ast.walk(node) if isinstance(c, ast.Call)}
            if kind in ("_leaf", "_fast"):
                leaves[name, node.name] = {f.id for f in calls if isinstance(f, ast.Name)}
                assert not [f for f in calls if ast.unparse(f).startswith("np.empty")], node.name
            elif kind == "_jit":
                allocating.add(node.name)
    wrong = {leaf: calls & allocating for leaf, calls in leaves.items() if calls & allocating}
    assert len(leaves) > 40
    assert not wrong
