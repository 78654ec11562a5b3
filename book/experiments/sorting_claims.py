"""The claims of the paper of the chapter `sorting`, judged by the stored results."""

import numpy as np

from book.experiments.runner import judge_all, verdict
from book.experiments.sorting_ranks import OTHERS, OURS

PAPER = "blondel2020fast"
LINK = "sorting-experiment"
LABELS = {
    "ridge": "ridge",
    "huber": "Huber",
    "trimmed": "hard trimmed",
    "soft_trimmed": "soft trimmed",
    "l2": "L2",
    "kl": "KL",
    "cross_entropy": "cross-entropy",
    "sinkhorn": "Sinkhorn",
    "all_pairs": "all-pairs",
}
REGRESSORS = ("ridge", "huber", "trimmed", "soft_trimmed")


def claims(experiments):
    """Judge the paper's claims by those experiments that are complete."""
    judges = {
        "label_ranking": [judge_label_ranking],
        "robust": [judge_ridge, judge_interpolation],
        "topk": [judge_cross_entropy, judge_sinkhorn, judge_all_pairs],
        "runtime": [judge_growth, judge_speed, judge_memory],
    }
    return judge_all(PAPER, judges, experiments)


def count_gains(results, datasets, method, least=0.001):
    """Count the sets on which a soft rank beats, equals and loses to no layer.

    Better and worse mean by more than two standard errors of the paired difference over folds,
    and by more than `least`.
    """
    better = worse = 0
    for name in datasets:
        soft, none = (np.array(results[f"{name}/{m}"]["spearman"]) for m in (method, "none"))
        gain = (soft - none).mean()
        margin = max(least, 2 * (soft - none).std(ddof=1) / len(none) ** 0.5)
        better, worse = better + (gain > margin), worse + (gain < -margin)
    return better, len(datasets) - better - worse, worse


def judge_label_ranking(results, record):
    """Compare the counts with those of section 6.3; two sets more or less are no difference."""
    datasets = record["settings"]["datasets"]
    l2, kl = (count_gains(results, datasets, method) for method in ("l2", "kl"))
    return verdict(
        "A soft rank layer with L2 regularisation improves Spearman's coefficient on 15 of 21 "
        "label-ranking sets, leaves it alike on 4 and lowers it on 2.",
        "section 6.3",
        "better on {} of {}, alike on {}, worse on {}; KL: {}, {}, {} (by two standard "
        "errors)".format(l2[0], len(datasets), *l2[1:], *kl),
        l2[0] >= 13 and l2[2] <= 4,
        l2[0] > l2[2],
        LINK,
    )


def mean_r2(results, method, fractions):
    """Average the test R² of a method over data sets, folds and fractions of outliers."""
    chosen = [r for unit, r in results.items() if float(unit.split("/")[1]) in fractions]
    return float(np.mean([result[method]["r2"] for result in chosen]))


def judge_ridge(results, record):
    """Compare what ridge regression and soft least trimmed squares lose by outliers."""
    worst = [record["settings"]["fractions"][-1]]
    clean = {m: mean_r2(results, m, [0.0]) for m in REGRESSORS}
    dirty = {m: mean_r2(results, m, worst) for m in REGRESSORS}
    lost = {m: clean[m] - dirty[m] for m in REGRESSORS}
    numbers = ", ".join(f"{LABELS[m]} {clean[m]:.2f} to {dirty[m]:.2f}" for m in REGRESSORS)
    return verdict(
        "Ridge regression deteriorates as labels are corrupted, soft least trimmed squares "
        "withstands it.",
        "section 6.4",
        f"mean R² at 0 % and at {100 * worst[0]:.0f} % outliers: {numbers}",
        lost["soft_trimmed"] < 0.5 * lost["ridge"],
        lost["soft_trimmed"] < lost["ridge"],
        LINK,
    )


def judge_interpolation(results, record):
    """Compare soft trimming with its two limits and with Huber over all fractions."""
    mean = {m: mean_r2(results, m, record["settings"]["fractions"]) for m in REGRESSORS}
    numbers = ", ".join(f"{LABELS[m]} {mean[m]:.3f}" for m in REGRESSORS)
    limits = max(mean["ridge"], mean["trimmed"])
    return verdict(
        "Soft least trimmed squares interpolates between least squares and least trimmed squares, "
        "and so does well with few outliers and with many.",
        "section 6.4",
        f"mean R² over sets and shares of outliers: {numbers}",
        mean["soft_trimmed"] >= max(limits, mean["huber"]) - 0.005,
        mean["soft_trimmed"] >= limits - 0.005,
        LINK,
    )


def accuracy(results, loss, k=1):
    """Give the mean and the standard error of the top-k test accuracy of a loss, in per cent."""
    runs = 100 * np.array(results[f"{loss}/{k}"]["accuracy"][f"top{k}"])
    return runs.mean(), runs.std(ddof=1) / len(runs) ** 0.5


def judge_cross_entropy(results, record):
    """Compare the soft top-k losses with cross-entropy."""
    scores = {loss: accuracy(results, loss) for loss in ("l2", "kl", "cross_entropy")}
    gains = {
        loss: (scores[loss][0] - scores["cross_entropy"][0])
        / np.hypot(scores[loss][1], scores["cross_entropy"][1])
        for loss in ("l2", "kl")
    }
    numbers = ", ".join(f"{LABELS[m]} {v:.1f} ± {e:.1f} %" for m, (v, e) in scores.items())
    return verdict(
        "With k = 1 the soft top-k loss slightly outperforms cross-entropy (CIFAR-10, CIFAR-100).",
        "section 6.1",
        f"{numbers} (Fashion-MNIST, 12 seeds, ± standard error)",
        min(gains.values()) > 2,
        max(gains.values()) > -2,
        LINK,
    )


def judge_sinkhorn(results, record):
    """Compare accuracy and cost of soft ranks with those of optimal transport."""
    scores = {loss: accuracy(results, loss)[0] for loss in ("l2", "kl", "sinkhorn")}
    cost = {loss: record["units"][f"{loss}/1"]["cpu_time_s"] for loss in scores}
    numbers = ", ".join(f"{LABELS[m]} {v:.1f} % in {cost[m]:.0f} s" for m, v in scores.items())
    close = min(scores["l2"], scores["kl"]) > scores["sinkhorn"] - 1
    faster = max(cost["l2"], cost["kl"]) < cost["sinkhorn"]
    return verdict(
        "Soft ranks reach an accuracy comparable to that of optimal transport in less time "
        "(CIFAR-100: 21 to 23 hours against 29).",
        "section 6.1",
        f"{numbers} of CPU time",
        close and faster,
        close or faster,
        LINK,
    )


def judge_all_pairs(results, record):
    """Compare all-pairs ranks with cross-entropy."""
    pairs, entropy = accuracy(results, "all_pairs"), accuracy(results, "cross_entropy")
    error = np.hypot(pairs[1], entropy[1])
    return verdict(
        "All-pairs soft ranks do not outperform cross-entropy.",
        "section 6.1",
        f"all-pairs {pairs[0]:.1f} ± {pairs[1]:.1f} %, "
        f"cross-entropy {entropy[0]:.1f} ± {entropy[1]:.1f} %",
        pairs[0] <= entropy[0] + 2 * error,
        False,
        LINK,
    )


def judge_growth(results, record):
    """Measure by which power of n time and memory of a gradient grow."""
    low, high = (results[f"soft_rank_l2/1/{n}"]["gradient"] for n in (10_000, 1_000_000))
    power = np.log10(high["seconds"] / low["seconds"]) / 2
    size = high["compiled_bytes"] / 1e6
    return verdict(
        "Value and gradient take O(n log n) time and O(n) memory.",
        "abstract, proposition 3",
        f"gradient of 1e6 values: {1e3 * high['seconds']:.0f} ms, "
        f"{size:.0f} bytes of temporaries for each; time grows as n^{power:.2f} from 1e4 to 1e6",
        power < 1.25 and size < 500,
        power < 1.6,
        "sorting-benchmark",
    )


def judge_speed(results, record, n=1000):
    """Compare the time of a gradient in the paper's batches of 128."""
    found = {
        m: results[f"{m}/128/{n}"].get("gradient", {}).get("seconds") for m in (*OURS, *OTHERS)
    }
    ours = found["soft_rank_l2"]
    ratios = {m: found[m] / ours for m in OTHERS if found[m]}
    numbers = ", ".join(f"{LABELS[m]} {ratio:.0f} times as long" for m, ratio in ratios.items())
    failed = [LABELS[m] for m in OTHERS if not found[m]]
    return verdict(
        "The soft operators are an order of magnitude faster than all-pairs and optimal transport.",
        "abstract, section 6.2",
        f"gradient of 128 rows of {n}: {1e3 * ours:.1f} ms; {numbers}"
        + "".join(f"; {name} failed" for name in failed),
        all(ratio >= 10 for ratio in ratios.values()),
        any(ratio >= 10 for ratio in ratios.values()) or failed,
        "sorting-benchmark",
    )


def judge_memory(results, record):
    """Compare the largest n that each method manages in batches of 128, and why it ends there."""
    largest, reasons = {}, {}
    for unit, result in results.items():
        method, batch, n = unit.split("/")
        found = result.get("gradient", {"failed": ""})
        if batch == "128" and "failed" in found:
            reasons.setdefault(method, found["failed"])
        elif batch == "128":
            largest[method] = max(largest.get(method, 0), int(n))
    ours = min(largest.get(method, 0) for method in OURS)
    others = {m: largest.get(m, 0) for m in OTHERS}
    ends = [f"{LABELS[m]} {n or 'none'} (then {reasons.get(m)})" for m, n in others.items()]
    short = [n < 5000 for n in others.values()]
    return verdict(
        "In batches of 128 with gradients, optimal transport and all-pairs run out of memory from "
        "n = 2000 and n = 3000 on, the soft operators do not.",
        "section 6.2",
        f"largest n within 4 GB and 10 s on a CPU: ours {ours}, " + ", ".join(ends),
        ours >= 5000 and all(short) and all("GB" in reasons[m] for m in others),
        ours >= 5000 and any(short),
        "sorting-benchmark",
    )
