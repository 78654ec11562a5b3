"""The claims of the paper of the chapter `nonsmooth_learning`, judged by the stored results."""

import numpy as np

from book.experiments.runner import judge_all, verdict

PAPER = "bertrand2022implicit"
LINK = "nonsmooth-learning-experiment"
CLOSE = 1e-2  # relative: what counts as having found the best criterion


def claims(experiments):
    """Judge the paper's claims by those experiments that are complete."""
    judges = {
        "convergence": [judge_jacobians, judge_rate],
        "bound": [judge_linear, judge_certificate],
        "methods": [judge_methods],
        "search": [judge_one, judge_two],
        "multiclass": [judge_multiclass],
    }
    return judge_all(PAPER, judges, experiments)


# --- convergence ----------------------------------------------------------------------------------


def measured_rate(found, which):
    """Factor by which an error shrinks in a pass, in the second half after identification."""
    passes, errors = np.array(found["passes"]), np.array(found[which])
    tail = (passes >= found["identified"]) & (errors > 1e-11 * errors[0])
    tail &= np.cumprod(errors > 1e-11 * errors[0]).astype(bool)
    passes, errors = passes[tail], errors[tail]
    half = len(passes) // 2
    return float(np.exp(np.polyfit(passes[half:], np.log(errors[half:]), 1)[0]))


def judge_jacobians(results, record):
    """Judge whether Jacobians converge to the exact one."""
    ends = {name: min(found["jacobian"]) / found["jacobian"][0] for name, found in results.items()}
    words = ", ".join(f"{name} {end:.0e}" for name, end in ends.items())
    return verdict(
        "Differentiating proximal coordinate descent gives Jacobians that converge to the exact "
        "Jacobian.",
        "abstract; linear convergence",
        f"error of the Jacobian over that after the first passes: {words}",
        all(end < 1e-8 for end in ends.values()),
        any(end < 1e-8 for end in ends.values()),
        LINK,
    )


def judge_rate(results, record):
    """Judge whether the rates are the predicted ones, after identification."""
    words, fine = [], []
    for name, found in results.items():
        rates = [measured_rate(found, which) for which in ("solution", "jacobian")]
        predicted = found["rate"]
        words.append(
            f"{name}: support after {found['identified']} passes, predicted {predicted:.4f}, "
            f"solution {rates[0]:.4f}, Jacobian {rates[1]:.4f}"
        )
        fine.append(all(abs(np.log(r) / np.log(predicted) - 1) < 0.1 for r in rates))
    return verdict(
        "Once the support is identified, the convergence of solutions and Jacobians is linear, at "
        "the rate of the spectral radius of a pass.",
        "section 3; linear convergence",
        "; ".join(words),
        all(fine),
        any(fine),
        LINK,
    )


# --- the error of a hypergradient -----------------------------------------------------------------


def identified_part(found):
    """Errors of solution and hypergradient, and bounds, where the certificate speaks."""
    error = np.array(found["error"])
    bound = np.array(found["bound"], float)
    there = np.isfinite(bound).all(axis=1)
    return np.array(found["solution_error"])[there], error[there], bound[there]


def order(found):
    """Slope of the error of the hypergradient over that of the solution, both logarithmic."""
    x, y = np.array(found["solution_error"]), np.array(found["error"]).max(axis=1)
    some = (x > 1e-12 * x[0]) & (y > 1e-12 * max(map(abs, found["gradient"]))) & (x < 0.1 * x[0])
    return float(np.polyfit(np.log(x[some]), np.log(y[some]), 1)[0])


def judge_linear(results, record):
    """Judge whether the error is at most linear in that of the solution."""
    orders = {name: order(found) for name, found in results.items()}
    words = ", ".join(f"{name} {value:.2f}" for name, value in orders.items())
    return verdict(
        "The error of the hypergradient is at most linear in the error of the solution.",
        "theorem; error of the hypergradient",
        f"order of the one in the other: {words}",
        all(value > 0.9 for value in orders.values()),
        any(value > 0.9 for value in orders.values()),
        LINK,
    )


def judge_certificate(results, record):
    """Judge our bound, which the paper does not have: does it hold, how loose is it?"""
    held, loose, late = True, [], []
    for found in results.values():
        x, error, bound = identified_part(found)
        real = error > 1e-11 * max(map(abs, found["gradient"]))  # above rounding
        held &= bool(np.all(error <= bound + 1e-12 * max(map(abs, found["gradient"]))))
        loose += list((bound / np.where(real, error, np.nan))[real])
        late.append(x[0] / found["solution_error"][0] if len(x) else 0.0)
    return verdict(
        "A bound on the error made on the hypergradient when the problem is solved approximately "
        "(here: one that can be computed).",
        "abstract; error of the hypergradient",
        f"holds in all cases: {'yes' if held else 'no'}; bound over error, median "
        f"{np.median(loose):.1f}, largest {np.max(loose):.0f}; it first speaks when the error of "
        f"the solution has fallen to {max(late):.0e} to {min(late):.0e} of the first",
        held,
        False,
        LINK,
    )


# --- methods --------------------------------------------------------------------------------------


def methods_of(results, name):
    """Results of the methods on one problem."""
    return {
        unit.rsplit("/", 1)[1]: found
        for unit, found in results.items()
        if unit.rsplit("/", 1)[0] == name
    }


def time_to(found, error):
    """Least milliseconds to a relative error, or infinity."""
    fine = [
        ms for ms, e, c in zip(found["ms"], found["error"], found["converged"], strict=True)
        if c and e <= error
    ]  # fmt: skip
    return min(fine, default=np.inf)


def judge_methods(results, record):
    """Judge whether implicit differentiation is the quickest way."""
    words, fine = [], []
    for name in record["settings"]["problems"]:
        times = {m: time_to(found, 1e-4) for m, found in methods_of(results, name).items()}
        others = min(times["forward"], times["backward"])
        words.append(
            f"{name}: " + ", ".join(f"{m.replace('_', ' ')} {t:.0f} ms" for m, t in times.items())
        )
        fine.append(min(times["implicit"], times["implicit_forward"]) < others)
    return verdict(
        "Implicit differentiation that uses the non-smoothness is quicker than differentiating "
        "the solver, forward or backward.",
        "section 4; computation of the hypergradient",
        "to a relative error of 1e-4, " + "; ".join(words).replace("inf ms", "not reached"),
        all(fine),
        any(fine),
        LINK,
    )


# --- search ---------------------------------------------------------------------------------------


def evaluations_to(values, goal):
    """Evaluations until the criterion is at most a goal, or infinity."""
    reached = np.flatnonzero(np.array(values) <= goal)
    return int(reached[0]) + 1 if len(reached) else np.inf


def effort(runs, method, goal):
    """Mean evaluations and seconds of the runs of a method that reach a goal, and how many do."""
    counts, seconds, number = [], [], 0
    for unit, found in runs.items():
        if unit.rsplit("/", 1)[-1].startswith(method):
            number += 1
            count = evaluations_to(found["values"], goal)
            if np.isfinite(count):
                counts.append(count)
                seconds.append(found["seconds"][count - 1])
    if not counts:
        return np.inf, np.inf, 0, number
    return np.mean(counts), np.mean(seconds), len(counts), number


def in_words(method, count, seconds, reached, number):
    """Write what a search took."""
    if not reached:
        return f"{method} never"
    runs = f" ({reached} of {number} runs)" if number > 1 else ""
    return f"{method} {count:.0f} in {seconds:.2f} s{runs}"


def judge_searches(results, names, claim, where):
    """Judge whether gradients need fewer evaluations, and less time, than both other searches."""
    words, fewer, quicker = [], [], []
    for name in names:
        runs = {unit: found for unit, found in results.items() if unit.startswith(f"{name}/")}
        goal = (1 + CLOSE) * min(found["value"] for found in runs.values())
        efforts = {m: effort(runs, m, goal) for m in ("grad", "grid", "random")}
        text = ", ".join(
            in_words(method, *efforts[key])
            for key, method in {"grad": "gradients", "grid": "grid", "random": "random"}.items()
        )
        words.append(f"{name}: {text}")
        ours, others = efforts.pop("grad"), efforts.values()
        fewer.append(all(ours[0] < other[0] for other in others))
        quicker.append(all(ours[1] < other[1] for other in others))
    return verdict(
        claim,
        where,
        f"evaluations until within {100 * CLOSE:.0f} % of the best, " + "; ".join(words),
        all(quicker) and all(fewer),
        any(quicker) or any(fewer),
        LINK,
    )


def judge_one(results, record):
    """Judge the problems with one hyperparameter."""
    names = [n for n in record["settings"]["problems"] if "logistic" in n or "svm" in n or
             n == "cv/leukemia"]  # fmt: skip
    return judge_searches(
        results,
        names,
        "Gradients find one hyperparameter sooner than a grid or random search.",
        "section 4; resolution of the bilevel problem, one or two hyperparameters",
    )


def judge_two(results, record):
    """Judge the elastic net, which has two hyperparameters."""
    names = [n for n in record["settings"]["problems"] if n in ("cv/correlated", "cv/diabetes")]
    return judge_searches(
        results,
        names,
        "Gradients find the two hyperparameters of the elastic net sooner than a grid or random "
        "search.",
        "section 4; resolution of the bilevel problem, one or two hyperparameters",
    )


def judge_multiclass(results, record):
    """Judge the search for a penalty of each class."""
    best = {
        method: min(f["value"] for unit, f in results.items() if unit.startswith(method))
        for method in ("grad", "shared", "random")
    }
    count = evaluations_to(results["grad"]["values"], min(best["shared"], best["random"]))
    reached = f"after {count} evaluations" if np.isfinite(count) else "never"
    return verdict(
        "The benefit is largest with many hyperparameters: multiclass sparse logistic regression, "
        "a penalty for each class.",
        "abstract; multiclass, section 4",
        f"held-out cross-entropy: gradients {best['grad']:.4f}, best of a grid for one common "
        f"penalty {best['shared']:.4f}, best of three random searches in ten {best['random']:.4f}; "
        f"gradients are below both {reached} of {len(results['grad']['values'])}",
        best["grad"] < min(best["shared"], best["random"]),
        best["grad"] < best["random"],
        LINK,
    )
