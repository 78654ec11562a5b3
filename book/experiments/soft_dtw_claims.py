"""The claims of the paper of the chapter `soft_dtw`, judged by the stored results."""

import numpy as np
from scipy.stats import wilcoxon

from book.experiments.runner import judge_all, verdict

PAPER = "blondel2021differentiable"
LINK = "soft-dtw-experiment"
NAMES = {
    "euclidean": "Euclidean",
    "dtw": "DTW",
    "soft_dtw": "soft-DTW",
    "divergence": "divergence",
    "sharp": "sharp",
    "sharp_divergence": "sharp divergence",
    "mean_cost": "mean cost",
    "mean_cost_divergence": "mean-cost divergence",
}


def claims(experiments):
    """Judge the paper's claims by those experiments that are complete."""
    judges = {
        "neighbour": [judge_neighbour, judge_sharp],
        "centroid": [judge_centroid],
        "bias": [judge_bias, judge_sign],
    }
    return judge_all(PAPER, judges, experiments)


def accuracies(results, datasets, method):
    """Give the test accuracy of a method on each set, from either experiment."""
    found = []
    for name in datasets:
        parts = [result for unit, result in results.items() if unit.split("/")[0] == name]
        own = results.get(f"{name}/{method}", {})
        found += [own["accuracy"]] if "accuracy" in own else []
        found += [part[method]["accuracy"] for part in parts if method in part]
    return np.array(found)


def compare(results, datasets, method, other):
    """Count wins, ties and losses, and give the p-value of Wilcoxon's signed-rank test."""
    gain = accuracies(results, datasets, method) - accuracies(results, datasets, other)
    counts = [int(np.sum(gain > 1e-9)), int(np.sum(abs(gain) <= 1e-9)), int(np.sum(gain < -1e-9))]
    p = float(wilcoxon(gain, zero_method="zsplit").pvalue) if np.any(gain) else 1.0
    return counts, p, float(gain.mean())


def in_words(other, counts, p, gain):
    """Write a comparison."""
    won, tied, lost = counts
    numbers = f"{100 * gain:+.1f} points, p = {p:.3f}"
    return f"against {NAMES[other]} {won} won, {tied} tied, {lost} lost ({numbers})"


def judge_accuracy(results, record, method, others, claim, where):
    """Judge whether a method is more accurate than each of others, significantly or not."""
    datasets = record["settings"]["datasets"]
    found = {other: compare(results, datasets, method, other) for other in others}
    mean = accuracies(results, datasets, method).mean()
    words = "; ".join(in_words(other, *values) for other, values in found.items())
    better = [gain > 0 and counts[0] > counts[2] for counts, _, gain in found.values()]
    sure = [ok and p < 0.05 for ok, (_, p, _) in zip(better, found.values(), strict=True)]
    return verdict(
        claim,
        where,
        f"{NAMES[method]}, mean accuracy {100 * mean:.1f} % on {len(datasets)} sets: {words}",
        all(sure),
        all(better),
        LINK,
    )


def judge_neighbour(results, record):
    """Compare the divergence with DTW and soft-DTW by the nearest neighbour."""
    return judge_accuracy(
        results,
        record,
        "divergence",
        ["euclidean", "dtw", "soft_dtw"],
        "The soft-DTW divergence is significantly more accurate than DTW and soft-DTW: nearest "
        "neighbour.",
        "abstract; classification by the nearest neighbour",
    )


def judge_sharp(results, record):
    """Compare the sharp divergence with the same."""
    return judge_accuracy(
        results,
        record,
        "sharp_divergence",
        ["euclidean", "dtw", "soft_dtw"],
        "So is its sharp variant: nearest neighbour.",
        "abstract; classification by the nearest neighbour",
    )


def judge_centroid(results, record):
    """Compare the divergence with DTW and soft-DTW by the nearest centroid."""
    return judge_accuracy(
        results,
        record,
        "divergence",
        ["euclidean", "dtw", "soft_dtw"],
        "The soft-DTW divergence is significantly more accurate than DTW and soft-DTW: nearest "
        "centroid.",
        "abstract; classification by the nearest centroid",
    )


def judge_bias(results, record):
    """Judge what minimises soft-DTW and the divergence."""
    settings = record["settings"]
    at = settings["gammas"].index(1.0)
    moved, values = {}, {}
    for method in ("soft_dtw", "divergence"):
        units = [results[f"{name}/{method}"] for name in settings["datasets"]]
        moved[method] = max(unit["distance"][at] for unit in units)
        values[method] = [unit["at_series"][at] for unit in units]
    negative = sum(value < 0 for value in values["soft_dtw"])
    return verdict(
        "Soft-DTW can be negative and is not minimised where the series are equal; the divergence "
        "corrects both.",
        "abstract; the bias",
        f"at gamma 1, started at the series itself, on {len(settings['datasets'])} sets: soft-DTW "
        f"of a series with itself is negative on {negative}; its minimiser is up to "
        f"{moved['soft_dtw']:.2f} standard deviations away, that of the divergence "
        f"{moved['divergence']:.1g}",
        negative > 0 and moved["soft_dtw"] > 0.01 and moved["divergence"] < 1e-4,
        moved["soft_dtw"] > 10 * moved["divergence"],
        LINK,
    )


def judge_sign(results, record):
    """Judge the sign of the divergence for the cost that the proof covers."""
    found = results["random/sign"]
    return verdict(
        "Under conditions on the cost, the soft-DTW divergence is non-negative, and zero only "
        "where the series are equal.",
        "abstract; proved in the chapter",
        f"log-augmented cost: least value of {found['pairs']} random pairs {found['least']:.2g}. "
        "(For the squared Euclidean cost the chapter shows a pair of negative divergence.)",
        found["least"] > -1e-9,
        False,
        "soft-dtw-sign",
    )
