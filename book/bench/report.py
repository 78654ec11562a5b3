"""Read a benchmark: ratios, targets, the printed table, and what to record about the machine."""

import datetime
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from book.bench.peers import OURS

LARGE = 10_000  # entries from which the derivative is to be twice as fast
TOLERANCE = {"float32": 1e-4, "float64": 1e-8}


def ratio(row: dict) -> float | None:
    """Best peer's median over ours: above one, ours is the faster."""
    peers = [median for name, (_, median, _) in row["ms"].items() if name != OURS]
    return min(peers) / row["ms"][OURS][1] if OURS in row["ms"] and peers else None


def target(row: dict) -> float:
    """Never slower; value and gradient twice as fast at (128, 100) and above."""
    return 2.0 if row["mode"] == "value+gradient" and row["batch"] * row["n"] >= LARGE else 1.0


def behind(row: dict) -> bool:
    """Whether the row misses its target."""
    return (ratio(row) or target(row)) < target(row)


def about(adapters: dict, missing: dict, clock: str) -> dict:
    """Everything needed to read the numbers again in a year."""
    packages = {package for adapter in adapters.values() for package in adapter.PACKAGES}
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": _cpu(),
        "threads": 1,
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in sorted(packages)},
        "missing": missing,
        "clock": clock,
        "ms": "lower quartile, median, upper quartile over interleaved rounds, in milliseconds",
        "difference": "largest relative difference from our result in float64",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "from a checkout"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def header(names) -> str:
    """First line of the table."""
    words = ("operator", "", "epsilon", "batch x n", "dtype", "mode", *names)
    return _columns(words, names) + "best peer / ours"


def line(row: dict, names) -> str:
    """One line of the table: median times; ``*`` marks a result that differs from ours."""
    size = f"{row['batch']} x {row['n']}"
    head = [row["operator"], row["regularization"], f"{row['epsilon']:g}", size]
    cells = [_cell(row, name) for name in names]
    words = (*head, row["dtype"], row["mode"].replace("gradient", "grad"), *cells)
    found = ratio(row)
    verdict = "" if found is None else f"{found:.2f}" + ("  BEHIND" if behind(row) else "")
    return _columns(words, names) + verdict


def _cell(row: dict, name: str) -> str:
    if name not in row["ms"]:
        return "-"
    differs = row["difference"].get(name, 0.0) > TOLERANCE[row["dtype"]]
    return f"{row['ms'][name][1]:.3g}" + "*" * differs


def _columns(words, names) -> str:
    widths = (11, 2, 7, 11, 7, 10, *(max(len(name), 8) for name in names))
    return "  ".join(f"{word:<{width}}" for word, width in zip(words, widths, strict=True)) + "  "


def sparse_table(record: dict, loss: str) -> str:
    """Table, in Markdown, of the rows of the benchmark of sparse models with this loss."""
    lines = ["| data | n x p, support | penalty | task | ours, ms | others, ms | ratio |"]
    lines.append("|---|--:|--:|---|--:|---|--:|")
    for row in record["rows"]:
        if row["loss"] != loss:
            continue
        others = {way: ms[1] for way, ms in row["ms"].items() if way != OURS}
        ours, best = row["ms"][OURS][1], min(others.values(), default=float("nan"))
        cells = [f"{way.replace('_', '-')} {ms:.3g}" for way, ms in others.items()]
        cells += [f"{way.replace('_', '-')}: not reached" for way in row["failed"]]
        lines.append(
            f"| {row['data']} | {row['n']:,} x {row['p']:,}, {row['support']} "
            f"| {row['share']:g} max | {row['task']} | {ours:.3g} "
            f"| {', '.join(cells)} | {best / ours:.1f} |"
        )
    return "\n".join(lines)
