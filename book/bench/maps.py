"""Time of prediction maps and Fenchel-Young losses, ours against others, in single precision.

From the root of the repository, with the packages to compare with installed (`entmax`, `jaxopt`,
`optax`; those that are not are left out)::

    python -m book.bench.maps
    python -m book.bench.maps --quick

Values are maps or losses of a batch; gradients are vector-Jacobian products of maps and gradients
of summed losses. Before the clock starts, every result is compared with ours in float64.
"""

from book.bench.single_thread import single_thread

if __name__ == "__main__":
    single_thread()

import argparse
import functools
import importlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
from tqdm import tqdm

from book.bench.peers import Calls, jax_calls
from book.bench.report import about
from book.bench.run import CLOCKS, difference, measure
from diffopt.fenchel_young import fenchel_young_loss
from diffopt.regularizers import Tsallis, budget, entmax, fusedmax, normmax, softmax, sparsemax

RESULTS = Path(__file__).parents[1] / "results" / "bench_maps.json"
SIZES = ((128, 100), (128, 1000), (8, 32_000))
MODES = ("value", "value+gradient")
ORDERS = {"softmax": 1, "sparsemax": 2, "entmax-1.5": 1.5, "entmax-1.3": 1.3}
NAMES = [*ORDERS, "normmax", "budget", "fusedmax", *(f"{name} loss" for name in ORDERS)]
CHOSEN = 5  # how many items the budget chooses
TIE = 0.1  # weight of the total variation, in the fusedmax
LARGE = 8 * 32_000  # from which on we aim at twice the speed
SECONDS = 0.7


def draw(name: str, batch: int, n: int) -> tuple[np.ndarray, ...]:
    """Standard normal scores, a cotangent and labels as one-hot rows."""
    random = np.random.default_rng(n)
    theta, cotangent = random.standard_normal((2, batch, n))
    label = np.zeros((batch, n))
    label[np.arange(batch), random.integers(0, n, batch)] = 1
    if name.endswith("loss"):
        cotangent = np.ones(batch)
    return tuple(x.astype("float32") for x in (theta, cotangent, label))


def ours(name: str, theta, cotangent, label) -> Calls:
    """Calls of this package."""
    if name.endswith("loss"):
        regularizer, y = Tsallis(ORDERS[name.removesuffix(" loss")]), jax.device_put(label)
        return jax_calls(lambda t: fenchel_young_loss(t, y, regularizer), theta, cotangent)
    function = {
        "softmax": softmax,
        "sparsemax": sparsemax,
        "entmax-1.5": entmax,
        "entmax-1.3": functools.partial(entmax, alpha=1.3),
        "normmax": normmax,
        "budget": functools.partial(budget, k=CHOSEN),
        "fusedmax": functools.partial(fusedmax, weight=TIE),
    }[name]
    return jax_calls(function, theta, cotangent)


def in_jax(name: str, theta, cotangent, label) -> Calls:
    """Calls of JAX itself, which has the softmax and its loss."""
    functions = {
        "softmax": jax.nn.softmax,
        "softmax loss": lambda t: jax.nn.logsumexp(t, -1) - (t * label).sum(-1),
    }
    return jax_calls(functions[name], theta, cotangent) if name in functions else {}


def jaxopt(name: str, theta, cotangent, label) -> Calls:
    """Calls of jaxopt, mapped over the batch."""
    from jaxopt import loss, projection

    labels = label.argmax(-1)
    functions = {
        "sparsemax": jax.vmap(projection.projection_simplex),
        "sparsemax loss": lambda t: jax.vmap(loss.multiclass_sparsemax_loss)(labels, t),
        "softmax loss": lambda t: jax.vmap(loss.multiclass_logistic_loss)(labels, t),
    }
    return jax_calls(functions[name], theta, cotangent) if name in functions else {}


def optax(name: str, theta, cotangent, label) -> Calls:
    """Calls of optax; its projection takes one vector."""
    import optax

    labels = label.argmax(-1)
    losses, projection = optax.losses, optax.projections
    functions = {
        "sparsemax": jax.vmap(projection.projection_simplex),
        "sparsemax loss": lambda t: losses.multiclass_sparsemax_loss(t, labels),
        "softmax loss": lambda t: losses.softmax_cross_entropy(t, label),
    }
    return jax_calls(functions[name], theta, cotangent) if name in functions else {}


def entmax_torch(name: str, theta, cotangent, label) -> Calls:
    """Calls of entmax in torch; its bisections take their default number of steps."""
    import entmax
    import torch

    torch.set_num_threads(1)
    x = torch.tensor(theta, requires_grad=True)
    weights, labels = torch.tensor(cotangent), torch.tensor(label.argmax(-1))
    function = {
        "softmax": functools.partial(torch.softmax, dim=-1),
        "sparsemax": entmax.sparsemax,
        "entmax-1.5": entmax.entmax15,
        "entmax-1.3": functools.partial(entmax.entmax_bisect, alpha=1.3),
        "normmax": functools.partial(entmax.normmax_bisect, alpha=2),
        "budget": functools.partial(entmax.budget_bisect, budget=CHOSEN),
        "softmax loss": lambda t: torch.nn.functional.cross_entropy(t, labels, reduction="none"),
        "sparsemax loss": lambda t: entmax.sparsemax_loss(t, labels),
        "entmax-1.5 loss": lambda t: entmax.entmax15_loss(t, labels),
        "entmax-1.3 loss": lambda t: entmax.entmax_bisect_loss(t, labels, 1.3),
    }.get(name)
    if function is None:
        return {}

    def value():
        with torch.no_grad():
            return function(x).numpy()

    def both():
        result = function(x)
        (slope,) = torch.autograd.grad(result, x, weights)
        return result.detach().numpy(), slope.numpy()

    return {"value": value, "value+gradient": both}


OURS = "diffopt"
PEERS = {OURS: ours, "jax": in_jax, "entmax": entmax_torch, "jaxopt": jaxopt, "optax": optax}


def bench(name, batch, n, mode, peers, seconds, clock) -> dict:
    """One row of the table."""
    inputs = draw(name, batch, n)
    with jax.enable_x64(True):  # off otherwise: optax needs it off for single precision
        exact = ours(name, *(x.astype(float) for x in inputs))[mode]()
    found = {peer: prepare(name, *inputs).get(mode) for peer, prepare in peers.items()}
    calls = {peer: call for peer, call in found.items() if call}
    errors = {peer: difference(call(), exact) for peer, call in calls.items()}
    row = {"map": name, "batch": batch, "n": n, "mode": mode}
    return row | {"ms": measure(calls, seconds, clock), "difference": errors}


def ratio(row: dict) -> float:
    """Best peer's median over ours: above one, ours is the faster. NaN without a peer."""
    others = [ms[1] for peer, ms in row["ms"].items() if peer != OURS]
    return min(others, default=math.nan) / row["ms"][OURS][1]


def line(row: dict) -> str:
    """One line of the table: milliseconds, differences, and the best peer over ours."""
    head = f"{row['map']:<16}{row['batch']:>4} x {row['n']:<6}{row['mode']:<15}"
    cells = [
        f"{peer} {ms[1]:.3g} ms ({row['difference'][peer]:.0e})" for peer, ms in row["ms"].items()
    ]
    return head + "  ".join([*cells, f"{ratio(row):.2f}x"])


def main() -> None:
    """Run the table, printing each row as it is measured."""
    parser = argparse.ArgumentParser("python -m book.bench.maps", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, no file")
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NAMES, help="maps and losses")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine")
    args = parser.parse_args()
    peers, missing = dict(PEERS), {}
    for peer in ("entmax", "jaxopt", "optax"):
        try:
            importlib.import_module(peer)
        except ImportError as error:
            missing[peer] = str(error)
            del peers[peer]
    package = SimpleNamespace(
        PACKAGES=("diffopt", "entmax", "jax", "jaxlib", "jaxopt", "numpy", "optax", "torch")
    )
    facts = about({OURS: package}, missing, args.clock)
    wanted = [(name, *size, mode) for size in SIZES for name in args.only for mode in MODES]
    rows = []
    bar = tqdm(wanted, unit="row")
    for row in bar:
        seconds = SECONDS / 5 if args.quick else SECONDS
        rows.append(bench(*row, peers, seconds, CLOCKS[args.clock]))
        bar.write(line(rows[-1]))
        if not args.quick:
            RESULTS.write_text(json.dumps({"about": facts, "rows": rows}, indent=1) + "\n")
    targets = [2 if row["batch"] * row["n"] >= LARGE else 1 for row in rows]
    pairs = zip(map(ratio, rows), targets, strict=True)
    reached = [best >= target for best, target in pairs if not math.isnan(best)]
    print(f"{sum(reached)} of {len(reached)} rows with a peer reach their target")


if __name__ == "__main__":
    main()
