"""Time of projections onto polytopes, ours against others at the same accuracy.

From the root of the repository, with `jaxopt` installed and, if wanted, a checkout of
``mblondel/projection-losses`` on ``PYTHONPATH``::

    python -m book.bench.polytopes
    python -m book.bench.polytopes --quick

Before the clock starts, every result is compared with ours in float64. The iterative solvers of the
others run at a tolerance that brings them near ours: ``loose`` tells what their default gives.
"""

from book.bench.single_thread import single_thread

if __name__ == "__main__":
    single_thread()

import argparse
import functools
import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from book.bench.peers import Calls, jax_calls
from book.bench.report import about
from book.bench.run import CLOCKS, difference, measure
from diffopt.projections import project_knapsack, project_order_simplex, project_simplex
from diffopt.transport import project_birkhoff

RESULTS = Path(__file__).parents[1] / "results" / "bench_polytopes.json"
VECTORS = ((1, 100), (1, 1000), (1, 10_000), (1, 100_000), (128, 100), (128, 1000))
MATRICES = ((1, 5), (1, 10), (1, 30), (1, 100), (128, 5), (128, 10))
SETS = {"simplex": VECTORS, "knapsack": VECTORS, "order simplex": VECTORS, "birkhoff": MATRICES}
TIGHT, LOOSE = 1e-9, 1e-3  # the second is the default of the others
SECONDS = 0.7


def title(row: dict) -> str:
    """Name a row: set, batch x n, dtype."""
    return f"{row['set']} {row['batch']} x {row['n']}" + " float32" * (row["dtype"] == "float32")


def draw(name: str, batch: int, n: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Standard normal scores and a cotangent; for the order simplex around a slope."""
    shape = (batch, n, n) if name == "birkhoff" else (batch, n)
    theta, cotangent = np.random.default_rng(n).standard_normal((2, *shape))
    if name == "order simplex":
        theta += np.linspace(2.0, -1.0, n)
    return theta.astype(dtype), cotangent.astype(dtype)


def items(n: int) -> int:
    """How many items the knapsack holds."""
    return max(n // 10, 1)


def ours(name: str, regularization: str, theta, cotangent, tol: float) -> Calls:
    """Calls of this package."""
    k = items(theta.shape[-1])
    project = {
        "simplex": project_simplex,
        "knapsack": functools.partial(project_knapsack, min_items=k, max_items=k),
        "order simplex": project_order_simplex,
        "birkhoff": project_birkhoff,
    }[name]
    return jax_calls(functools.partial(project, regularization=regularization), theta, cotangent)


def jaxopt(name: str, regularization: str, theta, cotangent, tol: float) -> Calls:
    """Calls of jaxopt, mapped over the batch."""
    from jaxopt import LBFGS, projection

    k = float(items(theta.shape[-1]))

    def knapsack(x):
        box = 0.0, 1.0, jnp.ones_like(x), jnp.asarray(k, x.dtype)
        return projection.projection_box_section(x, box).astype(x.dtype)

    def solver(fun):
        return LBFGS(fun=fun, tol=tol, maxiter=5000, linesearch="zoom")

    matrices = {"l2": projection.projection_birkhoff, "kl": projection.kl_projection_birkhoff}
    found = {
        ("simplex", "l2"): projection.projection_simplex,
        ("knapsack", "l2"): knapsack,
        ("birkhoff", regularization): functools.partial(
            matrices[regularization], make_solver=solver
        ),
    }.get((name, regularization))
    return jax_calls(jax.vmap(found), theta, cotangent) if found else {}


def projection_losses(name: str, regularization: str, theta, cotangent, tol: float) -> Calls:
    """Calls of the public snapshot of projection-losses, which has no derivatives."""
    polytopes = importlib.import_module("polytopes")
    vars(np).setdefault("int", int)  # a name that NumPy dropped and the snapshot still uses
    k = items(theta.shape[-1])
    if (name, regularization) == ("order simplex", "kl"):
        return {}
    polytope = {
        "simplex": polytopes.ProbabilitySimplex,
        "knapsack": lambda: polytopes.Knapsack(max_labels=k, min_labels=k),
        "order simplex": polytopes.OrderSimplex,
        "birkhoff": lambda: polytopes.Birkhoff(max_iter=5000, tol=tol),
    }[name]()
    kind = {"l2": "Euclidean", "kl": "KL"}[regularization]
    flat = theta.astype(float).reshape(len(theta), -1)

    def call():
        return np.reshape(polytope.project(flat, projection_type=kind), theta.shape)

    return {"value": call}


OURS = "diffopt"
PEERS = {OURS: ours, "jaxopt": jaxopt, "projection-losses": projection_losses}


def bench(name, regularization, batch, n, dtype, mode, peers, seconds, clock) -> dict:
    """One row of the table."""
    inputs = draw(name, batch, n, dtype)
    exact = ours(name, regularization, *(x.astype(float) for x in inputs), TIGHT)[mode]()
    calls, errors, loose = {}, {}, {}
    for peer, prepare in peers.items():
        call = prepare(name, regularization, *inputs, TIGHT).get(mode)
        if call is None:
            continue
        calls[peer], errors[peer] = call, difference(call(), exact)
        if name == "birkhoff" and peer != OURS and mode == "value":
            loose[peer] = difference(prepare(name, regularization, *inputs, LOOSE)[mode](), exact)
    row = {"set": name, "regularization": regularization, "batch": batch, "n": n}
    row |= {"dtype": dtype, "mode": mode, "ms": measure(calls, seconds, clock)}
    return row | {"difference": errors, "loose": loose}


def line(row: dict) -> str:
    """One line of the table: milliseconds, differences, and the best peer over ours."""
    head = f"{row['set']:<14}{row['regularization']}  {row['batch']:>4} x {row['n']:<6}"
    head += f"{row['dtype']:<8}{row['mode']:<15}"
    cells = [
        f"{peer} {ms[1]:.3g} ms ({row['difference'][peer]:.0e})" for peer, ms in row["ms"].items()
    ]
    others = [ms[1] for peer, ms in row["ms"].items() if peer != OURS]
    ratio = f"{min(others) / row['ms'][OURS][1]:.1f}x" if others else ""
    return head + "  ".join([*cells, ratio])


def wanted(quick: bool) -> list[tuple]:
    """Rows of the table."""
    return [
        (name, regularization, *size, dtype, mode)
        for name, sizes in SETS.items()
        for size in (sizes[1:2] if quick else sizes)
        for regularization in ("l2", "kl")
        for dtype in (("float32", "float64") if size == (128, 100) else ("float64",))
        for mode in ("value", "value+gradient")
    ]


def main() -> None:
    """Run the table, printing each row as it is measured."""
    parser = argparse.ArgumentParser("python -m book.bench.polytopes", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few sizes and rounds, no file")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    peers, missing = dict(PEERS), {}
    for peer, module in (("jaxopt", "jaxopt"), ("projection-losses", "polytopes")):
        try:
            importlib.import_module(module)
        except ImportError as error:
            missing[peer] = str(error)
            del peers[peer]
    package = SimpleNamespace(PACKAGES=("diffopt", "jax", "jaxopt", "numpy", "scipy"))
    facts = about({OURS: package}, missing, args.clock) | {"tolerance of solvers": TIGHT}
    rows = []
    bar = tqdm(wanted(args.quick), unit="row")
    for row in bar:
        seconds = SECONDS / 5 if args.quick else SECONDS
        rows.append(bench(*row, peers, seconds, CLOCKS[args.clock]))
        bar.write(line(rows[-1]))
        if not args.quick:
            RESULTS.write_text(json.dumps({"about": facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
