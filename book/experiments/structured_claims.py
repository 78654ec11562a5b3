"""The claims of the paper of the chapter `structured`, judged by the stored results."""

import numpy as np

from book.experiments.runner import judge_all, verdict

PAPER = "blondel2019structured"
LINK = "structured-experiment"


def claims(experiments):
    """Judge the paper's claims by those experiments that are complete."""
    judges = {
        "ranks": [judge_ranks],
        "matrices": [judge_matrices, judge_hull, judge_decoding],
        "ordinal": [judge_ordinal, judge_absolute_decoding],
        "multilabel": [judge_multilabel],
    }
    return judge_all(PAPER, judges, experiments)


def gains(results, unit, other, measure, other_measure=None):
    """Give the mean reduction of a measure and its standard error, paired over folds."""
    pairs = (results[unit][measure], results[other][other_measure or measure])
    difference = np.subtract(pairs[1], pairs[0])
    return difference.mean(), difference.std(ddof=1) / len(difference) ** 0.5


def count(results, datasets, method, other, measure, other_measure=None, least=0.001):
    """Count the sets on which a method is better than another, alike, and worse.

    Better and worse mean by more than two standard errors of the paired difference over folds,
    and by more than `least`.
    """
    found = [
        gains(results, f"{name}/{method}", f"{name}/{other}", measure, other_measure)
        for name in datasets
    ]
    better = sum(gain > max(least, 2 * error) for gain, error in found)
    worse = sum(-gain > max(least, 2 * error) for gain, error in found)
    return better, len(found) - better - worse, worse


def mean(results, datasets, method, measure):
    """Average a measure over folds and sets."""
    return float(np.mean([np.mean(results[f"{name}/{method}"][measure]) for name in datasets]))


def in_words(counts):
    """Write a count of sets."""
    return "better on {}, alike on {}, worse on {}".format(*counts)


def judge_ranks(results, record):
    """Compare the permutahedron with the squared loss by Spearman's coefficient."""
    datasets = record["settings"]["datasets"]
    l2, kl = (
        count(results, datasets, f"permutahedron_{kind}", "none", "spearman")
        for kind in ("l2", "kl")
    )
    return verdict(
        "A projection as output layer improves label ranking: here with ranks as encodings and the "
        "permutahedron, against the squared loss without a projection.",
        "abstract; label ranking",
        f"Spearman's coefficient on {len(datasets)} sets, by two standard errors: "
        f"L2 {in_words(l2)}; KL {in_words(kl)}",
        min(l2[0], kl[0]) > len(datasets) / 2 and max(l2[2], kl[2]) <= 2,
        l2[0] > l2[2] or kl[0] > kl[2],
        LINK,
    )


def judge_matrices(results, record):
    """Compare the Birkhoff polytope with the squared loss by Hamming's loss."""
    datasets = record["settings"]["datasets"]
    measure = "hamming_calibrated"
    l2, kl = (
        count(results, datasets, f"birkhoff_{kind}", "none", measure) for kind in ("l2", "kl")
    )
    methods = {"none": "no projection", "birkhoff_l2": "Birkhoff, L2", "birkhoff_kl": "KL"}
    numbers = ", ".join(
        f"{label} {100 * mean(results, datasets, method, measure):.1f} %"
        for method, label in methods.items()
    )
    return verdict(
        "A projection as output layer improves label ranking: with permutation matrices as "
        "encodings, projecting onto the Birkhoff polytope lowers Hamming's loss.",
        "abstract; label ranking",
        f"share of labels at a wrong rank, mean over {len(datasets)} sets: {numbers}; L2 is "
        f"{in_words(l2)}; KL {in_words(kl)} than no projection",
        min(l2[0], kl[0]) > len(datasets) / 2 and l2[2] == kl[2] == 0,
        max(l2[0], kl[0]) > max(l2[2], kl[2]),
        LINK,
    )


def judge_hull(results, record):
    """Compare the convex hull of the encodings with a larger set."""
    datasets = record["settings"]["datasets"]
    counts = {
        kind: count(results, datasets, f"birkhoff_{kind}", f"rows_{kind}", "hamming_calibrated")
        for kind in ("l2", "kl")
    }
    numbers = "; ".join(f"{kind.upper()} {in_words(c)}" for kind, c in counts.items())
    return verdict(
        "The convex hull of the encodings is the best set to project onto.",
        "abstract; label ranking",
        f"Hamming's loss of the Birkhoff polytope against the larger set of matrices whose rows "
        f"sum to one: {numbers}",
        all(c[0] > len(datasets) / 2 and c[2] == 0 for c in counts.values()),
        all(c[0] > c[2] for c in counts.values()),
        LINK,
    )


def judge_decoding(results, record):
    """Compare calibrated decoding with a vertex of largest score."""
    datasets = record["settings"]["datasets"]
    found = {}
    for loss in ("hamming", "spearman"):
        counts = [
            count(results, datasets, f"birkhoff_{kind}", f"birkhoff_{kind}", *pair)
            for kind in ("l2", "kl")
            for pair in [(f"{loss}_calibrated", f"{loss}_map")]
        ]
        found[loss] = tuple(np.sum(counts, axis=0).tolist())
    numbers = "; ".join(f"{loss.capitalize()} {in_words(c)}" for loss, c in found.items())
    return verdict(
        "With calibrated decoding the loss is a consistent surrogate of the target loss: decoding "
        "the projection should not lose to decoding the scores.",
        "abstract; label ranking",
        f"calibrated decoding against a permutation of largest score, {len(datasets)} sets and two "
        f"geometries: {numbers}",
        all(c[0] > len(datasets) and c[2] == 0 for c in found.values()),
        all(c[0] >= c[2] for c in found.values()) and any(c[0] > c[2] for c in found.values()),
        LINK,
    )


def judge_ordinal(results, record):
    """Compare the order simplex with no projection, and with the cube, by the absolute error."""
    datasets = record["settings"]["datasets"]
    none, cube = (
        [
            count(results, datasets, f"order_{kind}", other.format(kind), "mae_calibrated")
            for kind in ("l2", "kl")
        ]
        for other in ("none", "cube_{}")
    )
    return verdict(
        "A projection as output layer improves ordinal regression: here onto the order simplex, "
        "against the squared loss without a projection.",
        "abstract; ordinal regression",
        f"mean absolute error on {len(datasets)} sets, by two standard errors: L2 "
        f"{in_words(none[0])}; KL {in_words(none[1])}; against the unit cube, L2 "
        f"{in_words(cube[0])}; KL {in_words(cube[1])}",
        all(c[0] > len(datasets) / 2 and c[2] == 0 for c in none),
        all(c[0] > c[2] for c in none),
        LINK,
    )


def judge_absolute_decoding(results, record):
    """Compare calibrated decoding for the absolute error with the best staircase by scores."""
    datasets = record["settings"]["datasets"]
    methods = ["order_l2", "order_kl"]
    counts = {
        method: count(results, datasets, method, method, "mae_calibrated", "mae_map")
        for method in methods
    }
    numbers = ", ".join(
        f"{method.removeprefix('order_').upper()} from "
        f"{mean(results, datasets, method, 'mae_map'):.2f} to "
        f"{mean(results, datasets, method, 'mae_calibrated'):.2f} ({in_words(c)})"
        for method, c in counts.items()
    )
    return verdict(
        "Calibrated decoding for the absolute loss is consistent where a vertex of largest score "
        "is not.",
        "abstract; ordinal regression",
        f"mean absolute error on the order simplex, {numbers}",
        all(c[0] > len(datasets) / 2 and c[2] == 0 for c in counts.values()),
        all(c[0] > c[2] for c in counts.values()),
        LINK,
    )


def judge_multilabel(results, record):
    """Compare each projection with none by F1 and Hamming's loss."""
    (name,) = record["settings"]["datasets"]
    methods = [method for method in record["settings"]["methods"] if method != "none"]
    signs, numbers = [], []
    for measure in ("f1_calibrated", "hamming_calibrated"):
        for method in methods:
            gain, error = gains(results, f"{name}/{method}", f"{name}/none", measure)
            signs.append(int(gain > 2 * error) - int(-gain > 2 * error))
        values = {m: mean(results, [name], m, measure) for m in ("none", *methods)}
        words = "F1" if measure.startswith("f1") else "wrong labels"
        shown = {m: f"{1 - v:.3f}" if words == "F1" else f"{v:.1%}" for m, v in values.items()}
        numbers.append(f"{words} " + ", ".join(f"{m} {v}" for m, v in shown.items()))
    return verdict(
        "A projection as output layer improves multi-label classification.",
        "abstract; multilabel classification",
        f"{name}: {'; '.join(numbers)}; of {len(signs)} differences from none {signs.count(1)} are "
        f"gains and {signs.count(-1)} losses of more than two standard errors",
        signs.count(1) > len(signs) / 2 and min(signs) >= 0,
        signs.count(1) > signs.count(-1),
        LINK,
    )
