"""The figures of the chapter `structured` that draw stored results; each takes the record it draws.

A record is ``json["experiments"][NAME]`` of ``book/results/structured.json``; what its units hold
is written in `book.experiments.structured`.
"""

import matplotlib.pyplot as plt
import numpy as np

from book import style
from book.figures_sorting import pending

METHODS = {
    "none": "none",
    "rows_l2": "rows, L2",
    "rows_kl": "rows, KL",
    "cube_l2": "cube, L2",
    "cube_kl": "cube, KL",
    "order_l2": "order simplex, L2",
    "order_kl": "order simplex, KL",
    "birkhoff_l2": "Birkhoff, L2",
    "birkhoff_kl": "Birkhoff, KL",
    "knapsack_l2": "knapsack, L2",
    "knapsack_kl": "knapsack, KL",
    "permutahedron_l2": "permutahedron, L2",
    "permutahedron_kl": "permutahedron, KL",
}


def folds(record, measure, methods):
    """Give the sets of a record that are complete, and a measure ``(method, set, fold)``."""
    units = record["units"]
    names = [
        name
        for name in record["settings"]["datasets"]
        if all(f"{name}/{method}" in units for method in methods)
    ]
    found = [[units[f"{name}/{m}"]["result"][measure] for name in names] for m in methods]
    return np.array(names), np.array(found)


def error(values):
    """Give two standard errors of the mean over the last axis."""
    return 2 * values.std(-1, ddof=1) / values.shape[-1] ** 0.5


def ranks(record):
    """Gain in Spearman's coefficient over no projection, by set, with two standard errors."""
    if pending(record):
        return
    methods = ["none", "permutahedron_l2", "permutahedron_kl"]
    names, found = folds(record, "spearman", methods)
    gain = found[0] - found[1:]
    order = np.argsort(gain[0].mean(-1))
    groups = {
        METHODS[method]: (gain[i, order].mean(-1), error(gain[i, order]))
        for i, method in enumerate(methods[1:])
    }
    _, ax = plt.subplots(figsize=(style.WIDTH, 0.8 + 0.23 * len(names)))
    ax.axvline(0, color=style.BLACK, linewidth=1)
    style.dots(ax, names[order], groups)
    ax.set(xlabel="gain in Spearman's coefficient over no projection")
    ax.legend(loc="lower right")
    plt.show()


def matrices(record):
    """Share of labels at a wrong rank, by set and polytope, with two standard errors."""
    methods = ["none", "rows_l2", "rows_kl", "birkhoff_l2", "birkhoff_kl"]
    by_set(record, "hamming_calibrated", methods, "labels at a wrong rank, %", 100)


def ordinal(record):
    """Mean absolute error, by set and polytope, with two standard errors."""
    methods = ["none", "cube_l2", "cube_kl", "order_l2", "order_kl"]
    by_set(record, "mae_calibrated", methods, "mean absolute error, levels")


def by_set(record, measure, methods, label, scale=1):
    """Draw a measure: a row for each set, a dot for each method."""
    if pending(record):
        return
    names, found = folds(record, measure, methods)
    order = np.argsort(-found[0].mean(-1))
    fig, ax = plt.subplots(figsize=(style.WIDTH, 1.2 + 0.5 * len(names)))
    for k, (method, values) in enumerate(zip(methods, found, strict=True)):
        height = np.arange(len(names)) + 0.16 * ((len(methods) - 1) / 2 - k)
        means, bars = scale * values[order].mean(-1), scale * error(values[order])
        marker = "osD^v"[k]
        ax.errorbar(means, height, xerr=bars, fmt=marker, ms=4, lw=1.1, label=METHODS[method])
    ax.set(xlabel=label, yticks=range(len(names)), yticklabels=names[order])
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    plt.show()


def decoding(record):
    """What calibrated decoding gains over a vertex of largest score, for each target loss."""
    if pending(record):
        return
    methods = ["birkhoff_l2", "birkhoff_kl"]
    fig, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 3.2), sharey=True)
    losses = {
        "hamming": (100, "wrong ranks avoided, points"),
        "spearman": (1, "gain in Spearman's coefficient"),
    }
    for ax, (loss, (scale, label)) in zip(axes, losses.items(), strict=True):
        names, of_map = folds(record, f"{loss}_map", methods)
        gain = scale * (of_map - folds(record, f"{loss}_calibrated", methods)[1])
        groups = {
            METHODS[method]: (gain[i].mean(-1), error(gain[i])) for i, method in enumerate(methods)
        }
        ax.axvline(0, color=style.BLACK, linewidth=1)
        style.dots(ax, names, groups)
        ax.set(xlabel=label)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    plt.show()


def multilabel(record):
    """F1 and Hamming's loss of each set to project onto, for both decodings."""
    if pending(record):
        return
    methods = ["none", "cube_l2", "cube_kl", "knapsack_l2", "knapsack_kl"]
    fig, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 3.2), sharey=True)
    for ax, measure in zip(axes, ("f1", "hamming"), strict=True):
        groups = {}
        for key, label in (("calibrated", "calibrated decoding"), ("map", "largest score")):
            _, found = folds(record, f"{measure}_{key}", methods)
            values = 1 - found[:, 0] if measure == "f1" else 100 * found[:, 0]
            groups[label] = values.mean(-1), error(values)
        style.dots(ax, [METHODS[m] for m in methods], groups)
        ax.set(xlabel="mean F1" if measure == "f1" else "wrong labels, %")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    plt.show()
