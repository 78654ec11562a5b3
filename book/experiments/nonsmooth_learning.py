"""Experiments of the chapter `nonsmooth_learning`.

``python -m book.experiments.nonsmooth_learning --profile paper`` runs

- ``convergence``: coordinate descent and its Jacobian, pass by pass, against the exact ones, and
  the rate that the spectral radius of a pass predicts;
- ``bound``: the error of a hypergradient at unfinished solutions, and its certificate;
- ``methods``: time and error of the four ways to a hypergradient, as the tolerance falls;
- ``search``: hypergradients against a grid and random search;
- ``multiclass``: a penalty for each class of the digits.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize
from sklearn.datasets import load_digits

from book.data import (
    load_breast_cancer,
    load_imdb,
    load_leukemia,
    load_regression,
    make_correlated,
)
from book.experiments.nonsmooth_learning_claims import claims
from book.experiments.runner import Experiment, main
from diffopt import sparse_logistic
from diffopt.hypergradient import (
    CrossValidation,
    HeldOut,
    State,
    grad_search,
    grid_search,
    hypergradient,
    hypergradient_error_bound,
    lam_max,
    random_search,
)
from diffopt.hypergradient.methods import METHODS
from diffopt.sparse_linear import SVM, ElasticNet, Lasso, SparseLogistic

jax.config.update("jax_enable_x64", True)


# --- problems -------------------------------------------------------------------------------------


def standardised(X, fitted):
    """Shift and scale features by the mean and deviation of those that are fitted to."""
    scale = fitted.std(axis=0)
    return (X - fitted.mean(axis=0)) / np.where(scale > 0, scale, 1)


def shuffled(X, y, seed=0):
    """Shuffle, hold out a third, standardise."""
    order = np.random.default_rng(seed).permutation(len(y))
    X, y = X[order], y[order]
    cut = 2 * len(y) // 3
    X = standardised(X, X[:cut])
    return X[:cut], y[:cut], X[cut:], y[cut:]


def problem(name, num_texts=None):
    """Give a criterion and a model by the name of both, such as ``"logistic/leukemia"``."""
    model, data = name.split("/")
    if data == "imdb":
        parts = (*load_imdb(num_texts), *load_imdb(num_texts, "test"))
        return HeldOut(*parts), SparseLogistic()
    if data == "leukemia":
        X, y = load_leukemia()
        if model == "cv":
            return CrossValidation(X, y, 5), SparseLogistic(fit_intercept=True)
        return HeldOut(X[::2], y[::2], X[1::2], y[1::2]), SparseLogistic()
    if data == "cancer":
        X, y, X_val, y_val = shuffled(*load_breast_cancer())
        with_ones = lambda X: np.column_stack([X, np.ones(len(X))])
        return HeldOut(with_ones(X), y, with_ones(X_val), y_val), SVM()
    if data == "diabetes":
        X, y = load_regression("diabetes")
        X, y = standardised(X, X), standardised(y, y)
        return CrossValidation(X, y, 5), ElasticNet()
    X, y, _ = make_correlated(200, 400, rho=0.8, num_nonzero=10, snr=3.0)
    models = {"lasso": Lasso(), "enet": ElasticNet(), "cv": ElasticNet()}
    if model == "cv":
        return CrossValidation(X, y, 5), models[model]
    return HeldOut(X[:100], y[:100], X[100:], y[100:]), models[model]


def hyperparameters(criterion, model, share):
    """Give hyperparameters at a share of the largest sensible ones."""
    if isinstance(model, SVM):
        return share
    top = float(lam_max(model, criterion.X, criterion.y))
    return (
        np.array([share * top, 0.1 * share * top]) if isinstance(model, ElasticNet) else share * top
    )


# --- linear convergence ---------------------------------------------------------------------------


def exact(criterion, model, lam):
    """Give the solution, its free coordinates and its Jacobian, as exact as rounding allows."""
    solved = hypergradient(criterion, model, lam, tol=1e-15, max_iter=20_000)
    fine = hypergradient(
        criterion, model, lam, method="implicit_forward", tol=1e-26, max_iter=100_000,
        init=solved.state,
    )  # fmt: skip
    return fine, np.asarray(fine.state.solution[0]), np.asarray(fine.state.jacobian[0, :-1])


def pass_matrix(criterion, model, lam, solution):
    """Give the derivative of one pass of coordinate descent in the free coordinates."""
    X, y = np.asarray(criterion.X), np.asarray(criterion.y)
    if isinstance(model, SVM):
        free, A, ridge = (solution > 0) & (solution < lam), (X * y[:, None]).T, 0.0
        curvature, bound = np.ones(A.shape[0]), np.ones(A.shape[0])
    else:
        free, A, n = solution != 0, X, len(y)
        ridge = lam[1] if isinstance(model, ElasticNet) else 0.0
        curvature, bound = np.full(n, 1 / n), np.full(n, 1 / n)
        if isinstance(model, SparseLogistic):
            share = 1 / (1 + np.exp(-y * (X @ solution)))
            curvature, bound = share * (1 - share) / n, bound / 4
    A = A[:, free]
    H = (A.T * curvature) @ A
    steps = 1 / (bound @ A**2)
    matrix = np.eye(len(H))
    for j, step in enumerate(steps):
        matrix[j] = (matrix[j] - step * H[j] @ matrix) / (1 + step * ridge)
    return matrix


def run_convergence(name, settings):
    """Follow coordinate descent and its Jacobian to the exact ones."""
    share, stride, number = settings["problems"][name]
    criterion, model = problem(name)
    lam = hyperparameters(criterion, model, share)
    _, solution, J = exact(criterion, model, lam)
    kinds = lambda v: np.sign(v) + (v >= lam if isinstance(model, SVM) else 0)
    matrix = pass_matrix(criterion, model, lam, solution)
    rho = float(np.abs(np.linalg.eigvals(matrix)).max())
    state, identified = None, None
    rows = {"passes": [], "solution": [], "jacobian": []}
    for k in range(1, number + 1):
        result = hypergradient(
            criterion, model, lam, method="forward", tol=0.0, max_iter=stride, init=state
        )
        state = result.state
        at = np.asarray(state.solution[0])
        same = np.array_equal(kinds(at), kinds(solution))
        identified = (identified or k * stride) if same else None
        rows["passes"].append(k * stride)
        rows["solution"].append(float(np.linalg.norm(at - solution)))
        rows["jacobian"].append(float(np.linalg.norm(np.asarray(state.jacobian[0, :-1]) - J)))
    return {**rows, "identified": identified, "rate": rho, "free": len(matrix)}


def convergence_settings(profile):
    """Problems, each with the share of the largest penalty, passes between looks, and looks."""
    long = {
        "lasso/correlated": [0.1, 2, 150],
        "logistic/leukemia": [0.2, 10, 200],
        "svm/cancer": [0.01, 4, 100],
    }
    if profile == "quick":
        long = {"lasso/correlated": [0.1, 4, 60]}
    return {"problems": long, "seed": 0}


# --- the error of a hypergradient, and its bound --------------------------------------------------


def run_bound(name, settings):
    """Certify the hypergradient at solutions of more and more passes."""
    criterion, model = problem(name)
    lam = hyperparameters(criterion, model, settings["problems"][name])
    reference, solution, _ = exact(criterion, model, lam)
    state, done = None, 0
    rows = {k: [] for k in ("passes", "gap", "error", "bound", "solution_error", "radius")}
    for passes in np.unique(np.geomspace(1, settings["passes"], settings["number"]).astype(int)):
        state = hypergradient(
            criterion, model, lam, method="forward", tol=0.0, max_iter=passes - done, init=state
        ).state
        done = passes
        at = State(*state[:2])
        result = hypergradient(criterion, model, lam, tol=0.0, max_iter=0, init=at)
        certificate = hypergradient_error_bound(criterion, model, lam, result)
        distance = np.linalg.norm(np.asarray(result.state.solution[0]) - solution)
        error = np.abs(np.asarray(result.grad) - np.asarray(reference.grad))
        bound = certificate.error if certificate.identified else np.full(error.shape, np.nan)
        rows["passes"].append(int(passes))
        rows["gap"].append(float(result.gap))
        rows["error"].append(np.ravel(error).tolist())
        rows["bound"].append([None if np.isnan(b) else float(b) for b in np.ravel(bound)])
        rows["solution_error"].append(float(distance))
        rows["radius"].append(float(certificate.solution_error) if certificate.identified else None)
    return {**rows, "gradient": np.ravel(reference.grad).tolist()}


def bound_settings(profile):
    """Problems with the share of the largest penalty, and how many passes to certify."""
    problems = {
        "lasso/correlated": 0.1,
        "enet/correlated": 0.1,
        "logistic/leukemia": 0.2,
        "svm/cancer": 0.01,
    }
    if profile == "paper":
        return {"problems": problems, "passes": 3000, "number": 40, "seed": 0}
    return {"problems": {"enet/correlated": 0.1}, "passes": 200, "number": 10, "seed": 0}


# --- four methods ---------------------------------------------------------------------------------


def run_methods(unit, settings):
    """Time a method, and measure its error, as the tolerance falls."""
    name, method = unit.rsplit("/", 1)
    criterion, model = problem(name, settings["num_texts"])
    lam = hyperparameters(criterion, model, settings["share"])
    reference = hypergradient(criterion, model, lam, tol=1e-15, max_iter=20_000)
    rows = {"tol": [], "ms": [], "error": [], "passes": [], "converged": []}
    for tol in settings["tols"]:
        call = lambda tol=tol: jax.block_until_ready(
            hypergradient(
                criterion, model, lam, method=method, tol=tol, max_iter=settings["max_iter"]
            )
        )
        call()
        times = []
        for _ in range(settings["rounds"]):
            start = time.perf_counter()
            result = call()
            times.append(1e3 * (time.perf_counter() - start))
        rows["tol"].append(tol)
        rows["ms"].append(min(times))
        rows["error"].append(float(abs(result.grad - reference.grad) / abs(reference.grad)))
        rows["passes"].append(int(result.num_iter))
        rows["converged"].append(bool(result.converged))
    return rows


def methods_settings(profile):
    """Two problems, and tolerances of the gap."""
    paper = profile == "paper"
    return {
        "problems": ["lasso/correlated", "logistic/imdb"] if paper else ["lasso/correlated"],
        "share": 0.1,
        "num_texts": 2000,
        "tols": [1e-3, 1e-4, 1e-5, 1e-6, 1e-8] if paper else [1e-4, 1e-8],
        "max_iter": 1500,
        "rounds": 2 if paper else 1,
        "seed": 0,
    }


# --- search ---------------------------------------------------------------------------------------


def search(name, method, settings):
    """Search for the hyperparameters of a problem by one method."""
    criterion, model = problem(name, settings["num_texts"])
    low, start, high = settings["problems"][name]
    if not isinstance(model, SVM):
        top = float(lam_max(model, criterion.X, criterion.y))
        low, start, high = low * top, start * top, high * top
    lam0 = np.full(2, start) if isinstance(model, ElasticNet) else start
    options = {"bounds": (low, high), "tol": settings["tol"]}
    hypergradient(criterion, model, lam0, tol=1e-2)  # what is compiled once is not counted
    jax.block_until_ready(_warm(criterion, model, lam0))
    if method == "grad":
        return grad_search(criterion, model, lam0, max_iter=settings["evaluations"], **options)
    num = settings["evaluations"]
    if method == "grid":
        side = round(num ** (1 / np.size(lam0)))
        return grid_search(criterion, model, num=side, **options)
    key = jax.random.key(int(method.removeprefix("random")))
    return random_search(key, criterion, model, num=num, **options)


def _warm(criterion, model, lam):
    return grid_search(criterion, model, np.asarray([lam], float), tol=1e-2).value


def run_search(unit, settings):
    """Run a search; give what it found and when."""
    name, method = unit.rsplit("/", 1)
    found = search(name, method, settings)
    return {
        "lam": np.ravel(found.lam).tolist(),
        "value": float(found.value),
        "values": found.history.value.tolist(),
        "seconds": found.history.time.tolist(),
        "tried": np.reshape(found.history.lam, (len(found.history.lam), -1)).tolist(),
        "converged": bool(found.converged),
    }


def search_settings(profile):
    """Problems with the least, first and largest penalty, as a share of what makes all zero."""
    problems = {
        "logistic/imdb": [1e-3, 0.1, 1.0],
        "cv/leukemia": [1e-4, 0.1, 1.0],
        "svm/cancer": [1e-4, 1e-3, 10.0],
        "cv/correlated": [1e-3, 0.1, 1.0],
        "cv/diabetes": [1e-3, 0.1, 1.0],
    }
    paper = {"num_texts": None, "evaluations": 25, "tol": 1e-6, "seed": 0, "num_random": 3}
    if profile == "paper":
        return {"problems": problems, **paper}
    problems = {name: problems[name] for name in ("logistic/imdb", "svm/cancer")}
    return {"problems": problems, **paper, "num_texts": 2000, "evaluations": 12, "num_random": 1}


def search_units(settings):
    """Every problem by every method; on the large one a single random draw."""
    units = []
    for name in settings["problems"]:
        draws = 1 if name == "logistic/imdb" else settings["num_random"]
        units += [f"{name}/{m}" for m in ("grad", "grid", *(f"random{k}" for k in range(draws)))]
    return units


# --- a penalty for each class ---------------------------------------------------------------------


def multiclass(num_items, seed=0):
    """Give the cross-entropy of held-out digits as a function of ten log penalties, and bounds."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))[:num_items]
    X, labels = digits.data[order] / 16, digits.target[order]
    cut = num_items // 2
    signs = np.where(labels[:cut, None] == np.arange(10), 1.0, -1.0).T
    X_fit, X_val, held = jnp.asarray(X[:cut]), jnp.asarray(X[cut:]), jnp.asarray(labels[cut:])

    def one(y, lam):
        found = sparse_logistic(X_fit, y, lam, fit_intercept=True, tol=1e-6)
        return X_val @ found.coef + found.intercept

    def loss(log_lam):
        scores = jax.vmap(one)(jnp.asarray(signs), jnp.exp(log_lam))
        right = jnp.take_along_axis(scores, held[None], axis=0)[0]
        return jnp.mean(jax.nn.logsumexp(scores, axis=0) - right)

    model = SparseLogistic(fit_intercept=True)
    top = np.log([float(lam_max(model, X_fit, y)) for y in signs])
    return jax.jit(loss), jax.jit(jax.value_and_grad(loss)), top


def run_multiclass(method, settings):
    """Search for ten penalties by gradients or at random, or for one that all classes share."""
    value, value_and_grad, top = multiclass(settings["items"])
    rows = {"values": [], "seconds": []}
    low, high = top + np.log(settings["low"]), top
    value(top), value_and_grad(top)  # what is compiled once is not counted
    start = time.perf_counter()

    def keep(result):
        rows["values"].append(float(result))
        rows["seconds"].append(time.perf_counter() - start)
        return float(result)

    def step(log_lam):
        result, slope = value_and_grad(log_lam)
        return keep(result), np.asarray(slope)

    number = settings["evaluations"]
    if method == "grad":
        bounds, options = list(zip(low, high, strict=True)), {"maxfun": number}
        first = top + np.log(0.1)
        minimize(step, first, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    elif method == "shared":
        for share in np.geomspace(1, settings["low"], number):
            keep(value(np.full(10, top.max() + np.log(share))))
    else:
        rng = np.random.default_rng(int(method.removeprefix("random")))
        for _ in range(number):
            keep(value(rng.uniform(low, high)))
    return {**rows, "value": min(rows["values"])}


def multiclass_settings(profile):
    """How many digits, and how many evaluations."""
    paper = profile == "paper"
    return {"items": 1000 if paper else 200, "evaluations": 30 if paper else 5, "low": 1e-3,
            "seed": 0}  # fmt: skip


EXPERIMENTS = {
    "convergence": Experiment(
        convergence_settings, lambda settings: list(settings["problems"]), run_convergence
    ),
    "bound": Experiment(bound_settings, lambda settings: list(settings["problems"]), run_bound),
    "methods": Experiment(
        methods_settings,
        lambda settings: [f"{name}/{m}" for name in settings["problems"] for m in METHODS],
        run_methods,
    ),
    "search": Experiment(search_settings, search_units, run_search),
    "multiclass": Experiment(
        multiclass_settings,
        lambda settings: ["grad", "shared", "random0", "random1", "random2"],
        run_multiclass,
    ),
}


if __name__ == "__main__":
    main("nonsmooth_learning", EXPERIMENTS, claims)
