"""What the public snapshots of the peers return in three cases, recorded for the chapter.

``python -m book.bench.findings`` (peers installed) writes ``book/results/peer_findings.json``:
inputs, outputs and versions. The chapter shows this library's numbers live beside them.
"""

import json
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np

from book.bench.peers import ALL, OURS, Case, load

RESULTS = Path(__file__).parents[1] / "results" / "peer_findings.json"
COMMIT = "6a52ce79869ab16e1e0f39149a84f50f8ad648c5"
VALUES = [1.0, -2.0, 2.0, 3.0, 0.5, -1.0]  # ranks in float32
UNTIED = [2.9, 0.1, 1.2]  # derivatives: no gap equals a strength, so no kink
NEARLY_TIED = [0.0, 1.0 + 5e-10]  # the gap exceeds strength one: ranks are hard, derivative zero
STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)


def central_differences(function, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Jacobian of ``function`` at ``x``, error of order ``step**2``."""
    columns = [function(x + e) - function(x - e) for e in step * np.eye(len(x))]
    return np.stack(columns, axis=1) / (2 * step)


def entropic_sort_gradient() -> dict:
    """Jacobian of fast-soft-sort's entropic soft sort, against differences of its own value."""
    from fast_soft_sort.numpy_ops import SoftSort

    x = np.array(UNTIED)

    def layer(values, epsilon):
        return SoftSort(values, regularization_strength=epsilon, regularization="kl")

    def jacobian(epsilon, repair):
        operator = layer(x, epsilon)
        operator.compute()
        if repair:  # what the derivative reads is `input_s`; the forward pass sets `s`
            operator.isotonic_.input_s = operator.isotonic_.s
        return np.stack([operator.vjp(row) for row in np.eye(len(x))])

    def record(epsilon):
        truth = central_differences(lambda values: layer(values, epsilon).compute(), x)
        public, repaired = jacobian(epsilon, False), jacobian(epsilon, True)
        return {
            "epsilon": epsilon,
            "soft_sort": layer(x, epsilon).compute().tolist(),
            "jacobian": public.tolist(),
            "central_differences": truth.tolist(),
            "max_error": float(abs(public - truth).max()),
            "max_error_with_the_input_set": float(abs(repaired - truth).max()),
        }

    return {
        "library": "fast-soft-sort",
        "call": "SoftSort(values, regularization_strength=epsilon, regularization='kl')",
        "values": UNTIED,
        "direction": "ASCENDING",
        "strengths": [record(epsilon) for epsilon in (0.5, 1.0, 2.0, 5.0, 10.0)],
    }


def float32_ranks() -> dict:
    """Entropic ranks in float32 at small strength, whose limit is the hard rank."""
    x = np.array([VALUES], np.float32)
    exact = (np.argsort(np.argsort(VALUES)) + 1).tolist()
    adapters = {name: peer for name, peer in load()[0].items() if name != OURS}
    ranks: dict[str, list] = {name: [] for name in adapters}
    for epsilon in STRENGTHS:
        for name, peer in adapters.items():
            calls = peer.prepare(Case("soft_rank", "kl", epsilon), x, x)
            if calls:
                ranks[name].append(np.asarray(calls["value"](), float)[0].tolist())
    ranks = {name: rows for name, rows in ranks.items() if rows}
    return {
        "dtype": "float32",
        "values": VALUES,
        "hard_ranks": exact,
        "epsilon": list(STRENGTHS),
        "ranks": ranks,
        "max_error_at_smallest": {
            name: float(abs(np.subtract(rows[-1], exact)).max()) for name, rows in ranks.items()
        },
    }


def block_tolerance() -> dict:
    """Derivative of the first of two L2 ranks whose blocks differ by less than 1e-9."""
    x, first = np.array([NEARLY_TIED]), np.array([[1.0, 0.0]])
    adapters = {name: peer for name, peer in load()[0].items() if name != OURS}
    calls = {
        name: peer.prepare(Case("soft_rank", "l2", 1.0), x, first).get("value+gradient")
        for name, peer in adapters.items()
    }
    results = {name: call() for name, call in calls.items() if call}
    return {
        "values": NEARLY_TIED,
        "epsilon": 1.0,
        "regularization": "l2",
        "ranks": {name: np.asarray(value)[0].tolist() for name, (value, _) in results.items()},
        "gradient_of_first_rank": {
            name: np.asarray(gradient)[0].tolist() for name, (_, gradient) in results.items()
        },
    }


def main() -> None:
    """Write the file and print the largest errors."""
    jax.config.update("jax_enable_x64", True)
    found, missing = load()
    if missing:
        raise SystemExit(f"these findings need every peer; missing: {missing}")
    packages = {p for name in ALL for p in found[name].PACKAGES}
    record = {
        "versions": {package: version(package) for package in sorted(packages)},
        "commits": {"google-research/fast-soft-sort": COMMIT},
        "entropic_sort_gradient": entropic_sort_gradient(),
        "float32_entropic_ranks": float32_ranks(),
        "block_tolerance": block_tolerance(),
    }
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    gradient, ranks = record["entropic_sort_gradient"], record["float32_entropic_ranks"]
    for row in gradient["strengths"]:
        errors = row["max_error"], row["max_error_with_the_input_set"]
        print("entropic sort, Jacobian error, and with the input set:", row["epsilon"], *errors)
    print("float32 entropic ranks, largest error:", ranks["max_error_at_smallest"])
    tolerance = record["block_tolerance"]["gradient_of_first_rank"]
    print("derivative of a hard rank, which is zero:", tolerance)


if __name__ == "__main__":
    main()
