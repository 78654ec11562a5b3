"""The figures of the chapter `soft_dtw`; those of stored results take the record that they draw."""

import time

import jax
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown

from book import style
from book.experiments.soft_dtw_claims import NAMES, accuracies
from book.figures_sorting import pending
from diffopt.soft_dtw import soft_dtw

SHOWN = {"dtw": "x", "soft_dtw": "s", "divergence": "o", "sharp_divergence": "^"}
COLORS = dict(zip(SHOWN, (style.BLACK, style.ORANGE, style.BLUE, style.GREEN), strict=True)) | {
    "sharp": style.PURPLE
}


def alignment(x, y, weights, ax=None):
    """Draw two series, one above the other, and a line for each aligned pair.

    Parameters
    ----------
    x, y : arrays of shape (n,) and (m,)
        The series.
    weights : array of shape (n, m)
        How opaque each line is.
    ax : matplotlib.axes.Axes, optional
        Where to draw.
    """
    ax = ax or plt.subplots()[1]
    lift = 1.3 * (np.max(y) - np.min(x))
    x, y, weights = np.asarray(x) + lift, np.asarray(y), np.asarray(weights)
    for i, j in zip(*np.nonzero(weights > 0.02), strict=True):
        ax.plot([i, j], [x[i], y[j]], color=style.GREY, alpha=float(min(1, weights[i, j])), lw=0.8)
    ax.plot(x, color=style.BLUE)
    ax.plot(y, color=style.ORANGE)
    ax.set(yticks=[], xlabel="time")


def accuracy(record):
    """Test accuracy of four losses, a row for each set."""
    if pending(record):
        return
    names, results = complete(record)
    values = {method: by_set(results, names, method) for method in SHOWN}
    order = np.argsort(values["divergence"])
    fig, ax = plt.subplots(figsize=(style.WIDTH, 1.2 + 0.36 * len(names)))
    for k, (method, marker) in enumerate(SHOWN.items()):
        height = np.arange(len(names)) + 0.16 * (1.5 - k)
        color = COLORS[method]
        ax.plot(values[method][order], height, marker, ms=5, color=color, label=NAMES[method])
    ax.set(xlabel="test accuracy, %", yticks=range(len(names)), yticklabels=names[order])
    ax.grid(axis="x")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    plt.show()


def by_set(results, names, method):
    """Accuracy of a method on each set in percent; not a number where it was not run."""
    found = [accuracies(results, [name], method) for name in names]
    return np.array([100 * values[0] if len(values) else np.nan for values in found])


def complete(record):
    """Give the sets of a record all of whose units are there, and the results of the units."""
    results = {unit: stored["result"] for unit, stored in record["units"].items()}
    sets = record["settings"]["datasets"]
    count = {name: sum(unit.split("/")[0] == name for unit in results) for name in sets}
    whole = 1 if record.get("complete") else max(count.values())
    return np.array([name for name in sets if count[name] >= whole]), results


def table(record):
    """List the accuracy of every method on every set, and its mean."""
    if not record:
        return Markdown("*No stored run yet.*")
    names, results = complete(record)
    found = {method: by_set(results, names, method) for method in NAMES}
    found = {method: values for method, values in found.items() if not np.isnan(values).all()}
    lines = [
        "| | " + " | ".join(NAMES[m] for m in found) + " |",
        "|---" + "|--:" * len(found) + "|",
    ]
    for i, name in enumerate([*names, "**mean**"]):
        row = [values[i] if i < len(names) else values.mean() for values in found.values()]
        best = np.nanmax(row) - 1e-9
        cells = [f"**{v:.1f}**" if v > best else f"{v:.1f}".replace("nan", "–") for v in row]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return Markdown("\n".join(lines))


def bias(record):
    """Distance of the minimiser from the series, against gamma."""
    if pending(record):
        return
    settings = record["settings"]
    _, ax = plt.subplots()
    for method, marker in {**SHOWN, "sharp": "D"}.items():
        if method not in settings["methods"]:
            continue
        units = [record["units"][f"{name}/{method}"]["result"] for name in settings["datasets"]]
        moved = np.mean([unit["distance"] for unit in units], axis=0)
        shown = np.maximum(moved, 1e-12)
        ax.loglog(
            settings["gammas"], shown, marker=marker, color=COLORS[method], label=NAMES[method]
        )
    ax.set(xlabel=r"$\gamma$", ylabel="distance from the series", ylim=(3e-13, 3))
    ax.legend()
    plt.show()


def time_of_pair(length, rounds=7):
    """Least milliseconds of the value, and of value and gradient, of two series."""
    x, y = np.random.default_rng(length).normal(size=(2, length, 1))
    found = []
    for call in (jax.jit(soft_dtw), jax.jit(jax.value_and_grad(soft_dtw))):
        jax.block_until_ready(call(x, y))
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            jax.block_until_ready(call(x, y))
            times.append(time.perf_counter() - start)
        found.append(1e3 * min(times))
    return found


def growth(lengths, times):
    """Time of the value, and of value and gradient, against the length of both series."""
    ax = plt.subplots()[1]
    value, both = np.transpose(times)
    ax.loglog(lengths, both, marker="s", label="value and gradient")
    ax.loglog(lengths, value, marker="o", label="value")
    ends = np.array([lengths[0], lengths[-1]], float)
    ax.plot(ends, value[-1] / 2 * (ends / ends[1]) ** 2, color=style.GREY, linewidth=1)
    ax.set(xlabel="length of both series", ylabel="milliseconds")
    ax.set_xticks(lengths, lengths)
    ax.minorticks_off()
    ax.legend()
    plt.show()
