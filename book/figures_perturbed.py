"""The figures of the chapter `perturbed`; each takes what it draws.

A record is ``json["experiments"][NAME]`` of ``book/results/perturbed.json``; what its units hold
is written in `book.experiments.perturbed` and the modules beside it.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch

from book import style
from book.figures_sorting import pending

DRAWS = {  # draws for each item -> look of the curve
    1: {"color": style.SKY, "marker": "o", "linestyle": ":"},
    3: {"color": style.BLUE, "marker": "s", "linestyle": "--"},
    10: {"color": style.BLUE, "marker": "D", "linestyle": "-"},
    30: {"color": style.BLACK, "marker": "^", "linestyle": "-"},
    100: {"color": style.BLUE, "marker": "D", "linestyle": "-"},
}
ESTIMATORS = {
    "plain": ("no baseline", style.GREY, "o", ":"),
    "leave_one_out": ("leave-one-out", style.BLUE, "s", "-"),
    "antithetic": ("antithetic pairs", style.ORANGE, "^", "--"),
    "quasi_monte_carlo": ("quasi-Monte Carlo", style.GREEN, "D", "-."),
}
PROBLEMS = {"class": "class", "order": "order", "path": "shortest path"}


def walks(costs, panels):
    """Draw paths over the true costs of a tile: a panel for each title.

    Parameters
    ----------
    costs : array
        True costs of the cells, shape ``(n, n)``.
    panels : dict
        Title -> what is shaded, shape ``(n, n)`` with entries in [0, 1]; where all are 0 or 1 it
        is a path and drawn by dots.
    """
    fig, axes = plt.subplots(1, len(panels), figsize=(style.WIDTH, 2.2), squeeze=False)
    for ax, (title, weights) in zip(axes[0], panels.items(), strict=True):
        weights = np.asarray(weights)
        ax.imshow(np.log(costs), cmap="Greys", vmin=0, vmax=5)
        rows, columns = np.nonzero(weights > 0.01)
        ax.scatter(columns, rows, s=34 * weights[rows, columns], color=style.ORANGE, linewidth=0)
        ax.set(title=title, xticks=(), yticks=())
        ax.spines[:].set_visible(False)
    fig.supxlabel("north-west to south-east; dark cells are steep", fontsize=9.5)
    plt.show()


def learned(tiles, predicted, chosen):
    """Draw best and predicted paths on several tiles, best ones as rings.

    Parameters
    ----------
    tiles : tuple of array
        Features, costs and best paths, as `book.experiments.perturbed_paths.tiles` gives them.
    predicted : array
        Predicted paths of all tiles.
    chosen : sequence of int
        Which tiles to draw.
    """
    _, costs, paths = (np.asarray(values) for values in tiles)
    fig, axes = plt.subplots(1, len(chosen), figsize=(style.WIDTH, 2.0))
    for ax, tile in zip(axes, chosen, strict=True):
        ax.imshow(np.log(costs[tile]), cmap="Greys", vmin=0, vmax=5)
        rows, columns = np.nonzero(paths[tile])
        ring = {"facecolors": "none", "edgecolors": style.BLUE, "linewidth": 1.4}
        best = ax.scatter(columns, rows, s=42, **ring)
        rows, columns = np.nonzero(np.asarray(predicted[tile]))
        dots = ax.scatter(columns, rows, s=12, color=style.ORANGE)
        ratio = np.sum(costs[tile] * predicted[tile]) / np.sum(costs[tile] * paths[tile])
        ax.set(title=f"{100 * (ratio - 1):.1f} % dearer", xticks=(), yticks=())
        ax.spines[:].set_visible(False)
    handles = [best, dots, Patch(color="#555555")]
    labels = ["best path", "predicted path", "steep cell"]
    fig.legend(handles, labels, loc="outside lower center", ncols=3)
    plt.show()


def classification(record):
    """Test accuracy over the scale of the noise, and that of cross-entropy."""
    if pending(record):
        return
    units = {unit: stored["result"] for unit, stored in record["units"].items()}
    _, ax = plt.subplots()
    for draws in (1, 100):
        keys = [unit for unit in units if unit.startswith("fenchel") and unit.endswith(f"/{draws}")]
        runs = 100 * np.array([units[unit]["test"] for unit in keys])
        sigmas = [float(unit.split("/")[1]) for unit in keys]
        label = "one draw" if draws == 1 else f"{draws} draws"
        error = runs.std(1, ddof=1) / runs.shape[1] ** 0.5
        ax.errorbar(sigmas, runs.mean(1), error, markersize=5, label=label, **DRAWS[draws])
    runs = 100 * np.array(units["cross_entropy/0/0"]["test"])
    error = runs.std(ddof=1) / len(runs) ** 0.5
    ax.axhspan(runs.mean() - error, runs.mean() + error, color=style.ORANGE, alpha=0.3, lw=0)
    ax.axhline(runs.mean(), color=style.ORANGE, linewidth=1.2, label="cross-entropy")
    ax.set(xscale="log", xlabel=r"scale of the noise $\sigma$", ylabel="test accuracy, %")
    ax.legend()
    plt.show()


def label_ranking(record, soft_ranks):
    """Gain in Spearman's coefficient over no layer, by set, beside the stored soft ranks.

    Parameters
    ----------
    record : dict
        The stored run of this chapter.
    soft_ranks : dict
        That of the chapter `sorting`.
    """
    if pending(record):
        return
    names = np.array(record["settings"]["datasets"])

    def gain(units, method, sign):
        values = [
            np.subtract(*(units[f"{name}/{m}"]["result"]["spearman"] for m in (method, "none")))
            for name in names
        ]
        return sign * np.array(values)

    gains = {
        "perturbed, Fenchel-Young": gain(record["units"], "sampled", -1),
        "perturbed, squared loss": gain(record["units"], "squared", -1),
        "soft rank, L2 (stored run)": gain(soft_ranks["units"], "l2", 1),
    }
    order = np.argsort(next(iter(gains.values())).mean(1))
    groups = {
        label: (g[order].mean(1), 2 * g[order].std(1, ddof=1) / g.shape[1] ** 0.5)
        for label, g in gains.items()
    }
    fig, ax = plt.subplots(figsize=(style.WIDTH, 1.2 + 0.3 * len(names)))
    ax.axvline(0, color=style.BLACK, linewidth=1)
    style.dots(ax, names[order], groups)
    ax.set(xlabel="gain in Spearman's coefficient over no layer")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    plt.show()


def paths(record):
    """Excess cost and share of exact paths over the scale of the noise."""
    if pending(record):
        return
    units = {unit: stored["result"] for unit, stored in record["units"].items()}
    fig, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 3.9))
    curves = {("fenchel_young", "fixed", n): f"Fenchel-Young, {n} draws" for n in (3, 10)}
    curves["fenchel_young", "fixed", 1] = "Fenchel-Young, one draw"
    curves["fenchel_young", "free", 3] = "the same, free scale, 3 draws"
    curves["squared", "fixed", 10] = "squared loss, 10 draws"
    looks = {
        "free": {"color": style.AMBER, "marker": "x", "linestyle": "-"},
        "squared": {"color": style.ORANGE, "marker": "v", "linestyle": "-."},
    }
    for (method, scale, draws), label in curves.items():
        start = f"{method}/{scale}/"
        keys = [u for u in units if u.startswith(start) and u.endswith(f"/{draws}")]
        sigmas = [float(unit.split("/")[2]) for unit in keys]
        look = looks.get(scale) or looks.get(method) or DRAWS[draws]
        for ax, measure in zip(axes, (excess, exact), strict=True):
            middle, error = np.transpose([measure(units[unit]) for unit in keys])
            ax.errorbar(sigmas, middle, error, markersize=4.5, linewidth=1.4, label=label, **look)
    for method, color, dashes in (("blackbox", style.GREEN, ()), ("costs", style.PURPLE, (4, 2))):
        keys = [unit for unit in units if unit.startswith(method)]
        best = min(keys, key=lambda unit: min(units[unit]["validation"]))
        label = {"blackbox": "black-box interpolation", "costs": "regression on true costs"}[method]
        for ax, measure in zip(axes, (excess, exact), strict=True):
            ax.axhline(measure(units[best])[0], color=color, dashes=dashes, lw=1.4, label=label)
    axes[0].set(xscale="log", yscale="log", ylabel="excess cost, %")
    axes[1].set(xscale="log", ylabel="exact paths, %", ylim=(0, 100))
    fig.supxlabel(r"scale of the noise $\sigma$, in mean costs", fontsize=10)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    plt.show()


def excess(result):
    """Give the mean and the standard error over seeds of the excess cost, in per cent."""
    return _over_seeds(100 * (np.array(result["ratio"]) - 1))


def exact(result):
    """Give the mean and the standard error over seeds of the share of exact paths, in per cent."""
    return _over_seeds(100 * np.array(result["exact"]))


def _over_seeds(values):
    return values.mean(), values.std(ddof=1) / len(values) ** 0.5


def trade(record):
    """Bias of the answer and relative error of its derivative over the scale, by problem."""
    if pending(record):
        return
    names = [n for n in PROBLEMS if any(unit.startswith(n) for unit in record["units"])]
    fig, axes = plt.subplots(2, len(names), figsize=(style.WIDTH, 4.6), sharex=True)
    draws = record["settings"]["num_samples"]
    for column, name in zip(axes.T, names, strict=True):
        keys = [unit for unit in record["units"] if unit.startswith(name)]
        found = [record["units"][unit]["result"] for unit in keys]
        sigmas = np.array([float(unit.split("/")[1]) for unit in keys])
        bias = np.array([result["bias"] for result in found])
        spread = np.array([result["spread"] for result in found])
        column[0].plot(sigmas, bias, color=style.BLACK, marker="o", ms=4, label="bias")
        for count, dashes in ((1, (1, 1)), (100, (4, 2))):
            label = f"error of {count} draw{'s' * (count > 1)}"
            column[0].plot(
                sigmas, spread / count**0.5, color=style.BLUE, dashes=dashes, label=label
            )
        size = np.array([result["norm"] for result in found])
        seen = size > 1e-3 * size.max()
        for key, (label, color, marker, line) in ESTIMATORS.items():
            error = np.array([result["variance"][key] for result in found]) ** 0.5
            look = {"color": color, "marker": marker, "linestyle": line, "ms": 4, "lw": 1.4}
            column[1].loglog(sigmas[seen], (error / size)[seen], label=label, **look)
        column[0].set(title=PROBLEMS[name], xscale="log")
    axes[0, 0].set(ylabel="distance")
    axes[1, 0].set(ylabel=f"relative error, {draws} draws")
    fig.supxlabel(r"scale of the noise $\sigma$", fontsize=10)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    more = axes[1, 0].get_legend_handles_labels()
    fig.legend(handles + more[0], labels + more[1], loc="outside upper center", ncols=3)
    plt.show()


def cost(stored):
    """Processor time to train, over the number of draws, for classes and for paths."""
    fig, ax = plt.subplots()
    series = {
        "classification": ("fenchel_young/", "classes", "o"),
        "paths": ("fenchel_young/fixed/", "paths", "s"),
    }
    for name, (start, label, marker) in series.items():
        if not stored.get(name):
            continue
        times = {}
        for unit, found in stored[name]["units"].items():
            if unit.startswith(start):
                times.setdefault(int(unit.split("/")[-1]), []).append(found["cpu_time_s"])
        draws = sorted(times)
        seconds = [np.median(times[count]) for count in draws]
        ax.loglog(draws, seconds, marker=marker, label=label)
    ax.plot([10, 100], [12, 120], color=style.GREY, linewidth=1)
    ax.set(xlabel="draws for each item and step", ylabel="processor seconds of a unit")
    ax.legend()
    plt.show()
