"""Perturbed optimizers, ours against others: time per call, and variance of gradients.

From the root of the repository, with `optax` and `jaxopt` installed (those that are not are left
out)::

    python -m book.bench.perturbed
    python -m book.bench.perturbed --quick

All draw as many samples of normal noise and call the same solver. The gradient is that of
a linear function of the mean answer, its variance the sum of those of its entries, over keys.
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

from book.bench.report import about
from book.bench.run import CLOCKS, measure
from diffopt import oracles
from diffopt.perturbed import perturbed_argmax

RESULTS = Path(__file__).parents[1] / "results" / "bench_perturbed.json"
OURS = "diffopt"
SAMPLES, SIGMA, REPEATS = 128, 0.5, 200
TARGET = 4.0  # times less variance than the best of the others
SHAPES = {"argmax": (10,), "ranking": (10,), "subset": (100,), "path": (12, 12)}
SOLVERS = {
    "argmax": oracles.argmax,
    "ranking": oracles.ranking,
    "subset": functools.partial(oracles.k_subset, k=10),
    "path": lambda theta: oracles.grid_shortest_path(-theta),
}


def draw(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores and a cotangent; a path has costs around one, and true costs as the cotangent."""
    scores, cotangent = np.random.default_rng(0).standard_normal((2, *SHAPES[name]))
    if name == "path":
        costs = np.exp(scores)
        scores, cotangent = -np.sqrt(costs), costs
    return scores.astype("float32"), cotangent.astype("float32")


def ours(solver, **options):
    """Return this package's mean answer."""
    options |= {"sigma": SIGMA, "num_samples": SAMPLES, "noise": "normal"}
    return perturbed_argmax(solver, **options)


def by_optax(solver):
    """Return optax's mean answer."""
    from optax import perturbations

    noise = perturbations.Normal()
    f = perturbations.make_perturbed_fun(solver, SAMPLES, SIGMA, noise)
    return lambda key, theta: f(key, theta)


def by_jaxopt(solver):
    """Return jaxopt's mean answer."""
    from jaxopt import perturbations

    f = perturbations.make_perturbed_argmax(solver, SAMPLES, SIGMA, perturbations.Normal())
    return lambda key, theta: f(theta, key)


def functions(name: str, missing: dict) -> dict:
    """Every way to estimate, by its name."""
    solver = SOLVERS[name]
    linear = {"baseline": "linear"}
    ways = {
        "": {},
        " linear": linear,
        " antithetic": {"sampling": "antithetic"},
        " sobol": {"sampling": "sobol"},
        " sobol linear": linear | {"sampling": "sobol"},
    }
    found = {OURS + end: ours(solver, **options) for end, options in ways.items()}
    others = {"optax": by_optax, "jaxopt": by_jaxopt}
    return found | {peer: f(solver) for peer, f in others.items() if peer not in missing}


def bench(name: str, missing: dict, seconds: float, clock) -> dict:
    """One row: times of value and gradient, and variances of gradients."""
    theta, cotangent = jax.device_put(draw(name))
    calls, variance, mean = {}, {}, {}
    for way, f in functions(name, missing).items():
        value = lambda key, theta, f=f: jnp.vdot(cotangent, f(key, theta))
        slope = jax.jit(jax.value_and_grad(value, 1))
        calls[way] = lambda slope=slope: jax.block_until_ready(slope(jax.random.key(0), theta))
        keys = jax.random.split(jax.random.key(1), REPEATS)
        found = np.stack([np.asarray(slope(key, theta)[1], float) for key in keys])
        variance[way], mean[way] = float(found.var(0).sum()), found.mean(0)
    gaps = {way: float(np.linalg.norm(m - mean[f"{OURS} sobol"])) for way, m in mean.items()}
    size = {"problem": name, "samples": SAMPLES, "sigma": SIGMA}
    return size | {"ms": measure(calls, seconds, clock), "variance": variance, "gap": gaps}


def line(row: dict) -> str:
    """One line of the table: milliseconds and variances."""
    cells = [f"{w} {ms[1]:.3g} ms, {row['variance'][w]:.3g}" for w, ms in row["ms"].items()]
    return f"{row['problem']:<9}" + "  ".join(cells) + f"  {gain(row):.1f}x less variance"


def gain(row: dict) -> float:
    """Least variance of the others over our least."""
    split = {True: [], False: []}
    for way, variance in row["variance"].items():
        split[way.startswith(OURS)].append(variance)
    return min(split[False], default=float("nan")) / min(split[True])


def main() -> None:
    """Run the table, printing each row as it is measured."""
    parser = argparse.ArgumentParser("python -m book.bench.perturbed", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, no file")
    parser.add_argument("--only", nargs="+", default=list(SOLVERS), choices=list(SOLVERS))
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine")
    args = parser.parse_args()
    missing = {}
    for peer in ("optax", "jaxopt"):
        try:
            importlib.import_module(f"{peer}.perturbations")
        except ImportError as error:
            missing[peer] = str(error)
    package = SimpleNamespace(PACKAGES=("diffopt", "jax", "jaxlib", "jaxopt", "numpy", "optax"))
    facts = about({OURS: package}, missing, args.clock) | {"variance": "sum over entries"}
    rows = []
    bar = tqdm(args.only, unit="row")
    for name in bar:
        rows.append(bench(name, missing, 0.2 if args.quick else 2.0, CLOCKS[args.clock]))
        bar.write(line(rows[-1]))
        if not args.quick:
            RESULTS.write_text(json.dumps({"about": facts, "rows": rows}, indent=1) + "\n")
    print(f"{sum(gain(row) >= TARGET for row in rows)} of {len(rows)} rows reach {TARGET:g}x")


if __name__ == "__main__":
    main()
