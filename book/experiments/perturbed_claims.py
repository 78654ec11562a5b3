"""The claims of the paper of the chapter `perturbed`, judged by the stored results."""

import numpy as np

from book.experiments.runner import judge_all, verdict

PAPER = "berthet2020learning"
LINK = "perturbed-experiment"


def claims(experiments):
    """Judge the paper's claims by those experiments that are complete."""
    judges = {
        "classification": [judge_cross_entropy, judge_draws, judge_scale],
        "label_ranking": [judge_label_ranking],
        "paths": [judge_paths, judge_baselines],
        "variance": [judge_smoothness],
    }
    return judge_all(PAPER, judges, experiments)


# Classification


def accuracy(result):
    """Give the mean test accuracy over seeds and its standard error, in per cent."""
    runs = 100 * np.array(result["test"])
    return runs.mean(), runs.std(ddof=1) / len(runs) ** 0.5


def by_scale(results, draws):
    """Give the results of the perturbed loss for a number of draws, by scale of the noise."""
    keys = (unit.split("/") for unit in results)
    return {float(s): results[f"{m}/{s}/{n}"] for m, s, n in keys if n == str(draws)}


def chosen(found):
    """Give the scale with the best validation accuracy."""
    return max(found, key=lambda sigma: max(found[sigma]["validation"]))


def judge_cross_entropy(results, record):
    """Compare the perturbed loss, its scale and step chosen by validation, with cross-entropy."""
    found = by_scale(results, 100)
    sigma = chosen(found)
    ours, other = accuracy(found[sigma]), accuracy(results["cross_entropy/0/0"])
    gain = (ours[0] - other[0]) / np.hypot(ours[1], other[1])
    return verdict(
        "The Fenchel-Young loss of a perturbed argmax classifies as well as cross-entropy "
        "(CIFAR-10).",
        "section 5.1",
        f"perturbed {ours[0]:.1f} ± {ours[1]:.1f} % (scale {sigma:g}, chosen by validation, 100 "
        f"draws), cross-entropy {other[0]:.1f} ± {other[1]:.1f} % (Fashion-MNIST, "
        f"{record['settings']['num_seeds']} seeds, ± standard error)",
        gain > -2,
        ours[0] > other[0] - 1,
        LINK,
    )


def judge_draws(results, record):
    """Compare one draw with a hundred, each at its scale chosen by validation."""
    one, many = by_scale(results, 1), by_scale(results, 100)
    at_one, at_many = accuracy(one[chosen(one)]), accuracy(many[chosen(many)])
    lost = at_many[0] - at_one[0]
    error = np.hypot(at_one[1], at_many[1])
    apart = ", ".join(f"{s:g}: {accuracy(many[s])[0] - accuracy(one[s])[0]:+.1f}" for s in many)
    return verdict(
        "The number of draws hardly matters: one for each image and step is enough.",
        "section 5.1",
        f"best scales: one draw {at_one[0]:.1f} ± {at_one[1]:.1f} %, a hundred {at_many[0]:.1f} ± "
        f"{at_many[1]:.1f} %; points gained by a hundred draws, at scale {apart}",
        abs(lost) <= max(2 * error, 0.5),
        lost < 2,
        LINK,
    )


def judge_scale(results, record):
    """Compare the smallest and the largest scale with the best one, by test accuracy."""
    found = {s: accuracy(result)[0] for s, result in by_scale(results, 1).items()}
    low, high = found[min(found)], found[max(found)]
    best = found[chosen(by_scale(results, 1))]
    numbers = ", ".join(f"{s:g}: {value:.1f} %" for s, value in found.items())
    return verdict(
        "The scale of the noise matters: accuracy falls where it is very small or very large.",
        "section 5.1",
        f"one draw, accuracy by scale {numbers}",
        best > max(low, high) + 1,
        best > min(low, high) + 1,
        LINK,
    )


# Label ranking


def coefficients(results, name, method):
    """Give Spearman's coefficient by fold."""
    return 1 - np.array(results[f"{name}/{method}"]["spearman"])


def judge_label_ranking(results, record):
    """Count the sets on which the perturbed loss beats, or nearly equals, the squared loss."""
    names = record["settings"]["datasets"]
    means = {
        m: np.array([coefficients(results, name, m).mean() for name in names])
        for m in record["settings"]["methods"]
    }
    ours = means["sampled"]
    better = {m: np.mean(ours > means[m]) for m in ("none", "squared", "soft_rank")}
    near = {m: np.mean(ours > means[m] - 0.05 * abs(means[m])) for m in better}
    words = {"none": "no layer", "squared": "squared loss", "soft_rank": "soft ranks"}
    numbers = "; ".join(
        f"against {words[m]} better on {better[m]:.0%}, within 5 % or better on {near[m]:.0%}"
        for m in better
    )
    return verdict(
        "On 21 label-ranking sets the perturbed Fenchel-Young loss gives a better Spearman's "
        "coefficient than the other losses on 76 % of the sets, and one within 5 % on 90 %.",
        "section 5.2",
        numbers,
        better["squared"] >= 0.66 and near["squared"] >= 0.85,
        near["squared"] >= 0.85,
        LINK,
    )


# Shortest paths


def best_unit(results, method):
    """Give the unit of a method whose validation cost ratio is smallest."""
    units = [unit for unit in results if unit.startswith(f"{method}/")]
    return min(units, key=lambda unit: min(results[unit]["validation"]))


def describe(results, unit):
    """Put a unit's test results in words."""
    method, scale, strength, draws = unit.split("/")
    name = {
        "fenchel_young": "Fenchel-Young",
        "squared": "squared loss",
        "blackbox": "black-box interpolation",
        "costs": "regression on true costs",
    }[method]
    setting = {
        "blackbox": f" (strength {strength})",
        "costs": "",
    }.get(method, f" ({scale} scale, noise {strength}, {draws} draws)")
    ratio, exact = np.mean(results[unit]["ratio"]), np.mean(results[unit]["exact"])
    return f"{name}{setting} cost ratio {ratio:.4f}, {exact:.0%} exact"


def judge_paths(results, record):
    """Judge the cost ratio and the share of exact paths of the Fenchel-Young loss."""
    unit = best_unit(results, "fenchel_young")
    ratio, exact = np.mean(results[unit]["ratio"]), np.mean(results[unit]["exact"])
    return verdict(
        "A network trained through the perturbed solver finds shortest paths of unseen maps almost "
        "perfectly, with a cost ratio close to 1 (Warcraft maps).",
        "section 5.3",
        f"{describe(results, unit)} (elevation map, unseen tiles, chosen by validation)",
        ratio < 1.01 and exact > 0.95,
        ratio < 1.01,
        LINK,
    )


def excess_cost(result):
    """Give the mean excess of the cost ratio over 1, and its standard error."""
    runs = np.array(result["ratio"]) - 1
    return runs.mean(), runs.std(ddof=1) / len(runs) ** 0.5


def judge_baselines(results, record):
    """Compare the excess cost of the losses.

    Numbers are at the setting that validation chooses. A rival counts as beaten only if it loses
    at the setting that suits it best on the test tiles: a choice among several that are nearly
    level is a matter of chance.
    """
    rivals = ("squared", "blackbox", "costs")
    units = {m: best_unit(results, m) for m in ("fenchel_young", *rivals)}
    ours = excess_cost(results[units["fenchel_young"]])
    wins = []
    for method in ("squared", "blackbox"):
        theirs = [excess_cost(r) for unit, r in results.items() if unit.startswith(f"{method}/")]
        mean, error = min(theirs)
        wins.append(mean - ours[0] > 2 * np.hypot(error, ours[1]))
    return verdict(
        "It does so better than with the squared loss of perturbed paths, and than with the "
        "interpolation of a black-box solver.",
        "section 5.3",
        "; ".join(describe(results, unit) for unit in units.values()),
        all(wins),
        any(wins),
        LINK,
    )


# Bias and variance


def judge_smoothness(results, record):
    """Follow bias and relative error of a derivative over the scales, for the path."""
    found = {float(u.split("/")[1]): r for u, r in results.items() if u.startswith("path/")}
    bias = {s: r["bias"] for s, r in found.items()}
    noise = {
        s: r["variance"]["leave_one_out"] ** 0.5 / r["norm"] for s, r in found.items() if r["norm"]
    }
    draws = record["settings"]["num_samples"]
    falls = list(noise.values())
    return verdict(
        "The amplitude of the noise tunes the smoothness of the perturbed solver.",
        "abstract",
        "path, distance of the mean answer from the hard one, by scale: "
        + ", ".join(f"{s:g}: {b:.2f}" for s, b in bias.items())
        + f"; relative error of a derivative from {draws} draws: "
        + ", ".join(f"{s:g}: {e:.2f}" for s, e in noise.items()),
        bool(np.all(np.diff(list(bias.values())) >= 0)) and falls[0] > 2 * min(falls),
        bool(np.all(np.diff(list(bias.values())) >= 0)),
        "perturbed-trade",
    )
