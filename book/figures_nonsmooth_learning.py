"""The figures of the chapter `nonsmooth_learning`; those of stored results take their record."""

import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown
from matplotlib.ticker import NullFormatter

from book import style
from book.bench import report
from book.data import make_correlated
from book.experiments import runner
from book.experiments.nonsmooth_learning_claims import measured_rate, methods_of
from book.figures_sorting import pending
from diffopt.hypergradient import HeldOut, criterion_value, lam_max
from diffopt.sparse_linear import SparseLogistic

TITLES = {
    "lasso/correlated": "Lasso, correlated",
    "enet/correlated": "elastic net, correlated",
    "logistic/leukemia": "logistic, leukemia",
    "logistic/imdb": "logistic, reviews",
    "svm/cancer": "SVM, tumours",
    "cv/leukemia": "logistic, leukemia",
    "cv/correlated": "elastic net, correlated",
    "cv/diabetes": "elastic net, diabetes",
}
METHODS = {
    "implicit": ("implicit", style.BLUE, "o"),
    "implicit_forward": ("implicit forward", style.GREEN, "^"),
    "forward": ("forward", style.ORANGE, "s"),
    "backward": ("backward", style.PURPLE, "D"),
}
SEARCHES = {
    "grad": ("gradients", style.BLUE, "-", 2.2),
    "grid": ("grid", style.BLACK, "--", 1.4),
    "random": ("random", style.ORANGE, ":", 1.4),
    "bayesian": ("Bayesian", style.GREEN, "-.", 1.4),
    "shared": ("one penalty for all, grid", style.BLACK, "--", 1.4),
}

__all__ = ["bench_table", "bound", "convergence", "cost_of_gradient", "growth", "measured_rate"]


def results_of(record):
    """Give the result of each unit."""
    return {name: unit["result"] for name, unit in record["units"].items()}


def convergence(record):
    """Errors of solutions and Jacobians against passes, the identification, the predicted rate."""
    if pending(record):
        return
    results = results_of(record)
    fig, axes = plt.subplots(1, len(results), figsize=(style.WIDTH * 1.25, 3), sharey=True)
    for ax, (name, found) in zip(np.atleast_1d(axes), results.items(), strict=True):
        passes = np.array(found["passes"])
        jacobian, solution = np.array(found["jacobian"]), np.array(found["solution"])
        ax.semilogy(passes, jacobian, color=style.ORANGE, linestyle="--", label="Jacobian")
        ax.semilogy(passes, solution, color=style.BLUE, label="solution")
        ax.axvline(found["identified"], color=style.BLACK, linestyle=":", linewidth=1.2)
        start = np.searchsorted(passes, found["identified"])
        end = start + max(2, np.sum(solution[start:] > 1e-10 * solution[0]))
        line = 8 * jacobian[start] * found["rate"] ** (passes - passes[start])[start:end]
        ax.semilogy(passes[start:end], line, color=style.GREY, linewidth=1, label="predicted")
        ax.set(xlabel="passes", title=TITLES[name], ylim=(1e-14, 1e3))
    np.atleast_1d(axes)[0].set_ylabel("error")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    plt.show()


def bound(record):
    """Error of the hypergradient and its bound, against the error of the solution."""
    if pending(record):
        return
    results = results_of(record)
    fig, axes = plt.subplots(2, 2, figsize=(style.WIDTH, 4.6), sharex=True, sharey=True)
    for ax, (name, found) in zip(axes.flat, results.items(), strict=True):
        x = np.array(found["solution_error"])
        errors = np.array(found["error"]).max(axis=1)
        bounds = np.array(found["bound"], float).max(axis=1)
        ax.loglog(x, bounds, "o", mfc="none", color=style.ORANGE, ms=6, label="bound")
        ax.loglog(x, errors, "o", color=style.BLUE, ms=3.5, label="error of the hypergradient")
        ends = np.array([1e-13, 1.0])
        ax.loglog(ends, ends, color=style.GREY, linewidth=1)
        ax.set(title=TITLES[name], xlim=(1e-14, 10), ylim=(1e-15, 1e4))
    fig.supxlabel("error of the solution", fontsize=10)
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    plt.show()


def methods(record):
    """Relative error of a hypergradient against its time."""
    if pending(record):
        return
    names = record["settings"]["problems"]
    fig, axes = plt.subplots(1, len(names), figsize=(style.WIDTH * 1.2, 3.2), sharey=True)
    for ax, name in zip(np.atleast_1d(axes), names, strict=True):
        for method, found in methods_of(results_of(record), name).items():
            label, color, marker = METHODS[method]
            fine = np.array(found["converged"])
            ms, errors = np.array(found["ms"]), np.maximum(found["error"], 1e-13)
            ax.loglog(ms[fine], errors[fine], color=color, marker=marker, ms=5, label=label)
        ends = np.log10(ax.get_xlim())  # whole decades, and no labels between
        ax.set(xlabel="milliseconds", title=TITLES[name])
        ax.set_xlim(10 ** np.floor(ends[0]), 10 ** np.ceil(ends[1]))
        ax.xaxis.set_minor_formatter(NullFormatter())
    np.atleast_1d(axes)[0].set_ylabel("relative error")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    plt.show()


def search(record):
    """Best criterion so far above the best of all, against evaluations."""
    if pending(record):
        return
    results, names = results_of(record), list(record["settings"]["problems"])
    fig, axes = plt.subplots(2, 3, figsize=(style.WIDTH * 1.3, 4.8), sharex=True)
    for ax, name in zip(axes.flat, names, strict=False):
        runs = {unit: found for unit, found in results.items() if unit.startswith(f"{name}/")}
        least = min(found["value"] for found in runs.values())
        for unit, found in runs.items():
            _steps(ax, unit.rsplit("/", 1)[1], found["values"], least)
        ax.set(title=TITLES[name], yscale="log")
    for ax in axes.flat[len(names) :]:
        ax.axis("off")
    fig.supxlabel("evaluations", fontsize=10)
    fig.supylabel("above the best", fontsize=10)
    _legend(fig, axes.flat[0])
    plt.show()


def _steps(ax, method, values, least):
    label, color, line, width = SEARCHES[method.rstrip("0123456789")]
    shown = np.maximum(np.minimum.accumulate(values) - least, 1e-7)
    number = np.arange(1, len(shown) + 1)
    ax.step(number, shown, where="post", color=color, linestyle=line, linewidth=width, label=label)
    ax.plot(number[-1], shown[-1], ".", color=color)


def _legend(fig, ax):
    handles = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    fig.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4)


def search_table(record):
    """List the best criterion of each method, its evaluations and seconds."""
    if not record:
        return Markdown("*No stored run yet.*")
    lines = ["| | gradients | grid | random |", "|---|---|---|---|"]
    results = results_of(record)
    for name in record["settings"]["problems"]:
        cells = []
        for method in ("grad", "grid", "random"):
            runs = [f for unit, f in results.items() if unit.startswith(f"{name}/{method}")]
            values = "–".join(
                dict.fromkeys(f"{pick([f['value'] for f in runs]):.4f}" for pick in (min, max))
            )
            count = round(np.mean([len(f["values"]) for f in runs]))
            seconds = np.mean([f["seconds"][-1] for f in runs])
            cells.append(f"{values} ({count} in {seconds:.1f} s)")
        lines.append(f"| {TITLES[name]} | " + " | ".join(cells) + " |")
    return Markdown("\n".join(lines))


def multiclass(record):
    """Best cross-entropy so far against evaluations."""
    if pending(record):
        return
    fig, ax = plt.subplots()
    results = results_of(record)
    for method, found in results.items():
        label, color, line, width = SEARCHES[method.rstrip("0123456789")]
        best = np.minimum.accumulate(found["values"])
        ax.step(
            np.arange(1, len(best) + 1), best, where="post", color=color, linestyle=line,
            linewidth=width, label=label,
        )  # fmt: skip
    ax.set(xlabel="evaluations", ylabel="held-out cross-entropy", yscale="log")
    ax.set_yticks([0.2, 0.3, 0.5, 1, 2], ["0.2", "0.3", "0.5", "1", "2"])
    ax.minorticks_off()
    _legend(fig, ax)
    plt.show()


def bench_table():
    """List the stored times against other packages."""
    record = runner.load(runner.RESULTS / "bench_sparse.json")
    return Markdown(report.sparse_table(record, "logistic"))


def cost_of_gradient(numbers, rounds=3):
    """Time of value and gradient over that of the value, in reverse and in forward mode."""
    X, y, _ = make_correlated(300, 256, num_nonzero=40, rho=0.3)
    labels = np.sign(y)
    criterion = HeldOut(X[:200], labels[:200], X[200:], labels[200:])
    top = float(lam_max(SparseLogistic(), criterion.X, criterion.y))
    found = []
    for number in numbers:
        group = jnp.arange(256) % number
        value = lambda theta, group=group: criterion_value(
            criterion, SparseLogistic(), jnp.exp(theta)[group], tol=1e-9
        )
        theta = jnp.full(number, np.log(0.1 * top))
        calls = [jax.jit(f) for f in (value, jax.value_and_grad(value), _both_forward(value))]
        plain, reverse, forward = (_least(call, theta, rounds) for call in calls)
        found.append([reverse / plain, forward / plain])
    return numbers, found


def _both_forward(value):
    return lambda theta: (value(theta), jax.jacfwd(value)(theta))


def _least(call, theta, rounds):
    jax.block_until_ready(call(theta))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(call(theta))
        times.append(time.perf_counter() - start)
    return min(times)


def growth(numbers, ratios):
    """Cost of a gradient in units of a solution, against the number of hyperparameters."""
    _, ax = plt.subplots()
    reverse, forward = np.transpose(ratios)
    ax.loglog(numbers, 1 + np.array(numbers), color=style.GREY, lw=1, label="finite differences")
    ax.loglog(numbers, forward, color=style.ORANGE, marker="s", label="forward mode")
    ax.loglog(numbers, reverse, color=style.BLUE, marker="o", label="reverse mode")
    ax.set(xlabel="number of hyperparameters", ylabel="time over that of the value")
    ax.set_xticks(numbers, numbers)
    ax.minorticks_off()
    ax.legend()
    plt.show()
