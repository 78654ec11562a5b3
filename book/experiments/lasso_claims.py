"""The claims of the paper of the chapter `lasso`, judged by the stored results."""

import numpy as np

from book.experiments.runner import judge_all, verdict

PAPER = "bertrand2020implicit"
LINK = "lasso-experiment"
NAMES = {
    "gradient": "gradients",
    "grid": "grid",
    "random": "random",
    "bayesian": "Bayesian",
}
METHODS = {
    "implicit": "implicit, on the support",
    "implicit_forward": "implicit forward",
    "forward": "forward",
    "backward": "backward",
}
CLOSE = 1e-3  # a search has arrived when its excess over the best is that much of it


def claims(experiments):
    """Judge the paper's claims by those experiments that are complete."""
    judges = {
        "jacobian": [judge_jacobian],
        "methods": [judge_methods],
        "search": [judge_search],
        "sure": [judge_sure],
        "weighted": [judge_weighted],
    }
    return judge_all(PAPER, judges, experiments)


def arrival(run, best, close=CLOSE):
    """Evaluations and seconds until a search is near the best value; infinite if it never is."""
    near = np.flatnonzero(np.array(run["value"]) <= (1 + close) * best)
    if not near.size:
        return np.inf, np.inf
    return int(near[0]) + 1, run["time"][near[0]]


def arrivals(results, dataset, method, close=CLOSE):
    """Share of a method's runs that arrive; the median over these of evaluations and seconds."""
    least = [min(min(run["value"]) for run in results[f"{dataset}/{m}"]["runs"]) for m in NAMES]
    best = min(results[f"{dataset}/reference"]["best"], *least)
    runs = [arrival(run, best, close) for run in results[f"{dataset}/{method}"]["runs"]]
    done = [run for run in runs if np.isfinite(run[0])] or [(np.inf, np.inf)]
    medians = (float(np.median(column)) for column in zip(*done, strict=True))
    return sum(np.isfinite(run[0]) for run in runs) / len(runs), *medians


def in_words(number, unit):
    """Write a number that may be infinite."""
    return f"{number:.3g} {unit}" if np.isfinite(number) else f"never ({unit})"


def judge_search(results, record):
    """Compare searches for one penalty."""
    words, won, some = [], [], []
    for name in record["settings"]["datasets"]:
        found = {method: arrivals(results, name, method) for method in NAMES}
        listed = ", ".join(
            f"{NAMES[m]} {e:.3g} in {s:.2g} s"
            + (f" ({100 * share:.0f} % of runs)" if share < 1 else "")
            if share
            else f"{NAMES[m]} not at all"
            for m, (share, e, s) in found.items()
        )
        words.append(f"{name}: {listed}")
        share, _, mine = found["gradient"]
        others = [found[m] for m in ("grid", "random", "bayesian")]
        won.append(share == 1 and all(mine < other[2] for other in others))
        some.append(share > 0 and all(mine < other[2] for other in others))
    return verdict(
        "Hypergradients find the penalty of the Lasso sooner than grid, random and Bayesian "
        "search.",
        "abstract; one penalty",
        f"evaluations to within {100 * CLOSE:g} % of the best criterion, median over those "
        f"starts or seeds that arrive: {'; '.join(words)}",
        all(won),
        any(some),
        LINK,
    )


def errors(results, record, method, field="error"):
    """Values of a field, [sizes, seeds]."""
    settings = record["settings"]
    return np.array(
        [
            [results[f"{p}/{seed}"][method][field] for seed in range(settings["seeds"])]
            for p in settings["sizes"]
        ]
    )


def judge_sure(results, record):
    """Compare the weighted Lasso with the Lasso, both chosen by SURE."""
    lasso, weighted = errors(results, record, "gradient"), errors(results, record, "weighted")
    better = np.mean(weighted < lasso, axis=1)
    pairs = zip(record["settings"]["sizes"], lasso.mean(1), weighted.mean(1), better, strict=True)
    words = "; ".join(
        f"p = {p}: {a:.2f} and {b:.2f}, better in {100 * share:.0f} %" for p, a, b, share in pairs
    )
    return verdict(
        "With penalties chosen by SURE, the weighted Lasso estimates the coefficients better than "
        "the Lasso.",
        "section 4; SURE",
        f"mean relative squared error of Lasso and weighted Lasso, {record['settings']['seeds']} "
        f"draws each: {words}",
        np.all(better > 0.5) and np.all(weighted.mean(1) < lasso.mean(1)),
        np.any(better > 0.5) and np.any(weighted.mean(1) < lasso.mean(1)),
        LINK,
    )


def judge_weighted(results, record):
    """Judge whether gradients can go where a grid cannot, and whether it helps."""
    get = lambda method, field: errors(results, record, method, field).mean(axis=1)
    rows = zip(
        record["settings"]["sizes"],
        get("lasso", "value"), get("gradient", "value"), get("random", "value"),
        get("lasso", "test"), get("gradient", "test"), strict=True,
    )  # fmt: skip
    words = "; ".join(
        f"p = {p}: held-out error {a:.3g} with one penalty, {b:.3g} by gradients, {c:.3g} at "
        f"random, test error {d:.3g} and {e:.3g}"
        for p, a, b, c, d, e in rows
    )
    lower = get("gradient", "value") < get("random", "value")
    helps = get("gradient", "test") < get("lasso", "test")
    return verdict(
        "Gradient search scales to the p penalties of the weighted Lasso, where searches without "
        "gradients fail.",
        "section 4; many penalties",
        f"means over {record['settings']['seeds']} draws: {words}",
        np.all(lower) and np.all(helps),
        np.all(lower),
        LINK,
    )


def measured_rate(errors, start, floor=1e-12):
    """Factor by which an error shrinks in a pass, from pass `start` on until rounding."""
    errors = np.array(errors[start:])
    errors = errors[: np.argmax(errors < floor)] if np.any(errors < floor) else errors
    if len(errors) < 5:
        return np.nan
    tail = errors[len(errors) // 2 :] if len(errors) > 20 else errors
    return float((tail[-1] / tail[0]) ** (1 / (len(tail) - 1)))


def judge_jacobian(results, record):
    """Judge the rate of the Jacobian once the support is found."""
    words, good = [], []
    for unit in record["settings"]["problems"]:
        found = results[unit]
        rate = measured_rate(found["jacobian"], found["identified"])
        words.append(
            f"{unit.replace('/', ' at ')} lambda_max: support of {found['support']} after "
            f"{found['identified']} passes, then {rate:.3f} a pass (predicted {found['rate']:.3f})"
        )
        good.append(abs(np.log(rate) / np.log(found["rate"]) - 1) < 0.2)
    return verdict(
        "Once the support is identified, the Jacobian converges linearly.",
        "section 3; Jacobian",
        "; ".join(words),
        all(good),
        any(good),
        LINK,
    )


def reached(found, close=1e-4):
    """Least time at which the error of a hypergradient is small."""
    pairs = zip(found["seconds"], found["error"], strict=True)
    return min((s for s, e in pairs if e <= close), default=np.inf)


def judge_methods(results, record):
    """Compare the four methods."""
    words, first, before_unrolled = [], [], []
    for p in record["settings"]["sizes"]:
        times = {m: reached(results[f"{p}/{m}"]) for m in record["settings"]["methods"]}
        listed = ", ".join(f"{METHODS[m]} {in_words(1e3 * t, 'ms')}" for m, t in times.items())
        words.append(f"p = {p}: {listed}")
        unrolled = min(times["forward"], times["backward"])
        first.append(times["implicit_forward"] <= min(times.values()))
        before_unrolled.append(times["implicit_forward"] < unrolled)
    return verdict(
        "Implicit forward differentiation is faster than forward, backward and implicit "
        "differentiation.",
        "section 4; one hypergradient",
        f"time to a relative error of 1e-4: {'; '.join(words)}",
        all(first),
        all(before_unrolled),
        LINK,
    )
