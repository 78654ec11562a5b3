"""Soft-DTW of time series, ours against others: time per call from the series, and differences.

From the root of the repository, with `tslearn`, `ott-jax` and google-research's `sdtw_div`
installed (those that are not are left out)::

    python -m book.bench.soft_dtw
    python -m book.bench.soft_dtw --quick

Pairs of series of one feature and equal lengths, in float64 and on one thread: the value, and the
value with its gradient in the first series. Packages that take one pair loop over a batch.
"""

from book.bench.single_thread import single_thread

if __name__ == "__main__":
    single_thread()

import argparse
import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
from tqdm import tqdm

from book.bench.report import about
from book.bench.run import CLOCKS, difference, measure
from diffopt.soft_dtw import soft_dtw

RESULTS = Path(__file__).parents[1] / "results" / "bench_soft_dtw.json"
OURS = "diffopt"
GAMMA = 1.0
SIZES = ((1, 32), (1, 128), (1, 512), (1, 1024), (100, 128))
MODES = ("value", "value+gradient")
TARGETS = {"value": 5.0, "value+gradient": 3.0}
PEERS = {"google": "sdtw_div.numba_ops", "ott": "ott.geometry.costs", "tslearn": "tslearn.metrics"}


def draw(batch: int, length: int) -> np.ndarray:
    """Two batches of random walks, standardised, of shape [2, batch, length]."""
    steps = np.random.default_rng(length).standard_normal((2, batch, length))
    walks = steps.cumsum(axis=-1)
    return (walks - walks.mean(-1, keepdims=True)) / walks.std(-1, keepdims=True)


def with_jax(loss, x, y) -> dict:
    """Calls of a function of two series that JAX differentiates."""
    value = jax.jit(jax.vmap(loss))
    both = jax.jit(jax.vmap(jax.value_and_grad(loss)))
    x, y = jax.device_put((x, y))
    return {
        "value": lambda: jax.block_until_ready(value(x, y)),
        "value+gradient": lambda: jax.block_until_ready(both(x, y)),
    }


def diffopt(x, y) -> dict:
    """Return the calls of this package."""
    return with_jax(lambda x, y: soft_dtw(x[:, None], y[:, None], gamma=GAMMA), x, y)


def ott(x, y) -> dict:
    """Return those of ott-jax."""
    from ott.geometry.costs import SoftDTW

    return with_jax(SoftDTW(gamma=GAMMA), x, y)


def google(x, y) -> dict:
    """Return those of google-research, whose cost is half the squared distance."""
    from sdtw_div.numba_ops import sdtw, sdtw_value_and_grad

    pairs = list(zip(x[..., None], y[..., None], strict=True))

    def both():
        found = [sdtw_value_and_grad(a, b, GAMMA / 2) for a, b in pairs]
        return 2 * np.array([v for v, _ in found]), 2 * np.stack([g[:, 0] for _, g in found])

    return {
        "value": lambda: 2 * np.array([sdtw(a, b, GAMMA / 2) for a, b in pairs]),
        "value+gradient": both,
    }


def tslearn(x, y) -> dict:
    """Return those of tslearn, whose gradient is the product of two Jacobians."""
    from tslearn.metrics.softdtw_variants import SoftDTW, SquaredEuclidean

    pairs = list(zip(x[..., None], y[..., None], strict=True))

    def value():
        return np.array([SoftDTW(SquaredEuclidean(a, b), GAMMA).compute() for a, b in pairs])

    def one(a, b):
        costs = SquaredEuclidean(a, b)
        core = SoftDTW(costs, GAMMA)
        return core.compute(), np.asarray(costs.jacobian_product(core.grad()))[:, 0]

    def both():
        found = [one(a, b) for a, b in pairs]
        return np.array([v for v, _ in found]), np.stack([g for _, g in found])

    return {"value": value, "value+gradient": both}


PREPARE = {OURS: diffopt, "google": google, "ott": ott, "tslearn": tslearn}


def bench(batch, length, mode, missing, seconds, clock) -> dict:
    """One row: times, and differences from our result, of the gradient where there is one."""
    inputs = draw(batch, length)
    ways = {way: f for way, f in PREPARE.items() if way not in missing}
    calls = {way: prepare(*inputs)[mode] for way, prepare in ways.items()}
    exact = calls[OURS]()
    errors = {way: difference(call(), exact) for way, call in calls.items()}
    single = diffopt(*inputs.astype("float32"))[mode]
    size = {"batch": batch, "n": length, "dtype": "float64", "mode": mode}
    return size | {
        "ms": measure(calls, seconds, clock),
        "difference": errors,
        "float32": difference(single(), exact),
    }


def ratio(row: dict) -> float:
    """Best peer's median over ours."""
    peers = [ms for way, (_, ms, _) in row["ms"].items() if way != OURS]
    return min(peers, default=float("nan")) / row["ms"][OURS][1]


def line(row: dict) -> str:
    """One line of the table."""
    cells = "  ".join(f"{way} {ms[1]:.3g}" for way, ms in row["ms"].items())
    size = f"{row['batch']}x{row['n']}"
    return f"{size:<8} {row['mode']:<14} {ratio(row):4.2f}x {row['float32']:.0e}  {cells} ms"


def main() -> None:
    """Run the table, printing each row as it is measured."""
    parser = argparse.ArgumentParser("python -m book.bench.soft_dtw", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, short series, no file")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    missing = {}
    for peer, module in PEERS.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            missing[peer] = str(error)
    packages = ("diffopt", "jax", "jaxlib", "numba", "numpy", "ott-jax", "sdtw-div", "tslearn")
    facts = about({OURS: SimpleNamespace(PACKAGES=packages)}, missing, args.clock)
    facts["float32"] = "our result in float32, largest relative difference from that in float64"
    rows = []
    bar = tqdm([(*size, mode) for size in SIZES[: 2 if args.quick else None] for mode in MODES])
    for row in bar:
        seconds = 0.3 if args.quick else 3.0
        rows.append(bench(*row, missing, seconds, CLOCKS[args.clock]))
        bar.write(line(rows[-1]))
        if not args.quick:
            RESULTS.write_text(json.dumps({"about": facts, "rows": rows}, indent=1) + "\n")
    reached = sum(ratio(row) >= TARGETS[row["mode"]] for row in rows)
    print(f"{reached} of {len(rows)} rows reach {TARGETS}")


if __name__ == "__main__":
    main()
