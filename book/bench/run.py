"""Interleaved timings of every operator and its peers, written to ``book/results``.

In each round every library is timed once, so that whatever else the machine does hits all of
them alike; ratios are of medians within one run. Before the clock starts, every result is
compared with ours in float64, and the largest difference is recorded next to the time.
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from book.bench.peers import OURS, Case, load
from book.bench.report import about, behind, header, line, ratio

RESULTS = Path(__file__).parents[1] / "results" / "bench_sorting.json"
SIZES = ((1, 100), (128, 100), (128, 1000), (1, 10_000), (1, 1_000_000))
DTYPES = ("float32", "float64")
MODES = ("value", "value+gradient")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
ROUNDS = 5, 41  # least and most
SECONDS, SAMPLE = 0.7, 5e-3  # of a row's rounds, of a sample
PATIENCE = 2.0  # a slower call, once warm, is not repeated; it counts as it is


def cases(n: int, quick: bool = False) -> list[Case]:
    """Every operator that has peers, at strength one and (full run) where blocks of all sizes mix.

    At strength one, ranks of many normal values share one block and sorted values stay single.
    """
    mixed = {"soft_rank": 1 / n, "soft_sort": float(n)}
    layers = itertools.product(mixed, ("l2", "kl"), (False,) if quick else (False, True))
    soft = [Case(name, reg, mixed[name] if mix else 1.0) for name, reg, mix in layers]
    return [*soft, Case("isotonic_l2", "l2", 1.0)]


def draw(operator: str, batch: int, n: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Standard normal values (for isotonic regression a noisy slope) and a cotangent."""
    x, cotangent = np.random.default_rng(n).standard_normal((2, batch, n))
    if operator == "isotonic_l2":
        x += np.linspace(0.0, 10.0, n)
    return x.astype(dtype), cotangent.astype(dtype)


def difference(result, reference) -> float:
    """Largest difference over all outputs, relative to each output's largest entry."""
    if not isinstance(result, tuple):
        result, reference = (result,), (reference,)
    pairs = [
        tuple(np.asarray(x, float) for x in pair) for pair in zip(result, reference, strict=True)
    ]
    return max(float(abs(a - b).max() / abs(b).max()) for a, b in pairs)


def stopwatch(call, clock, repeat: int = 1) -> float:
    """Seconds of one call, averaged over ``repeat``."""
    start = clock()
    for _ in range(repeat):
        call()
    return (clock() - start) / repeat


def quartiles(samples: list[float]) -> list[float]:
    """Lower quartile, median and upper quartile in milliseconds, to four digits."""
    return [float(f"{q * 1e3:.4g}") for q in np.percentile(samples, [25, 50, 75])]


def measure(calls: dict, seconds: float, clock=time.perf_counter) -> dict[str, list[float]]:
    """Quartiles of each call, over interleaved rounds of about ``seconds`` in total."""
    counts = {name: round(SAMPLE / stopwatch(call, clock, 2)) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    least, most = ROUNDS
    for done in range(most):
        if done >= least and time.perf_counter() > end:
            break
        for name, call in calls.items():
            samples[name].append(stopwatch(call, clock, max(1, counts[name])))
    return {name: quartiles(samples[name]) for name in calls}


def bench(case: Case, batch: int, n: int, dtype: str, mode: str, adapters, seconds, clock) -> dict:
    """One row of the table."""
    inputs = draw(case.operator, batch, n, dtype)
    calls = {name: peer.prepare(case, *inputs).get(mode) for name, peer in adapters.items()}
    calls = {name: call for name, call in calls.items() if call}
    results, slow = {}, {}
    for name, call in calls.items():
        results[name] = call()  # compiles and warms up
        if (once := stopwatch(call, clock)) > PATIENCE:
            slow[name] = quartiles([once])
    errors = {}
    if OURS in calls:
        exact = adapters[OURS].prepare(case, *(x.astype(float) for x in inputs))[mode]()
        errors = {name: difference(result, exact) for name, result in results.items()}
    times = measure({name: calls[name] for name in calls if name not in slow}, seconds, clock)
    size = {"batch": batch, "n": n, "dtype": dtype, "mode": mode}
    return case._asdict() | size | {"ms": slow | times, "difference": errors}


def wanted(args) -> list[tuple]:
    """The rows that the command line asks for."""
    sizes = [tuple(map(int, size.split("x"))) for size in args.sizes]
    rows = [
        (case, *size, dtype, mode)
        for size in sizes or (SIZES[:2] if args.quick else SIZES)
        for case in cases(size[1], args.quick)
        for dtype, mode in itertools.product(DTYPES, MODES)
        if case.operator != "isotonic_l2" or mode == "value"
    ]
    for words in ({row[0].operator for row in rows}, {"l2", "kl"}, set(DTYPES), set(MODES)):
        if chosen := words & set(args.only):
            rows = [row for row in rows if chosen & {*row[0][:2], *row[3:]}]
    return rows


def previous(output: Path | None, facts: dict, resume: bool) -> list[dict]:
    """Rows of a run to continue, if it was made by the same libraries on the same machine."""
    if not (resume and output and output.exists()):
        return []
    stored = json.loads(output.read_text())
    if stored["about"] | {"date": ""} != facts | {"date": ""}:
        raise SystemExit(f"{output.name} was measured elsewhere; start anew without --resume")
    return stored["rows"]


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser("python -m book.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds, no file")
    parser.add_argument("--resume", action="store_true", help="continue a run that was stopped")
    parser.add_argument("--only", nargs="+", default=[], help="operators, l2 or kl, dtypes, modes")
    parser.add_argument("--sizes", nargs="+", default=[], help="batch x n, like 128x1000")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine")
    parser.add_argument("--output", type=Path, help=f"default: {RESULTS.name}")
    return parser.parse_args()


def main() -> None:
    """Run the table, printing and storing each row as it is measured."""
    args = arguments()
    jax.config.update("jax_enable_x64", True)
    adapters, missing = load()
    for name, reason in missing.items():
        print(f"without {name}: {reason}")
    output = args.output or (None if args.quick else RESULTS)
    facts = about(adapters, missing, args.clock)
    rows = previous(output, facts, args.resume)
    done = {tuple(row.values())[:7] for row in rows}
    bar = tqdm([row for row in wanted(args) if (*row[0], *row[1:]) not in done], unit="row")
    bar.write(header(adapters))
    for row in bar:
        seconds = SECONDS / 5 if args.quick else SECONDS
        rows.append(bench(*row, adapters, seconds, CLOCKS[args.clock]))
        bar.write(line(rows[-1], adapters))
        if output:
            output.write_text(json.dumps({"about": facts, "rows": rows}, indent=1) + "\n")
    compared = [row for row in rows if ratio(row)]
    print(f"{sum(not behind(row) for row in compared)} of {len(compared)} rows reach their target")
