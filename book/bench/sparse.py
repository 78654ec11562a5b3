"""Sparse models, ours against others: time to a solution, and to a hypergradient.

From the root of the repository, with `celer`, `skglm`, `jaxopt` and `sparse_ho` installed (those
that are not are left out)::

    python -m book.bench.sparse
    python -m book.bench.sparse --quick

Float64, one thread. A *solution* is timed until its objective is within 1e-8 of the best, in units
of the objective of zero: each package gets the loosest of its tolerances 10^-3, 10^-4, ... that
reaches it. A *hypergradient*, of the held-out loss in the logarithm of the penalty, is timed until
it is within a relative error of 1e-6, likewise; and so is that of a cross-validation of 10 folds,
for one penalty and for one of each feature. Nobody starts from an earlier solution. The design is
in the layout that a package asks for, and is not converted while the clock runs.
"""

from book.bench.single_thread import single_thread

if __name__ == "__main__":
    single_thread()

import argparse
import importlib
import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from tqdm import tqdm

from book.bench.report import about
from book.bench.run import CLOCKS, PATIENCE, measure, quartiles, stopwatch
from book.data import load_imdb, load_leukemia, make_correlated
from diffopt.hypergradient import CrossValidation, HeldOut, hypergradient, lam_max
from diffopt.sparse_linear import Lasso, SparseLogistic, as_design, fit

RESULTS = Path(__file__).parents[1] / "results" / "bench_sparse.json"
OURS = "diffopt"
PEERS = ("celer", "skglm", "sparse_ho", "jaxopt")
MODELS = {"squared": Lasso(), "logistic": SparseLogistic()}
TOLERANCES = tuple(10.0**-k for k in range(3, 15))
EXCESS, ERROR = 1e-8, 1e-6
FOLDS = 10
SLOW = 20.0  # seconds after which a package is not tried with a smaller tolerance

# name of the data, loss, penalty as a share of the largest
TASKS = (
    ("correlated", "squared", 0.1),
    ("correlated", "squared", 0.01),
    ("leukemia", "logistic", 0.1),
    ("leukemia", "logistic", 0.01),
    ("imdb", "logistic", 0.1),
    ("imdb", "logistic", 0.03),
)


def draw(data: str, quick: bool):
    """Design and targets, to fit and held out."""
    if data == "correlated":
        n, p = (100, 300) if quick else (500, 2000)
        X, y, _ = make_correlated(2 * n, p, rho=0.5, num_nonzero=20, snr=3.0, seed=0)
        return X[:n], y[:n], X[n:], y[n:]
    if data == "leukemia":
        X, y = load_leukemia()
        X = (X - X.mean(0)) / X.std(0)
        return X[::2], y[::2], X[1::2], y[1::2]
    num_texts = 1000 if quick else None
    return *load_imdb(num_texts), *load_imdb(num_texts, "test")


def objective(loss, X, y, lam, coef):
    """Objective of coefficients."""
    z = X @ coef
    losses = 0.5 * np.square(z - y) if loss == "squared" else np.logaddexp(0, -y * z)
    return losses.mean() + lam * np.abs(coef).sum()


# --- solutions: from a tolerance to a call that returns coefficients ------------------------------


def diffopt_solution(loss, X, y, lam):
    """Return the calls of this package."""
    design, targets, model = as_design(X), jnp.asarray(y), MODELS[loss]
    jax.block_until_ready(design)
    return lambda tol: lambda: np.asarray(fit(model, design, targets, lam, tol=tol)[1].coef)


def celer_solution(loss, X, y, lam):
    """Return those of celer."""
    import celer

    X = scipy.sparse.csc_matrix(X) if scipy.sparse.issparse(X) else np.asfortranarray(X)
    options = {"fit_intercept": False, "max_iter": 1000}

    def prepare(tol):
        if loss == "squared":
            model = celer.Lasso(alpha=lam, tol=tol, **options)
        else:
            model = celer.LogisticRegression(C=1 / (lam * len(y)), tol=tol, **options)
        return lambda: np.ravel(model.fit(X, y).coef_)

    return prepare


def skglm_solution(loss, X, y, lam):
    """Return those of skglm."""
    import skglm

    X = scipy.sparse.csc_matrix(X) if scipy.sparse.issparse(X) else np.asfortranarray(X)
    kind = skglm.Lasso if loss == "squared" else skglm.SparseLogisticRegression

    def prepare(tol):
        model = kind(alpha=lam, tol=tol, fit_intercept=False, max_iter=1000)
        return lambda: np.ravel(model.fit(X, y).coef_)

    return prepare


# --- hypergradients ------------------------------------------------------------------------------


def diffopt_hypergradient(loss, X, y, X_val, y_val, lam):
    """Return the calls of this package."""
    criterion = jax.device_put(HeldOut(X, y, X_val, y_val))
    unit = float(np.mean(y**2) / 2) if loss == "squared" else np.log(2)

    def prepare(tol):
        return lambda: (
            lam
            * float(
                hypergradient(criterion, MODELS[loss], lam, tol=tol * unit, max_iter=10_000).grad
            )
        )

    return prepare


def sparse_ho_hypergradient(loss, X, y, X_val, y_val, lam):
    """Return those of sparse-ho: implicit-forward, with celer inside."""
    import celer

    setattr(np, "float", float)  # noqa: B010  a name that NumPy dropped and sparse-ho uses
    from sparse_ho import ImplicitForward
    from sparse_ho.criterion import HeldOutLogistic, HeldOutMSE
    from sparse_ho.models import Lasso, SparseLogreg

    join = scipy.sparse.vstack if scipy.sparse.issparse(X) else np.vstack
    whole, targets = join([X, X_val]), np.concatenate([y, y_val])
    whole = scipy.sparse.csc_matrix(whole) if scipy.sparse.issparse(X) else np.asfortranarray(whole)
    train, held_out = np.arange(len(y)), np.arange(len(y), len(targets))
    options = {"fit_intercept": False, "warm_start": True, "max_iter": 1000}
    solver, kind, measure_by = (
        (celer.Lasso, Lasso, HeldOutMSE)
        if loss == "squared"
        else (celer.LogisticRegression, SparseLogreg, HeldOutLogistic)
    )

    def prepare(tol):
        def call():
            model, criterion = kind(estimator=solver(**options)), measure_by(train, held_out)
            algorithm = ImplicitForward(tol_jac=tol, n_iter_jac=10_000)
            _, grad = criterion.get_val_grad(
                model, whole, targets, np.log(lam), algorithm.compute_beta_grad, tol=tol
            )
            return float(np.ravel(grad)[0])

        return call

    return prepare


def jaxopt_hypergradient(loss, X, y, X_val, y_val, lam):
    """Return those of jaxopt: proximal gradients, and the whole system by conjugate gradients."""
    if scipy.sparse.issparse(X):
        return None
    import jaxopt

    X, y, X_val, y_val = (jnp.asarray(x) for x in (X, y, X_val, y_val))
    if loss == "squared":
        fun = lambda coef, data: 0.5 * jnp.mean(jnp.square(data[0] @ coef - data[1]))
        judge = lambda coef: jnp.mean(jnp.square(X_val @ coef - y_val))
    else:
        fun = lambda coef, data: jnp.mean(jnp.logaddexp(0.0, -data[1] * (data[0] @ coef)))
        judge = lambda coef: jnp.mean(jnp.logaddexp(0.0, -y_val * (X_val @ coef)))

    def prepare(tol):
        solver = jaxopt.ProximalGradient(
            fun=fun, prox=jaxopt.prox.prox_lasso, tol=tol, maxiter=100_000, implicit_diff=True
        )
        start = jnp.zeros(X.shape[1])

        def value(log_lam):
            return judge(solver.run(start, hyperparams_prox=jnp.exp(log_lam), data=(X, y)).params)

        grad = jax.jit(jax.grad(value))
        return lambda: float(grad(np.log(lam)))

    return prepare


def diffopt_folds(X, y, lam):
    """Return the calls of this package, for a penalty or for one of each feature."""
    criterion = jax.device_put(CrossValidation(X, y, _folds(len(y))))
    unit = float(np.mean(y**2) / 2)

    def prepare(tol):
        options = {"tol": tol * unit, "max_iter": 10_000}
        return lambda: lam * np.asarray(hypergradient(criterion, Lasso(), lam, **options).grad)

    return prepare


def sparse_ho_folds(X, y, lam):
    """Return those of sparse-ho: implicit-forward, with celer inside."""
    import celer

    setattr(np, "float", float)  # noqa: B010
    from sparse_ho import ImplicitForward, models
    from sparse_ho.criterion import CrossVal, HeldOutMSE

    X, places = np.asfortranarray(X), _folds(len(y))
    splits = [(np.flatnonzero(places != k), np.flatnonzero(places == k)) for k in range(FOLDS)]
    kind = models.WeightedLasso if np.ndim(lam) else models.Lasso

    def prepare(tol):
        def call():
            solver = celer.Lasso(fit_intercept=False, warm_start=True, max_iter=1000)
            algorithm = ImplicitForward(tol_jac=tol, n_iter_jac=10_000)
            _, grad = CrossVal(HeldOutMSE(None, None), cv=splits).get_val_grad(
                kind(estimator=solver), X, y, np.log(lam), algorithm.compute_beta_grad, tol=tol
            )
            return np.squeeze(grad)

        return call

    return prepare


def _folds(n):
    return np.arange(n) * FOLDS // n


SOLUTIONS = {OURS: diffopt_solution, "celer": celer_solution, "skglm": skglm_solution}
HYPERGRADIENTS = {
    OURS: diffopt_hypergradient,
    "sparse_ho": sparse_ho_hypergradient,
    "jaxopt": jaxopt_hypergradient,
}
CROSS_VALIDATIONS = {OURS: diffopt_folds, "sparse_ho": sparse_ho_folds}


# --- the table -----------------------------------------------------------------------------------


def loosest(prepare, error, clock):
    """Find the loosest tolerance that is good enough: the call, the tolerance, the error."""
    prepare(TOLERANCES[0])()  # compiles
    for tol in TOLERANCES:
        call = prepare(tol)
        start = CLOCKS[clock]()
        found = error(call())
        if found is not None and found[0] <= found[1]:
            return call, tol, found[0]
        if CLOCKS[clock]() - start > SLOW:
            break
    return None


def bench(kind, ways, make, error, seconds, clock) -> dict:
    """Times, tolerances and errors of all packages on one task."""
    chosen = {}
    for way in ways:
        prepare = make[way]
        if prepare is not None:
            found = loosest(prepare, error, clock)
            if found is not None:
                chosen[way] = found
    tick = CLOCKS[clock]
    once = {way: stopwatch(call, tick) for way, (call, _, _) in chosen.items()}
    calls = {way: chosen[way][0] for way in chosen if once[way] <= PATIENCE}
    slow = {way: quartiles([once[way]]) for way in chosen if once[way] > PATIENCE}
    return {
        "task": kind,
        "ms": measure(calls, seconds, tick) | slow,
        "tol": {way: tol for way, (_, tol, _) in chosen.items()},
        "error": {way: float(e) for way, (_, _, e) in chosen.items()},
        "failed": [way for way in ways if make[way] is not None and way not in chosen],
    }


def solutions(parts, lam, missing):
    """Calls that find solutions, and the excess of their objectives."""
    loss, X, y = parts[:3]
    exact = np.asarray(fit(MODELS[loss], X, y, lam, tol=1e-14, max_iter=10_000)[1].coef)
    best, unit = (objective(loss, X, y, lam, coef) for coef in (exact, 0 * exact))
    excess = lambda coef: ((objective(loss, X, y, lam, coef) - best) / unit, EXCESS)
    return {w: f(loss, X, y, lam) for w, f in SOLUTIONS.items() if w not in missing}, excess


def hypergradients(parts, lam, missing):
    """Calls that find hypergradients, and their errors."""
    truth = diffopt_hypergradient(*parts, lam)(1e-14)()
    wrong = lambda grad: (abs(grad - truth) / abs(truth), ERROR)
    return {w: f(*parts, lam) for w, f in HYPERGRADIENTS.items() if w not in missing}, wrong


def cross_validations(parts, lam, missing):
    """Calls that find gradients of a cross-validation, and their errors."""
    X, y = parts[1:3]
    truth = diffopt_folds(X, y, lam)(1e-14)()
    wrong = lambda grad: (np.linalg.norm(grad - truth) / np.linalg.norm(truth), ERROR)
    return {w: f(X, y, lam) for w, f in CROSS_VALIDATIONS.items() if w not in missing}, wrong


def rows(quick, missing, seconds, clock):
    """Run all tasks."""
    for data, loss, share in TASKS:
        parts = (loss, *draw(data, quick))
        X, y = parts[1:3]
        lam = share * float(lam_max(MODELS[loss], as_design(X), jnp.asarray(y)))
        size = {"data": data, "loss": loss, "n": X.shape[0], "p": X.shape[1], "share": share}
        coef = fit(MODELS[loss], X, y, lam, tol=1e-10, max_iter=10_000)[1].coef
        size["support"] = int((coef != 0).sum())
        for kind, prepare in (("solution", solutions), ("hypergradient", hypergradients)):
            make, error = prepare(parts, lam, missing)
            yield size | bench(kind, list(make), make, error, seconds, clock)
        if (data, share) == ("correlated", 0.1):
            wide = np.full(X.shape[1], lam)
            for kind, many in (("10 folds", lam), ("10 folds, p penalties", wide)):
                make, error = cross_validations(parts, many, missing)
                yield size | bench(kind, list(make), make, error, seconds, clock)


def ratio(row: dict) -> float:
    """Best peer's median over ours."""
    peers = [ms for way, (_, ms, _) in row["ms"].items() if way != OURS]
    return min(peers, default=float("nan")) / row["ms"][OURS][1]


def line(row: dict) -> str:
    """One line of the table."""
    cells = "  ".join(f"{way} {ms[1]:.3g}" for way, ms in row["ms"].items())
    size = f"{row['data']} {row['n']}x{row['p']} max/{1 / row['share']:.0f}"
    return f"{size:<28} {row['support']:>4} {row['task']:<14} {ratio(row):5.2f}x  {cells} ms"


def main() -> None:
    """Run the table, printing each row as it is measured."""
    parser = argparse.ArgumentParser("python -m book.bench.sparse", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small data, few rounds, no file")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")  # solvers that stop early are found by their error
    missing = {}
    for peer in PEERS:
        try:
            importlib.import_module(peer)
        except ImportError as error:
            missing[peer] = str(error)
    found = []
    for row in tqdm(rows(args.quick, missing, 0.1 if args.quick else 2.0, args.clock), total=14):
        found.append(row)
        tqdm.write(line(row))
    if not args.quick:
        packages = ("celer", "diffopt", "jax", "jaxlib", "jaxopt", "numba", "numpy", "skglm")
        facts = about({OURS: SimpleNamespace(PACKAGES=packages)}, missing, args.clock)
        del facts["difference"]
        facts["error"] = f"excess of the objective, relative, below {EXCESS}; or of the gradient"
        RESULTS.write_text(json.dumps({"about": facts, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
