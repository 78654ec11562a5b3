"""Experiments of the chapter `structured`: label ranking, ordinal regression, multi-label sets.

They follow Blondel, "Structured Prediction with Projection Oracles" (NeurIPS 2019, arXiv
1910.11369). From the root of the repository::

    python -m book.experiments.structured --profile quick
    python -m book.experiments.structured --profile paper --only ordinal

The paper profile writes ``book/results/structured.json`` and goes on where it was stopped. The
chapter imports the functions of this file.

The result of a unit ``"SET/METHOD"`` holds lists over the outer folds: the penalty ``lam`` that was
chosen, its ``validation`` score, and the measures of the task, of which smaller is better:

- ``ranks``: ``hamming`` (share of labels at a wrong rank) and ``spearman`` (one minus Spearman's
  coefficient);
- ``matrices``: both for two decodings, ``hamming_map``, ``hamming_calibrated`` and so on;
- ``ordinal``: ``mae_map`` and ``mae_calibrated`` (mean absolute errors), ``error`` (share of wrong
  levels);
- ``multilabel``: ``hamming_map``, ``hamming_calibrated`` (share of wrong labels), ``f1_map`` and
  ``f1_calibrated`` (one minus the mean F1 score).

``map`` decodes scores by a vertex of largest inner product, ``calibrated`` decodes their projection
by the vertex of least expected loss.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from book import data
from book.experiments.linear import cross_validate, fit
from book.experiments.runner import Experiment, main
from book.experiments.sorting import BY_SIZE, fit_ridge
from book.experiments.structured_claims import claims
from diffopt.structured import (
    Absolute,
    Birkhoff,
    Cube,
    Hamming,
    Knapsack,
    OrderSimplex,
    Permutahedron,
    Product,
    Simplex,
    Space,
    Spearman,
    ZeroOne,
    projection_loss,
)

MATRIX = (-2, -1)


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A task of structured prediction.

    Attributes
    ----------
    load : callable
        ``load(name)`` gives features ``(num_items, num_features)`` and encoded targets.
    sets : dict
        Method -> set to project on and its geometry, ``"l2"`` or ``"kl"``.
    measures : callable
        ``measures(theta, mu, y, polytope)`` gives a dict with a number for each item; theta are
        scores, mu their projections, and y targets.
    criterion : str
        The measure that chooses the penalty.
    axis : int or pair of int
        Where an encoding lies.
    """

    load: Callable[[str], tuple[np.ndarray, np.ndarray]]
    sets: dict[str, Any]
    measures: Callable[..., dict[str, Any]]
    criterion: str
    axis: Any = -1


# Training


@functools.cache
def loss_on(polytope, regularization, axis):
    """Build the projection loss on a set."""

    def loss(theta, y):
        return projection_loss(theta, y, polytope.project, regularization=regularization, axis=axis)

    return loss


@functools.cache
def measures_on(task, method):
    """Build the measures of a task from scores and targets."""
    polytope, regularization = task.sets[method]

    def measures(theta, y):
        mu = polytope.project(theta, regularization=regularization, axis=task.axis)
        return task.measures(theta, mu, y, polytope)

    return measures


def run(task, name, method, lams, num_outer, num_inner, seed, max_items, max_iter):
    """Cross-validate one method on one set.

    Targets outside the set, items with more labels than it allows, are projected onto it for
    training; they are measured as they are.

    Parameters
    ----------
    task : Task
        The task.
    name, method : str
        A set, and a method of the task.
    lams : sequence of float
        Penalties to choose from.
    num_outer, num_inner, seed : int
        As in `book.experiments.linear.cross_validate`.
    max_items : int
        How many rows of the set are used at most, chosen at random.
    max_iter : int
        How often the objective is computed at most in a fit.

    Returns
    -------
    dict
        ``lam``, ``validation`` and each measure, as lists over the outer folds.
    """
    features, targets = task.load(name)
    rows = np.random.default_rng(seed).permutation(len(features))[:max_items]
    features, targets = features[rows].astype(float), targets[rows].astype(float)
    polytope, regularization = task.sets[method]
    inside = isinstance(polytope, Knapsack)
    wanted = np.asarray(polytope.project(targets)) if inside else targets

    def fitted(features, targets, lam, start):
        if isinstance(polytope, Space):  # the squared loss has a closed form
            flat = targets.reshape(*targets.shape[:2], -1)
            return fit_ridge(features, flat, np.reshape(lam, (-1, 1, 1)))
        loss = loss_on(polytope, regularization, task.axis)
        return fit(loss, features, targets, lam, start, max_iter)

    folds = {"num_outer": num_outer, "num_inner": num_inner, "seed": seed}
    measures = measures_on(task, method)
    data_set = features, targets, wanted
    return cross_validate(fitted, measures, task.criterion, *data_set, lams, **folds)


# Label ranking with vectors of ranks


def load_ranks(name):
    """Load features and ranks 1, ..., n of a label-ranking set."""
    features, ranks = data.load_label_ranking(name)
    return features, ranks.astype(float)


def rank_measures(theta, mu, y, polytope):
    """Decode ranks from projections; sorting is calibrated for Spearman's loss."""
    return compare_ranks(Spearman().decode(mu, Permutahedron()), y)


def compare_ranks(ranks, y):
    """Compute the share of labels at a wrong rank, and one minus Spearman's coefficient."""
    n = y.shape[-1]
    return {
        "hamming": jnp.mean(jnp.not_equal(jnp.round(ranks), y), axis=-1),
        "spearman": 6 * jnp.sum((ranks - y) ** 2, axis=-1) / (n * (n**2 - 1)),
    }


RANKS = Task(
    load_ranks,
    {
        "none": (Space(), "l2"),
        "permutahedron_l2": (Permutahedron(), "l2"),
        "permutahedron_kl": (Permutahedron(), "kl"),
    },
    rank_measures,
    "spearman",
)


# Label ranking with permutation matrices


def load_matrices(name):
    """Load features and permutation matrices, labels by ranks, of a label-ranking set."""
    features, ranks = data.load_label_ranking(name)
    return features, np.asarray(Birkhoff().encode(ranks))


def matrix_measures(theta, mu, y, polytope):
    """Decode permutations from scores (``map``), and from projections for each target loss."""
    birkhoff = Birkhoff()
    truth = birkhoff.decode(y).astype(float)
    decoded = {
        "map": (birkhoff.maximize(theta),) * 2,
        "calibrated": tuple(
            loss.decode(mu, birkhoff, axis=MATRIX) for loss in (ZeroOne(), Spearman())
        ),
    }
    measures = {}
    for name, (for_hamming, for_spearman) in decoded.items():
        hamming = compare_ranks(birkhoff.decode(for_hamming).astype(float), truth)["hamming"]
        spearman = compare_ranks(birkhoff.decode(for_spearman).astype(float), truth)["spearman"]
        measures |= {f"hamming_{name}": hamming, f"spearman_{name}": spearman}
    return measures


MATRICES = Task(
    load_matrices,
    {
        "none": (Space(), "l2"),
        "cube_l2": (Product(Cube()), "l2"),
        "rows_l2": (Product(Simplex()), "l2"),
        "rows_kl": (Product(Simplex()), "kl"),
        "birkhoff_l2": (Birkhoff(), "l2"),
        "birkhoff_kl": (Birkhoff(), "kl"),
    },
    matrix_measures,
    "hamming_calibrated",
    MATRIX,
)


# Ordinal regression


def load_staircases(name):
    """Load features and levels, encoded as so many ones and then zeros."""
    features, levels = data.load_ordinal(name)
    return features, np.asarray(OrderSimplex().encode(levels, int(levels.max())))


def ordinal_measures(theta, mu, y, polytope):
    """Compute the absolute errors of both decodings, and whether the level is wrong."""
    order = OrderSimplex()
    calibrated = Absolute().decode(mu, order)
    return {
        "mae_map": Absolute()(order.maximize(theta), y),
        "mae_calibrated": Absolute()(calibrated, y),
        "error": jnp.not_equal(order.decode(calibrated), order.decode(y)),
    }


ORDINAL = Task(
    load_staircases,
    {
        "none": (Space(), "l2"),
        "cube_l2": (Cube(), "l2"),
        "cube_kl": (Cube(), "kl"),
        "order_l2": (OrderSimplex(), "l2"),
        "order_kl": (OrderSimplex(), "kl"),
    },
    ordinal_measures,
    "mae_calibrated",
)


# Multi-label classification


def load_labels(name):
    """Load features and binary labels."""
    features, labels = data.load_multilabel(name)
    return features, labels.astype(float)


def multilabel_measures(theta, mu, y, polytope):
    """Compute Hamming's loss and one minus the F1 score, for both decodings."""
    space = polytope if isinstance(polytope, Knapsack) else Cube()
    decoded = {"map": space.maximize(theta), "calibrated": Hamming().decode(mu, space)}
    measures = {}
    for name, labels in decoded.items():
        hits = jnp.sum(labels * y, axis=-1)
        size = jnp.sum(labels + y, axis=-1)
        f1 = jnp.where(size > 0, 2 * hits / jnp.where(size > 0, size, 1), 1.0)
        measures[f"hamming_{name}"] = jnp.mean(jnp.abs(labels - y), axis=-1)
        measures[f"f1_{name}"] = 1 - f1
    return measures


# at least one label, at most the mean number of labels plus its standard deviation, rounded up
YEAST_BOUNDS = Knapsack(1, 6)

MULTILABEL = Task(
    load_labels,
    {
        "none": (Space(), "l2"),
        "cube_l2": (Cube(), "l2"),
        "cube_kl": (Cube(), "kl"),
        "knapsack_l2": (YEAST_BOUNDS, "l2"),
        "knapsack_kl": (YEAST_BOUNDS, "kl"),
    },
    multilabel_measures,
    "hamming_calibrated",
)


# The experiments

TASKS = {"ranks": RANKS, "matrices": MATRICES, "ordinal": ORDINAL, "multilabel": MULTILABEL}
PAPER_SETS = {
    "ranks": BY_SIZE,
    # few and small ones: a fit takes minutes where a label has its own row and column
    "matrices": ["iris", "wine", "glass", "authorship", "vehicle"],
    "ordinal": list(data.ORDINAL),
    "multilabel": list(data.MULTILABEL),
}
QUICK_SETS = {
    "ranks": ["glass", "iris", "wine"],
    "matrices": ["iris", "wine"],
    "ordinal": ["autompg", "machine"],
    "multilabel": ["yeast"],
}


def settings_of(name, profile):
    """Set up one task: all its sets, or small ones with fewer folds and penalties."""
    paper = profile == "paper"
    return {
        "datasets": (PAPER_SETS if paper else QUICK_SETS)[name],
        "methods": list(TASKS[name].sets),
        "lams": [10.0**power for power in (range(0, -6, -1) if paper else range(-1, -5, -2))],
        "num_outer": 10 if paper else 3,
        "num_inner": 5,
        "max_items": 3000 if paper else 600,
        "max_iter": 100 if paper else 50,
        "seed": 0,
    }


def run_task(name, unit, settings):
    """Run one method on one set (``"iris/birkhoff_l2"``)."""
    dataset, method = unit.split("/")
    keys = ("lams", "num_outer", "num_inner", "seed", "max_items", "max_iter")
    return run(TASKS[name], dataset, method, **{key: settings[key] for key in keys})


EXPERIMENTS = {
    name: Experiment(
        functools.partial(settings_of, name),
        lambda settings: [f"{d}/{m}" for d in settings["datasets"] for m in settings["methods"]],
        functools.partial(run_task, name),
    )
    for name in TASKS
}


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main("structured", EXPERIMENTS, claims)
