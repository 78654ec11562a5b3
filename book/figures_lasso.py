"""The figures of the chapter `lasso`; those of stored results take the record that they draw."""

import time

import jax
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown

from book import style
from book.bench import report
from book.data import make_correlated
from book.experiments import runner
from book.experiments.lasso_claims import METHODS, NAMES, errors
from book.figures_sorting import pending
from diffopt.hypergradient import HeldOut, hypergradient, lam_max
from diffopt.sparse_linear import Lasso

LOOKS = {
    "gradient": {"color": style.BLUE, "marker": "o"},
    "grid": {"color": style.BLACK, "marker": "x", "linestyle": "--"},
    "random": {"color": style.ORANGE, "marker": "s", "linestyle": ":"},
    "bayesian": {"color": style.GREEN, "marker": "^", "linestyle": "-."},
}
METHOD_LOOKS = {
    "implicit": {"color": style.BLUE, "marker": "o"},
    "implicit_forward": {"color": style.GREEN, "marker": "^", "linestyle": "-."},
    "forward": {"color": style.ORANGE, "marker": "s", "linestyle": "--"},
    "backward": {"color": style.PURPLE, "marker": "D", "linestyle": ":"},
}


def knots_of(lams, coef):
    """Penalties of a path, in descending order, at which the support changes."""
    return np.asarray(lams)[1:][np.any(np.diff(np.asarray(coef) != 0, axis=0), axis=1)]


def path(lams, coef, values):
    """Coefficients along a path, and below them the held-out error, with the knots of both."""
    fig, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(style.WIDTH, 4.6))
    for ax in (above, below):
        for knot in knots_of(lams, coef):
            ax.axvline(knot, color=style.GREY, linewidth=0.6, linestyle=":")
    above.plot(lams, coef, linewidth=1.4)
    below.plot(lams, values, color=style.BLACK)
    best = int(np.argmin(values))
    below.plot(lams[best], values[best], "o", color=style.ORANGE, ms=7)
    above.set(ylabel="coefficients", xscale="log")
    below.set(ylabel="held-out mean square", xlabel=r"$\lambda$")
    plt.show()


def iterations(found, ax=None, title=""):
    """Relative errors of coefficients and Jacobian after each pass, and when the support is right.

    Parameters
    ----------
    found : dict
        What the experiment `jacobian` gives for a problem.
    ax : matplotlib.axes.Axes, optional
        Where to draw.
    title : str
        What stands above.
    """
    ax = ax or plt.subplots()[1]
    steps = np.arange(1, len(found["coef"]) + 1)
    coef, slope = (np.maximum(found[key], 1e-16) for key in ("coef", "jacobian"))
    ax.semilogy(steps, coef, color=style.BLACK, linestyle="--", label="coefficients")
    ax.semilogy(steps, slope, color=style.BLUE, label="Jacobian")
    k = found["identified"]
    if k <= len(steps):
        ax.axvline(k, color=style.ORANGE, linestyle=":", label="support found")
        line = slope[k - 1] * found["rate"] ** (steps[k - 1 :] - k)
        ax.semilogy(steps[k - 1 :], 3 * line, color=style.GREY, linewidth=1, label="predicted rate")
    ax.set(title=title, ylim=(1e-15, 30), xlabel="passes")


def jacobian(record):
    """Draw `iterations` of every stored problem."""
    if pending(record):
        return
    units = record["units"]
    fig, axes = plt.subplots(
        2, (len(units) + 1) // 2, sharey=True, figsize=(style.WIDTH, 5), squeeze=False
    )
    for ax, (name, unit) in zip(axes.flat, units.items(), strict=False):
        data, ratio = name.split("/")
        iterations(unit["result"], ax, rf"{data}, ${ratio}\,\lambda_{{\max}}$")
    for ax in axes[:, 0]:
        ax.set(ylabel="relative error")
    fig.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    plt.show()


def methods(record):
    """Error of a hypergradient against the time that it takes."""
    if pending(record):
        return
    sizes = record["settings"]["sizes"]
    fig, axes = plt.subplots(1, len(sizes), sharey=True, figsize=(style.WIDTH, 3.4), squeeze=False)
    for ax, p in zip(axes[0], sizes, strict=True):
        for method, look in METHOD_LOOKS.items():
            unit = record["units"].get(f"{p}/{method}")
            if unit:
                found = unit["result"]
                error = np.maximum(found["error"], 1e-14)
                ax.loglog(1e3 * np.array(found["seconds"]), error, label=METHODS[method], **look)
        ax.set(xlabel="milliseconds", title=f"{p} features")
    axes[0, 0].set(ylabel="relative error of the gradient")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    plt.show()


def best_so_far(run, best):
    """Relative excess of the best value found so far."""
    return np.maximum(np.minimum.accumulate(run["value"]) / best - 1, 1e-7)


def search(record):
    """Excess over the best criterion, against evaluations and against seconds."""
    if pending(record):
        return
    units = {name: unit["result"] for name, unit in record["units"].items()}
    names = [n for n in record["settings"]["datasets"] if f"{n}/reference" in units]
    fig, axes = plt.subplots(
        len(names), 2, figsize=(style.WIDTH, 1 + 2.1 * len(names)), squeeze=False
    )
    for row, name in zip(axes, names, strict=True):
        runs = {m: units[f"{name}/{m}"]["runs"] for m in LOOKS if f"{name}/{m}" in units}
        least = min(min(run["value"]) for found in runs.values() for run in found)
        best = min(units[f"{name}/reference"]["best"], least)
        for method, found in runs.items():
            for i, run in enumerate(found):
                excess, look = best_so_far(run, best), dict(LOOKS[method], ms=3, linewidth=1.1)
                label = NAMES[method] if i == 0 else None
                row[0].semilogy(np.arange(1, len(excess) + 1), excess, label=label, **look)
                row[1].loglog(run["time"], excess, **look)
        row[0].set(ylabel=f"{name}\nexcess, relative", xscale="log")
    axes[-1, 0].set(xlabel="evaluations")
    axes[-1, 1].set(xlabel="seconds")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    plt.show()


SURE_LOOKS = {
    "gradient": ("Lasso, SURE", style.BLACK, "x"),
    "oracle": ("Lasso, best penalty", style.GREY, "s"),
    "weighted": ("weighted Lasso, SURE", style.BLUE, "o"),
    "weighted_random": ("the same, at random", style.ORANGE, "^"),
}


def sure(record):
    """Error of the coefficients against the number of features, with standard errors."""
    if pending(record):
        return
    results = {unit: stored["result"] for unit, stored in record["units"].items()}
    sizes = np.array(record["settings"]["sizes"])
    ax = plt.subplots()[1]
    for k, (method, (label, color, marker)) in enumerate(SURE_LOOKS.items()):
        values = errors(results, record, method)
        error = values.std(axis=1, ddof=1) / values.shape[1] ** 0.5 if values.shape[1] > 1 else 0
        shifted = sizes * 1.02 ** (k - 1.5)
        ax.errorbar(shifted, values.mean(axis=1), error, color=color, marker=marker, label=label)
    ax.set(xscale="log", xlabel="features", ylabel="relative squared error", ylim=(0, None))
    ax.set_xticks(sizes, sizes)
    ax.minorticks_off()
    ax.legend()
    plt.show()


def weighted_table(record):
    """List held-out and test errors of one penalty and of p penalties."""
    if not record:
        return Markdown("*No stored run yet.*")
    results = {unit: stored["result"] for unit, stored in record["units"].items()}
    lines = [
        "| penalties | chosen by | held-out error | test error | size of the support |",
        "|--:|---|--:|--:|--:|",
    ]
    for i, p in enumerate(record["settings"]["sizes"]):
        for method, count, name in (
            ("lasso", 1, f"gradients ({p} features)"),
            ("gradient", p, "gradients"),
            ("random", p, "random search"),
        ):
            value, test, support = (
                errors(results, record, method, field)[i].mean()
                for field in ("value", "test", "support")
            )
            lines.append(f"| {count} | {name} | {value:.2f} | {test:.2f} | {support:.0f} |")
    return Markdown("\n".join(lines))


def time_of_gradient(n, p, rounds=3):
    """Least milliseconds of a hypergradient by each of two methods, at a tenth of the top."""
    X, y, _ = make_correlated(2 * n, p, rho=0.5, num_nonzero=min(10, p), snr=3.0)
    criterion, model = HeldOut(X[:n], y[:n], X[n:], y[n:]), Lasso()
    lam = 0.1 * float(lam_max(model, criterion.X, criterion.y))
    found = []
    for method in ("implicit", "implicit_forward"):
        call = lambda method=method: jax.block_until_ready(
            hypergradient(criterion, model, lam, method=method)
        )
        call()
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        found.append(1e3 * min(times))
    return found


def growth(sizes, times):
    """Time of a hypergradient against the number of features."""
    ax = plt.subplots()[1]
    for column, method in zip(np.transpose(times), ("implicit", "implicit_forward"), strict=True):
        ax.loglog(sizes, column, label=METHODS[method], **METHOD_LOOKS[method])
    ends = np.array([sizes[0], sizes[-1]], float)
    ax.plot(ends, times[-1][0] / 2 * ends / ends[1], color=style.GREY, linewidth=1)
    ax.set(xlabel="features", ylabel="milliseconds")
    ax.set_xticks(sizes, sizes)
    ax.minorticks_off()
    ax.legend()
    plt.show()


def bench_table():
    """List the stored times against other packages."""
    record = runner.load(runner.RESULTS / "bench_sparse.json")
    return Markdown(report.sparse_table(record, "squared"))
