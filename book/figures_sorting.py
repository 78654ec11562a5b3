"""The figures of the chapter `sorting` that draw stored results; each takes the record it draws."""

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown

from book import style

REGRESSORS = {
    "ridge": {"color": style.GREY, "linestyle": "-", "marker": "o", "label": "ridge"},
    "huber": {"color": style.GREEN, "linestyle": "--", "marker": "s", "label": "Huber"},
    "trimmed": {"color": style.ORANGE, "linestyle": "-.", "marker": "^", "label": "hard trimmed"},
    "soft_trimmed": {"color": style.BLUE, "linestyle": "-", "marker": "D", "label": "soft trimmed"},
}
RANKS = {
    "soft_rank_l2": {
        "color": style.BLUE,
        "linestyle": "-",
        "marker": "o",
        "label": "soft rank, L2",
    },
    "soft_rank_kl": {
        "color": style.SKY,
        "linestyle": "--",
        "marker": "v",
        "label": "soft rank, KL",
    },
    "jax_sort": {"color": style.BLACK, "linestyle": ":", "marker": "x", "label": "jnp.sort"},
    "all_pairs": {"color": style.ORANGE, "linestyle": "-", "marker": "s", "label": "all pairs"},
    "sinkhorn": {"color": style.PURPLE, "linestyle": "-.", "marker": "^", "label": "Sinkhorn"},
}
LOSSES = {
    "sinkhorn": "Sinkhorn",
    "all_pairs": "all pairs",
    "kl": "soft rank, KL",
    "l2": "soft rank, L2",
    "cross_entropy": "cross-entropy",
}
PEERS = {"fast_soft_sort": "o", "torchsort": "s", "softjax": "D"}


def pending(record):
    """Say so where there is nothing to draw yet; tell whether that was the case."""
    if record and (record.get("units") or record.get("rows")):
        return False
    _, ax = plt.subplots(figsize=(style.WIDTH, 1.2))
    ax.text(0.5, 0.5, "no stored run yet", ha="center", va="center")
    ax.axis("off")
    plt.show()
    return True


def verdicts(record, *sections):
    """List the paper's claims of these sections beside our numbers and verdicts."""
    claims = [
        claim
        for claim in record.get("claims", [])
        if any(section in claim["where"] for section in sections)
    ]
    lines = [
        f"- *{c['claim']}* ({c['where']})\n\n  Here: {c['our_number']}. **{c['verdict']}**"
        for c in claims
    ]
    return Markdown("\n".join(lines) or "*No stored run yet.*")


def label_ranking(record):
    """Gain of each soft rank over no layer, by data set, with two standard errors."""
    if pending(record):
        return
    names = [n for n in record["settings"]["datasets"] if f"{n}/kl" in record["units"]]
    names = np.array(names)
    folds = {
        method: np.array(
            [record["units"][f"{name}/{method}"]["result"]["spearman"] for name in names]
        )
        for method in ("none", "l2", "kl")
    }
    order = np.argsort((folds["l2"] - folds["none"]).mean(1))
    groups = {}
    for method in ("l2", "kl"):
        gain = (folds[method] - folds["none"])[order]
        error = 2 * gain.std(1, ddof=1) / gain.shape[1] ** 0.5
        groups[f"soft rank, {method.upper()}"] = gain.mean(1), error
    _, ax = plt.subplots(figsize=(style.WIDTH, 0.8 + 0.23 * len(names)))
    ax.axvline(0, color=style.BLACK, linewidth=1)
    style.dots(ax, names[order], groups)
    ax.set(xlabel="gain in Spearman's coefficient over no layer")
    ax.legend(loc="lower right")
    plt.show()


def robust(record):
    """Test R² of each regressor over the share of corrupted targets, a panel for each set."""
    if pending(record):
        return
    fractions = record["settings"]["fractions"]
    names = record["settings"]["datasets"]
    names = [n for n in names if f"{n}/{fractions[-1]}" in record["units"]]
    fig, axes = plt.subplots(
        -(-len(names) // 2), 2, figsize=(style.WIDTH, 1.3 * len(names)), sharex=True, squeeze=False
    )
    for ax, name in zip(axes.flat, names, strict=False):
        for method, look in REGRESSORS.items():
            r2 = np.array(
                [record["units"][f"{name}/{f}"]["result"][method]["r2"] for f in fractions]
            )
            error = r2.std(1, ddof=1) / r2.shape[1] ** 0.5
            ax.errorbar(fractions, r2.mean(1), error, markersize=4, linewidth=1.5, **look)
        low, high = ax.get_ylim()
        ax.set(title=name, ylim=(max(-0.1, low), high))
    axes[0, 0].legend()
    fig.supxlabel("share of corrupted targets", fontsize=10.5)
    fig.supylabel("$R^2$ on clean test data", fontsize=10.5)
    plt.show()


def top_k(record):
    """Test accuracy of each loss, with one standard deviation over seeds."""
    if pending(record):
        return
    _, axes = plt.subplots(2, 1, figsize=(style.WIDTH, 3.6), height_ratios=(5, 4))
    for ax, k in zip(axes, (1, 3), strict=True):
        losses = [loss for loss in LOSSES if f"{loss}/{k}" in record["units"]]
        if not losses:
            ax.axis("off")
            continue
        runs = 100 * np.array(
            [record["units"][f"{loss}/{k}"]["result"]["accuracy"][f"top{k}"] for loss in losses]
        )
        groups = {"": (runs.mean(1), runs.std(1, ddof=1))}
        style.dots(ax, [LOSSES[loss] for loss in losses], groups)
        ax.set(title=f"trained with $k = {k}$", xlabel=f"top-{k} test accuracy, %")
        ax.margins(y=0.15)
    plt.show()


def growth(record):
    """Time and memory of a gradient over the length of a row, with the slopes 1 and 2."""
    if pending(record):
        return
    fig, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 3.8), sharex=True)
    for method, look in RANKS.items():
        found = {
            int(unit.split("/")[2]): values["result"].get("gradient", {"failed": ""})
            for unit, values in record["units"].items()
            if unit.startswith(f"{method}/1/")
        }
        found = {n: values for n, values in found.items() if "failed" not in values}
        for ax, key, scale in ((axes[0], "seconds", 1e3), (axes[1], "peak_bytes", 1e-6)):
            points = {n: scale * values[key] for n, values in found.items() if values[key]}
            ax.loglog(points.keys(), points.values(), markersize=4, linewidth=1.4, **look)
    for ax, title in zip(axes, ("time, ms", "memory, MB"), strict=True):
        low = ax.get_ylim()[0]
        for slope in (1, 2):
            ends = np.array([1e3, 1e6 if slope == 1 else 3e4])
            ax.plot(ends, low * 2 * (ends / 1e3) ** slope, color=style.GREY, linewidth=0.8)
            ax.annotate(f"slope {slope}", (ends[1], low * 2 * (ends[1] / 1e3) ** slope),
                        color=style.GREY, fontsize=8.5, ha="right", va="bottom")  # fmt: skip
        ax.set(title=title, xlabel="$n$")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    plt.show()


def peers(record, dtype="float64"):
    """Time of each package over ours, by operator and size, at strength one with L2."""
    if pending(record):
        return
    table = {}
    for row in record["rows"]:
        kind = row["regularization"], row["dtype"], row["epsilon"]
        if row["operator"] in ("soft_rank", "soft_sort") and kind == ("l2", dtype, 1.0):
            place = row["operator"], row["batch"] * row["n"], row["batch"], row["n"]
            table.setdefault(place, {})[row["mode"]] = row["ms"]
    places = sorted(table, reverse=True)
    names = [f"{op.removeprefix('soft_')}  {batch} × {n:,}" for op, _, batch, n in places]
    fig, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 4.4), sharey=True)
    for ax, mode in zip(axes, ("value", "value+gradient"), strict=True):
        ax.axvline(1, color=style.BLACK, linewidth=1)
        times = [table[place].get(mode, {}) for place in places]
        for package, marker in PEERS.items():
            ratios = [
                ms[package][1] / ms["diffopt"][1] if package in ms else np.nan for ms in times
            ]
            ax.semilogx(ratios, range(len(names)), marker, ms=5, label=package.replace("_", "-"))
        ax.set(title=mode.replace("+", " and "), xlabel="time / ours")
        ax.set(yticks=range(len(names)), yticklabels=names)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    plt.show()
