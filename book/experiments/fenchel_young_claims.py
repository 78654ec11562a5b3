"""The claims of the paper of the chapter `fenchel_young`, judged by the stored results."""

import numpy as np

from book.experiments.runner import judge_all, verdict

PAPER = "blondel2020learning"
LINK = "fenchel-young-experiment"
LABELS = {"shannon": "Shannon", "tsallis15": "Tsallis 1.5", "gini": "Gini", "norm2": "2-norm"}


def claims(experiments):
    """Judge the paper's claims by those experiments that are complete."""
    judges = {
        "proportions": [judge_tuned],
        "recovery": [judge_recovery, judge_support],
        "solvers": [judge_dual],
    }
    return judge_all(PAPER, judges, experiments)


def tuned(results, name, alphas, measure="js"):
    """Give a measure over folds with the order that validation chooses in each fold."""
    units = [results[f"{name}/{alpha}"] for alpha in alphas]
    best = np.argmin([unit["validation"] for unit in units], axis=0)
    return np.array([units[i][measure][fold] for fold, i in enumerate(best)])


def paired(values, others):
    """Give the mean reduction from `others` to `values` and its standard error."""
    difference = np.subtract(others, values)
    return difference.mean(), difference.std(ddof=1) / len(difference) ** 0.5


def compare(values, others):
    """Give 1 if values are smaller by two standard errors, -1 if larger, 0 otherwise."""
    gain, error = paired(values, others)
    return int(gain > 2 * error) - int(-gain > 2 * error)


def judge_tuned(results, record):
    """Compare the tuned order with logistic and sparsemax losses."""
    settings = record["settings"]
    better, numbers = [], []
    for name in settings["datasets"]:
        ours = tuned(results, name, settings["alphas"])
        ends = [np.array(results[f"{name}/{alpha}"]["js"]) for alpha in (1.0, 2.0)]
        better += [compare(ours, end) for end in ends]
        numbers.append(
            f"{name} {ours.mean():.4f} (logistic {ends[0].mean():.4f}, sparsemax "
            f"{ends[1].mean():.4f})"
        )
    return verdict(
        "With the order of the Tsallis entropy tuned between 1 and 2, label proportions are "
        "estimated as well as or better than with the logistic and the sparsemax loss.",
        "section 9, label proportions",
        f"Jensen-Shannon divergence: {'; '.join(numbers)}; better {better.count(1)}, alike "
        f"{better.count(0)}, worse {better.count(-1)} times of {len(better)} (by two standard "
        "errors)",
        min(better) >= 0 and max(better) == 1,
        better.count(1) > better.count(-1),
        LINK,
    )


def recovery_signs(results, record, measure):
    """Compare the sparse losses with the logistic one, for each kind, length and loss."""
    settings = record["settings"]
    return {
        loss: [
            compare(
                results[f"{kind}/{length}/{loss}"][measure],
                results[f"{kind}/{length}/shannon"][measure],
            )
            for kind in settings["kinds"]
            for length in settings["lengths"]
        ]
        for loss in settings["losses"]
        if loss != "shannon"
    }


def judge_recovery(results, record):
    """Compare divergences on synthetic documents."""
    signs = recovery_signs(results, record, "js")
    numbers = "; ".join(
        f"{LABELS[loss]} better {s.count(1)}, alike {s.count(0)}, worse {s.count(-1)} times"
        for loss, s in signs.items()
    )
    number = len(next(iter(signs.values())))
    return verdict(
        "Where proportions are sparse, losses whose predictions are sparse estimate them better "
        "than the logistic loss.",
        "section 9, label proportions of synthetic documents",
        f"Jensen-Shannon divergence in {number} settings of documents: {numbers}",
        all(s.count(1) == len(s) for s in signs.values()),
        any(s.count(1) > len(s) / 2 for s in signs.values()),
        LINK,
    )


def judge_support(results, record):
    """Say how often a predicted proportion is exactly zero."""
    settings = record["settings"]
    length = settings["lengths"][-1]
    zeros, support = (
        {
            loss: 100
            * np.mean([results[f"{kind}/{length}/{loss}"][key] for kind in settings["kinds"]])
            for loss in settings["losses"]
        }
        for key in ("zeros", "support")
    )
    numbers = ", ".join(f"{LABELS[loss]} {share:.0f} %" for loss, share in zeros.items())
    right = ", ".join(f"{LABELS[loss]} {share:.0f} %" for loss, share in support.items())
    return verdict(
        "Tsallis entropies of an order above 1 give distributions with sparse support, the Shannon "
        "entropy never does.",
        "section 4",
        f"predicted proportions that are zero, for documents of {length} words: {numbers}; labels "
        f"rightly told to be absent or present: {right}",
        zeros["shannon"] == 0 and min(zeros["tsallis15"], zeros["gini"]) > 10,
        zeros["shannon"] == 0 and min(zeros["tsallis15"], zeros["gini"]) > 0,
        LINK,
    )


def judge_dual(results, record):
    """Say how the dual solver converges."""
    reached, total, rates = 0, 0, []
    for unit, trace in results.items():
        if unit.endswith("/dual"):
            gap = np.array(trace["gap"])
            total += 1
            reached += int(gap.min() <= 1e-6)
            rates.append((gap[-1] / gap[0]) ** (1 / max(1, len(gap) - 1)))
    passes = record["settings"]["max_iter"]
    return verdict(
        "Block-coordinate ascent on the dual, each block solved by a proximity operator without a "
        "step size, trains Fenchel-Young losses.",
        "section 8",
        f"duality gap of 1e-6 or less within {passes} passes in {reached} of {total} problems; "
        f"the gap shrinks by a factor of {min(rates):.2f} to {max(rates):.3f} a pass",
        reached == total,
        reached > total / 2,
        LINK,
    )
