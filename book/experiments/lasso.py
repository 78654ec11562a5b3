"""Experiments of the chapter `lasso`: ``python -m book.experiments.lasso --profile paper``.

- ``search``: how many evaluations, and how many seconds, a search for one penalty needs, by
  hypergradients, on a grid, at random, and by expected improvement. Correlated features with a
  third held out, leukemia by cross-validation, film reviews with half of them held out.
- ``sure``: the Lasso and the weighted Lasso with its p penalties, chosen by Stein's estimate of the
  risk on simulated data, after the paper: the error of the coefficients.
- ``weighted``: the p penalties chosen by a held-out error, by gradients and at random; test error.
- ``jacobian``: passes of coordinate descent, and how far coefficients and Jacobian still are.
- ``methods``: time of one hypergradient against its error, by four methods.

The paper's text collections are not to be had without a network; film reviews stand for them.
"""

import time
import warnings

import jax
import numpy as np
from scipy.stats import norm

from book.data import load_imdb, load_leukemia, make_correlated
from book.experiments.lasso_claims import claims
from book.experiments.runner import Experiment, main
from diffopt.hypergradient import (
    SURE,
    CrossValidation,
    HeldOut,
    grad_search,
    grid_search,
    hypergradient,
    lam_max,
    random_search,
)
from diffopt.sparse_linear import Lasso

jax.config.update("jax_enable_x64", True)

MODEL = Lasso()
SMALLEST = {"leukemia": 1e-3, "reviews": 1e-2, "correlated": 1e-2}  # penalty, by the largest


def standardised(X, y):
    """Centre both; scale the columns to variance one."""
    X, y = X - X.mean(axis=0), y - y.mean()
    return X / X.std(axis=0), y


def problem(name, settings):
    """Give the criterion of a data set, and a held-out test set where there is one."""
    if name == "leukemia":
        return CrossValidation(*standardised(*load_leukemia()), folds=5), None
    if name == "reviews":
        X, y = load_imdb(settings["num_texts"])
        m, test = X.shape[0] // 2, load_imdb(settings["num_texts"], "test")
        return HeldOut(X[:m], y[:m], X[m:], y[m:]), test
    n, p = settings["correlated"]
    X, y, _ = make_correlated(3 * n, p, rho=0.9, num_nonzero=10, snr=3.0, seed=settings["seed"])
    return HeldOut(X[:n], y[:n], X[n : 2 * n], y[n : 2 * n]), (X[2 * n :], y[2 * n :])


def bounds_of(criterion, ratio=1e-2):
    """Give the smallest and the largest penalty of a search."""
    top = float(lam_max(MODEL, criterion.X, criterion.y))
    return ratio * top, top


def bayesian_search(rng, criterion, model, num, bounds, first=4):
    """Search by expected improvement under a Gaussian process in the logarithm of the penalty.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the first points.
    criterion, model
        As for :func:`diffopt.hypergradient.grad_search`.
    num : int
        Number of evaluations.
    bounds : pair of float
        Bounds of the penalty.
    first : int
        How many points are random.

    Returns
    -------
    tuple of arrays
        The penalties, the criterion at each, and the seconds since the start.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern, WhiteKernel

    start, state, rows = time.perf_counter(), None, []
    low, high = np.log(bounds)
    places, grid = list(rng.random(first)), np.linspace(0, 1, 501)
    kernel = Matern(0.2, (0.05, 2.0), nu=2.5) + WhiteKernel(1e-6, (1e-10, 1e-2))
    while len(rows) < num:
        if len(rows) >= first:
            values = np.array([row[1] for row in rows])
            process = GaussianProcessRegressor(kernel, normalize_y=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # bounds of the kernel, reached
                process.fit(np.array(places)[:, None], values)
            mean, deviation = process.predict(grid[:, None], return_std=True)
            gain = values.min() - mean
            ratio = gain / np.maximum(deviation, 1e-12)
            places.append(grid[np.argmax(gain * norm.cdf(ratio) + deviation * norm.pdf(ratio))])
        lam = np.exp(low + places[len(rows)] * (high - low))
        found = hypergradient(criterion, model, lam, init=state)
        state = found.state
        rows.append((lam, float(found.value), time.perf_counter() - start))
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def history(lam, values, times):
    """Make what is stored of a search."""
    return {
        "lam": [float(f"{x:.8g}") for x in lam],
        "value": [float(f"{x:.10g}") for x in values],
        "time": [round(float(x), 4) for x in times],
    }


def mean_square(X, y, coef):
    """Mean squared error of a linear prediction."""
    return float(np.mean((X @ np.asarray(coef) - y) ** 2))


def run_search(unit, settings):
    """Search for one penalty by one method."""
    name, method = unit.split("/")
    criterion, test = problem(name, settings)
    bounds, seeds = bounds_of(criterion, SMALLEST[name]), settings["seeds"]
    hypergradient(criterion, MODEL, bounds[1])  # compiles
    grid_search(criterion, MODEL, [bounds[1]])
    budget = settings["budget"]
    if method == "random":
        made = [random_search(jax.random.key(s), criterion, MODEL, num=budget, bounds=bounds)
                for s in range(seeds)]  # fmt: skip
    elif method == "grid":
        made = [grid_search(criterion, MODEL, num=settings["grid"], bounds=bounds)]
    elif method == "gradient":
        made = [grad_search(criterion, MODEL, bounds[1] * start, bounds=bounds)
                for start in settings["starts"]]  # fmt: skip
    elif method == "bayesian":
        runs = [bayesian_search(np.random.default_rng(s), criterion, MODEL, budget, bounds)
                for s in range(seeds)]  # fmt: skip
        return {"runs": [history(*run) for run in runs]}
    else:
        made = [grid_search(criterion, MODEL, num=settings["fine"], bounds=bounds)]
    found = {"runs": [history(r.history.lam, r.history.value, r.history.time) for r in made]}
    if method == "reference":
        lam, value = float(made[0].lam), float(made[0].value)
        near = grid_search(criterion, MODEL, lam * np.geomspace(1.02, 1 / 1.02, 41))
        found |= {"lam": float(near.lam), "best": min(value, float(near.value))}
        if test is not None:
            coef = np.asarray(near.state.solution[0])
            found |= {"test": mean_square(*test, coef), "support": int(np.sum(coef != 0))}
    return found


def search_settings(profile):
    """Three data sets, or one small one."""
    paper = profile == "paper"
    return {
        "datasets": ["correlated", "leukemia", "reviews"] if paper else ["correlated"],
        "methods": ["gradient", "grid", "random", "bayesian", "reference"],
        "correlated": [100, 2000] if paper else [60, 200],
        "num_texts": 2000,
        "grid": 100 if paper else 30,
        "fine": 150 if paper else 60,
        "budget": 30 if paper else 12,
        "seeds": 3 if paper else 1,
        "starts": [0.1, 0.01] if paper else [0.1],
        "seed": 0,
    }


def relative_error(state, coef):
    """Squared error of coefficients, by the square of the true ones."""
    found = np.asarray(state.solution[0])
    return float(np.sum((found - coef) ** 2) / np.sum(coef**2))


def run_sure(unit, settings):
    """Choose penalties by Stein's estimate on one draw of the data."""
    p, seed = (int(part) for part in unit.split("/"))
    X, y, coef = make_correlated(
        settings["n"], p, rho=settings["rho"], num_nonzero=5, snr=settings["snr"], seed=seed
    )
    sigma = float(np.linalg.norm(y - X @ coef) / len(y) ** 0.5)
    criterion = SURE(X, y, sigma, key=jax.random.key(seed))
    bounds, found = bounds_of(criterion), {}
    num, start = settings["num"], bounds[1] / 10

    def keep(name, call):
        begin = time.perf_counter()
        result = call()
        found[name] = {
            "seconds": time.perf_counter() - begin,
            "value": float(result.value),
            "evaluations": len(result.history.value),
            "error": relative_error(result.state, coef),
        }
        return result

    for lam in (start, np.full(p, start)):  # compile
        hypergradient(criterion, MODEL, lam)
        grid_search(criterion, MODEL, lam[None] if np.ndim(lam) else [lam])
    keep("grid", lambda: grid_search(criterion, MODEL, num=num, bounds=bounds))
    one = keep("gradient", lambda: grad_search(criterion, MODEL, start, bounds=bounds))
    many = np.full(p, float(one.lam))
    keep("weighted", lambda: grad_search(criterion, MODEL, many, bounds=bounds, max_iter=num))
    grid = many * np.exp(np.random.default_rng(seed).normal(size=(num, p)))
    keep("weighted_random", lambda: grid_search(criterion, MODEL, grid))
    best = min(
        relative_error(hypergradient(criterion, MODEL, lam).state, coef)
        for lam in np.geomspace(bounds[1], bounds[0], num)
    )
    return found | {"oracle": {"error": best}}


def sure_settings(profile):
    """Three numbers of features and five draws, or one of each."""
    paper = profile == "paper"
    return {
        "n": 100 if paper else 50,
        "sizes": [200, 500, 1000] if paper else [100],
        "rho": 0.9,
        "snr": 3.0,
        "seeds": 5 if paper else 1,
        "seed": 0,  # the first of them
        "num": 50 if paper else 20,
    }


def run_weighted(unit, settings):
    """Choose p penalties by a held-out error; measure them on a test set."""
    p, seed = (int(part) for part in unit.split("/"))
    criterion, test = problem("correlated", {"correlated": [settings["n"], p], "seed": seed})
    bounds = bounds_of(criterion)
    one = grad_search(criterion, MODEL, bounds[1] / 10, bounds=bounds)
    many, num = np.full(p, float(one.lam)), settings["num"]
    several = grad_search(criterion, MODEL, many, bounds=bounds, max_iter=num)
    grid = many * np.exp(np.random.default_rng(seed).normal(size=(num, p)))
    grid[0] = many
    random = grid_search(criterion, MODEL, grid)
    return {
        name: {
            "value": float(result.value),
            "test": mean_square(*test, np.asarray(result.state.solution[0])),
            "support": int(np.sum(np.asarray(result.state.solution[0]) != 0)),
        }
        for name, result in (("lasso", one), ("gradient", several), ("random", random))
    }


def weighted_settings(profile):
    """Three numbers of features and five draws, or one of each."""
    paper = profile == "paper"
    return {
        "n": 100 if paper else 50,
        "sizes": [10, 100, 1000] if paper else [10],
        "seeds": 5 if paper else 1,
        "seed": 0,  # the first of them
        "num": 50 if paper else 20,
    }


def passes(X, y, lam, num):
    """Coefficients and their derivatives in the penalty after each pass of coordinate descent."""
    criterion, state, rows = HeldOut(X, y, X, y), None, []
    for _ in range(num):
        found = hypergradient(
            criterion, MODEL, lam, method="forward", tol=0.0, max_iter=1, init=state
        )
        state = found.state
        rows.append((np.asarray(found.coef), np.asarray(state.jacobian)[0, :-1, 0]))
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def exact_jacobian(X, coef):
    """Derivative of the coefficients in the penalty, from the system on the support."""
    S, slope = coef != 0, np.zeros_like(coef)
    slope[S] = -len(X) * np.linalg.solve(X[:, S].T @ X[:, S], np.sign(coef[S]))
    return slope


def rate_on(X, coef):
    """Spectral radius of a pass of coordinate descent on the support."""
    gram = X[:, coef != 0].T @ X[:, coef != 0]
    step = np.linalg.solve(np.tril(gram), -np.triu(gram, 1))
    return float(np.abs(np.linalg.eigvals(step)).max(initial=0))


def run_jacobian(unit, settings):
    """Follow coefficients and Jacobian through the passes."""
    name, ratio = unit.split("/")
    if name == "leukemia":
        X, y = standardised(*load_leukemia())
    else:
        n, p = settings["correlated"]
        X, y, _ = make_correlated(n, p, rho=0.5, num_nonzero=10, snr=3.0, seed=settings["seed"])
    lam = float(ratio) * float(lam_max(MODEL, X, y))
    coef, slope = passes(X, y, lam, settings["num"])
    exact = np.asarray(hypergradient(HeldOut(X, y, X, y), MODEL, lam, tol=1e-28).coef)
    target = exact_jacobian(X, exact)
    same = np.all((coef != 0) == (exact != 0), axis=1)
    wrong = np.flatnonzero(~same)
    size = lambda d, x: (np.linalg.norm(d, axis=1) / np.linalg.norm(x)).tolist()
    return {
        "coef": size(coef - exact, exact),
        "jacobian": size(slope - target, target),
        "identified": int(wrong[-1]) + 2 if wrong.size else 1,  # the first pass that counts, from 1
        "rate": rate_on(X, exact),
        "support": int(np.sum(exact != 0)),
    }


def jacobian_settings(profile):
    """Two data sets and two penalties, or one of each."""
    paper = profile == "paper"
    return {
        "problems": ["correlated/0.1", "correlated/0.03", "leukemia/0.3", "leukemia/0.1"]
        if paper
        else ["correlated/0.1"],
        "correlated": [100, 500] if paper else [50, 100],
        "num": 400 if paper else 60,
        "seed": 0,
    }


def run_methods(unit, settings):
    """Time one hypergradient for several tolerances, and measure its error."""
    p, method = unit.split("/")
    criterion, _ = problem(
        "correlated", {"correlated": [settings["n"], int(p)], "seed": settings["seed"]}
    )
    lam = 0.1 * float(lam_max(MODEL, criterion.X, criterion.y))
    exact = float(hypergradient(criterion, MODEL, lam, tol=1e-26).grad)
    found = {"seconds": [], "error": [], "passes": []}
    for tol in settings["tolerances"]:
        call = lambda tol=tol: hypergradient(
            criterion, MODEL, lam, method=method, tol=tol, max_iter=settings["max_iter"]
        )
        result = jax.block_until_ready(call())
        times = []
        for _ in range(settings["rounds"]):
            start = time.perf_counter()
            jax.block_until_ready(call())
            times.append(time.perf_counter() - start)
        found["seconds"].append(min(times))
        found["error"].append(abs(float(result.grad) - exact) / abs(exact))
        found["passes"].append(int(result.num_iter))
    return found


def methods_settings(profile):
    """Two sizes and five tolerances, or one small problem."""
    paper = profile == "paper"
    return {
        "n": 200 if paper else 50,
        "sizes": [1000, 5000] if paper else [100],
        "methods": ["implicit", "implicit_forward", "forward", "backward"],
        "tolerances": [1e-2, 1e-4, 1e-6, 1e-8, 1e-10] if paper else [1e-4, 1e-8],
        "max_iter": 2000 if paper else 500,
        "rounds": 5 if paper else 1,
        "seed": 0,
    }


def crossed(first, second):
    """Make the names of units from two lists of a record's settings; an int is a range."""

    def units(settings):
        inner = settings[second]
        inner = range(inner) if isinstance(inner, int) else inner
        return [f"{a}/{b}" for a in settings[first] for b in inner]

    return units


EXPERIMENTS = {
    "search": Experiment(search_settings, crossed("datasets", "methods"), run_search),
    "sure": Experiment(sure_settings, crossed("sizes", "seeds"), run_sure),
    "weighted": Experiment(weighted_settings, crossed("sizes", "seeds"), run_weighted),
    "jacobian": Experiment(jacobian_settings, lambda s: s["problems"], run_jacobian),
    "methods": Experiment(methods_settings, crossed("sizes", "methods"), run_methods),
}


if __name__ == "__main__":
    main("lasso", EXPERIMENTS, claims)
