"""The figures of the chapter `fenchel_young` that draw stored results.

Each takes the record it draws, ``json["experiments"][NAME]`` of
``book/results/fenchel_young.json``; what its units hold is written in
`book.experiments.fenchel_young`.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter

from book import style
from book.experiments.fenchel_young_claims import tuned
from book.figures_sorting import pending

LOSSES = {
    "shannon": {"color": style.BLACK, "linestyle": "-", "marker": "o", "label": "Shannon"},
    "tsallis15": {"color": style.GREEN, "linestyle": "--", "marker": "s", "label": "Tsallis 1.5"},
    "gini": {"color": style.BLUE, "linestyle": "-", "marker": "D", "label": "Gini"},
    "norm2": {"color": style.ORANGE, "linestyle": "-.", "marker": "^", "label": "2-norm"},
}


def mean_error(values):
    """Give means and two standard errors over the last axis."""
    values = np.asarray(values)
    return values.mean(-1), 2 * values.std(-1, ddof=1) / values.shape[-1] ** 0.5


def proportions(record):
    """Jensen-Shannon divergence over the order of the entropy, a panel for each set.

    What the order matters is seen by the paired differences from the order 1: bars are two
    standard errors of these. The diamond is the order that validation chooses.
    """
    if pending(record):
        return
    alphas = record["settings"]["alphas"]
    results = {unit: stored["result"] for unit, stored in record["units"].items()}
    names = [n for n in record["settings"]["datasets"] if f"{n}/{alphas[-1]}" in results]
    fig, axes = plt.subplots(1, len(names), figsize=(style.WIDTH, 2.8), squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        js = np.array([results[f"{name}/{alpha}"]["js"] for alpha in alphas])
        _, bars = mean_error(js - js[0])
        ax.errorbar(alphas, js.mean(-1), bars, fmt="o-", color=style.BLUE, ms=4.5, lw=1.4,
                    label="fixed")  # fmt: skip
        chosen = tuned(results, name, alphas)
        _, bar = mean_error(chosen - js[0])
        ax.errorbar([alphas[-1] + 0.5], [chosen.mean()], [bar], fmt="D", color=style.ORANGE,
                    ms=5, lw=1.4, label="tuned")  # fmt: skip
        ax.set(title=name, xticks=[1, 1.5, 2, alphas[-1] + 0.5], xlim=(0.85, 2.8))
        ax.set_xticklabels(["1", "1.5", "2", "tuned"])
    fig.supxlabel("order α of the Tsallis entropy", fontsize=10.5)
    fig.supylabel("Jensen-Shannon divergence, nats", fontsize=10.5)
    plt.show()


def recovery(record):
    """Divergence and support of predicted proportions over the length of documents."""
    if pending(record):
        return
    settings, units = record["settings"], record["units"]
    measures = {"js": "divergence, nats", "support": "labels right, %"}
    fig, axes = plt.subplots(2, 2, figsize=(style.WIDTH, 4.6), sharex=True, sharey="row")
    for row, (measure, label) in zip(axes, measures.items(), strict=True):
        for ax, kind in zip(row, settings["kinds"], strict=True):
            for loss, look in LOSSES.items():
                found = {
                    length: units[f"{kind}/{length}/{loss}"]["result"][measure]
                    for length in settings["lengths"]
                    if f"{kind}/{length}/{loss}" in units
                }
                if found:
                    scale = 100 if measure == "support" else 1
                    mean, bar = mean_error(list(found.values()))
                    ax.errorbar(found.keys(), scale * mean, scale * bar, ms=4, lw=1.4, **look)
            ax.set_xscale("log")
            ax.set_xticks(settings["lengths"], [str(n) for n in settings["lengths"]])
            ax.minorticks_off()
            if measure == "js":
                ax.set(title=f"{kind} shares")
        row[0].set(ylabel=label)
    fig.supxlabel("words in a document", fontsize=10.5)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    plt.show()


def solvers(record, name="yeast"):
    """Duality gap of both solvers over CPU time, a row for each loss, a column for each penalty."""
    if pending(record):
        return
    settings, units = record["settings"], record["units"]
    name = name if name in settings["datasets"] else settings["datasets"][0]
    losses, lams = settings["losses"], settings["lams"]
    fig, axes = plt.subplots(
        len(losses), len(lams), figsize=(style.WIDTH, 0.6 + 1.5 * len(losses)), sharey=True,
        sharex="col", squeeze=False,
    )  # fmt: skip
    looks = {
        "lbfgs": {"color": style.ORANGE, "linestyle": "--", "label": "primal, L-BFGS"},
        "dual": {"color": style.BLUE, "linestyle": "-", "label": "dual, block-coordinate ascent"},
    }
    for row, loss in zip(axes, losses, strict=True):
        for ax, lam in zip(row, lams, strict=True):
            for solver, look in looks.items():
                trace = units.get(f"{name}/{loss}/{lam:g}/{solver}", {}).get("result")
                if trace:
                    ax.loglog(trace["seconds"], np.maximum(trace["gap"], 1e-12), lw=1.5, **look)
            ax.grid(True)
            ax.xaxis.set_minor_formatter(NullFormatter())
        row[0].set(ylabel=LOSSES[loss]["label"])
    for ax, lam in zip(axes[0], lams, strict=True):
        ax.set(title=rf"$\lambda$ = {lam:g}")
    fig.supxlabel("CPU time, s", fontsize=10.5)
    fig.supylabel("duality gap", fontsize=10.5)
    handles = axes[0, 0].get_legend_handles_labels()
    fig.legend(*handles, loc="outside upper center", ncols=2)
    plt.show()
