"""Experiments of the chapter `soft_dtw`: ``python -m book.experiments.soft_dtw --profile paper``.

- ``neighbour``: classification by the nearest neighbour on the UCR sets with their splits, for the
  Euclidean distance, DTW, soft-DTW, its divergence, and their sharp and mean-cost forms. gamma is
  chosen by leaving one training series out. A unit computes the losses that share a table of pairs.
- ``centroid``: classification by the nearest centroid, a barycenter of each class under the same
  loss. gamma is chosen on a third of the training series, after fitting to the others.
- ``bias``: what minimises each loss to a series, started there; and the sign of the divergence.

In the paper profile sets whose series are longer than 400 keep 100 training series for the first
(OSULeaf has 200, the others have fewer); the second takes all, of sets with few enough cells.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from book.data import TIME_SERIES, load_time_series
from book.experiments.runner import Experiment, main
from book.experiments.soft_dtw_claims import claims
from diffopt.barycenter import soft_dtw_barycenter
from diffopt.pairwise import soft_dtw_pairwise
from diffopt.soft_dtw import (
    log_augmented,
    mean_cost_divergence,
    sharp_divergence,
    sharp_soft_dtw,
    soft_dtw,
    soft_dtw_divergence,
)

jax.config.update("jax_enable_x64", True)

SMALL = ["GunPoint", "ItalyPowerDemand", "SyntheticControl"]
# How many cells the tables of a training set with its centroids may have, in millions, for a set to
# be fitted: by the sharp divergence, which takes derivatives of second order, and by the others.
MOST_SHARP, MOST = 2.5, 25

# The table of pairs that a unit needs -> the losses made of it: as it is, and as a divergence.
FAMILIES = {
    "euclidean": ("euclidean", None),
    "dtw": ("dtw", None),
    "soft": ("soft_dtw", "divergence"),
    "sharp": ("sharp", "sharp_divergence"),
    "mean": ("mean_cost", "mean_cost_divergence"),
}
TEMPERED = {"soft", "sharp"}  # those that depend on gamma


def cut(name, longest=None, max_series=None, per_class=None):
    """Load the training part of a set; keep the first series, of each class if so told."""
    series, labels = load_time_series(name, "train")
    keep = np.arange(len(series))
    if max_series and series.shape[1] > longest:
        keep = keep[:max_series]
    if per_class:
        chosen = [np.flatnonzero(labels == label)[:per_class] for label in np.unique(labels)]
        keep = np.sort(np.concatenate(chosen))
    return series[keep, :, None].astype(float), labels[keep].astype(int)


def test_part(name, max_series=None):
    """Load the test part of a set, or its first series."""
    series, labels = load_time_series(name, "test")
    return series[:max_series, :, None].astype(float), labels[:max_series].astype(int)


def euclidean(x, y):
    """Squared Euclidean distance of two series of one length."""
    return jnp.sum((x - y) ** 2)


def losses(family, gamma, xs, ys=None):
    """Tabulate a loss between all pairs; without `ys`, of a set with itself."""
    if family == "euclidean":
        ys = xs if ys is None else ys
        return np.stack([((x - ys) ** 2).sum((1, 2)) for x in xs])
    loss = {"dtw": "soft_dtw", "soft": "soft_dtw", "sharp": "sharp", "mean": "mean_cost"}[family]
    gamma = 0.0 if family == "dtw" else gamma
    return np.asarray(soft_dtw_pairwise(xs, ys, loss=loss, gamma=gamma))


def tables(family, gamma, xs, ys=None):
    """Tabulate a loss and its divergence."""
    table = losses(family, gamma, xs, ys)
    if ys is None:
        left = right = np.diag(table)
    else:
        own = lambda zs: np.array([losses(family, gamma, z[None])[0, 0] for z in zs])
        left, right = own(xs), own(ys)
    return table, table - (left[:, None] + right) / 2


def leave_one_out(table, labels):
    """Share of series whose nearest other series is of their class."""
    table = np.where(np.eye(len(table), dtype=bool), np.inf, table)
    return float(np.mean(labels[table.argmin(axis=1)] == labels))


def run_neighbour(unit, settings):
    """Choose gamma for the losses of a family, and measure them on the test part."""
    name, family = unit.split("/")
    xs, labels = cut(name, settings["longest"], settings["max_series"])
    ys, truth = test_part(name, settings["max_test"])
    gammas = settings["gammas"] if family in TEMPERED else [1.0]
    between = {gamma: tables(family, gamma, xs) for gamma in gammas}
    found = {}
    for k, method in enumerate(FAMILIES[family]):
        if method is None:
            continue
        validation = [leave_one_out(between[gamma][k], labels) for gamma in gammas]
        gamma = gammas[int(np.argmax(validation))]
        table = tables(family, gamma, ys, xs)[k]
        found[method] = {
            "gamma": gamma,
            "validation": validation,
            "accuracy": float(np.mean(labels[table.argmin(axis=1)] == truth)),
            "least": float(table.min()),
            "pairs": table.size,
        }
    return found


def neighbour_settings(profile):
    """All sets and a wide grid, or two of them."""
    if profile == "paper":
        gammas = [10.0**k for k in range(-3, 4)]
        sizes = {"max_series": 100, "longest": 400, "max_test": None}
        return {"datasets": sorted(TIME_SERIES), "gammas": gammas, "seed": 0, **sizes}
    sizes = {"max_series": 24, "longest": 0, "max_test": 60}
    return {"datasets": SMALL[:2], "gammas": [0.1, 1.0, 10.0], "seed": 0, **sizes}


CENTROID = {
    "euclidean": None,
    "dtw": "soft_dtw",
    "soft_dtw": "soft_dtw",
    "divergence": "divergence",
    "sharp_divergence": "sharp_divergence",
    "mean_cost_divergence": "mean_cost_divergence",
}


def distance(method, gamma):
    """Give the loss of two series that a method minimises and compares by."""
    return {
        "euclidean": euclidean,
        "dtw": partial(soft_dtw, gamma=0.0),
        "soft_dtw": partial(soft_dtw, gamma=gamma),
        "sharp": partial(sharp_soft_dtw, gamma=gamma),
        "divergence": partial(soft_dtw_divergence, gamma=gamma),
        "sharp_divergence": partial(sharp_divergence, gamma=gamma),
        "mean_cost_divergence": mean_cost_divergence,
    }[method]


def centroids(method, gamma, series, labels, max_iter):
    """Give a barycenter of each class, started at the mean of its series."""
    found = []
    for label in np.unique(labels):
        members = series[labels == label]
        mean = members.mean(axis=0)
        if CENTROID[method] is None:
            found.append(mean)
            continue
        strength = 0.0 if method == "dtw" else gamma
        options = {"gamma": strength, "loss": CENTROID[method], "max_iter": max_iter}
        found.append(np.asarray(soft_dtw_barycenter(members, init=mean, **options).value))
    return np.stack(found)


def centroid_accuracy(method, gamma, fit, test, max_iter):
    """Fit the centroids to one part, and count how often the nearest one is right on another."""
    found = centroids(method, gamma, *fit, max_iter)
    if CENTROID[method] is None:
        table = losses("euclidean", gamma, test[0], found)
    else:
        strength = 0.0 if method == "dtw" else gamma
        table = soft_dtw_pairwise(test[0], found, loss=CENTROID[method], gamma=strength)
    nearest = np.asarray(table).argmin(axis=1)
    return float(np.mean(np.unique(fit[1])[nearest] == test[1]))


def split(labels, seed):
    """Split the series of each class, two thirds to fit and at least one to validate."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) > 1:
            held[members[: max(1, len(members) // 3)]] = True
    return ~held, held


def run_centroid(unit, settings):
    """Choose gamma on a third of the training series, then fit to all of them."""
    name, method = unit.split("/")
    series, labels = cut(name, per_class=settings["per_class"])
    tempered = method in {"soft_dtw", "divergence", "sharp_divergence"}
    gammas = settings["gammas"] if tempered else [1.0]
    fit, held = split(labels, settings["seed"])
    parts = (series[fit], labels[fit]), (series[held], labels[held])
    max_iter = settings["max_iter"]
    validation = [
        centroid_accuracy(method, gamma, *parts, max_iter) if tempered else None for gamma in gammas
    ]
    gamma = gammas[int(np.argmax(validation))] if tempered else gammas[0]
    test = test_part(name, settings["max_test"])
    accuracy = centroid_accuracy(method, gamma, (series, labels), test, max_iter)
    return {"gamma": gamma, "validation": validation, "accuracy": accuracy}


def cells(name):
    """Count the cells of tables of all training series with one as long, in millions."""
    series, _ = load_time_series(name, "train")
    return len(series) * series.shape[1] ** 2 / 1e6


def centroid_settings(profile):
    """Most sets and a wide grid, or one of them with four series of each class."""
    if profile == "paper":
        gammas = [10.0**k for k in range(-3, 4)]
        sizes = {"per_class": None, "max_iter": 30, "max_test": None}
        sets = [name for name in sorted(TIME_SERIES) if cells(name) <= MOST]
        sharp = [name for name in sets if cells(name) <= MOST_SHARP]
        return {"datasets": sets, "sharp": sharp, "gammas": gammas, "seed": 0, **sizes}
    sizes = {"per_class": 4, "max_iter": 10, "max_test": 60}
    return {"datasets": SMALL[1:2], "sharp": SMALL[1:2], "gammas": [1.0], "seed": 0, **sizes}


def centroid_units(settings):
    """Every method on every set, but the sharp divergence only on some."""
    return [
        f"{name}/{method}"
        for name in settings["datasets"]
        for method in CENTROID
        if method != "sharp_divergence" or name in settings["sharp"]
    ]


@partial(jax.jit, static_argnames="method")
def _value_and_gradient(method, gamma, x, y):
    return jax.value_and_grad(lambda z: distance(method, gamma)(z, y))(x)


def minimiser(method, gamma, y, max_iter, start=None):
    """Minimise a loss in its first argument, started at the second; give the point and value."""

    def evaluate(x):
        value, gradient = _value_and_gradient(method, gamma, x.reshape(y.shape), y)
        return float(value), np.asarray(gradient).ravel()

    options = {"maxiter": max_iter, "gtol": 1e-9, "ftol": 1e-12}
    first = np.ravel(y if start is None else start)
    result = minimize(evaluate, first, jac=True, method="L-BFGS-B", options=options)
    return result.x.reshape(y.shape), float(result.fun)


def random_pairs(seed, number, longest=8, scale=1.5):
    """Pairs of short random series of any two lengths, some of them near to each other."""
    rng = np.random.default_rng(seed)
    for _ in range(number):
        m, n = rng.integers(1, longest + 1, 2)
        x, y = scale * rng.normal(size=(m, 1)), scale * rng.normal(size=(n, 1))
        yield x, (x + 0.1 * y[0] * rng.normal(size=x.shape) if rng.random() < 0.3 else y)


def run_bias(unit, settings):
    """How far each minimiser is from the series; or the least divergence of random pairs."""
    name, kind = unit.split("/")
    if kind == "sign":
        loss = partial(soft_dtw_divergence, cost=log_augmented)
        values = [float(loss(x, y)) for x, y in random_pairs(settings["seed"], settings["pairs"])]
        return {"least": min(values), "pairs": len(values)}
    ys = cut(name, per_class=1)[0]
    found = {"distance": [], "value": [], "at_series": []}
    for gamma in settings["gammas"]:
        loss = distance(kind, gamma)
        points = [minimiser(kind, gamma, y, settings["max_iter"]) for y in ys]
        moved = [np.sqrt(np.mean((x - y) ** 2)) for (x, _), y in zip(points, ys, strict=True)]
        found["distance"].append(float(np.mean(moved)))
        found["value"].append(float(np.mean([value for _, value in points])))
        found["at_series"].append(float(np.mean([loss(y, y) for y in ys])))
    return found


def bias_settings(profile):
    """Three sets and five temperatures, or one of each."""
    paper = profile == "paper"
    return {
        "datasets": SMALL if paper else SMALL[1:2],
        "gammas": [0.01, 0.1, 1.0, 10.0] if paper else [1.0],
        "methods": ["soft_dtw", "sharp", "divergence", "sharp_divergence"],
        "pairs": 1000 if paper else 20,
        "max_iter": 200 if paper else 50,
        "seed": 0,
    }


EXPERIMENTS = {
    "neighbour": Experiment(
        neighbour_settings,
        lambda settings: [
            f"{name}/{family}" for name in settings["datasets"] for family in FAMILIES
        ],
        run_neighbour,
    ),
    "centroid": Experiment(
        centroid_settings,
        centroid_units,
        run_centroid,
    ),
    "bias": Experiment(
        bias_settings,
        lambda settings: (
            [f"{name}/{method}" for name in settings["datasets"] for method in settings["methods"]]
            + ["random/sign"]
        ),
        run_bias,
    ),
}


if __name__ == "__main__":
    main("soft_dtw", EXPERIMENTS, claims)
